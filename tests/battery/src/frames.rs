//! HTTP/2 by hand: frames as bytes, header blocks of plain literals, and what came back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::client::{End, PATIENCE};

/// What begins a connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![allow(missing_docs)]
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}
use flag::{ACK, END_HEADERS, END_STREAM};
use kind::{CONTINUATION, DATA, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE};

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block: each field a literal that is not indexed, whatever its bytes are.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            let length = text.len();
            if length < 127 {
                bytes.push(u8::try_from(length).unwrap());
            } else {
                bytes.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// A HEADERS frame, with CONTINUATION frames if the block is long.
pub fn headers(stream: u32, end_stream: bool, block: &[u8]) -> Vec<u8> {
    let end = if end_stream { END_STREAM } else { 0 };
    let mut parts = block.chunks(16_000).peekable();
    let first = parts.next().unwrap_or_default();
    let last = |more: bool| if more { 0 } else { END_HEADERS };
    let mut bytes = frame(HEADERS, end | last(parts.peek().is_some()), stream, first);
    while let Some(part) = parts.next() {
        bytes.extend(frame(CONTINUATION, last(parts.peek().is_some()), stream, part));
    }
    bytes
}

/// A DATA frame.
pub fn data(stream: u32, end_stream: bool, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    frame(DATA, if end_stream { END_STREAM } else { 0 }, stream, bytes.as_ref())
}

/// A RST_STREAM frame.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A WINDOW_UPDATE frame.
pub fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let pair = |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    frame(SETTINGS, 0, 0, &values.iter().flat_map(pair).collect::<Vec<u8>>())
}

/// A PING frame.
pub fn ping(payload: &[u8; 8]) -> Vec<u8> {
    frame(PING, 0, 0, payload)
}

/// What came back on one stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// The status of the last head that was not interim.
    pub status: Option<u16>,
    /// HEADERS frames beyond interim ones: two are a head and trailers.
    pub heads: usize,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the other side has ended it.
    pub ended: bool,
    /// The code by which the other side has reset it.
    pub reset: Option<u32>,
}

impl Stream {
    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        self.ended || self.reset.is_some()
    }
}

/// All that came back over a connection.
#[derive(Debug, Clone)]
pub struct Back {
    /// By stream.
    pub streams: BTreeMap<u32, Stream>,
    /// The code of a GOAWAY.
    pub goaway: Option<u32>,
    /// Payloads of PINGs that were acknowledged.
    pub pongs: Vec<Vec<u8>>,
    /// SETTINGS that were acknowledged.
    pub settings_acks: usize,
    /// The other side's settings.
    pub settings: BTreeMap<u16, u32>,
    /// How the connection ended.
    pub end: End,
}

impl Back {
    /// What came on a stream.
    pub fn stream(&self, stream: u32) -> Stream {
        self.streams.get(&stream).cloned().unwrap_or_default()
    }

    /// Whether the connection was given up by the other side.
    pub fn is_refused(&self) -> bool {
        self.end != End::Open || self.goaway.is_some_and(|code| code != 0)
    }
}

/// A client's connection.
pub struct Http2 {
    tcp: TcpStream,
    bytes: Vec<u8>,
    /// What came so far.
    pub back: Back,
}

impl Http2 {
    /// Connects and says nothing.
    pub async fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (streams, settings) = (BTreeMap::new(), BTreeMap::new());
        let back = Back { streams, goaway: None, pongs: Vec::new(), settings_acks: 0, settings, end: End::Open };
        Self { tcp, bytes: Vec::new(), back }
    }

    /// Connects, and says that header blocks must not use a table.
    pub async fn open(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        client.send(&[PREFACE, &settings(&[(1, 0)])].concat()).await;
        client
    }

    /// Sends; a peer that is gone shows when reading.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.tcp.write_all(bytes).await;
    }

    /// Sends for as long as the peer takes it; says whether it took all.
    pub async fn send_within(&mut self, bytes: &[u8], limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.tcp.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Reads until `enough`, the connection ends, or time is up.
    pub async fn read_until(&mut self, enough: impl Fn(&Back) -> bool) -> Back {
        self.read_for(PATIENCE, enough).await
    }

    /// The same, for so long at most.
    pub async fn read_for(&mut self, limit: Duration, enough: impl Fn(&Back) -> bool) -> Back {
        let until = Instant::now() + limit;
        let mut buffer = vec![0; 64 * 1024];
        while !enough(&self.back) && self.back.end == End::Open {
            match timeout_at(until, self.tcp.read(&mut buffer)).await {
                Err(_) => break,
                Ok(Ok(0)) => self.back.end = End::Closed,
                Ok(Err(_)) => self.back.end = End::Reset,
                Ok(Ok(length)) => self.bytes.extend_from_slice(&buffer[..length]),
            }
            self.take_frames().await;
        }
        self.back.clone()
    }

    async fn take_frames(&mut self) {
        while let Some(header) = self.bytes.get(..9) {
            let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            let (kind, flags) = (header[3], header[4]);
            let stream = u32::from_be_bytes(header[5..9].try_into().unwrap());
            let Some(payload) = self.bytes.get(9..9 + length).map(<[u8]>::to_vec) else { return };
            self.bytes.drain(..9 + length);
            if kind == SETTINGS && flags & ACK == 0 {
                self.send(&frame(SETTINGS, ACK, 0, &[])).await;
            }
            self.back.take(kind, flags, stream, &payload);
        }
    }
}

impl Back {
    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let number = |at: usize| payload.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()));
        match kind {
            HEADERS | DATA => {
                let entry = self.streams.entry(stream).or_default();
                if kind == DATA {
                    entry.body.extend_from_slice(payload);
                } else if let Some(status) = status(payload) {
                    entry.status = Some(status);
                    entry.heads += usize::from(status >= 200);
                } else {
                    entry.heads += 1;
                }
                entry.ended |= flags & END_STREAM != 0;
            }
            RST_STREAM => self.streams.entry(stream).or_default().reset = number(0),
            GOAWAY => self.goaway = number(4),
            PING if flags & ACK != 0 => self.pongs.push(payload.to_vec()),
            SETTINGS if flags & ACK != 0 => self.settings_acks += 1,
            SETTINGS => self.settings.extend(payload.chunks_exact(6).map(|pair| {
                let name = u16::from_be_bytes([pair[0], pair[1]]);
                (name, u32::from_be_bytes(pair[2..6].try_into().unwrap()))
            })),
            _ => {}
        }
    }
}

/// The status that begins a block which uses no table of its own: from the static table, or three digits.
fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    match *block.get(start)? {
        index @ 0x88..=0x8e => INDEXED.get(usize::from(index - 0x88)).copied(),
        0x48 | 0x08 | 0x18 => {
            let length = *block.get(start + 1)?;
            let text = block.get(start + 2..start + 2 + usize::from(length & 0x7f))?;
            if length & 0x80 == 0 { std::str::from_utf8(text).ok()?.parse().ok() } else { digits(text) }
        }
        _ => None,
    }
}

/// Digits in HPACK's Huffman code: 0 to 2 have five bits, 3 to 9 six.
fn digits(bytes: &[u8]) -> Option<u16> {
    let bits = bytes.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    let mut left = bytes.len() * 8;
    let mut number = 0;
    for _ in 0..3 {
        let five = bits >> left.checked_sub(5)? & 0x1f;
        let digit = if five <= 2 {
            left -= 5;
            five
        } else {
            left = left.checked_sub(6)?;
            (bits >> left & 0x3f).checked_sub(0x19)? + 3
        };
        number = number * 10 + u16::try_from(digit).ok()?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8c, 0x01]), Some(400));
        assert_eq!(status(&[0x48, 3, b'5', b'0', b'2']), Some(502));
        // RFC 7541, C.6.1 and C.6.2: "302" and "307".
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
    }
}

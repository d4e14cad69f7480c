//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): who a load balancer in front speaks for.
//!
//! A listener that has it on demands a header at the beginning of each connection from a trusted address, and closes
//! connections from any other: nobody can name a client's address but those who are trusted to, and a load balancer
//! that forgets the header is found out at once. Not one byte behind the header is taken from the connection.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use cellway_core::network::Networks;
use cellway_machine::TcpStream;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// How long a load balancer may take for the header, which it sends before anything else.
pub const HEADER_MS: u64 = 5_000;
/// The longest header of version 1, its line end included (the specification's bound).
pub const V1_MAX_BYTES: usize = 107;
/// The most that may follow the fixed part of a header of version 2: the longest addresses (those of Unix sockets) and
/// 1 KiB of further fields. The protocol allows 64 KiB; what load balancers send is below 300 bytes.
pub const V2_PAYLOAD_MAX_BYTES: usize = 216 + 1024;
/// The longest header.
pub const HEADER_MAX_BYTES: usize = V2_FIXED_BYTES + V2_PAYLOAD_MAX_BYTES;

const V1_BEGIN: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version with command, family with transport, length of the payload.
const V2_FIXED_BYTES: usize = 16;

const TYPE_CRC32C: u8 = 0x03;
/// The polynomial of CRC32C, bits reversed.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// Demands the header on a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Who may connect at all, and must send the header.
    pub trusted: Networks,
}

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A header so far; every byte of it belongs to the header.
    NeedMore,
    /// A whole header. Without addresses those of the connection itself count: the load balancer speaks for itself
    /// (its health check), or for something that has no address of TCP.
    Done {
        /// How many bytes it took.
        consumed: usize,
        /// The client.
        source: Option<SocketAddr>,
        /// Where the client connected to.
        destination: Option<SocketAddr>,
    },
    /// Not a header.
    Bad(BadHeader),
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Neither version begins like this.
    #[error("it begins with something else")]
    Signature,
    /// No line end where version 1 must have it, or one that is not CR LF.
    #[error("its line does not end with CR LF within 107 bytes")]
    LineEnd,
    /// Not `TCP4`, `TCP6` or `UNKNOWN`.
    #[error("its protocol is not TCP4, TCP6 or UNKNOWN")]
    Protocol,
    /// An address or port of version 1, or the spaces between them.
    #[error("its addresses are not written as they must be")]
    Addresses,
    /// A version, command, family or transport that is not assigned.
    #[error("its version, command or family is unknown")]
    Unassigned,
    /// Longer than what is read, or shorter than its addresses.
    #[error("its length of {0} bytes does not fit")]
    Length(usize),
    /// The fields behind the addresses do not add up.
    #[error("its further fields do not add up to its length")]
    Fields,
    /// The checksum that it carries is another's.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Looks for a header at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Progress {
    let parsed = if begins(bytes, V1_BEGIN) {
        parse_v1(bytes)
    } else if begins(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(BadHeader::Signature)
    };
    match parsed {
        Ok(Some((consumed, ends))) => {
            Progress::Done { consumed, source: ends.map(|(source, _)| source), destination: ends.map(|(_, to)| to) }
        }
        Ok(None) => Progress::NeedMore,
        Err(bad) => Progress::Bad(bad),
    }
}

/// Both ends of the client's connection: from, to.
type Ends = (SocketAddr, SocketAddr);
/// A whole header: its length, and what it says; `None` while there is less of it.
type Parsed = Result<Option<(usize, Option<Ends>)>, BadHeader>;

/// Whether `bytes` are, as far as they go, those of `wanted`.
fn begins(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.iter().zip(wanted).all(|(byte, wanted)| byte == wanted)
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let looked_at = &bytes[..bytes.len().min(V1_MAX_BYTES)];
    let Some(end) = looked_at.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if looked_at.len() < V1_MAX_BYTES - 1 { Ok(None) } else { Err(BadHeader::LineEnd) };
    };
    match looked_at[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if looked_at.len() < V1_MAX_BYTES => return Ok(None),
        _ => return Err(BadHeader::LineEnd),
    }
    let line = looked_at.get(V1_BEGIN.len()..end).ok_or(BadHeader::Signature)?;
    let (protocol, rest) = match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (&line[..space], Some(&line[space + 1..])),
        None => (line, None),
    };
    let ends = match (protocol, rest) {
        // Whatever else stands in the line has no meaning.
        (b"UNKNOWN", _) => None,
        (b"TCP4", Some(rest)) => Some(v1_ends(rest, |text| Some(text.parse::<Ipv4Addr>().ok()?.into()))?),
        (b"TCP6", Some(rest)) => Some(v1_ends(rest, |text| Some(text.parse::<Ipv6Addr>().ok()?.to_canonical()))?),
        (b"TCP4" | b"TCP6", None) => return Err(BadHeader::Addresses),
        _ => return Err(BadHeader::Protocol),
    };
    Ok(Some((end + 2, ends)))
}

/// `address address port port`, with one space between them.
fn v1_ends(rest: &[u8], address: impl Fn(&str) -> Option<std::net::IpAddr>) -> Result<Ends, BadHeader> {
    let text = std::str::from_utf8(rest).map_err(|_| BadHeader::Addresses)?;
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or(BadHeader::Addresses);
    let (from, to, from_port, to_port) = (word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(BadHeader::Addresses);
    }
    let end = |text, port| Some(SocketAddr::new(address(text)?, v1_port(port)?));
    end(from, from_port).zip(end(to, to_port)).ok_or(BadHeader::Addresses)
}

fn v1_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits && (text == "0" || !text.starts_with('0')) { text.parse().ok() } else { None }
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let command = bytes.get(V2_SIGNATURE.len()).copied();
    let is_local = match command {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(BadHeader::Unassigned),
    };
    let Some(&[family, high, low]) = bytes.get(V2_SIGNATURE.len() + 1..V2_FIXED_BYTES) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // A load balancer's own connection has no addresses, whatever else the header says.
    let family = if is_local { 0x00 } else { family };
    let addresses_length = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(BadHeader::Unassigned),
    };
    if !(addresses_length..=V2_PAYLOAD_MAX_BYTES).contains(&length) {
        return Err(BadHeader::Length(length));
    }
    let Some(header) = bytes.get(..V2_FIXED_BYTES + length) else { return Ok(None) };
    let (addresses, fields) = header[V2_FIXED_BYTES..].split_at(addresses_length);
    let ends = match family {
        0x11 => v2_ends::<4>(addresses),
        0x21 => v2_ends::<16>(addresses),
        // Not TCP: valid, and of no use here.
        _ => None,
    };
    if ends.is_some() {
        check_fields(header, header.len() - fields.len())?;
    }
    Ok(Some((header.len(), ends)))
}

/// Two addresses of `N` bytes, then two ports.
fn v2_ends<const N: usize>(bytes: &[u8]) -> Option<Ends>
where
    std::net::IpAddr: From<[u8; N]>,
{
    let (from, rest) = bytes.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let &[from_high, from_low, to_high, to_low] = rest else { return None };
    let end = |address: [u8; N], port| SocketAddr::new(std::net::IpAddr::from(address).to_canonical(), port);
    Some((end(*from, u16::from_be_bytes([from_high, from_low])), end(*to, u16::from_be_bytes([to_high, to_low]))))
}

/// Walks the fields from byte `at` of `header` on, and compares the checksum if one is there.
fn check_fields(header: &[u8], mut at: usize) -> Result<(), BadHeader> {
    let mut checked = false;
    while at < header.len() {
        let &[kind, high, low] = header.get(at..at + 3).ok_or(BadHeader::Fields)? else {
            return Err(BadHeader::Fields);
        };
        let value_at = at + 3;
        at = value_at + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(value_at..at).ok_or(BadHeader::Fields)?;
        if kind == TYPE_CRC32C {
            let stated: [u8; 4] = value.try_into().map_err(|_| BadHeader::Fields)?;
            // The checksum is taken with its own bytes as zeros. Two of them could not both be right.
            let bytes = header.iter().enumerate();
            let zeroed = bytes.map(|(index, byte)| if (value_at..at).contains(&index) { 0 } else { *byte });
            if checked || crc32c(zeroed) != u32::from_be_bytes(stated) {
                return Err(BadHeader::Checksum);
            }
            checked = true;
        }
    }
    Ok(())
}

fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let with_bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ CASTAGNOLI } else { crc >> 1 };
    !bytes.fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(byte), with_bit))
}

/// Why a connection has no client.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// Its address is not one of those that may connect.
    #[error("{0} is not trusted to speak for clients, and this listener serves nobody else")]
    Untrusted(SocketAddr),
    /// What came is no header.
    #[error("the PROXY header is refused: {0}")]
    Bad(#[from] BadHeader),
    /// It did not come in time.
    #[error("no whole PROXY header came within {HEADER_MS} ms")]
    Late,
    /// The connection ended before or within it.
    #[error("the connection ended before the PROXY header did")]
    Closed,
    /// The connection broke.
    #[error("the connection broke before the PROXY header ended")]
    Broken(#[from] io::Error),
}

impl ProxyProtocol {
    /// The client of a connection that was accepted from `peer`. On an error the connection is to be closed.
    pub async fn client(&self, tcp: &mut TcpStream, peer: SocketAddr) -> Result<SocketAddr, NoClient> {
        if !self.trusted.contain(peer.ip()) {
            return Err(NoClient::Untrusted(peer));
        }
        Ok(read_header(tcp).await?.unwrap_or(peer))
    }
}

/// Reads a header and nothing behind it. `None` is a header that names no client.
pub async fn read_header(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, NoClient> {
    read_within(tcp, Duration::from_millis(HEADER_MS)).await
}

async fn read_within(tcp: &mut TcpStream, limit: Duration) -> Result<Option<SocketAddr>, NoClient> {
    timeout(limit, read(tcp)).await.map_err(|_| NoClient::Late)?
}

async fn read(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, NoClient> {
    let mut buffer = [0; HEADER_MAX_BYTES];
    let mut taken = 0;
    loop {
        // Looked at before they are taken, for what is behind the header belongs to TLS or HTTP. The buffer is never
        // full here: the parser needs no more than it holds.
        let seen = tcp.peek(&mut buffer[taken..]).await?;
        if seen == 0 {
            return Err(NoClient::Closed);
        }
        match parse(&buffer[..taken + seen]) {
            Progress::NeedMore => {
                tcp.read_exact(&mut buffer[taken..taken + seen]).await?;
                taken += seen;
            }
            Progress::Done { consumed, source, .. } => {
                tcp.read_exact(&mut buffer[taken..consumed]).await?;
                return Ok(source);
            }
            Progress::Bad(bad) => return Err(bad.into()),
        }
    }
}

#[cfg(test)]
mod tests;

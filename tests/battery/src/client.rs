//! A client that sends exactly the bytes it is told to, and reads whatever comes back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long to listen for what should not come.
pub const QUIET: Duration = Duration::from_millis(15);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is open.
    Open,
    /// It was closed in an orderly way.
    Closed,
    /// It broke.
    Reset,
}

/// An answer, read with lenience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// Whether it ended as its head says; one that ends with the connection is whole.
    pub whole: bool,
}

impl Answer {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let wanted = |line: &&str| line.split_once(':').is_some_and(|(field, _)| field.eq_ignore_ascii_case(name));
        Some(self.head.lines().skip(1).find(wanted)?.split_once(':')?.1.trim())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// All that came back over a connection.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// The final answers.
    pub answers: Vec<Answer>,
    /// The statuses of interim ones.
    pub interim: Vec<u16>,
    /// What follows the answers and is none.
    pub rest: Vec<u8>,
    /// How the connection ended.
    pub end: End,
}

impl Transcript {
    /// The statuses of the answers.
    pub fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(|answer| answer.status).collect()
    }
}

/// A connection of a client.
pub struct Client {
    tcp: TcpStream,
    bytes: Vec<u8>,
    end: End,
}

impl Client {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self { tcp, bytes: Vec::new(), end: End::Open }
    }

    /// Sends; a peer that is gone shows when reading.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.tcp.write_all(bytes).await;
    }

    /// Sends in parts of `step` bytes, each in a segment of its own as far as the system lets it.
    pub async fn send_by(&mut self, bytes: &[u8], step: usize) {
        for part in bytes.chunks(step) {
            self.send(part).await;
            tokio::task::yield_now().await;
        }
    }

    /// Says that nothing more comes.
    pub async fn half_close(&mut self) {
        let _ = self.tcp.shutdown().await;
    }

    /// Breaks the connection.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
    }

    async fn more(&mut self, until: Instant) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        match timeout_at(until, self.tcp.read(&mut buffer)).await {
            Err(_) => return false,
            Ok(Ok(0)) => self.end = End::Closed,
            Ok(Ok(length)) => {
                self.bytes.extend_from_slice(&buffer[..length]);
                return true;
            }
            Ok(Err(_)) => self.end = End::Reset,
        }
        false
    }

    /// All bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads until the connection ends, or there are `count` answers and then silence. `heads` says which of the
    /// requests were HEADs.
    pub async fn read(&mut self, count: usize, heads: &[bool]) -> Transcript {
        let until = Instant::now() + PATIENCE;
        loop {
            let read = parse(&self.bytes, heads, self.end);
            let whole = read.answers.iter().filter(|answer| answer.whole).count();
            let until = if whole >= count { until.min(Instant::now() + QUIET) } else { until };
            if self.end != End::Open || !self.more(until).await {
                return parse(&self.bytes, heads, self.end);
            }
        }
    }

    /// Waits, while the other side goes on.
    pub async fn pause(&self, time: Duration) {
        sleep(time).await;
    }
}

fn parse(bytes: &[u8], heads: &[bool], end: End) -> Transcript {
    let mut read = Transcript { answers: Vec::new(), interim: Vec::new(), rest: Vec::new(), end };
    let mut rest = bytes;
    while let Some(length) = find(rest, b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..length]).into_owned();
        let Some(status) = status(&head) else { break };
        rest = &rest[length + 4..];
        if (100..200).contains(&status) && status != 101 {
            read.interim.push(status);
            continue;
        }
        let mut answer = Answer { status, head, body: Vec::new(), whole: true };
        let bodiless = heads.get(read.answers.len()) == Some(&true) || matches!(status, 101 | 204 | 304);
        if !bodiless {
            rest = take_body(&mut answer, rest, end);
        }
        read.answers.push(answer);
    }
    read.rest = rest.to_vec();
    read
}

fn status(head: &str) -> Option<u16> {
    let rest = head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "))?;
    rest.split(' ').next()?.parse().ok()
}

fn take_body<'a>(answer: &mut Answer, bytes: &'a [u8], end: End) -> &'a [u8] {
    if let Some(length) = answer.field("content-length") {
        let length: usize = length.parse().unwrap_or(usize::MAX);
        answer.whole = bytes.len() >= length;
        let (body, rest) = bytes.split_at(length.min(bytes.len()));
        answer.body = body.to_vec();
        return rest;
    }
    if answer.field("transfer-encoding").is_none() {
        answer.body = bytes.to_vec();
        answer.whole = end == End::Closed;
        return &[];
    }
    let mut rest = bytes;
    loop {
        let size = find(rest, b"\r\n").and_then(|at| Some((std::str::from_utf8(&rest[..at]).ok()?, at)));
        let Some((size, at)) = size else { break };
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 {
            let Some(trailers) = find(&rest[at..], b"\r\n\r\n") else { break };
            answer.head.push_str(&String::from_utf8_lossy(&rest[at..at + trailers]));
            return &rest[at + trailers + 4..];
        }
        let Some(chunk) = rest.get(at + 2..at + 2 + size + 2) else {
            answer.body.extend_from_slice(rest.get(at + 2..).unwrap_or_default());
            break;
        };
        answer.body.extend_from_slice(&chunk[..size]);
        rest = &rest[at + 2 + size + 2..];
    }
    answer.whole = false;
    &[]
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

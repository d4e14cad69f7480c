//! An app that the test holds by the hand: each connection is a conversation in plain text.

use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// The app: requests are answered `200` with their path, unless the path begins with `/hand`: those the test answers.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Mutex<Vec<Seen>>>,
    hands: tokio::sync::Mutex<mpsc::UnboundedReceiver<Hand>>,
}

/// A request as the app saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body_bytes: usize,
    /// Which of the app's connections it came over.
    pub(crate) connection: usize,
}

/// A request that the test answers.
pub(crate) struct Hand {
    pub(crate) head: String,
    pub(crate) stream: TcpStream,
}

impl Hand {
    /// What arrives next, at most `room` bytes; empty at the end of the connection.
    pub(crate) async fn read(&mut self, room: usize) -> Vec<u8> {
        let mut bytes = vec![0; room];
        let read = tokio::time::timeout(Duration::from_secs(10), self.stream.read(&mut bytes)).await;
        bytes.truncate(read.expect("bytes or an end in time").unwrap_or(0));
        bytes
    }
}

impl App {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, hands) = mpsc::unbounded_channel();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(converse(stream, connection, Arc::clone(&seen), sender.clone()));
            }
        });
        Self { address, requests, hands: hands.into() }
    }

    /// The next request to `/hand…`.
    pub(crate) async fn hand(&self) -> Hand {
        tokio::time::timeout(Duration::from_secs(10), async { self.hands.lock().await.recv().await })
            .await
            .expect("a request in time")
            .unwrap()
    }
}

async fn converse(
    mut stream: TcpStream,
    connection: usize,
    seen: Arc<Mutex<Vec<Seen>>>,
    hands: mpsc::UnboundedSender<Hand>,
) {
    while let Some(head) = read_head(&mut stream).await {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        if path.starts_with("/hand") {
            seen.lock().push(Seen { head: head.clone(), body_bytes: 0, connection });
            let _ = hands.send(Hand { head, stream });
            return;
        }
        let Some(body_bytes) = read_body(&mut stream, &head).await else { return };
        seen.lock().push(Seen { head, body_bytes, connection });
        let answer =
            format!("HTTP/1.1 200 OK\r\nx-cellway-verdict: behind\r\ncontent-length: {}\r\n\r\n{path}", path.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads up to the empty line, and not further; `None` at the end of the connection.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap().to_lowercase())
}

/// Reads a body of known length or in chunks; `None` if it breaks off.
async fn read_body(stream: &mut TcpStream, head: &str) -> Option<usize> {
    if let Some(length) = field(head, "content-length") {
        let length = length.parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        return Some(length);
    }
    if field(head, "transfer-encoding").is_none() {
        return Some(0);
    }
    let mut total = 0;
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.ok()?);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.ok()?;
        total += size;
        if size == 0 {
            return Some(total);
        }
    }
}

/// A field of a head in lower case.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

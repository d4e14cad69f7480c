//! Clients that notice every refused and every reset connection: they send their bytes themselves, and repeat nothing
//! but what HTTP/2 says was not taken.

use crate::eventually;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest wait for an answer.
const ANSWER_MS: u64 = 30_000;
/// How long a client of the slow kind thinks between two requests: its connection is idle meanwhile.
const THINKING_MS: u64 = 70;
/// The longest head of an answer.
const HEAD_MAX_BYTES: usize = 16 * 1024;

const KEPT: &[u8] = b"GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\n\r\n";
const ANEW: &[u8] = b"GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\nconnection: close\r\n\r\n";

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Keeps its connection, until an answer says that it ends.
    Kept,
    /// Keeps it, and is idle on it between two requests.
    Thinking,
    /// Connects for each request.
    Anew,
    /// Sends request after request over HTTP/2, until it is told to go away; what crossed that it sends again.
    Http2,
}

const KINDS: [Kind; 4] = [Kind::Kept, Kind::Thinking, Kind::Anew, Kind::Http2];

/// Clients of all kinds.
pub struct Crowd {
    stop: CancellationToken,
    answered: [Arc<AtomicUsize>; KINDS.len()],
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Crowd {
    /// Two clients of each kind.
    pub fn start(router: SocketAddr) -> Self {
        let mut crowd = Self { stop: CancellationToken::new(), answered: Default::default(), clients: Vec::new() };
        for (number, kind) in KINDS.into_iter().enumerate() {
            for _ in 0..2 {
                let client =
                    Client { router, kind, stop: crowd.stop.clone(), answered: crowd.answered[number].clone() };
                crowd.clients.push(tokio::spawn(client.run()));
            }
        }
        crowd
    }

    /// One client with one request, which is under way when this returns, or soon.
    pub async fn of_one_request(router: SocketAddr) -> Self {
        let mut crowd = Self { stop: CancellationToken::new(), answered: Default::default(), clients: Vec::new() };
        crowd.clients.push(tokio::spawn(async move {
            let asked = async { ask(&mut connect(router).await?, KEPT).await };
            asked.await.err().into_iter().collect()
        }));
        crowd
    }

    /// Waits until so many more requests of each kind have been answered.
    pub async fn more(&self, requests: usize) {
        let now = || self.answered.each_ref().map(|answered| answered.load(Ordering::SeqCst));
        let before = now();
        let enough = || now().iter().zip(before).all(|(now, before)| *now >= before + requests);
        eventually("the load goes on", async || enough().then_some(())).await;
    }

    /// Stops them: how many were answered, by kind, and what went wrong with the others.
    pub async fn stop(self) -> ([usize; KINDS.len()], Vec<String>) {
        self.stop.cancel();
        let mut failed = Vec::new();
        for client in self.clients {
            failed.extend(client.await.expect("a client does not panic"));
        }
        (self.answered.map(|answered| answered.load(Ordering::SeqCst)), failed)
    }
}

struct Client {
    router: SocketAddr,
    kind: Kind,
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
}

impl Client {
    async fn run(self) -> Vec<String> {
        let mut failed = Vec::new();
        while !self.stop.is_cancelled() {
            let done = match self.kind {
                Kind::Http2 => self.over_http2().await,
                _ => self.over_http1().await,
            };
            if let Err(problem) = done {
                failed.push(format!("{:?}: {problem}", self.kind));
                tokio::time::sleep(Duration::from_millis(THINKING_MS)).await;
            }
        }
        failed
    }

    /// Until the connection ends.
    async fn over_http1(&self) -> Result<(), String> {
        let mut tcp = connect(self.router).await?;
        let request = if self.kind == Kind::Anew { ANEW } else { KEPT };
        while !self.stop.is_cancelled() {
            let goes_on = ask(&mut tcp, request).await?;
            self.answered.fetch_add(1, Ordering::SeqCst);
            if !goes_on {
                return Ok(());
            }
            if self.kind == Kind::Thinking {
                tokio::time::sleep(Duration::from_millis(THINKING_MS)).await;
            }
        }
        Ok(())
    }

    async fn over_http2(&self) -> Result<(), String> {
        let tcp = connect(self.router).await?;
        let (client, connection) = h2::client::handshake(tcp).await.map_err(|error| format!("handshake: {error}"))?;
        let driving = tokio::spawn(connection);
        let mut client = Some(client);
        while !self.stop.is_cancelled() {
            // Told to go away, it sends no more.
            let Some(taken) = client.take() else { break };
            let Ok(mut ready) = taken.ready().await else { break };
            let request = http::Request::get("http://acme.cells.localhost/").body(()).expect("a request");
            let sent = ready.send_request(request, true).map_err(|error| format!("not sent: {error}"))?;
            let answer = tokio::time::timeout(Duration::from_millis(ANSWER_MS), sent.0).await;
            let answer = match answer.map_err(|_| "no answer")? {
                Ok(answer) => answer,
                // It crossed the GOAWAY and is above the last stream named there: not taken, and sent again like that by
                // every client (RFC 9113, 6.8).
                Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => break,
                Err(error) => return Err(format!("no answer: {error}")),
            };
            if answer.status().as_u16() != 200 {
                return Err(format!("status {}", answer.status()));
            }
            let mut body = answer.into_body();
            while let Some(piece) = body.data().await {
                piece.map_err(|error| format!("a broken answer: {error}"))?;
            }
            self.answered.fetch_add(1, Ordering::SeqCst);
            client = Some(ready);
        }
        driving.abort();
        Ok(())
    }
}

async fn connect(router: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(router).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        _ => format!("not connected: {error}"),
    })
}

/// Whether the connection goes on after the answer.
async fn ask(tcp: &mut TcpStream, request: &[u8]) -> Result<bool, String> {
    tcp.write_all(request).await.map_err(|error| format!("reset as it was sent: {error}"))?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let reading = tokio::time::timeout(Duration::from_millis(ANSWER_MS), tcp.read_buf(&mut answer)).await;
        match reading.map_err(|_| "no answer")? {
            Ok(0) => return Err(format!("closed after {} bytes of the answer", answer.len())),
            Ok(_) if answer.len() > HEAD_MAX_BYTES => return Err("a long answer".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("reset: {error}")),
        }
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(head.lines().next().unwrap_or_default().to_owned());
    }
    Ok(!head.contains("connection: close"))
}

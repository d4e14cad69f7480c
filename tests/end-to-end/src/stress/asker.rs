//! Single requests, timed: what came, and when.

use super::crowd::connect;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The longest wait for an answer.
const PATIENCE_MS: u64 = 30_000;

/// What came of a request.
#[derive(Debug, Clone)]
pub struct Came {
    /// The status; without one, the connection ended or nothing came.
    pub status: Option<u16>,
    /// The answer was whole.
    pub whole: bool,
    /// When, from when it was due.
    pub took: Duration,
}

/// Sends these bytes on a connection of its own, of the loopback address of this number.
pub async fn ask(router: SocketAddr, from: usize, request: &[u8]) -> Came {
    let begun = Instant::now();
    let exchange = async {
        let mut tcp = connect(router, from).await.ok()?;
        let (mut reader, mut writer) = tcp.split();
        // A router that answers before it has read everything may close meanwhile.
        let (mut sent, mut read) = (pin!(writer.write_all(request)), pin!(read_all(&mut reader)));
        Some(tokio::select! {
            answer = &mut read => answer,
            _ = &mut sent => read.await,
        })
    };
    let answer = timeout(Duration::from_millis(PATIENCE_MS), exchange).await.ok().flatten().unwrap_or_default();
    let status = answer.get(9..12).and_then(|digits| digits.parse().ok());
    Came { status, whole: is_whole(&answer), took: begun.elapsed() }
}

/// What comes until the answer is whole or its connection ends.
async fn read_all(reader: &mut (impl AsyncRead + Unpin)) -> String {
    let mut came = Vec::new();
    loop {
        let more = reader.read_buf(&mut came).await;
        let text = String::from_utf8_lossy(&came).into_owned();
        if is_whole(&text) || !matches!(more, Ok(1..)) {
            return text;
        }
    }
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.and_then(|length| length.trim().parse().ok()).is_some_and(|length: usize| body.len() >= length)
}

/// Sends a request so many times a second for so long, whatever becomes of them, and waits for all answers.
pub async fn ask_at_rate(router: SocketAddr, request: String, per_second: u32, lasts: Duration) -> Vec<Came> {
    let (begun, mut asked) = (Instant::now(), JoinSet::new());
    for number in 0.. {
        let due = begun + Duration::from_secs(1) * number / per_second;
        if due.duration_since(begun) >= lasts {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let request = request.clone();
        asked.spawn(async move {
            let came = ask(router, number as usize, request.as_bytes()).await;
            Came { took: due.elapsed(), ..came }
        });
    }
    asked.join_all().await
}

/// How often each status came.
pub fn statuses(came: &[Came]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for one in came {
        let status = one.status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        *counts.entry(if one.whole { status } else { format!("{status} cut") }).or_default() += 1;
    }
    super::ground::counts(&counts)
}

/// The shortest and the longest time of those with this status, in ms.
pub fn times_ms(came: &[Came], status: u16) -> (u128, u128) {
    let times = || came.iter().filter(|one| one.status == Some(status)).map(|one| one.took.as_millis());
    (times().min().unwrap_or(0), times().max().unwrap_or(0))
}

//! Single requests, timed: what came, and when.

use super::crowd::connect;
use super::honest::read_answer;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
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
        // A router that answers before it has read everything may close meanwhile.
        let (mut reader, mut writer) = tcp.split();
        let mut answer = Vec::new();
        let sent = async { drop(writer.write_all(request).await) };
        let read = async { drop(tokio::io::AsyncReadExt::read_buf(&mut reader, &mut answer).await) };
        tokio::pin!(sent, read);
        tokio::select! {
            () = &mut read => {}
            () = &mut sent => (&mut read).await,
        }
        let status = std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
        Some((status, is_whole(&mut tcp, answer).await))
    };
    let came = timeout(Duration::from_millis(PATIENCE_MS), exchange).await.ok().flatten();
    let (status, whole) = came.map_or((None, false), |(status, whole)| (Some(status), whole));
    Came { status, whole, took: begun.elapsed() }
}

async fn is_whole(tcp: &mut tokio::net::TcpStream, begun: Vec<u8>) -> bool {
    let text = String::from_utf8_lossy(&begun).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return read_answer(tcp).await.is_ok() };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut left =
        length.and_then(|length| length.trim().parse::<usize>().ok()).unwrap_or(0).saturating_sub(body.len());
    let mut scrap = vec![0; 16 * 1024];
    while left > 0 {
        match tokio::io::AsyncReadExt::read(tcp, &mut scrap).await {
            Ok(count @ 1..) => left = left.saturating_sub(count),
            _ => return false,
        }
    }
    true
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

//! Long-lived streams through the router: opened, watched, and opened again when they are cut.

use super::Run;
use super::checker::{Breach, BreachKind, check_count};
use super::connection::{Duplex, Failed, REQUEST_TIMEOUT_MS};
use super::plan::{self, Strand};
use super::tally::Timed;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::task::TaskTracker;

/// A stream that was cut is opened again after this long.
const REOPEN_PAUSE_MS: u64 = 100;

/// The app pings WebSockets each 10 s and event streams each 5 s: one that says nothing for so long is dead.
const SILENCE_MAX_MS: u64 = 25_000;

/// An event that is longer is not the app's.
const EVENT_MAX_BYTES: usize = 64 * 1024;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Cleanly,
    Broken,
}

/// Keeps so many streams of each kind open until the run stops.
pub(crate) async fn keep_open(run: Arc<Run>, websockets: usize, feeds: usize) {
    let mut numbers = plan::numbers(run.seed, Strand::Streams);
    let keeping = TaskTracker::new();
    let mut pick = || numbers.random_range(0..run.tenants.len());
    for _ in 0..websockets {
        let (run, tenant) = (Arc::clone(&run), pick());
        keeping.spawn(async move { run.stop.clone().run_until_cancelled(keep_websocket(&run, tenant)).await });
    }
    for _ in 0..feeds {
        let (run, tenant) = (Arc::clone(&run), pick());
        keeping.spawn(async move { run.stop.clone().run_until_cancelled(keep_feed(&run, tenant)).await });
    }
    keeping.close();
    keeping.wait().await;
}

fn not_opened(run: &Run, tenant: usize, kind: &str, failed: Failed, began: Instant) {
    let tenant = &run.tenants[tenant].id;
    let timed = Timed::now(tenant, format!("{kind} not opened: {failed}"), failed, began.elapsed());
    run.tally.failures.add(timed, &format!("{tenant} at {}", run.clock()));
}

#[derive(Deserialize)]
struct Shown {
    count: i64,
}

async fn keep_websocket(run: &Run, tenant: usize) {
    let counts = &run.tally.streams;
    loop {
        let (at_least, began) = (run.ledger.least_count(tenant), Instant::now());
        match open_websocket(run, tenant).await {
            Ok(socket) => {
                counts.websocket_opened.add();
                let end = watch_websocket(run, tenant, socket, at_least).await;
                counts.websocket_cut.add();
                if end == End::Cleanly {
                    counts.websocket_cut_cleanly.add();
                }
            }
            Err(failed) => not_opened(run, tenant, "websocket", failed, began),
        }
        sleep(Duration::from_millis(REOPEN_PAUSE_MS)).await;
    }
}

async fn open_websocket(run: &Run, tenant: usize) -> Result<WebSocketStream<Box<dyn Duplex>>, Failed> {
    let (stream, opened) = run.connections.stream().await?;
    let url = format!("ws://{}/ws", run.tenants[tenant].host);
    match timeout(Duration::from_millis(REQUEST_TIMEOUT_MS), client_async(url, stream)).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(WsError::Http(answer))) => Err(Failed::Status(answer.status().as_u16())),
        Ok(Err(_)) => Err(Failed::ConnectionClosed(opened)),
        Err(_) => Err(Failed::Timeout),
    }
}

/// The count on a socket never falls, and begins with what was there before it was opened.
async fn watch_websocket(
    run: &Run,
    tenant: usize,
    mut socket: WebSocketStream<Box<dyn Duplex>>,
    mut at_least: i64,
) -> End {
    let silence = Duration::from_millis(SILENCE_MAX_MS);
    loop {
        match timeout(silence, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => {
                run.tally.streams.websocket_messages.add();
                if let Ok(shown) = serde_json::from_str::<Shown>(&text) {
                    run.tally.breaches.add(check_count(&run.tenants[tenant].id, at_least, shown.count));
                    at_least = at_least.max(shown.count);
                }
            }
            Ok(Some(Ok(Message::Close(frame)))) => {
                let _ = socket.flush().await;
                return match frame {
                    Some(frame) if frame.code == CloseCode::Restart => End::Cleanly,
                    _ => End::Broken,
                };
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_)) | None) | Err(_) => return End::Broken,
        }
    }
}

async fn keep_feed(run: &Run, tenant: usize) {
    let counts = &run.tally.streams;
    let mut last_seq = None;
    loop {
        let began = Instant::now();
        match open_feed(run, tenant, last_seq).await {
            Ok(feed) => {
                counts.sse_opened.add();
                let end = watch_feed(run, tenant, feed, &mut last_seq).await;
                counts.sse_cut.add();
                if end == End::Cleanly {
                    counts.sse_cut_cleanly.add();
                }
            }
            Err(failed) => not_opened(run, tenant, "sse", failed, began),
        }
        sleep(Duration::from_millis(REOPEN_PAUSE_MS)).await;
    }
}

async fn open_feed(run: &Run, tenant: usize, last_seq: Option<i64>) -> Result<Incoming, Failed> {
    let (stream, opened) = run.connections.stream().await?;
    let opening = async {
        let closed = |_| Failed::ConnectionClosed(opened);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(closed)?;
        tokio::spawn(async move { _ = connection.await });
        let mut request = Request::builder().uri("/events").header(HOST, &run.tenants[tenant].host);
        request = request.header(ACCEPT, "text/event-stream");
        if let Some(seq) = last_seq {
            request = request.header("last-event-id", seq);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| Failed::BadAnswer)?;
        let answer = sender.send_request(request).await.map_err(closed)?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            status => Err(Failed::Status(status.as_u16())),
        }
    };
    timeout(Duration::from_millis(REQUEST_TIMEOUT_MS), opening).await.unwrap_or(Err(Failed::Timeout))
}

/// Each entry comes once and in order, also across the cuts.
async fn watch_feed(run: &Run, tenant: usize, mut feed: Incoming, last_seq: &mut Option<i64>) -> End {
    let mut events = EventIds::default();
    loop {
        let chunk = match timeout(Duration::from_millis(SILENCE_MAX_MS), feed.frame()).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(None) if events.is_at_boundary() => return End::Cleanly,
            Ok(None | Some(Err(_))) | Err(_) => return End::Broken,
        };
        let Some(ids) = events.add(&chunk) else { return End::Broken };
        for seq in ids {
            run.tally.streams.sse_events.add();
            if last_seq.is_some_and(|last| seq <= last) {
                let what = format!("the feed of events went from {last_seq:?} to {seq}");
                let tenant = run.tenants[tenant].id.clone();
                run.tally.breaches.add([Breach { kind: BreachKind::OutOfOrder, tenant, what }]);
            }
            *last_seq = Some(seq);
        }
    }
}

/// The numbers of the events in a stream of them.
#[derive(Debug, Default)]
struct EventIds {
    unread: Vec<u8>,
}

impl EventIds {
    /// The numbers of the events that `chunk` completes. `None` if this is no stream of the app's events.
    fn add(&mut self, chunk: &[u8]) -> Option<Vec<i64>> {
        self.unread.extend_from_slice(chunk);
        let mut ids = Vec::new();
        while let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = self.unread.drain(..end + 2).collect();
            let text = String::from_utf8(event).ok()?;
            if let Some(id) = text.lines().find_map(|line| line.strip_prefix("id:")) {
                ids.push(id.trim().parse().ok()?);
            }
        }
        (self.unread.len() <= EVENT_MAX_BYTES).then_some(ids)
    }

    fn is_at_boundary(&self) -> bool {
        self.unread.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_when_they_are_complete() {
        let mut events = EventIds::default();
        assert_eq!(events.add(b"id: 7\ndata: {}\n\n: ping\n\nid: 8\nda"), Some(vec![7]));
        assert!(!events.is_at_boundary());
        assert_eq!(events.add(b"ta: {}\n\n"), Some(vec![8]));
        assert!(events.is_at_boundary());
        assert_eq!(events.add(b"id: x\n\n"), None);
    }
}

//! Long-lived streams: the live counter over WebSocket and the feed of entries over SSE.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use crate::App;
use crate::requests::{Caller, Refusal};
use crate::tenant_file::{Entry, StoreError};

const POLL_INTERVAL_MS: u64 = 500;
const SSE_PING_INTERVAL_MS: u64 = 5_000;
const WS_PING_INTERVAL_MS: u64 = 10_000;
/// A client that answered no ping for this long is gone.
const WS_SILENCE_MAX_MS: u64 = 30_000;
const WS_SEND_TIMEOUT_MS: u64 = 10_000;
const WS_MESSAGE_MAX_BYTES: usize = 64 * 1024;
const EVENTS_PER_POLL: u32 = 100;
const LAST_EVENT_ID: &str = "last-event-id";

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/ws", get(counter)).route("/events", get(events))
}

async fn counter(State(app): State<App>, caller: Caller, upgrade: WebSocketUpgrade) -> Result<Response, Refusal> {
    let first = count(&app, &caller).await?;
    let streams = app.streams.clone();
    let upgrade = upgrade.max_message_size(WS_MESSAGE_MAX_BYTES).max_frame_size(WS_MESSAGE_MAX_BYTES);
    Ok(upgrade.on_upgrade(move |socket| streams.track_future(watch(socket, app, caller, first))))
}

async fn count(app: &App, caller: &Caller) -> Result<i64, StoreError> {
    let ticket = caller.ticket.renewed();
    let store = &app.store;
    store.with(&caller.tenant, &ticket, |file, _| file.count()).await
}

/// The stream has ended: closed by the client, or the client does not take what is sent.
struct Ended;

async fn watch(mut socket: WebSocket, app: App, caller: Caller, first: i64) {
    if let Ok(reason) = converse(&mut socket, &app, &caller, first).await {
        // 1012 asks the client to connect again.
        let close = CloseFrame { code: close_code::RESTART, reason: reason.into() };
        let _ = send(&mut socket, Message::Close(Some(close))).await;
    }
}

/// Answers why the app ends the stream.
async fn converse(socket: &mut WebSocket, app: &App, caller: &Caller, first: i64) -> Result<&'static str, Ended> {
    let mut shown = first;
    send_count(socket, app, caller, shown).await?;
    let mut polls = ticks(POLL_INTERVAL_MS);
    let mut pings = ticks(WS_PING_INTERVAL_MS);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return Ok("the app stops"),
            incoming = socket.recv() => {
                heard = Instant::now();
                match incoming {
                    None | Some(Err(_) | Ok(Message::Close(_))) => return Err(Ended),
                    Some(Ok(Message::Text(text))) => {
                        let echo = json!({ "echo": text.as_str() }).to_string();
                        send(socket, Message::text(echo)).await?;
                    }
                    Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => {}
                }
            }
            _ = polls.tick() => match count(app, caller).await {
                Ok(now) if now != shown => {
                    shown = now;
                    send_count(socket, app, caller, shown).await?;
                }
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(_) => return Ok("the data is not here any more"),
            },
            _ = pings.tick() => {
                if heard.elapsed() > Duration::from_millis(WS_SILENCE_MAX_MS) {
                    return Err(Ended);
                }
                send(socket, Message::Ping(bytes::Bytes::new())).await?;
            }
        }
    }
}

async fn send_count(socket: &mut WebSocket, app: &App, caller: &Caller, count: i64) -> Result<(), Ended> {
    let mut frame = json!({ "count": count, "cell": *app.name });
    if let Some(epoch) = caller.epoch {
        frame["epoch"] = epoch.into();
    }
    send(socket, Message::text(frame.to_string())).await
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Ended> {
    let limit = Duration::from_millis(WS_SEND_TIMEOUT_MS);
    match timeout(limit, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Ended),
    }
}

fn ticks(interval_ms: u64) -> tokio::time::Interval {
    let period = Duration::from_millis(interval_ms);
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Whether a stream may look again at its next poll instead of ending.
fn is_passing(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(_) | StoreError::Replaced | StoreError::Late => true,
        StoreError::NoData | StoreError::Stopping | StoreError::Look(_) | StoreError::Broken(_) => false,
    }
}

#[derive(Deserialize)]
struct EventsQuery {
    after: Option<i64>,
}

/// Entries after `Last-Event-ID`, else after `?after=`, else those that come from now on.
async fn events(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let asked = match headers.get(LAST_EVENT_ID) {
        Some(id) => {
            let number = id.to_str().ok().and_then(|text| text.parse().ok());
            Some(number.ok_or(Refusal::BadEventId)?)
        }
        None => query.after,
    };
    let ticket = caller.ticket.renewed();
    let newest = app.store.with(&caller.tenant, &ticket, |file, _| file.last_seq()).await?;
    let feed =
        Feed { app: app.clone(), caller, after: asked.unwrap_or(newest), unsent: VecDeque::new(), caught_up: false };
    let events = stream::unfold(feed, async |mut feed| {
        let entry = feed.next().await?;
        Some((Ok::<_, Infallible>(event(&entry)), feed))
    });
    let events = events.take_until(app.shutdown.clone().cancelled_owned());
    let ping = Duration::from_millis(SSE_PING_INTERVAL_MS);
    let keep_alive = KeepAlive::new().interval(ping).text("ping");
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

struct Feed {
    app: App,
    caller: Caller,
    after: i64,
    unsent: VecDeque<Entry>,
    /// Whether the last look found all there was.
    caught_up: bool,
}

impl Feed {
    /// Waits for the next entry. `None` once the data is not here any more.
    async fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.unsent.pop_front() {
                self.after = entry.seq;
                return Some(entry);
            }
            if self.caught_up {
                sleep(Duration::from_millis(POLL_INTERVAL_MS)).await;
            }
            let ticket = self.caller.ticket.renewed();
            let after = self.after;
            let look = self
                .app
                .store
                .with(&self.caller.tenant, &ticket, move |file, _| file.list_after(after, EVENTS_PER_POLL));
            match look.await {
                Ok(entries) => {
                    self.caught_up = entries.len() < EVENTS_PER_POLL as usize;
                    self.unsent = entries.into();
                }
                Err(error) if is_passing(&error) => self.caught_up = true,
                Err(_) => return None,
            }
        }
    }
}

fn event(entry: &Entry) -> Event {
    let data = json!({
        "id": entry.id, "seq": entry.seq, "length": entry.length, "sha256": entry.sha256,
        "cell": entry.cell, "epoch": entry.epoch, "at_ms": entry.at_ms, "preview": entry.preview,
    });
    Event::default().id(entry.seq.to_string()).data(data.to_string())
}

//! The stand-in's app, as it is seen through a router: the tenant is the first label of the host.

use crate::system::{Fault, Shared, State as Fleet, Stored, Tenant};
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

const HIDDEN_AFTER: usize = 3;

pub(crate) fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/", get(async || "a page"))
        .route("/count", get(count))
        .route("/entries", get(list))
        .route("/entries/{id}", get(show).post(add))
        .route("/ws", get(websocket))
        .route("/events", get(events))
        .layer(DefaultBodyLimit::disable())
        .with_state(shared)
}

fn tenant_of(headers: &HeaderMap) -> String {
    headers["host"].to_str().unwrap().split('.').next().unwrap().to_owned()
}

fn with_tenant(shared: &Shared, headers: &HeaderMap, f: impl FnOnce(&Tenant) -> Response) -> Response {
    match shared.state().tenants.get(&tenant_of(headers)) {
        Some(tenant) => f(tenant),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn count(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    with_tenant(&shared, &headers, |tenant| Json(json!({ "count": tenant.next_seq - 1 })).into_response())
}

async fn list(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Query(query): Query<BTreeMap<String, i64>>,
) -> Response {
    let (after, limit) = (query["after"], query["limit"] as usize);
    with_tenant(&shared, &headers, |tenant| {
        let page: Vec<_> = tenant.log.iter().filter(|entry| entry.seq > after).take(limit).collect();
        let next = page.last().filter(|_| page.len() == limit).map(|entry| entry.seq);
        Json(json!({ "entries": page, "next": next })).into_response()
    })
}

async fn show(State(shared): State<Shared>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    if shared.state().strikes(Fault::HideAcknowledged) {
        return StatusCode::NOT_FOUND.into_response();
    }
    with_tenant(&shared, &headers, |tenant| match tenant.log.iter().find(|entry| entry.id == id) {
        Some(entry) => Json(entry).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn add(State(shared): State<Shared>, headers: HeaderMap, Path(id): Path<String>, body: Bytes) -> Response {
    let sha256 = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut fleet = shared.state();
    fleet.writes += 1;
    if fleet.strikes(Fault::Answer503) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let name = tenant_of(&headers);
    let Some(tenant) = fleet.tenants.get_mut(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let seq = tenant.next_seq;
    tenant.next_seq += 1;
    let (cell, epoch) = (tenant.view.cell.clone(), tenant.view.epoch);
    let entry = Stored { id, seq, length: body.len() as u64, sha256, cell, epoch };
    let entry = store(&mut fleet, &name, entry);
    (StatusCode::CREATED, Json(entry)).into_response()
}

fn store(fleet: &mut Fleet, name: &str, mut entry: Stored) -> Stored {
    if fleet.strikes(Fault::LoseWrite) {
        return entry;
    }
    if fleet.strikes(Fault::SpoilHash) {
        entry.sha256 = "00".repeat(32);
    }
    let twice = fleet.strikes(Fault::DuplicateWrite);
    let has_moved = fleet.tenants[name].view.epoch > 7 && fleet.tenants[name].log.len() > HIDDEN_AFTER;
    if has_moved && fleet.strikes(Fault::ServeFromTheOldCell) {
        entry.cell = if entry.cell == "cell-a" { "cell-b" } else { "cell-a" }.to_owned();
    }
    let tenant = fleet.tenants.get_mut(name).unwrap();
    tenant.log.push(entry.clone());
    if twice {
        tenant.log.push(Stored { seq: tenant.next_seq, ..entry.clone() });
        tenant.next_seq += 1;
    }
    entry
}

/// Ends cleanly after a moment, as if the tenant moved.
async fn websocket(State(shared): State<Shared>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let name = tenant_of(&headers);
    upgrade.on_upgrade(async move |mut socket| {
        let count = shared.state().tenants[&name].next_seq - 1;
        let _ = socket.send(Message::text(json!({ "count": count }).to_string())).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let frame = axum::extract::ws::CloseFrame { code: 1012, reason: "moved".into() };
        let _ = socket.send(Message::Close(Some(frame))).await;
    })
}

async fn events(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let name = tenant_of(&headers);
    let last: i64 = headers.get("last-event-id").map_or(0, |id| id.to_str().unwrap().parse().unwrap());
    let log = &shared.state().tenants[&name].log;
    let ids: Vec<i64> = log.iter().map(|entry| entry.seq).filter(|seq| *seq > last).collect();
    let told = stream::iter(ids).map(|seq| Ok::<_, Infallible>(Event::default().id(seq.to_string()).data("{}")));
    let end = stream::once(tokio::time::sleep(Duration::from_millis(200))).filter_map(async |()| None);
    Sse::new(told.chain(end)).into_response()
}

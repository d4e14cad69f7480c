//! The entries' API: add one, read one, read on from a sequence number.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::{Body, HttpBody};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::App;
use crate::requests::{Caller, Refusal};
use crate::tenant_file::{Inserted, NewEntry};

const BODY_MAX_BYTES: u64 = 16 * 1024 * 1024;
const PREVIEW_MAX_BYTES: usize = 256;
const ID_MAX_BYTES: usize = 64;
const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 5_000;

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/entries", get(list)).route("/entries/{id}", post(add).get(show))
}

/// A body as it is recorded: measured and hashed, and forgotten but for its beginning.
#[derive(Default)]
pub(crate) struct Measured {
    length: u64,
    hash: Sha256,
    beginning: Vec<u8>,
}

impl Measured {
    pub(crate) fn add(&mut self, chunk: &[u8]) {
        self.length += chunk.len() as u64;
        self.hash.update(chunk);
        let room = PREVIEW_MAX_BYTES - self.beginning.len();
        self.beginning.extend_from_slice(&chunk[..room.min(chunk.len())]);
    }

    fn preview(&self) -> String {
        let text = String::from_utf8_lossy(&self.beginning);
        let whole = self.length == self.beginning.len() as u64;
        // A character that was cut in two at the end is left out.
        let text = if whole { &text } else { text.trim_end_matches(char::REPLACEMENT_CHARACTER) };
        text.to_owned()
    }
}

/// Writes an entry for a body that was read to its end.
pub(crate) async fn store(app: &App, caller: &Caller, id: String, body: Measured) -> Result<Inserted, Refusal> {
    let entry = NewEntry {
        id,
        length: body.length,
        preview: body.preview(),
        sha256: hex(&body.hash.finalize()),
        cell: app.name.to_string(),
        epoch: caller.epoch,
        at_ms: now_ms(),
    };
    let inserted = app
        .store
        .with(&caller.tenant, &caller.ticket, move |file, permit| file.insert(&entry, || permit.check()))
        .await?;
    Ok(inserted)
}

async fn add(State(app): State<App>, caller: Caller, Path(id): Path<String>, body: Body) -> Result<Response, Refusal> {
    if !is_id(&id) {
        return Err(Refusal::BadId);
    }
    let body = measure(body).await?;
    Ok(match store(&app, &caller, id, body).await? {
        Inserted::New(entry) => (StatusCode::CREATED, Json(entry)).into_response(),
        Inserted::Taken(entry) => (StatusCode::CONFLICT, Json(entry)).into_response(),
    })
}

async fn measure(body: Body) -> Result<Measured, Refusal> {
    let too_large = || Refusal::TooLarge { max_bytes: BODY_MAX_BYTES };
    if body.size_hint().lower() > BODY_MAX_BYTES {
        return Err(too_large());
    }
    let mut measured = Measured::default();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        measured.add(&chunk.map_err(|_| Refusal::Incomplete)?);
        if measured.length > BODY_MAX_BYTES {
            return Err(too_large());
        }
    }
    Ok(measured)
}

async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Response, Refusal> {
    if !is_id(&id) {
        return Err(Refusal::BadId);
    }
    let found = app.store.with(&caller.tenant, &caller.ticket, move |file, _| file.find(&id)).await?;
    let entry = found.ok_or(Refusal::NoEntry)?;
    Ok(Json(entry).into_response())
}

#[derive(Deserialize)]
struct ListQuery {
    after: Option<i64>,
    limit: Option<u32>,
}

/// `next` is where to read on from, and null on the last page.
async fn list(State(app): State<App>, caller: Caller, Query(query): Query<ListQuery>) -> Result<Response, Refusal> {
    let after = query.after.unwrap_or(0);
    let limit = query.limit.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX);
    let entries = app.store.with(&caller.tenant, &caller.ticket, move |file, _| file.list_after(after, limit)).await?;
    let full = entries.len() == limit as usize;
    let next = entries.last().filter(|_| full).map(|entry| entry.seq);
    Ok(Json(json!({ "entries": entries, "next": next })).into_response())
}

fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=ID_MAX_BYTES).contains(&id.len()) && id.bytes().all(plain)
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    let pairs = bytes.iter().flat_map(|byte| [byte >> 4, *byte]);
    pairs.map(digit).collect()
}

//! One request to the app through the router: sent once, and what its answer proves.

use super::Run;
use super::checker::{Entry, check_count, check_read};
use super::connection::{Body as RequestBody, Failed};
use super::plan::{self, LARGE_MAX_BYTES, PlannedRequest, PlannedUpload, RequestKind, Strand};
use super::tally::Timed;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::{Method, Request, StatusCode};
use rand::Rng;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many places a body can be cut from.
const CUTS: usize = 1024 * 1024;

/// A chunked body is handed over in pieces of this length.
const CHUNK_BYTES: usize = 16 * 1024;

/// A slow upload is sent in so many pieces.
const SLOW_UPLOAD_PIECES: u32 = 20;

/// Random bytes that all bodies are cut from.
#[derive(Debug)]
pub(crate) struct Bodies(Bytes);

impl Bodies {
    /// The bytes that this seed makes.
    pub(crate) fn new(seed: u64) -> Self {
        let mut bytes = vec![0; LARGE_MAX_BYTES + CUTS];
        plan::numbers(seed, Strand::Bodies).fill_bytes(&mut bytes);
        Self(bytes.into())
    }

    fn cut(&self, body: &plan::Body) -> Bytes {
        let from = body.cut as usize % CUTS;
        self.0.slice(from..from + body.length)
    }
}

#[derive(Deserialize)]
struct CountAnswer {
    count: i64,
}

/// Sends a planned request that was due at `due`, and counts what comes of it.
pub(crate) async fn perform(run: &Run, number: u64, planned: PlannedRequest, due: Instant) {
    let tenant = &run.tenants[planned.tenant];
    run.tally.requests.add();
    let (moved_before, began) = (tenant.is_moving(), Instant::now());
    let (what, outcome) = match planned.kind {
        RequestKind::Write(body) => {
            let id = format!("{}-{number}", run.id);
            (format!("POST /entries/{id}"), write(run, planned.tenant, id, &body, None).await)
        }
        RequestKind::ReadEntry { pick } => read_entry(run, planned.tenant, pick).await,
        RequestKind::ReadCount => ("GET /count".to_owned(), read_count(run, planned.tenant).await),
        RequestKind::ReadPage => ("GET /".to_owned(), read_page(run, planned.tenant).await),
    };
    let took_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
    run.tally.latency.lock().add(took_us);
    if moved_before || tenant.is_moving() {
        run.tally.latency_while_moving.lock().add(took_us);
    }
    if let Err(failed) = outcome {
        let timed = Timed::now(&tenant.id, failed.to_string(), failed, began.elapsed());
        run.tally.failures.add(timed, &format!("{what} of {} at {}", tenant.id, run.clock()));
    }
}

/// Sends a planned slow upload.
pub(crate) async fn upload_slowly(run: &Run, number: String, planned: PlannedUpload) {
    run.tally.slow_uploads.add();
    let id = format!("{}-{number}", run.id);
    let takes = Duration::from_millis(planned.takes_ms);
    let tenant = &run.tenants[planned.tenant].id;
    let whom = format!("POST /entries/{id} of {tenant} over {takes:?}");
    let began = Instant::now();
    match write(run, planned.tenant, id, &planned.body, Some(takes)).await {
        Ok(()) => run.tally.slow_uploads_acknowledged.add(),
        Err(failed) => {
            let timed = Timed::now(tenant, failed.to_string(), failed, began.elapsed());
            run.tally.slow_upload_failures.add(timed, &format!("{whom} at {}", run.clock()));
        }
    }
}

async fn write(run: &Run, tenant: usize, id: String, body: &plan::Body, takes: Option<Duration>) -> Result<(), Failed> {
    let bytes = run.bodies.cut(body);
    let sha256 = hex(&Sha256::digest(&bytes));
    let mut request = Request::builder().method(Method::POST).uri(format!("/entries/{id}"));
    if !body.chunked {
        request = request.header(CONTENT_LENGTH, bytes.len());
    }
    let request = request.header(HOST, &run.tenants[tenant].host).body(request_body(bytes, body.chunked, takes));
    let request = request.map_err(|_| Failed::BadAnswer)?;
    let place = run.ledger.sent(tenant, id.clone(), body.length as u64, sha256);
    let answer = run.connections.send(request).await?;
    if answer.status == StatusCode::CONFLICT {
        run.ledger.taken_already(tenant, place);
    }
    let entry: Entry = answer.json(StatusCode::CREATED)?;
    if entry.id != id {
        return Err(Failed::BadAnswer);
    }
    run.ledger.acknowledged(tenant, place, entry);
    Ok(())
}

fn request_body(bytes: Bytes, chunked: bool, takes: Option<Duration>) -> RequestBody {
    let piece_bytes = match takes {
        None if !chunked => return Full::new(bytes).boxed_unsync(),
        None => CHUNK_BYTES,
        Some(_) => bytes.len().div_ceil(SLOW_UPLOAD_PIECES as usize).max(1),
    };
    let pause = takes.map(|takes| takes / SLOW_UPLOAD_PIECES);
    let pieces = stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        if let Some(pause) = pause {
            sleep(pause).await;
        }
        let piece = rest.split_to(piece_bytes.min(rest.len()));
        Some((Ok::<_, Infallible>(Frame::data(piece)), rest))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// A GET of a tenant's path.
pub(crate) fn get(run: &Run, tenant: usize, path: &str) -> Result<Request<RequestBody>, Failed> {
    let request = Request::builder().uri(path).header(HOST, &run.tenants[tenant].host);
    request.body(Empty::new().boxed_unsync()).map_err(|_| Failed::BadAnswer)
}

/// Reads a write that was acknowledged; a count where nothing was yet.
async fn read_entry(run: &Run, tenant: usize, pick: u32) -> (String, Result<(), Failed>) {
    let Some(write) = run.ledger.recent(tenant, pick) else {
        return ("GET /count".to_owned(), read_count(run, tenant).await);
    };
    let path = format!("/entries/{}", write.id);
    let read = async {
        let answer = run.connections.send(get(run, tenant, &path)?).await?;
        // That it is not there is no failed request but worse.
        let seen: Option<Entry> = match answer.status {
            StatusCode::NOT_FOUND => None,
            _ => Some(answer.json(StatusCode::OK)?),
        };
        run.tally.breaches.add(check_read(&run.tenants[tenant].id, &write, seen.as_ref()));
        Ok(())
    };
    let outcome = read.await;
    (format!("GET {path}"), outcome)
}

/// Reads how many entries the tenant has.
pub(crate) async fn read_count(run: &Run, tenant: usize) -> Result<(), Failed> {
    let at_least = run.ledger.least_count(tenant);
    let count = count(run.connections.send(get(run, tenant, "/count")?).await?)?;
    run.tally.breaches.add(check_count(&run.tenants[tenant].id, at_least, count));
    run.ledger.counted(tenant, count);
    Ok(())
}

/// The count in an answer.
pub(crate) fn count(answer: super::connection::Answer) -> Result<i64, Failed> {
    answer.json::<CountAnswer>(StatusCode::OK).map(|answer| answer.count)
}

async fn read_page(run: &Run, tenant: usize) -> Result<(), Failed> {
    run.connections.send(get(run, tenant, "/")?).await?.expect_status(StatusCode::OK)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The answering side.

use super::{CHUNKS_PER_REQUEST_MAX, ChunksWanted, HASHES_ANSWER_MAX_BYTES, PassHead, PassWanted, REQUEST_MAX_BYTES};
use crate::driver::Driver;
use crate::driver::chunks::{CHUNK_BYTES, HASH_BYTES};
use crate::driver::sqlite::{Pass, Passes};
use bytes::Bytes;
use cellway_api::identity::Identity;
use cellway_core::ids::{HomeId, MoveId};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Room for a pass's first line.
const PASS_HEAD_MAX_BYTES: usize = 1_024;

type Answer = Response<Full<Bytes>>;

/// A refusal, with words for the log of the agent that asked.
struct Refusal(StatusCode, String);

/// Answers one request of another agent, whose certificate names `peer`; without TLS nobody is named, and only this
/// machine can ask.
pub(crate) async fn answer<B>(driver: &Driver, peer: Option<&Identity>, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answered = match driver {
        Driver::None | Driver::Command(_) | Driver::Postgres(_) => {
            Err(Refusal(StatusCode::NOT_FOUND, "this cell has no data that agents fetch".to_owned()))
        }
        Driver::Sqlite(driver) => respond(driver.passes(), peer, request).await,
    };
    let (status, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err(Refusal(status, text)) => (status, Bytes::from(text)),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

async fn respond<B>(passes: &Arc<Passes>, peer: Option<&Identity>, request: Request<B>) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let not_found = || Refusal(StatusCode::NOT_FOUND, "there is nothing at this path".to_owned());
    let path = request.uri().path().to_owned();
    let mut segments = path.strip_prefix("/v1/transfer/").ok_or_else(not_found)?.split('/');
    let (Some(move_id), Some(home), Some(what), None) =
        (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(not_found());
    };
    let move_id: MoveId = move_id.parse().map_err(|_| not_found())?;
    let home: HomeId = home.parse().map_err(|_| not_found())?;
    if request.method() != Method::POST {
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "only POST".to_owned()));
    }
    // Whether there is an offer at all is no foreigner's to know: both are refused in the same words.
    let target = passes.offered_to(&move_id, &home).map(Identity::Cell);
    let is_target = peer.is_none() || peer == target.as_ref();
    if target.is_none() || !is_target {
        if let (Some(target), Some(peer)) = (&target, peer) {
            tracing::warn!(%move_id, %home, %peer, %target, "a cell asked for a home that is offered to another one");
        }
        let text = format!("home {home} is not offered to you for move {move_id}");
        return Err(Refusal(StatusCode::FORBIDDEN, text));
    }
    match what {
        "pass" => a_pass(passes, &move_id, &home, read(request).await?).await,
        "chunks" => some_chunks(passes, &move_id, &home, read(request).await?).await,
        _ => Err(not_found()),
    }
}

async fn a_pass(passes: &Passes, move_id: &MoveId, home: &HomeId, wanted: PassWanted) -> Result<Bytes, Refusal> {
    let found = wanted.digest.as_ref().and_then(|digest| passes.find(move_id, home, digest));
    let pass = match found {
        Some(pass) => pass,
        // Also for a digest that is not there: after a restart under the fence a new pass may well be the same.
        None => passes.make(move_id, home).await.map_err(|error| {
            tracing::warn!(%move_id, %home, %error, "a pass failed");
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("the pass failed: {error}"))
        })?,
    };
    if wanted.digest.is_some_and(|digest| digest != pass.digest) {
        return Err(Refusal(StatusCode::CONFLICT, "the home is not at this position".to_owned()));
    }
    if pass.map.hashes.len() * HASH_BYTES + PASS_HEAD_MAX_BYTES > HASHES_ANSWER_MAX_BYTES {
        return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, "the home is too large to be moved".to_owned()));
    }
    let head = PassHead { digest: pass.digest.clone(), size_bytes: pass.map.size };
    let mut body = serde_json::to_vec(&head).map_err(failed)?;
    body.push(b'\n');
    body.extend_from_slice(pass.map.hashes.as_flattened());
    Ok(body.into())
}

async fn some_chunks(passes: &Passes, move_id: &MoveId, home: &HomeId, wanted: ChunksWanted) -> Result<Bytes, Refusal> {
    let gone = || Refusal(StatusCode::GONE, "this pass is no longer kept".to_owned());
    let pass = passes.find(move_id, home, &wanted.digest).ok_or_else(gone)?;
    if wanted.chunks.len() > CHUNKS_PER_REQUEST_MAX {
        let text = format!("at most {CHUNKS_PER_REQUEST_MAX} chunks at a time");
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    }
    let read = cellway_machine::off_thread(move || read_chunks(&pass, &wanted.chunks));
    read.await.map_err(failed)?.map_err(failed)
}

/// A pass is a file of our own: no SQLite connection has it open any more.
fn read_chunks(pass: &Pass, chunks: &[u32]) -> io::Result<Bytes> {
    let file = File::open(&pass.path)?;
    let mut data = Vec::with_capacity(chunks.len() * CHUNK_BYTES);
    for index in chunks {
        let length = usize::try_from(pass.map.chunk_bytes(*index as usize)).unwrap_or(CHUNK_BYTES);
        let start = data.len();
        data.resize(start + length, 0);
        file.read_exact_at(&mut data[start..], u64::from(*index) * CHUNK_BYTES as u64)?;
    }
    Ok(data.into())
}

async fn read<T: DeserializeOwned, B>(request: Request<B>) -> Result<T, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    read_json(request, REQUEST_MAX_BYTES).await.map_err(|text| Refusal(StatusCode::BAD_REQUEST, text))
}

/// A request's body of at most `max_bytes`; what is wrong with it is said in words.
pub(crate) async fn read_json<T: DeserializeOwned, B>(request: Request<B>, max_bytes: usize) -> Result<T, String>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(request.into_body(), max_bytes).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

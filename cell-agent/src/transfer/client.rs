//! The fetching side.

use super::{CHUNKS_ANSWER_MAX_BYTES, ChunksWanted, HASHES_ANSWER_MAX_BYTES, PassHead, PassWanted, TransferError};
use crate::config::is_loopback_endpoint;
use crate::driver::chunks::{ChunkMap, HASH_BYTES};
use bytes::{Bytes, BytesMut};
use cellway_api::identity::{LiveIdentity, Servers};
use cellway_core::ids::{HomeId, MoveId};
use http::StatusCode;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// The longest wait for a connection.
const CONNECT_TIMEOUT_MS: u64 = 1_000;

/// The longest making and sending of a pass.
const PASS_TIMEOUT_MS: u64 = 600_000;

/// The longest sending of chunks.
const CHUNKS_TIMEOUT_MS: u64 = 30_000;

/// How much of a refusal's text is kept.
const REFUSAL_MAX_BYTES: usize = 1_024;

/// Fetches from other agents.
#[derive(Debug, Clone)]
pub(crate) struct TransferClient {
    http: reqwest::Client,
    scheme: &'static str,
}

/// A pass at the source.
#[derive(Debug)]
pub(crate) struct RemotePass {
    endpoint: String,
    digest: String,
    pub(crate) map: ChunkMap,
}

impl TransferClient {
    /// With an identity it fetches over TLS, from cells; without one in clear, on this machine.
    pub(crate) fn new(identity: Option<&Arc<LiveIdentity>>) -> Result<Self, TransferError> {
        let tls = identity.map(|identity| identity.client_config(Servers::Cells));
        let http = cellway_api::http::client_builder(tls)
            .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
            .tcp_nodelay(true)
            .build()
            .map_err(TransferError::Setup)?;
        Ok(Self { http, scheme: if identity.is_some() { "https" } else { "http" } })
    }

    /// Asks for a pass over `home`: the one of the digest `wanted`, or a fresh one. The first agent that has the home
    /// answers.
    pub(crate) async fn pass(
        &self,
        endpoints: &[String],
        move_id: &MoveId,
        home: &HomeId,
        wanted: Option<&str>,
    ) -> Result<RemotePass, TransferError> {
        let mut last = TransferError::NoSource;
        let wanted = PassWanted { digest: wanted.map(str::to_owned) };
        for endpoint in endpoints {
            let path = format!("{move_id}/{home}/pass");
            let answer = self.ask(endpoint, &path, &wanted, PASS_TIMEOUT_MS, HASHES_ANSWER_MAX_BYTES).await;
            match answer {
                Ok(body) => return read_pass(endpoint, &body, wanted.digest.as_deref()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Fetches chunks of a pass. Their hashes are for the caller to compare.
    pub(crate) async fn chunks(
        &self,
        pass: &RemotePass,
        move_id: &MoveId,
        home: &HomeId,
        chunks: &[u32],
    ) -> Result<Bytes, TransferError> {
        let wanted = ChunksWanted { digest: pass.digest.clone(), chunks: chunks.to_vec() };
        let path = format!("{move_id}/{home}/chunks");
        self.ask(&pass.endpoint, &path, &wanted, CHUNKS_TIMEOUT_MS, CHUNKS_ANSWER_MAX_BYTES).await
    }

    async fn ask(
        &self,
        endpoint: &str,
        path: &str,
        body: &impl Serialize,
        timeout_ms: u64,
        max_bytes: usize,
    ) -> Result<Bytes, TransferError> {
        if self.scheme == "http" && !is_loopback_endpoint(endpoint) {
            let text = "without TLS only agents of this machine are asked".to_owned();
            return Err(TransferError::Refused { endpoint: endpoint.to_owned(), status: 0, text });
        }
        let unreachable = |source: reqwest::Error| TransferError::Unreachable {
            endpoint: endpoint.to_owned(),
            source: source.without_url(),
        };
        let request = self.http.post(format!("{}://{endpoint}/v1/transfer/{path}", self.scheme)).json(body);
        let sent = request.timeout(Duration::from_millis(timeout_ms)).send().await;
        let mut answer = sent.map_err(unreachable)?;
        let status = answer.status();
        let max_bytes = if status.is_success() { max_bytes } else { REFUSAL_MAX_BYTES };
        let mut body = BytesMut::new();
        while let Some(part) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + part.len() > max_bytes {
                return Err(TransferError::Damaged);
            }
            body.extend_from_slice(&part);
        }
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return Err(TransferError::TooLarge);
        }
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(TransferError::Refused { endpoint: endpoint.to_owned(), status: status.as_u16(), text });
        }
        Ok(body.freeze())
    }
}

fn read_pass(endpoint: &str, body: &[u8], wanted: Option<&str>) -> Result<RemotePass, TransferError> {
    let end = body.iter().position(|byte| *byte == b'\n').ok_or(TransferError::Damaged)?;
    let head: PassHead = serde_json::from_slice(&body[..end]).map_err(|_| TransferError::Damaged)?;
    let (hashes, rest) = body[end + 1..].as_chunks::<HASH_BYTES>();
    let map = ChunkMap { size: head.size_bytes, hashes: hashes.to_vec() };
    let whole = rest.is_empty() && map.hashes.len() as u64 == ChunkMap::count(map.size);
    let same = map.digest() == head.digest && wanted.is_none_or(|wanted| wanted == head.digest);
    if !whole || !same {
        return Err(TransferError::Damaged);
    }
    Ok(RemotePass { endpoint: endpoint.to_owned(), digest: head.digest, map })
}

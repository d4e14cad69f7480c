//! How one agent fetches a home from another: passes as lists of chunk hashes, then the chunks that differ.
//!
//! `POST /v1/transfer/{move}/{home}/pass` with a [`PassWanted`] answers a line of JSON ([`PassHead`]) and then the
//! hashes; `POST /v1/transfer/{move}/{home}/chunks` with a [`ChunksWanted`] answers the chunks, one after the other.
//! Only homes that an order offers for that very move are answered for, and only to the cell that it is offered to: over
//! TLS the asking agent is of the cell that its certificate names.

mod client;
mod server;

pub(crate) use client::{RemotePass, TransferClient};
pub(crate) use server::{answer, read_json};

use crate::driver::chunks::CHUNK_BYTES;
use serde::{Deserialize, Serialize};

/// How many chunks one request may ask for.
pub(crate) const CHUNKS_PER_REQUEST_MAX: usize = 256;

/// The longest answer with chunks.
const CHUNKS_ANSWER_MAX_BYTES: usize = CHUNKS_PER_REQUEST_MAX * CHUNK_BYTES;

/// The longest answer with hashes: enough for a home of nearly 32 GiB.
const HASHES_ANSWER_MAX_BYTES: usize = 64 * 1024 * 1024;

/// The longest body of a request.
const REQUEST_MAX_BYTES: usize = 16 * 1024;

/// Which pass is wanted.
#[derive(Debug, Serialize, Deserialize)]
struct PassWanted {
    /// The pass of this digest; a fresh one if nothing is said.
    #[serde(default)]
    digest: Option<String>,
}

/// The first line of a pass.
#[derive(Debug, Serialize, Deserialize)]
struct PassHead {
    digest: String,
    size_bytes: u64,
}

/// Which chunks are wanted.
#[derive(Debug, Serialize, Deserialize)]
struct ChunksWanted {
    /// Of this pass.
    digest: String,
    /// By index.
    chunks: Vec<u32>,
}

/// Why data could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// The client could not be set up.
    #[error("no HTTP client can be made")]
    Setup(#[source] reqwest::Error),
    /// No agent of the source answers.
    #[error("the source at {endpoint} cannot be reached")]
    Unreachable {
        /// Who was asked last.
        endpoint: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The source was asked, and said no.
    #[error("the source at {endpoint} answers {status}: {text}")]
    Refused {
        /// Who was asked.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// The order names nobody to fetch from.
    #[error("no agent to fetch from is known")]
    NoSource,
    /// What arrived is not what was announced.
    #[error("what arrived is not what was announced")]
    Damaged,
    /// The home is larger than can be moved.
    #[error("the home is too large (32 GiB), which this driver does not move")]
    TooLarge,
}

impl TransferError {
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::TooLarge => true,
            Self::Setup(_) | Self::Unreachable { .. } | Self::Refused { .. } | Self::NoSource | Self::Damaged => false,
        }
    }
}

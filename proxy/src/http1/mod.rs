//! Messages of HTTP/1.1 in both directions, as clients' connections and those to peers share them: heads are read by
//! `httparse`; lengths and chunks are read here, strictly.

use bytes::Bytes;
use http::HeaderMap;

pub(crate) mod chunk_line;
mod chunks;
pub(crate) mod fields;
mod input;
mod length;
mod outgoing;

pub(crate) use chunks::Chunks;
pub(crate) use input::{HEAD_READ_BYTES, Input};
pub(crate) use length::Length;
pub use length::Malformed;
pub(crate) use outgoing::{COPIED_MAX_BYTES, Framing, Outgoing, Stuck, write_field};

/// Fields of a head, or of trailers.
pub(crate) const FIELDS_MAX: usize = 100;

/// How a status was called, where it is not its usual name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) Bytes);

/// A part of a body.
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// The next bytes are not there yet.
    Missing,
}

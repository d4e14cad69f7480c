//! What a connection reads, without one: for tests and fuzzing.

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::head_check::{HeadCheck, Refused};
use super::request;
use crate::http1::{Input, Piece};

/// A request that was read from bytes at hand.
#[derive(Debug)]
pub struct ReadRequest {
    /// Its head.
    pub head: Request<()>,
    /// Its body.
    pub body: Vec<u8>,
    /// Its trailers, if it has any.
    pub trailers: Option<HeaderMap>,
    /// How many bytes follow it.
    pub left_bytes: usize,
}

/// The bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no request")]
pub struct NoRequest;

/// Reads the request that `bytes` begin with, as if they arrived in parts of `part_bytes`; `None` if it is not whole.
pub fn read_request(bytes: &[u8], part_bytes: usize) -> Result<Option<ReadRequest>, NoRequest> {
    let (mut input, mut more) = Input::in_parts(bytes, part_bytes);
    let mut check = HeadCheck::new();
    let length = loop {
        match check.check(&input) {
            Ok(Some(length)) => break length,
            Ok(None) if more(&mut input) => {}
            Ok(None) => return Ok(None),
            Err(Refused::Nonsense | Refused::Fault(_)) => return Err(NoRequest),
        }
    };
    let mut head = request::read(&Bytes::copy_from_slice(&input[..length])).map_err(|_| NoRequest)?;
    input.skip(length);
    let (mut body, mut trailers) = (Vec::new(), None);
    loop {
        match head.length.next(&mut input).map_err(|_| NoRequest)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = Some(fields),
            Piece::End => break,
            Piece::Missing if more(&mut input) => {}
            Piece::Missing => return Ok(None),
        }
    }
    while more(&mut input) {}
    Ok(Some(ReadRequest { head: head.request.map(|_| ()), body, trailers, left_bytes: input.len() }))
}

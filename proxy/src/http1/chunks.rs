//! A body in chunks (RFC 9112, section 7.1), read strictly.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::chunk_line::{CHUNK_LINE_MAX_BYTES, ChunkLines, chunk_size};
use super::{FIELDS_MAX, Input, Malformed, Piece};

/// The longest trailers.
const TRAILERS_MAX_BYTES: usize = 16 * 1024;

/// Pieces below this size are joined.
const JOINED_BYTES: usize = 2 * 1024;

const LINE_END: &[u8] = b"\r\n";

/// Where in the body the next byte stands.
#[derive(Debug, Clone, Copy)]
enum At {
    Size,
    /// In a chunk; so many bytes are left of it.
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

/// A body as far as it was read.
pub(crate) struct Chunks {
    at: At,
    lines: ChunkLines,
    /// What was found behind chunks that were joined.
    found: Option<Box<Result<Piece, Malformed>>>,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self { at: At::Size, lines: ChunkLines::new(), found: None }
    }

    /// Takes the next piece out of `input`. After [`Piece::End`] or [`Piece::Trailers`] it must not be asked again.
    /// Small chunks that are there become one piece: each is dear to who passes it on.
    pub(crate) fn next(&mut self, input: &mut Input) -> Result<Piece, Malformed> {
        if let Some(found) = self.found.take() {
            return *found;
        }
        let first = match self.one(input)? {
            Piece::Data(data) if data.len() < JOINED_BYTES && !input.is_empty() => data,
            piece => return Ok(piece),
        };
        let mut joined = BytesMut::new();
        while joined.len() < JOINED_BYTES {
            match self.one(input) {
                Ok(Piece::Data(data)) => {
                    if joined.is_empty() {
                        joined.reserve(first.len() + data.len() + input.len().min(JOINED_BYTES));
                        joined.extend_from_slice(&first);
                    }
                    joined.extend_from_slice(&data);
                }
                Ok(Piece::Missing) => break,
                found => {
                    self.found = Some(Box::new(found));
                    break;
                }
            }
        }
        Ok(Piece::Data(if joined.is_empty() { first } else { joined.freeze() }))
    }

    fn one(&mut self, input: &mut Input) -> Result<Piece, Malformed> {
        loop {
            self.at = match self.at {
                At::Size => match self.size(input)? {
                    Some(0) => At::Trailers,
                    Some(size) => At::Chunk(size),
                    None => return Ok(Piece::Missing),
                },
                At::Chunk(_) if input.is_empty() => return Ok(Piece::Missing),
                At::Chunk(left) => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - length as u64;
                    self.at = if left == 0 { At::ChunkEnd } else { At::Chunk(left) };
                    return Ok(Piece::Data(input.take(length)));
                }
                At::ChunkEnd => match input.get(..LINE_END.len()) {
                    Some(LINE_END) => {
                        input.skip(LINE_END.len());
                        At::Size
                    }
                    None if LINE_END.starts_with(input) => return Ok(Piece::Missing),
                    _ => return Err(Malformed::Chunk),
                },
                At::Trailers => return trailers(input),
            }
        }
    }

    fn size(&mut self, input: &mut Input) -> Result<Option<u64>, Malformed> {
        let end = input.iter().take(CHUNK_LINE_MAX_BYTES).position(|byte| *byte == b'\n');
        let Some(end) = end else {
            return if input.len() < CHUNK_LINE_MAX_BYTES { Ok(None) } else { Err(Malformed::Chunk) };
        };
        let line = &input[..end];
        let size = chunk_size(line).filter(|size| line.ends_with(b"\r") && self.lines.take(*size, line.len()));
        input.skip(end + 1);
        size.map(Some).ok_or(Malformed::Chunk)
    }
}

/// The trailers, or the end where there are none.
fn trailers(input: &mut Input) -> Result<Piece, Malformed> {
    if input.starts_with(LINE_END) {
        input.skip(LINE_END.len());
        return Ok(Piece::End);
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let (length, fields) = match httparse::parse_headers(input, &mut fields) {
        Ok(httparse::Status::Complete(parsed)) => parsed,
        Ok(httparse::Status::Partial) if input.len() < TRAILERS_MAX_BYTES => return Ok(Piece::Missing),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed::Trailers),
    };
    if length > TRAILERS_MAX_BYTES {
        return Err(Malformed::Trailers);
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Trailers)?;
        trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Trailers)?);
    }
    // A bare LF ends a line for some and not for others.
    let ends_lines = |(at, byte): (usize, &u8)| *byte != b'\n' || at > 0 && input[at - 1] == b'\r';
    if !input[..length].iter().enumerate().all(ends_lines) {
        return Err(Malformed::Trailers);
    }
    input.skip(length);
    Ok(Piece::Trailers(trailers))
}

#[cfg(test)]
mod tests;

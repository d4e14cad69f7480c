//! Reads the bytes of a client's HTTP/1.1 connection before hyper does, and stops at what hyper would let pass: lines
//! that end in a bare LF, two lengths, targets with a fragment, heads that are too large.
//!
//! The tap only says no to more than hyper does. At a fault it cuts the bytes off and ends them in such a way that hyper
//! either answers 400 by itself or hands the request to the handler with its fault; nothing after that is ever read.
//! The rest of the grammar (tokens, control characters) is hyper's.

use crate::chunk_line::{BODY_MAX_BYTES, CHUNK_LINE_MAX_BYTES, ChunkLines, chunk_size};
use crate::hygiene::BadRequest;
use crate::serve::HEAD_MAX_BYTES;

mod io;

pub(crate) use io::{CheckedIo, Notes};

/// The longest field with its name.
pub(crate) const FIELD_MAX_BYTES: usize = 8 * 1024;
/// The longest target.
pub(crate) const TARGET_MAX_BYTES: usize = 16 * 1024;
/// The longest method: longer than any that is registered.
const METHOD_MAX_BYTES: usize = 32;
/// The longest version, with its CR and more.
const VERSION_MAX_BYTES: usize = 16;
/// The longest trailers.
const TRAILERS_MAX_BYTES: usize = 16 * 1024;
/// What is kept of a field: the longest name of interest, its colon and a long length, with room for blanks.
const FIELD_KEPT_BYTES: usize = 64;
/// Room for the end of a head that is cut off.
const ENDING_MAX_BYTES: usize = 16;

/// Makes a head wrong for any parser, and complete.
const SPOIL_HEAD: &[u8] = b"\0\n\n";
/// Makes the line of a chunk's size wrong wherever it stands.
const SPOIL_CHUNK: &[u8] = b"\0\n";
/// Makes trailers wrong, and complete.
const SPOIL_TRAILERS: &[u8] = b"\0\r\n\r\n";
/// Completes a head that stops within a field.
const END_FIELD: &[u8] = b":\r\n\r\n";
/// Completes a head that stops within the target.
const END_TARGET: &[u8] = b" HTTP/1.1\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first byte of a request line.
    Blank,
    Method,
    Target {
        query: bool,
    },
    Version,
    Field,
    /// Inside a body; this many bytes are left of it.
    Body(u64),
    ChunkSize,
    /// Inside a chunk and the line end after it.
    Chunk(u64),
    Trailer,
    /// The connection may become a tunnel, whose bytes are nobody's to judge. If it does not, it is closed.
    Tunnel,
}

/// Where the bytes stop making sense, and what hyper is given instead of the rest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// So many of the bytes just fed pass.
    pub(crate) keep: usize,
    /// What follows them.
    pub(crate) ending: &'static [u8],
    /// The number of the request (from 0) and its fault, where hyper takes it for a good one.
    pub(crate) fault: Option<(u64, BadRequest)>,
}

/// The tap of one connection.
pub(crate) struct HeadTap {
    state: State,
    /// The last byte.
    last: u8,
    /// Bytes of the current line, or of the current part of the request line.
    line_bytes: usize,
    /// Bytes of the current head, or of the current trailers.
    part_bytes: usize,
    field: Vec<u8>,
    content_length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    chunk_lines: ChunkLines,
    heads: u64,
}

impl HeadTap {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Blank,
            last: b'\n',
            line_bytes: 0,
            part_bytes: 0,
            field: Vec::with_capacity(FIELD_KEPT_BYTES),
            content_length: None,
            chunked: false,
            upgrade: false,
            chunk_lines: ChunkLines::new(),
            heads: 0,
        }
    }

    /// Whether what comes is no HTTP, as far as the client has asked for that.
    fn is_tunnel(&self) -> bool {
        self.state == State::Tunnel
    }

    /// Takes the next bytes. After a stop it must not be fed again.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<Stop> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let result = match &mut self.state {
                State::Tunnel => return None,
                State::Body(left) | State::Chunk(left) => {
                    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= skipped as u64;
                    if *left == 0 {
                        self.end_of_data();
                    }
                    Ok(skipped)
                }
                State::Blank | State::Method | State::Target { .. } | State::Version => self.request_line(rest),
                State::Field | State::ChunkSize | State::Trailer => self.line(rest),
            };
            match result {
                Ok(taken) => at += taken,
                Err(mut stop) => {
                    stop.keep += at;
                    return Some(stop);
                }
            }
        }
        None
    }

    fn end_of_data(&mut self) {
        self.last = b'\n';
        self.line_bytes = 0;
        self.part_bytes = 0;
        self.state = if matches!(self.state, State::Chunk(_)) { State::ChunkSize } else { State::Blank };
    }

    /// Goes through the request line byte by byte, as far as it is there.
    fn request_line(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        for (at, byte) in bytes.iter().copied().enumerate() {
            self.part_bytes += 1;
            self.line_bytes += 1;
            let next = match (self.state, byte) {
                (State::Version, b'\n') if self.last == b'\r' => State::Field,
                (State::Version, byte) if byte != b'\n' && self.line_bytes <= VERSION_MAX_BYTES => State::Version,
                (State::Blank, b'\r') => State::Blank,
                (State::Blank, b'\n') if self.last == b'\r' => State::Blank,
                (State::Method, b' ') => State::Target { query: false },
                (State::Target { .. }, b' ') => State::Version,
                (State::Blank | State::Method, byte)
                    if byte.is_ascii_graphic() && self.line_bytes <= METHOD_MAX_BYTES =>
                {
                    State::Method
                }
                (State::Target { .. }, byte) if self.line_bytes > TARGET_MAX_BYTES && byte.is_ascii_graphic() => {
                    return Err(self.fault(at, END_TARGET, BadRequest::TargetTooLong));
                }
                (State::Target { query }, byte) if is_of_target(byte, query) => {
                    State::Target { query: query || byte == b'?' }
                }
                _ => return Err(spoil(at, SPOIL_HEAD)),
            };
            self.last = byte;
            if next != self.state && !matches!((self.state, next), (State::Target { .. }, State::Target { .. })) {
                self.line_bytes = usize::from(next == State::Method);
                self.state = next;
                if next == State::Field {
                    return Ok(at + 1);
                }
            }
            self.state = next;
            // Empty lines before a request are no part of it.
            if next == State::Blank {
                self.part_bytes = 0;
                self.line_bytes = 0;
            }
        }
        Ok(bytes.len())
    }

    /// Takes a line of a head, of trailers or with a chunk's size, or the part of it that is there.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(bytes.len());
        self.check_size(length)?;
        let folded = self.line_bytes == 0 && matches!(bytes[0], b' ' | b'\t');
        if folded {
            return Err(spoil(0, self.spoiler()));
        }
        if let Some(at) = self.bare_return(&bytes[..length]) {
            return Err(spoil(at, self.spoiler()));
        }
        self.keep(&bytes[..length]);
        self.line_bytes += length;
        self.part_bytes += length + usize::from(end.is_some());
        if let Some(last) = length.checked_sub(1).and_then(|at| bytes.get(at)) {
            self.last = *last;
        }
        let Some(end) = end else { return Ok(length) };
        if self.last != b'\r' {
            return Err(spoil(end, self.spoiler()));
        }
        let ended = self.end_line();
        self.field.clear();
        self.line_bytes = 0;
        self.last = b'\n';
        ended.map_err(|stop| Stop { keep: stop.keep + end, ..stop }).map(|()| end + 1)
    }

    /// Where a CR has turned out to be no part of the line's end: hyper finds it only in a head that is whole, so a head
    /// that comes in parts would be waited for.
    fn bare_return(&self, line: &[u8]) -> Option<usize> {
        if self.line_bytes > 0 && self.last == b'\r' && !line.is_empty() {
            return Some(0);
        }
        let at = line.iter().position(|byte| *byte == b'\r')?;
        (at + 1 < line.len()).then_some(at + 1)
    }

    /// Whether `more` bytes of the line that has begun are not too many.
    fn check_size(&self, more: usize) -> Result<(), Stop> {
        let line = self.line_bytes.saturating_add(more);
        let part = self.part_bytes.saturating_add(more);
        match self.state {
            State::Field if line > FIELD_MAX_BYTES || part > HEAD_MAX_BYTES - ENDING_MAX_BYTES => {
                let room = (FIELD_MAX_BYTES - self.line_bytes.min(FIELD_MAX_BYTES))
                    .min((HEAD_MAX_BYTES - ENDING_MAX_BYTES).saturating_sub(self.part_bytes));
                let ending = if self.line_bytes + room == 0 { &END_FIELD[3..] } else { END_FIELD };
                Err(self.fault(room, ending, BadRequest::HeadTooLarge))
            }
            State::ChunkSize if line > CHUNK_LINE_MAX_BYTES => Err(spoil(0, SPOIL_CHUNK)),
            State::Trailer if line > FIELD_MAX_BYTES || part > TRAILERS_MAX_BYTES => Err(spoil(0, SPOIL_TRAILERS)),
            _ => Ok(()),
        }
    }

    fn spoiler(&self) -> &'static [u8] {
        match self.state {
            State::ChunkSize => SPOIL_CHUNK,
            State::Trailer => SPOIL_TRAILERS,
            _ => SPOIL_HEAD,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = FIELD_KEPT_BYTES.saturating_sub(self.field.len()).min(bytes.len());
        self.field.extend_from_slice(&bytes[..room]);
    }

    /// The line before this LF is whole.
    fn end_line(&mut self) -> Result<(), Stop> {
        let empty = self.line_bytes == 1;
        match self.state {
            State::Field if empty => self.end_head(),
            State::Field => self.end_field(),
            State::ChunkSize => self.end_chunk_size(),
            State::Trailer if empty => {
                self.part_bytes = 0;
                self.state = State::Blank;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end_field(&mut self) -> Result<(), Stop> {
        let Some(colon) = self.field.iter().position(|byte| *byte == b':') else { return Ok(()) };
        let (name, value) = (&self.field[..colon], self.field[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let whole = self.line_bytes <= FIELD_KEPT_BYTES;
            let number = length(value).filter(|number| whole && *number <= BODY_MAX_BYTES);
            if number.is_none() || self.content_length.is_some() {
                return Err(spoil(0, SPOIL_HEAD));
            }
            self.content_length = number;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade |= value.eq_ignore_ascii_case(b"websocket");
        }
        Ok(())
    }

    fn end_head(&mut self) -> Result<(), Stop> {
        let (length, chunked) = (self.content_length.take(), std::mem::take(&mut self.chunked));
        if length.is_some() && chunked {
            return Err(self.fault(1, b"", BadRequest::TwoLengths));
        }
        self.heads += 1;
        self.part_bytes = 0;
        self.chunk_lines = ChunkLines::new();
        self.state = match length {
            _ if std::mem::take(&mut self.upgrade) => State::Tunnel,
            _ if chunked => State::ChunkSize,
            None | Some(0) => State::Blank,
            Some(length) => State::Body(length),
        };
        Ok(())
    }

    fn end_chunk_size(&mut self) -> Result<(), Stop> {
        let size = chunk_size(&self.field).filter(|size| self.chunk_lines.take(*size, self.line_bytes));
        let size = size.ok_or_else(|| spoil(0, SPOIL_CHUNK))?;
        self.part_bytes = 0;
        self.state = if size == 0 { State::Trailer } else { State::Chunk(size + 2) };
        Ok(())
    }

    fn fault(&self, keep: usize, ending: &'static [u8], why: BadRequest) -> Stop {
        Stop { keep, ending, fault: Some((self.heads, why)) }
    }
}

fn spoil(keep: usize, ending: &'static [u8]) -> Stop {
    Stop { keep, ending, fault: None }
}

/// What may stand in a target. A `\` in a path is a `/` to some, so it is neither here.
fn is_of_target(byte: u8, query: bool) -> bool {
    byte.is_ascii_graphic() && byte != b'#' && (query || byte != b'\\')
}

fn length(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

#[cfg(test)]
mod tests;

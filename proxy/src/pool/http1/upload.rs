//! A request on its way out.

use std::fmt::Write;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body;
use tokio::io::AsyncWrite;

use crate::body::{BodyError, RequestBody};
use crate::field_lines::FieldLines;
use crate::pool::head::Head;

const LINE_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const LINE_END_AND_LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
/// What a field takes in a head, roughly.
const FIELD_BYTES: usize = 48;

/// How the peer is told where the body ends.
enum Framing {
    /// It was told how many bytes come; so many are left.
    Length(u64),
    Chunked,
}

/// Why a request was not sent to its end.
#[derive(Debug)]
pub(super) enum Stuck {
    /// Its own body broke off.
    Body(BodyError),
    /// The connection takes no more.
    Io(io::Error),
}

/// The body is not as long as its head says.
#[derive(Debug, thiserror::Error)]
#[error("the request's body is not as long as its head says")]
struct OtherLength;

/// The request, of which the bytes before `body` are to be written first.
pub(super) struct Upload {
    body: Box<RequestBody>,
    framing: Framing,
    before: BytesMut,
    data: Bytes,
    after: &'static [u8],
    /// All of the body is in the bytes to be written.
    body_ended: bool,
    has_begun: bool,
    body_touched: bool,
}

impl Upload {
    pub(super) fn new(head: Head<'_>, body: Box<RequestBody>) -> Self {
        let Head { method, target, headers, lines, .. } = head;
        let is_empty = body.is_end_stream();
        let stated = headers.get(header::CONTENT_LENGTH);
        let length = match stated.and_then(|length| length.to_str().ok()?.parse().ok()) {
            _ if is_empty => Some(0),
            Some(length) => Some(length),
            None => body.size_hint().exact(),
        };
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        let lines = lines.map_or(&[][..], FieldLines::as_bytes);
        let mut before = BytesMut::with_capacity(FIELD_BYTES * (headers.len() + 2) + lines.len());
        before.put_slice(method.as_str().as_bytes());
        before.put_slice(b" ");
        let target = target.path_and_query().map_or("/", |target| target.as_str());
        if !target.starts_with(['/', '*']) {
            // Of a target that named a host and no path.
            before.put_slice(b"/");
        }
        before.put_slice(target.as_bytes());
        before.put_slice(b" HTTP/1.1\r\n");
        // What frames the message is written by what is sent of it: a length of which nothing comes would take the next
        // request on its connection for the body.
        let frames = |name| name == header::TRANSFER_ENCODING || name == header::CONTENT_LENGTH;
        let fields = headers.iter().filter(|(name, _)| !frames(*name));
        fields.for_each(|(name, value)| write_field(&mut before, name.as_str(), value.as_bytes()));
        before.put_slice(lines);
        match framing {
            Framing::Chunked => write_field(&mut before, header::TRANSFER_ENCODING.as_str(), b"chunked"),
            Framing::Length(length) if stated.is_some() || !is_empty => {
                write_field(&mut before, header::CONTENT_LENGTH.as_str(), length.to_string().as_bytes());
            }
            Framing::Length(_) => {}
        }
        let body_ended = length == Some(0);
        before.put_slice(LINE_END);
        Self {
            body,
            framing,
            before,
            data: Bytes::new(),
            after: b"",
            body_ended,
            has_begun: false,
            body_touched: false,
        }
    }

    /// The body, if nothing was done with it.
    pub(super) fn into_untouched(self) -> Option<Box<RequestBody>> {
        (!self.has_begun && !self.body_touched).then_some(self.body)
    }

    /// Writes what there is, and is ready once all was written.
    pub(super) fn poll(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        loop {
            // Asked for first, so that a head and the bytes that follow it go out together; but never while an end is
            // unwritten that belongs behind what was asked for before.
            if !self.body_ended && self.data.is_empty() && self.after.is_empty() {
                match Pin::new(&mut *self.body).poll_frame(cx) {
                    Poll::Ready(frame) => {
                        self.body_touched = true;
                        self.stage(frame.transpose().map_err(Stuck::Body)?).map_err(Stuck::Body)?;
                    }
                    Poll::Pending => {
                        ready!(self.poll_write(io, cx)).map_err(Stuck::Io)?;
                        return Poll::Pending;
                    }
                }
            }
            ready!(self.poll_write(io, cx)).map_err(Stuck::Io)?;
            if self.body_ended {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Makes a frame of the body the next to be written.
    fn stage(&mut self, frame: Option<http_body::Frame<Bytes>>) -> Result<(), BodyError> {
        let Some(frame) = frame else { return self.end(None) };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        if !data.is_empty() {
            match &mut self.framing {
                Framing::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(OtherLength)?,
                Framing::Chunked => {
                    let _ = write!(self.before, "{:x}\r\n", data.len());
                    self.after = LINE_END;
                }
            }
            self.data = data;
        }
        // A length that was stated says where the end is before the client does.
        let last = self.body.is_end_stream() || matches!(self.framing, Framing::Length(0));
        if last { self.end(None) } else { Ok(()) }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyError> {
        self.body_ended = true;
        match (&self.framing, trailers) {
            (Framing::Length(0), _) => {}
            (Framing::Length(_), _) => return Err(OtherLength.into()),
            (Framing::Chunked, Some(trailers)) => {
                self.before.put_slice(b"0\r\n");
                trailers.iter().for_each(|(name, value)| {
                    write_field(&mut self.before, name.as_str(), value.as_bytes());
                });
                self.before.put_slice(LINE_END);
            }
            (Framing::Chunked, None) if self.after.is_empty() => self.after = LAST_CHUNK,
            (Framing::Chunked, None) => self.after = LINE_END_AND_LAST_CHUNK,
        }
        Ok(())
    }

    fn poll_write(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut slices = [IoSlice::new(b""); 3];
            let staged = self.before.chunk().chain(self.data.chunk()).chain(self.after);
            let count = staged.chunks_vectored(&mut slices);
            if count == 0 {
                return Pin::new(io).poll_flush(cx);
            }
            let written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.has_begun = true;
            (&mut self.before).chain(&mut self.data).chain(&mut self.after).advance(written);
            if self.data.is_empty() {
                // Who counts what waits to be written counts until it is dropped.
                self.data = Bytes::new();
            }
        }
    }
}

fn write_field(to: &mut BytesMut, name: &str, value: &[u8]) {
    to.put_slice(name.as_bytes());
    to.put_slice(b": ");
    to.put_slice(value);
    to.put_slice(LINE_END);
}

#[cfg(test)]
mod tests;

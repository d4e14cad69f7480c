//! A request on its way out.

use std::fmt::Write;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body::Body;
use tokio::io::AsyncWrite;

use crate::body::{BodyError, RequestBody};

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
    body: RequestBody,
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
    pub(super) fn new<T>(head: &Request<T>, body: RequestBody) -> Self {
        let is_empty = body.is_end_stream();
        let stated = head.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length = if is_empty { Some(0) } else { stated.or(body.size_hint().exact()) };
        let body_ended = length == Some(0);
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        let mut before = BytesMut::with_capacity(FIELD_BYTES * (head.headers().len() + 2));
        // Writing to a buffer that grows does not fail.
        let _ = match head.uri().path_and_query() {
            Some(target) => write!(before, "{} {target} HTTP/1.1\r\n", head.method()),
            None => write!(before, "{} / HTTP/1.1\r\n", head.method()),
        };
        let chunked = matches!(framing, Framing::Chunked);
        let frames = |name| name == header::TRANSFER_ENCODING || chunked && name == header::CONTENT_LENGTH;
        let fields = head.headers().iter().filter(|(name, _)| !frames(*name));
        fields.for_each(|(name, value)| write_field(&mut before, name.as_str(), value.as_bytes()));
        match framing {
            Framing::Chunked => write_field(&mut before, header::TRANSFER_ENCODING.as_str(), b"chunked"),
            Framing::Length(length) if stated.is_none() && !is_empty => {
                write_field(&mut before, header::CONTENT_LENGTH.as_str(), length.to_string().as_bytes());
            }
            Framing::Length(_) => {}
        }
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

    /// Whether a byte of the request was written.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The body, if nothing was done with it.
    pub(super) fn into_untouched(self) -> Option<RequestBody> {
        (!self.has_begun && !self.body_touched).then_some(self.body)
    }

    /// Writes what there is, and is ready once all was written.
    pub(super) fn poll(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        loop {
            // Asked for first, so that a head and the bytes that follow it go out together; but never while an end is
            // unwritten that belongs behind what was asked for before.
            if !self.body_ended && self.data.is_empty() && self.after.is_empty() {
                match Pin::new(&mut self.body).poll_frame(cx) {
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

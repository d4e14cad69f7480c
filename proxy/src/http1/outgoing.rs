//! A message on its way out: its head, then its body as it comes.

use std::fmt::Write;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use crate::body::BodyError;

const LINE_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const LINE_END_AND_LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
/// Data up to this size is copied behind what is to be written before it: that costs less than a second piece.
pub(crate) const COPIED_MAX_BYTES: usize = 2 * 1024;

/// How the peer is told where the body ends.
pub(crate) enum Framing {
    /// It was told how many bytes come; so many are left.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    ToTheEnd,
}

/// Why a message was not sent to its end.
#[derive(Debug)]
pub(crate) enum Stuck {
    /// Its own body broke off.
    Body(BodyError),
    /// The connection takes no more.
    Io(io::Error),
}

/// The body is not as long as its head says.
#[derive(Debug, thiserror::Error)]
#[error("the body is not as long as its head says")]
struct OtherLength;

/// The message, as far as it is not written. A body is asked for a frame only once all before it is written.
pub(crate) struct Outgoing {
    framing: Framing,
    before: BytesMut,
    data: Bytes,
    after: &'static [u8],
    /// All of the body is in the bytes to be written.
    body_ended: bool,
    passes_trailers: bool,
    has_begun: bool,
    body_touched: bool,
}

impl Outgoing {
    /// A message with this head, to its empty line, and a body that is framed so.
    pub(crate) fn new(head: BytesMut, framing: Framing) -> Self {
        Self {
            body_ended: matches!(framing, Framing::Length(0)),
            framing,
            before: head,
            data: Bytes::new(),
            after: b"",
            passes_trailers: true,
            has_begun: false,
            body_touched: false,
        }
    }

    /// Leaves trailers out, for a peer that has not asked for them.
    pub(crate) fn drop_trailers(&mut self) {
        self.passes_trailers = false;
    }

    /// Whether nothing was written, and nothing asked of the body.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.has_begun && !self.body_touched
    }

    /// Writes what there is, and is ready once all was written.
    pub(crate) fn poll<B>(
        &mut self,
        body: &mut B,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        loop {
            // Asked for first, so that a head and the bytes that follow it go out together.
            let is_written = self.before.is_empty() && self.data.is_empty() && self.after.is_empty();
            if !self.body_ended && (is_written || !self.body_touched) {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => {
                        self.body_touched = true;
                        let frame = frame.transpose().map_err(Stuck::Body)?;
                        self.stage(frame, || body.is_end_stream()).map_err(Stuck::Body)?;
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
    fn stage(&mut self, frame: Option<Frame<Bytes>>, is_last: impl FnOnce() -> bool) -> Result<(), BodyError> {
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
                Framing::ToTheEnd => {}
            }
            if data.len() <= COPIED_MAX_BYTES {
                self.before.put_slice(&data);
                self.before.put_slice(std::mem::take(&mut self.after));
            } else {
                self.data = data;
            }
        }
        // A length that was stated says where the end is before the sender of the body does.
        let last = matches!(self.framing, Framing::Length(0)) || is_last();
        if last { self.end(None) } else { Ok(()) }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyError> {
        self.body_ended = true;
        match (&self.framing, trailers.filter(|_| self.passes_trailers)) {
            (Framing::Length(0) | Framing::ToTheEnd, _) => {}
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
            let written = match count {
                0 => return Pin::new(io).poll_flush(cx),
                1 => ready!(Pin::new(&mut *io).poll_write(cx, &slices[0]))?,
                _ => ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?,
            };
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

/// Appends a field.
pub(crate) fn write_field(to: &mut BytesMut, name: &str, value: &[u8]) {
    to.put_slice(name.as_bytes());
    to.put_slice(b": ");
    to.put_slice(value);
    to.put_slice(LINE_END);
}

//! A message on its way out: its head, then its body as it comes.

use std::collections::VecDeque;
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
/// Pieces of data that go out at once.
const PIECES_MAX: usize = 6;

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

/// The message, as far as it is not written. A body is asked for a frame only once all before it is written, but for what
/// may be gathered.
pub(crate) struct Outgoing {
    framing: Framing,
    before: BytesMut,
    data: VecDeque<Bytes>,
    after: &'static [u8],
    /// How much of the body may still be gathered, beyond a frame, before it is written.
    gathered_max_bytes: usize,
    /// What came while data was gathered, and goes behind it.
    next: Option<Result<Option<Frame<Bytes>>, BodyError>>,
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
            data: VecDeque::new(),
            after: b"",
            gathered_max_bytes: 0,
            next: None,
            passes_trailers: true,
            has_begun: false,
            body_touched: false,
        }
    }

    /// Leaves trailers out, for a peer that has not asked for them.
    pub(crate) fn drop_trailers(&mut self) {
        self.passes_trailers = false;
    }

    /// Of this much of the body what is there goes out at once, instead of frame by frame.
    pub(crate) fn gather(&mut self, max_bytes: usize) {
        self.gathered_max_bytes = max_bytes;
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
                match self.poll_stage(body, cx) {
                    Poll::Ready(staged) => staged.map_err(Stuck::Body)?,
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

    fn poll_next<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        match self.next.take() {
            Some(next) => Poll::Ready(next),
            None => Pin::new(body).poll_frame(cx).map(Option::transpose),
        }
    }

    /// Makes a frame of the body the next to be written, with those behind it that are gathered.
    fn poll_stage<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        let frame = ready!(self.poll_next(body, cx));
        self.body_touched = true;
        let first = match frame?.map(Frame::into_data) {
            None => return Poll::Ready(self.end(None)),
            Some(Err(frame)) => return Poll::Ready(self.end(frame.into_trailers().ok())),
            Some(Ok(data)) => data,
        };
        let mut is_last = self.takes(first.len())? || body.is_end_stream();
        let mut length = first.len();
        for _ in 1..PIECES_MAX {
            if is_last || length >= self.gathered_max_bytes {
                break;
            }
            let data = match self.poll_next(body, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(frame))) if frame.is_data() => frame.into_data().unwrap_or_default(),
                Poll::Ready(Ok(None)) if !matches!(self.framing, Framing::Length(_)) => {
                    is_last = true;
                    break;
                }
                Poll::Ready(other) => {
                    self.next = Some(other);
                    break;
                }
            };
            is_last = self.takes(data.len())? || body.is_end_stream();
            length += data.len();
            if !data.is_empty() {
                self.data.push_back(data);
            }
        }
        self.gathered_max_bytes = self.gathered_max_bytes.saturating_sub(length);
        if length > 0 && matches!(self.framing, Framing::Chunked) {
            let _ = write!(self.before, "{length:x}\r\n");
            self.after = LINE_END;
        }
        if length == first.len() && length <= COPIED_MAX_BYTES {
            self.before.put_slice(&first);
            self.before.put_slice(std::mem::take(&mut self.after));
        } else if !first.is_empty() {
            self.data.push_front(first);
        }
        Poll::Ready(if is_last { self.end(None) } else { Ok(()) })
    }

    /// Counts data that goes out, and says whether it is the last: a length that was stated says so before the sender of the
    /// body does.
    fn takes(&mut self, length: usize) -> Result<bool, BodyError> {
        let Framing::Length(left) = &mut self.framing else { return Ok(false) };
        *left = left.checked_sub(length as u64).ok_or(OtherLength)?;
        Ok(*left == 0)
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
            let mut slices = [IoSlice::new(b""); PIECES_MAX + 2];
            let pieces = self.data.iter().map(|data| &data[..]);
            let staged = std::iter::once(&self.before[..]).chain(pieces).chain([self.after]);
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(staged.filter(|piece| !piece.is_empty())) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let written = match count {
                0 => return Pin::new(io).poll_flush(cx),
                1 => ready!(Pin::new(&mut *io).poll_write(cx, &slices[0]))?,
                _ => ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.has_begun = true;
            self.skip(written);
        }
    }

    /// Forgets what was written. Who counts what waits to be written counts until it is dropped.
    fn skip(&mut self, mut written: usize) {
        let of_before = written.min(self.before.len());
        self.before.advance(of_before);
        written -= of_before;
        while let Some(data) = self.data.front_mut() {
            if written < data.len() {
                return data.advance(written);
            }
            written -= data.len();
            self.data.pop_front();
        }
        self.after = &self.after[written..];
    }
}

/// Appends a field.
pub(crate) fn write_field(to: &mut BytesMut, name: &str, value: &[u8]) {
    to.put_slice(name.as_bytes());
    to.put_slice(b": ");
    to.put_slice(value);
    to.put_slice(LINE_END);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body without an end, whose frames are all there; counts those that were asked for.
    struct Endless {
        frame: Bytes,
        asked: usize,
    }

    impl Body for Endless {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.asked += 1;
            Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
        }
    }

    /// Takes so many bytes.
    struct Room(usize);

    impl AsyncWrite for Room {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken > 0 { Poll::Ready(Ok(taken)) } else { Poll::Pending }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Frames of this size that are asked for before a client has taken anything, and once it has taken all of these.
    fn asked(frame_bytes: usize, gathered_max_bytes: usize) -> (usize, usize) {
        let mut body = Endless { frame: Bytes::from(vec![b'x'; frame_bytes]), asked: 0 };
        let mut outgoing = Outgoing::new(BytesMut::from(&b"HEAD"[..]), Framing::ToTheEnd);
        outgoing.gather(gathered_max_bytes);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(outgoing.poll(&mut body, &mut Room(0), &mut cx).is_pending());
        let at_once = body.asked;
        assert!(outgoing.poll(&mut body, &mut Room(b"HEAD".len() + at_once * frame_bytes), &mut cx).is_pending());
        (at_once, body.asked)
    }

    #[test]
    fn a_client_that_takes_nothing_pins_what_may_be_gathered_and_a_frame() {
        assert_eq!(asked(32 * 1024, 112 * 1024), (4, 5));
        assert_eq!(asked(32 * 1024, 0), (1, 2));
        assert_eq!(asked(16 * 1024, 1024 * 1024), (PIECES_MAX, 2 * PIECES_MAX), "nor more pieces than go out at once");
    }
}

//! A request on its way out.

use std::fmt::Write;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, header};
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
    pub(super) fn new(head: &Parts, body: RequestBody) -> Self {
        let body_ended = body.is_end_stream();
        let stated = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length = if body_ended { Some(0) } else { stated.or(body.size_hint().exact()) };
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        let mut before = BytesMut::with_capacity(FIELD_BYTES * (head.headers.len() + 2));
        // Writing to a buffer that grows does not fail.
        let _ = match head.uri.path_and_query() {
            Some(target) => write!(before, "{} {target} HTTP/1.1\r\n", head.method),
            None => write!(before, "{} / HTTP/1.1\r\n", head.method),
        };
        let chunked = matches!(framing, Framing::Chunked);
        let frames = |name| name == header::TRANSFER_ENCODING || chunked && name == header::CONTENT_LENGTH;
        let fields = head.headers.iter().filter(|(name, _)| !frames(*name));
        fields.for_each(|(name, value)| write_field(&mut before, name.as_str(), value.as_bytes()));
        match framing {
            Framing::Chunked => write_field(&mut before, header::TRANSFER_ENCODING.as_str(), b"chunked"),
            Framing::Length(length) if stated.is_none() && !body_ended => {
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
        let last = self.body.is_end_stream();
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
mod tests {
    use http::Request;
    use http_body::{Frame, SizeHint};
    use proptest::prelude::*;

    use super::*;
    use crate::incoming::IncomingBody;

    /// Takes as many bytes at once as `takes` says, in turns; none means that it is not ready.
    struct Slow {
        written: Vec<u8>,
        takes: Vec<usize>,
        turn: usize,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let take = self.takes[self.turn % self.takes.len()].min(buf.len());
            self.turn += 1;
            if take == 0 {
                return Poll::Pending;
            }
            self.written.extend_from_slice(&buf[..take]);
            Poll::Ready(Ok(take))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A body of these frames, with pauses between them; its length is known if `length` says so.
    struct Frames {
        frames: Vec<Option<Frame<Bytes>>>,
        length: Option<u64>,
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            match self.frames.pop() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            }
        }

        fn size_hint(&self) -> SizeHint {
            self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn sent(body: Frames, takes: Vec<usize>) -> Result<Vec<u8>, Stuck> {
        let (head, ()) = Request::post("/p?q=1").header("x-a", "b").body(()).unwrap().into_parts();
        let mut upload = Upload::new(&head, RequestBody::streamed(IncomingBody::made_of(body)));
        let mut io = Slow { written: Vec::new(), takes, turn: 0 };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            if let Poll::Ready(result) = upload.poll(&mut io, &mut cx) {
                return result.map(|()| io.written);
            }
        }
    }

    proptest! {
        #[test]
        fn a_request_is_written_as_it_is_however_slowly(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), any::<bool>()), 0..8),
            trailers in any::<bool>(),
            stated in any::<bool>(),
            mut takes in prop::collection::vec(0_usize..30, 1..6),
        ) {
            takes.push(1);
            let length = pieces.iter().map(|(piece, _)| piece.len()).sum::<usize>();
            let mut frames = Vec::new();
            for (piece, pause) in &pieces {
                frames.push(Some(Frame::data(Bytes::from(piece.clone()))));
                frames.extend(pause.then_some(None));
            }
            if trailers {
                frames.push(Some(Frame::trailers(HeaderMap::from_iter([(header::ETAG, "x".parse().unwrap())]))));
            }
            frames.reverse();
            let written = sent(Frames { frames, length: stated.then_some(length as u64) }, takes).unwrap();
            let mut wanted = b"POST /p?q=1 HTTP/1.1\r\nx-a: b\r\n".to_vec();
            if stated {
                wanted.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
                pieces.iter().for_each(|(piece, _)| wanted.extend_from_slice(piece));
            } else {
                wanted.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for (piece, _) in &pieces {
                    wanted.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    wanted.extend_from_slice(piece);
                    wanted.extend_from_slice(b"\r\n");
                }
                wanted.extend_from_slice(if trailers { b"0\r\netag: x\r\n\r\n" } else { b"0\r\n\r\n" });
            }
            prop_assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&wanted));
        }
    }

    #[test]
    fn a_body_of_another_length_than_stated_is_not_sent_for_whole() {
        for (length, data) in [(3, "four"), (5, "four")] {
            let frames = Frames { frames: vec![Some(Frame::data(Bytes::from(data)))], length: Some(length) };
            assert!(matches!(sent(frames, vec![100]), Err(Stuck::Body(_))), "{length}");
        }
    }
}

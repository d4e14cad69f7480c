//! A body that comes in on an HTTP/2 stream. Its window is given back as it is read; that of an answer when its next piece
//! is asked for, so that what is on its way to a slow client and what is still to be read are within one window together.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;

use super::frames::Unread;
use crate::body::BodyError;

/// Frames of a body are gathered up to this size where more of them are there already.
const GATHERED_BYTES: usize = 4 * 1024;

/// Which side sent the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A reset always cuts its request.
    Client,
    /// A reset without an error after its whole answer asks for no more of the request. `h2` forgets at a reset whether
    /// the answer had ended, so only its length or its trailers show that it is whole.
    Server,
}

/// The body.
pub(crate) struct Received {
    stream: RecvStream,
    sender: Sender,
    /// As the head announced it; what is left of it.
    left_bytes: Option<u64>,
    data_ended: bool,
    trailers_ended: bool,
    /// What ended the data, where it came behind data that was passed on.
    broken: Option<h2::Error>,
    /// Read before it was asked for.
    soaked: BytesMut,
    /// What was taken and is given back when more is asked for.
    taken_bytes: usize,
    /// Told of the small frames that are read.
    unread: Unread,
    /// Told when the body is asked for at last.
    wanted: Option<Arc<Notify>>,
}

impl Received {
    pub(crate) fn new(stream: RecvStream, sender: Sender, length: Option<u64>) -> Self {
        Self {
            stream,
            sender,
            left_bytes: length,
            data_ended: false,
            trailers_ended: false,
            broken: None,
            soaked: BytesMut::new(),
            taken_bytes: 0,
            unread: Unread::default(),
            wanted: None,
        }
    }

    /// Reads what is there, to be taken later: what is small would pile up in `h2`. The window stays as far shut as if
    /// it were not read. Whether anything was there.
    pub(crate) fn soak(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.soaked.len();
        while !self.data_ended {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.received(&data);
                    self.soaked.extend_from_slice(&data);
                }
                Poll::Ready(Some(Err(error))) => self.end_data(Some(error)),
                Poll::Ready(None) => self.end_data(None),
                Poll::Pending => break,
            }
        }
        self.data_ended || self.soaked.len() > before
    }

    fn end_data(&mut self, error: Option<h2::Error>) {
        self.data_ended = true;
        self.broken = error.filter(|error| !self.is_over(error));
    }

    /// Tells `unread` of the frames that are read.
    pub(crate) fn counted_by(mut self, unread: Unread) -> Self {
        self.unread = unread;
        self
    }

    /// Tells `wanted` when the body is first asked for.
    pub(crate) fn tell(mut self, wanted: Arc<Notify>) -> Self {
        self.wanted = Some(wanted);
        self
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(wanted) = self.wanted.take() {
            wanted.notify_one();
        }
        let taken_bytes = std::mem::take(&mut self.taken_bytes);
        self.release(taken_bytes);
        if !self.soaked.is_empty() {
            // A piece at a time, or the peer could send as much again before this is taken.
            let length = self.soaked.len().min(GATHERED_BYTES);
            let piece = Bytes::copy_from_slice(&self.soaked.split_to(length));
            if self.soaked.is_empty() {
                self.soaked = BytesMut::new();
            }
            self.took(length);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let data = self.gather(data, cx);
                    self.took(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) if self.is_over(&error) => self.data_ended = true,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_ended = true,
            }
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => {
                self.trailers_ended = true;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) if self.is_over(&error) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    /// Small frames that are there become one piece: each is dear to who keeps it and to who passes it on.
    fn gather(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        self.received(&first);
        if first.len() >= GATHERED_BYTES || self.stream.is_end_stream() {
            return first;
        }
        let mut gathered = BytesMut::new();
        while gathered.len() < GATHERED_BYTES {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.received(&data);
                    if gathered.is_empty() {
                        gathered.extend_from_slice(&first);
                    }
                    gathered.extend_from_slice(&data);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end_data(Some(error));
                    break;
                }
                Poll::Ready(None) => {
                    self.end_data(None);
                    break;
                }
                Poll::Pending => break,
            }
        }
        if gathered.is_empty() { first } else { gathered.freeze() }
    }

    fn received(&mut self, data: &Bytes) {
        self.left_bytes = self.left_bytes.map(|left| left.saturating_sub(data.len() as u64));
        self.unread.read(data.len());
    }

    fn took(&mut self, bytes: usize) {
        match self.sender {
            Sender::Client => self.release(bytes),
            Sender::Server => self.taken_bytes = bytes,
        }
    }

    fn release(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        // Fails only on a stream that is over, whose window nobody needs.
        let _ = self.stream.flow_control().release_capacity(bytes);
    }

    fn is_over(&self, error: &h2::Error) -> bool {
        let asks_to_stop = error.is_reset() && error.reason() == Some(Reason::NO_ERROR);
        asks_to_stop && self.sender == Sender::Server && (self.trailers_ended || self.left_bytes == Some(0))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream() && self.soaked.is_empty()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.left_bytes {
            Some(left) => SizeHint::with_exact(left + self.soaked.len() as u64),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

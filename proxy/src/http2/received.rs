//! A body that comes in on an HTTP/2 stream. Its window is given back as it is read, not before.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;

use crate::body::BodyError;

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
    /// Told when the body is asked for at last.
    wanted: Option<Arc<Notify>>,
}

impl Received {
    pub(crate) fn new(stream: RecvStream, sender: Sender, length: Option<u64>) -> Self {
        Self { stream, sender, left_bytes: length, data_ended: false, trailers_ended: false, wanted: None }
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
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.left_bytes = self.left_bytes.map(|left| left.saturating_sub(data.len() as u64));
                    // Fails only on a stream that is over, whose window nobody needs.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) if self.is_over(&error) => self.data_ended = true,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_ended = true,
            }
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

    fn is_over(&self, error: &h2::Error) -> bool {
        let asks_to_stop = error.is_reset() && error.reason() == Some(Reason::NO_ERROR);
        asks_to_stop && self.sender == Sender::Server && (self.trailers_ended || self.left_bytes == Some(0))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.left_bytes {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

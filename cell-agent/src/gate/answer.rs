//! The app's answer on its way back: counted, and ended early where it is a stream that has to go.

use crate::gate::lease::Waiting;
use bytes::Bytes;
use cellway_proxy::{BodyError, OnDrop, PooledBody};
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// The body of the app's answer.
pub(crate) struct AnswerBody {
    /// Dropped before `waiting`, so that the app is heard of first.
    inner: Option<PooledBody>,
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    waiting: Waiting,
}

impl AnswerBody {
    /// An answer that ends by itself.
    pub(crate) fn ordinary(inner: PooledBody, waiting: Waiting) -> Self {
        Self { inner: Some(inner), end: None, waiting }
    }

    /// An event stream: it ends, cleanly, with whatever chunk has been sent when `end` is done.
    pub(crate) fn stream(mut inner: PooledBody, end: WaitForCancellationFutureOwned, waiting: Waiting) -> Self {
        inner.on_drop(OnDrop::HangUpAndDrain);
        Self { inner: Some(inner), end: Some(Box::pin(end)), waiting }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            self.inner = None;
            self.end = None;
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.waiting.lease().add_down(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            // A stream may end before its length.
            Some(inner) if self.end.is_none() => inner.size_hint(),
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

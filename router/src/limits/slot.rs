//! The body of an answer that keeps its request's slot to its end, and passes no faster than the tenant's bandwidth.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use cellway_proxy::{BodyError, ResponseBody};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Slot, ns_since};

/// Delays what comes after bytes that were too fast. Nothing is kept meanwhile: the source is not asked.
#[derive(Default)]
pub(crate) struct Pace {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Ready once more bytes may pass.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        Poll::Ready(())
    }

    /// Bytes have passed.
    pub(crate) fn passed(&mut self, slot: &Slot, bytes: usize) {
        let wait_ns = slot.limited.pass(bytes as u64, ns_since(slot.since));
        if wait_ns > 0 {
            self.timer = Some(Box::pin(sleep_until(Instant::now() + Duration::from_nanos(wait_ns))));
        }
    }
}

/// An answer's body with its request's slot.
pub(crate) struct SlotBody {
    inner: ResponseBody,
    /// Given back at the end of the body, which may be long before it is dropped.
    slot: Option<Slot>,
    pace: Pace,
}

impl SlotBody {
    /// `inner`, which keeps `slot`.
    pub(crate) fn of(inner: ResponseBody, slot: Slot) -> ResponseBody {
        if inner.is_end_stream() {
            return inner;
        }
        ResponseBody::boxed(Self { inner, slot: Some(slot), pace: Pace::default() })
    }
}

impl Body for SlotBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        ready!(this.pace.poll_ready(cx));
        let polled = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let (Some(Ok(frame)), Some(slot)) = (&polled, &this.slot)
            && let Some(data) = frame.data_ref()
        {
            this.pace.passed(slot, data.len());
        }
        if !matches!(polled, Some(Ok(_))) || this.inner.is_end_stream() {
            this.slot = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

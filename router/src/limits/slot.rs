//! Bodies of a tenant with limits: they pass no faster than its bandwidth, and an answer's keeps the slot until it has come
//! whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use cellway_proxy::{BodyError, Pace, ResponseBody};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Limited, Slot};

/// The pace of one body: what comes after bytes that were too fast is delayed.
pub(crate) struct TenantPace {
    limited: Arc<Limited>,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Slot {
    /// Whether bodies may pass only so fast.
    fn is_paced(&self) -> bool {
        self.limited.bandwidth().is_some()
    }

    /// The pace of one of its request's bodies.
    pub(crate) fn pace(&self) -> TenantPace {
        TenantPace { limited: Arc::clone(&self.limited), since: self.since, timer: None }
    }
}

impl Pace for TenantPace {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        Poll::Ready(())
    }

    fn passed(&mut self, bytes: usize) {
        let wait_ns = self.limited.pass(bytes as u64, self.since);
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
    pace: TenantPace,
}

impl SlotBody {
    /// `inner`, which keeps `slot` unless all of it is here already.
    pub(crate) fn of(inner: ResponseBody, slot: Slot) -> ResponseBody {
        if inner.is_end_stream() || matches!(inner, ResponseBody::Full(_)) && !slot.is_paced() {
            return inner;
        }
        let pace = slot.pace();
        ResponseBody::boxed(Self { inner, slot: Some(slot), pace })
    }
}

impl Body for SlotBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        ready!(this.pace.poll_ready(cx));
        let polled = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(data) = polled.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            this.pace.passed(data.len());
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

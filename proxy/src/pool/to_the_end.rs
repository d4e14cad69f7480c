//! Exchanges that go on where their caller leaves them, and word of their end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Response;

use super::{Chore, Chores, PooledBody, SendError};

/// An exchange on its way to its answer.
pub(super) type Exchange = Pin<Box<dyn Future<Output = Result<Box<Response<PooledBody>>, SendError>>>>;

/// An exchange that goes on, for this long, where its caller leaves it.
pub(super) struct ToTheEnd {
    /// `None` once it is answered.
    exchange: Option<Exchange>,
    limit: Duration,
    chores: Chores,
}

impl ToTheEnd {
    pub(super) fn new(exchange: Exchange, limit: Duration, chores: Chores) -> Self {
        Self { exchange: Some(exchange), limit, chores }
    }
}

impl Future for ToTheEnd {
    type Output = Result<Box<Response<PooledBody>>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(exchange) = &mut self.exchange else { return Poll::Pending };
        let answered = ready!(exchange.as_mut().poll(cx));
        self.exchange = None;
        Poll::Ready(answered)
    }
}

impl Drop for ToTheEnd {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            let _ = self.chores.send(Chore::Await(exchange, self.limit));
        }
    }
}

/// Calls back when a request has ended, at the latest when it is dropped.
pub(super) struct Ended(Option<Box<dyn FnOnce()>>);

impl Ended {
    pub(super) fn new(call: impl FnOnce() + 'static) -> Self {
        Self(Some(Box::new(call)))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

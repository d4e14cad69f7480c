//! What ends a client's connection while something else is waited for.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::wire::{Came, Wire};

/// The ends. They are looked at only where nothing else is to be done.
pub(super) struct Ends<'a> {
    /// Nobody listens any more: what is under way is the last.
    pub(super) shutdown: Pin<&'a mut dyn Future<Output = ()>>,
    /// The time for that is over.
    pub(super) stop: Pin<&'a mut dyn Future<Output = ()>>,
    /// The client has reset the connection.
    pub(super) reset: Pin<&'a mut dyn Future<Output = ()>>,
    /// Set anew only when it fires.
    pub(super) timer: Pin<&'a mut Sleep>,
    /// How long the client may take for a head, and be idle before one.
    pub(super) head_timeout: Duration,
    /// When the connection takes no more requests.
    pub(super) old_at: Instant,
    /// What is under way is the last.
    pub(super) is_parting: bool,
}

impl Ends<'_> {
    /// Waits for the next head; [`Came::Over`] where none is to come any more, and `None` where the connection is to be
    /// dropped.
    pub(super) async fn next(&mut self, wire: &Wire) -> Option<Came> {
        let now = Instant::now();
        let late_at = now + self.head_timeout;
        self.is_parting |= now >= self.old_at;
        poll_fn(|cx| {
            if let Poll::Ready(came) = wire.poll_head(cx) {
                return Poll::Ready(Some(came));
            }
            if self.poll_stop(cx).is_ready() || self.poll_late(late_at, cx).is_ready() {
                return Poll::Ready(None);
            }
            if self.is_parting && wire.is_idle() { Poll::Ready(Some(Came::Over)) } else { Poll::Pending }
        })
        .await
    }

    /// What `poll` gives, unless the connection is to be dropped before.
    pub(super) async fn race<T>(&mut self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
        poll_fn(|cx| match poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.reset.as_mut().poll(cx).is_ready() => Poll::Ready(None),
            Poll::Pending => self.poll_stop(cx).map(|()| None),
        })
        .await
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.is_parting = self.is_parting || self.shutdown.as_mut().poll(cx).is_ready();
        if self.is_parting { self.stop.as_mut().poll(cx) } else { Poll::Pending }
    }

    /// Ready once it is too late for a head; notes when the connection is old.
    fn poll_late(&mut self, late_at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= late_at {
                return Poll::Ready(());
            }
            self.is_parting |= now >= self.old_at;
            let next = if self.is_parting { late_at } else { late_at.min(self.old_at) };
            self.timer.as_mut().reset(next);
        }
    }
}

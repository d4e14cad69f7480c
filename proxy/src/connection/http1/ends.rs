//! What ends a client's connection while something else is waited for.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::wire::{Came, Wire};
use crate::alarm::Alarm;
use crate::clock;

/// The ends. They are looked at only where nothing else is to be done.
pub(super) struct Ends<'a> {
    /// Rung by the four that follow.
    pub(super) alarm: Alarm,
    /// Nobody listens any more: what is under way is the last.
    pub(super) shutdown: Pin<&'a mut dyn Future<Output = ()>>,
    /// The time for that is over. This comes after the shutdown.
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
    /// The connection is gone.
    pub(super) is_reset: bool,
}

impl Ends<'_> {
    /// Waits for the next head; [`Came::Over`] where none is to come any more, and `None` where the connection is to be
    /// dropped.
    pub(super) async fn next(&mut self, wire: &Wire) -> Option<Came> {
        let now = clock::now();
        let late_at = now + self.head_timeout;
        self.is_parting |= now >= self.old_at;
        poll_fn(|cx| {
            if let Poll::Ready(came) = wire.poll_head(cx) {
                return Poll::Ready(Some(came));
            }
            if self.is_over(cx, Some(late_at)) {
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
            Poll::Pending if self.is_over(cx, None) || self.is_reset => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Looks at what has rung, and says whether the connection is to be dropped: for `late_at`, if a head is waited for, or
    /// because all is to end.
    fn is_over(&mut self, cx: &Context<'_>, late_at: Option<Instant>) -> bool {
        if !self.alarm.has_rung(cx) {
            return false;
        }
        let waker = self.alarm.waker();
        let cx = &mut Context::from_waker(&waker);
        self.is_reset = self.is_reset || self.reset.as_mut().poll(cx).is_ready();
        self.is_parting = self.is_parting || self.shutdown.as_mut().poll(cx).is_ready();
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if late_at.is_some_and(|late_at| now >= late_at) {
                return true;
            }
            self.is_parting |= now >= self.old_at;
            let next = late_at.unwrap_or(now + self.head_timeout);
            self.timer.as_mut().reset(if self.is_parting { next } else { next.min(self.old_at) });
        }
        self.is_parting && self.stop.as_mut().poll(cx).is_ready()
    }
}

//! Timers that are used again.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that a thread keeps for its next exchanges. Each keeps the task that used it last until its moment.
const KEPT_MAX: usize = 64;

/// Timers that exchanges have used, for the next ones. Most are never waited for to the end: one that is set to an earlier
/// moment than is wanted now is left at that, and set anew only if it gets there. One that lies here may wake whoever used it
/// last, once and for nothing.
#[derive(Default)]
pub struct Timers(RefCell<Vec<Pin<Box<Sleep>>>>);

/// A timer.
pub struct Timer {
    /// Set to this moment, or to an earlier one.
    sleep: Pin<Box<Sleep>>,
    at: Instant,
}

impl Timers {
    /// A timer that is over at this moment.
    pub fn take(&self, at: Instant) -> Timer {
        let Some(sleep) = self.0.borrow_mut().pop() else { return Timer { sleep: Box::pin(sleep_until(at)), at } };
        let mut timer = Timer { sleep, at };
        if timer.sleep.is_elapsed() || timer.sleep.deadline() > at {
            timer.reset(at);
        }
        timer
    }

    /// Keeps it for another. One that is dropped instead is only not used again.
    pub fn give_back(&self, timer: Timer) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT_MAX {
            kept.push(timer.sleep);
        }
    }
}

impl Timer {
    /// Sets it to another moment.
    pub fn reset(&mut self, at: Instant) {
        self.at = at;
        self.sleep.as_mut().reset(at);
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.sleep.as_mut().poll(cx));
        if self.sleep.deadline() < self.at {
            let at = self.at;
            self.reset(at);
            return self.sleep.as_mut().poll(cx);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_over_at_its_moment_whatever_it_was_set_to_before() {
        let (timers, begun) = (Timers::default(), Instant::now());
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        for (before_ms, wait_ms) in [(50, 70), (50, 50), (90, 20), (1, 1), (500, 3)] {
            timers.give_back(timers.take(after(before_ms)));
            let at = after(wait_ms);
            let timer = timers.take(at);
            assert!(timer.sleep.deadline() <= at);
            timer.await;
            assert_eq!(Instant::now(), at, "{before_ms} {wait_ms}");
        }
        // One that is over is set anew, one that is set to an earlier moment is not.
        let mut over = timers.take(after(5));
        (&mut over).await;
        timers.give_back(over);
        timers.give_back(timers.take(after(5)));
        let early = timers.0.borrow()[0].deadline();
        let timer = timers.take(after(70));
        assert_eq!(timer.sleep.deadline(), early);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

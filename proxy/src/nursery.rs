//! The alarms of connections that are new. Most that bring one request end before anything could ring them, and to set up
//! and take down what might (timers, a word from the kernel, a place among those who wait for the shutdown) would cost them
//! some hundredths of their time. So all is set up once a connection has lived for a moment.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::alarm::Alarm;

/// How long a connection is new, at most: what ends it may be seen so much later.
const NEW_MS: u64 = 5;

/// Those of a thread.
pub(crate) struct Nursery {
    /// No connection is new any more.
    shutdown: CancellationToken,
    alarms: RefCell<Vec<Waker>>,
}

impl Nursery {
    pub(crate) fn new(shutdown: CancellationToken) -> Rc<Self> {
        Rc::new(Self { shutdown, alarms: RefCell::default() })
    }

    /// One that rings for the first time when the connection is not new any more.
    pub(crate) fn alarm(self: &Rc<Self>) -> Alarm {
        if self.shutdown.is_cancelled() {
            return Alarm::default();
        }
        let alarm = Alarm::silent();
        let mut alarms = self.alarms.borrow_mut();
        if alarms.is_empty() {
            spawn_local(Rc::clone(self).ring());
        }
        alarms.push(alarm.waker());
        alarm
    }

    async fn ring(self: Rc<Self>) {
        let _ = timeout(Duration::from_millis(NEW_MS), self.shutdown.cancelled()).await;
        for alarm in self.alarms.take() {
            alarm.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::time::Instant;

    use super::*;

    async fn rung_after(alarm: &mut Alarm) -> Duration {
        let begun = Instant::now();
        poll_fn(|cx| if alarm.has_rung(cx) { Poll::Ready(begun.elapsed()) } else { Poll::Pending }).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_a_connection_is_set_up_once_it_has_lived_for_a_moment_or_all_ends() {
        let shutdown = CancellationToken::new();
        let nursery = Nursery::new(shutdown.clone());
        let all = tokio::task::LocalSet::new();
        all.run_until(async {
            for _ in 0..2 {
                let (mut one, mut other) = (nursery.alarm(), nursery.alarm());
                assert_eq!(rung_after(&mut one).await.as_millis(), u128::from(NEW_MS));
                assert!(rung_after(&mut other).await.is_zero(), "both have rung");
            }
            let mut new = nursery.alarm();
            tokio::task::yield_now().await;
            shutdown.cancel();
            assert!(rung_after(&mut new).await.is_zero());
            assert!(rung_after(&mut nursery.alarm()).await.is_zero());
        })
        .await;
    }
}

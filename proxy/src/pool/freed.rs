//! Word for those who wait for a place that is freed.

use std::cell::Cell;

use tokio::sync::Notify;

/// Mostly nobody waits, and a place is freed with each answer: then nothing is to be done.
#[derive(Default)]
pub(super) struct Freed {
    waiting: Cell<usize>,
    notify: Notify,
}

/// Counts as one who waits.
struct Waits<'a>(&'a Cell<usize>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Freed {
    /// Waits for the next word. There may have been one for nothing.
    pub(super) async fn wait(&self) {
        self.waiting.set(self.waiting.get() + 1);
        let _waits = Waits(&self.waiting);
        self.notify.notified().await;
    }

    /// A place is free. Of those who wait, one is woken.
    pub(super) fn tell_one(&self) {
        if self.waiting.get() > 0 {
            self.notify.notify_one();
        }
    }

    /// Many may be. All who wait are woken.
    pub(super) fn tell_all(&self) {
        self.notify.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_waits_is_told_and_a_place_that_nobody_waits_for_is_no_news_to_the_next() {
        let freed = Freed::default();
        freed.tell_one();
        let (mut first, mut second) = (pin!(freed.wait()), pin!(freed.wait()));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        freed.tell_one();
        assert!(first.now_or_never().is_some());
        assert!(second.as_mut().now_or_never().is_none());
        freed.tell_all();
        assert!(second.now_or_never().is_some());
        assert_eq!(freed.waiting.get(), 0);
    }
}

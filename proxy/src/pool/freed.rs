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

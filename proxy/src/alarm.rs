//! Futures that wake their task rarely, beside what wakes it all the time: they are polled only after one of them has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use parking_lot::Mutex;

/// What they wake. Most often it has rung at first: each has to be polled once.
pub(crate) struct Alarm {
    bell: Arc<Bell>,
    waker: Waker,
    /// Whom the bell wakes, to be compared without a lock.
    task: Option<Waker>,
}

struct Bell {
    has_rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        let task = self.task.lock().clone();
        task.iter().for_each(Waker::wake_by_ref);
    }
}

impl Default for Alarm {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Alarm {
    /// One that has not rung: whoever is to be polled once rings it.
    pub(crate) fn silent() -> Self {
        Self::new(false)
    }

    fn new(has_rung: bool) -> Self {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(has_rung), task: Mutex::default() });
        Self { waker: Arc::clone(&bell).into(), bell, task: None }
    }

    /// Whether it has rung since this was asked last. If so, whoever may have is to be polled with [`Alarm::waker`].
    pub(crate) fn has_rung(&mut self, cx: &Context<'_>) -> bool {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            let task = Some(cx.waker().clone());
            self.bell.task.lock().clone_from(&task);
            self.task = task;
        }
        // Most often it has not, and a look is cheaper than a swap.
        self.bell.has_rung.load(Ordering::Acquire) && self.bell.has_rung.swap(false, Ordering::AcqRel)
    }

    /// What rings it.
    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_rings_wakes_the_task_that_asked_last_and_is_heard_once() {
        let (first, second) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let wakers = [Waker::from(Arc::clone(&first)), Waker::from(Arc::clone(&second))];
        let [one, other] = [&wakers[0], &wakers[1]].map(Context::from_waker);
        let mut alarm = Alarm::default();
        assert!(alarm.has_rung(&one), "all are to be polled once");
        assert!(!alarm.has_rung(&one));
        for _ in 0..2 {
            let before = first.0.load(Ordering::Relaxed);
            alarm.waker().wake();
            assert_eq!(first.0.load(Ordering::Relaxed), before + 1);
            assert!(alarm.has_rung(&one) && !alarm.has_rung(&one));
        }
        assert!(!alarm.has_rung(&other));
        alarm.waker().wake_by_ref();
        assert_eq!(second.0.load(Ordering::Relaxed), 1);
    }
}

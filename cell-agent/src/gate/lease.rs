//! How long an admitted request counts: until the app has ended it, also when router and client are gone.

use crate::gate::table::Admission;
use cellway_proxy::clock;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// One admitted request. Clones share it.
#[derive(Clone)]
pub(crate) struct Lease(Rc<Inner>);

struct Inner {
    admission: RefCell<Option<(Admission, TaskTrackerToken)>>,
    began: Instant,
    failed: Cell<bool>,
    up_bytes: Rc<Cell<u64>>,
    down_bytes: Cell<u64>,
}

impl Lease {
    /// `alive` keeps the thread's drain waiting.
    pub(crate) fn new(admission: Admission, alive: TaskTrackerToken) -> Self {
        Self(Rc::new(Inner {
            admission: RefCell::new(Some((admission, alive))),
            began: clock::now(),
            failed: Cell::new(false),
            up_bytes: Rc::default(),
            down_bytes: Cell::new(0),
        }))
    }

    /// Counts what the app is sent.
    pub(crate) fn up_counter(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.0.up_bytes)
    }

    /// The app has sent this much more.
    pub(crate) fn add_down(&self, bytes: u64) {
        self.0.down_bytes.set(self.0.down_bytes.get() + bytes);
    }

    /// The app, or the gate in its place, answered 5xx.
    pub(crate) fn failed(&self) {
        self.0.failed.set(true);
    }

    /// The answer is an event stream. `None` if the app has ended it already.
    pub(crate) fn became_stream(&self) -> Option<CancellationToken> {
        self.0.admission.borrow_mut().as_mut().map(|(admission, _)| admission.became_stream())
    }

    /// Ends a stream; `None` for an ordinary request, and for one that has ended.
    pub(crate) fn end(&self) -> Option<CancellationToken> {
        self.0.admission.borrow().as_ref().and_then(|(admission, _)| admission.end().cloned())
    }

    /// Cuts an ordinary request; `None` for a stream, and for what has ended.
    pub(crate) fn cut(&self) -> Option<CancellationToken> {
        self.0.admission.borrow().as_ref().and_then(|(admission, _)| admission.cut().cloned())
    }

    /// It was cut here. It counts as running until the app has ended it.
    pub(crate) fn was_cut(&self) {
        if let Some((admission, _)) = self.0.admission.borrow().as_ref() {
            admission.gate().count_cut();
        }
    }

    /// How much the app has sent.
    pub(crate) fn down_bytes(&self) -> u64 {
        self.0.down_bytes.get()
    }

    /// How long ago it was admitted.
    pub(crate) fn age(&self) -> Duration {
        clock::now().duration_since(self.0.began)
    }

    /// The app has ended the request. Later calls do nothing.
    pub(crate) fn finish(&self) {
        let Some((admission, alive)) = self.0.admission.borrow_mut().take() else {
            return;
        };
        let work = &admission.gate().work;
        work.ended(self.age(), self.0.failed.get());
        work.carried(self.0.up_bytes.get() + self.0.down_bytes.get());
        drop(admission);
        drop(alive);
    }

    fn is_finished(&self) -> bool {
        self.0.admission.borrow().is_none()
    }
}

/// Ends the lease when the app has ended the request: given to the exchange with the app.
pub(crate) struct Ending {
    pub(crate) lease: Lease,
    pub(crate) stop: CancellationToken,
    /// Set when requests were cut by the end of the drain, so that nobody takes the stop for a clean one.
    pub(crate) cut: Arc<AtomicBool>,
}

impl Ending {
    pub(crate) fn ended(self) {
        if self.stop.is_cancelled() {
            self.cut.store(true, Ordering::Release);
        }
        self.lease.finish();
    }
}

/// Leases that nobody waits for any more, each with the longest time that the app may still take to end it.
#[derive(Clone)]
pub(crate) struct Abandoned(mpsc::UnboundedSender<(Lease, Duration)>);

impl Abandoned {
    /// Sees to abandoned leases on this thread.
    pub(crate) fn start() -> Self {
        let (sender, mut receiver) = mpsc::unbounded_channel::<(Lease, Duration)>();
        tokio::task::spawn_local(async move {
            while let Some((lease, patience)) = receiver.recv().await {
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(patience).await;
                    if !lease.is_finished() {
                        tracing::warn!("the app has not ended a request within its own time limit");
                        lease.finish();
                    }
                });
            }
        });
        Self(sender)
    }
}

/// How long the app may still take once nobody waits for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// This long from the admission: the app's own time limit.
    FromAdmission(Duration),
    /// This long from when it was hung up on.
    FromNow(Duration),
}

/// Held by whoever waits for the app. When the wait is given up, the patience bounds what is left.
pub(crate) struct Waiting {
    lease: Lease,
    abandoned: Abandoned,
    patience: Patience,
}

impl Waiting {
    pub(crate) fn new(lease: Lease, abandoned: Abandoned, patience: Patience) -> Self {
        Self { lease, abandoned, patience }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Another bound, from now on.
    pub(crate) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.lease.is_finished() {
            return;
        }
        let left = match self.patience {
            Patience::FromAdmission(limit) => limit.saturating_sub(self.lease.age()),
            Patience::FromNow(left) => left,
        };
        // Fails only while the thread ends, which ends the lease as well.
        let _ = self.abandoned.0.send((self.lease.clone(), left));
    }
}

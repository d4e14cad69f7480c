//! Requests that wait because their tenant is being moved, or because nobody of its cell can be reached.
//!
//! One queue per tenant, first come first served, bounded in count and time. A queue is *closed* at first: now and
//! then its first request goes as a try. When the feed says that the tenant is free, or a try was admitted, it is
//! *open*: the others follow at a pace that ramps up, so that the cell is not run over. While a tenant has a queue,
//! new requests join it.
//!
//! Each queue is driven by one small task (`drive`); the rules are in `hold/queue.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use cellway_core::ids::TenantId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::table::{Map, Table};
use queue::{Queue, Step};

mod queue;

pub use queue::{
    RELEASE_BURST, RELEASE_PER_SECOND, RETRY_FIRST_MAX_MS, RETRY_FIRST_MIN_MS, RETRY_LONGEST_MS, TRY_SILENCE_MS,
};

/// Requests held per tenant.
pub const PER_TENANT_MAX: usize = 1_000;
/// Requests held per router.
pub const PER_ROUTER_MAX: usize = 10_000;
/// How long a request is held at the longest.
pub const PATIENCE_MS: u64 = 10_000;

/// The bounds of holding.
#[derive(Debug, Clone, Copy)]
pub struct HoldLimits {
    /// Requests per tenant.
    pub per_tenant: usize,
    /// Requests per router.
    pub per_router: usize,
    /// How long one is held.
    pub patience_ms: u64,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { per_tenant: PER_TENANT_MAX, per_router: PER_ROUTER_MAX, patience_ms: PATIENCE_MS }
    }
}

/// Too many are held already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overflow;

/// Its patience is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// All queues of a router.
pub(crate) struct Holds {
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    settings: Arc<ArcSwap<Settings>>,
    runtime: Handle,
    queues: Map<TenantId, Arc<Shared>>,
    /// Taken to add a queue, a member to a queue, or to remove a queue.
    membership: Mutex<()>,
    held: AtomicUsize,
}

struct Shared {
    queue: Mutex<Queue>,
    poked: Notify,
}

/// A request's place in its tenant's queue, kept over all its tries. Dropping it leaves the queue.
pub(crate) struct Place {
    holds: Arc<Holds>,
    shared: Arc<Shared>,
    ticket: u64,
    entered: Instant,
    deadline: Instant,
}

impl Holds {
    /// `runtime` is where queues are driven.
    pub(crate) fn new(
        table: Arc<Table>,
        metrics: Arc<Metrics>,
        settings: Arc<ArcSwap<Settings>>,
        runtime: Handle,
    ) -> Self {
        Self {
            table,
            metrics,
            settings,
            runtime,
            queues: Map::default(),
            membership: Mutex::new(()),
            held: AtomicUsize::new(0),
        }
    }

    /// Whether the tenant has a queue that a new request should join.
    pub(crate) fn is_holding(&self, tenant: &TenantId) -> bool {
        if self.held.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.queues.pin().get(tenant).is_some_and(|shared| shared.queue.lock().is_to_be_joined())
    }

    /// Takes a place at the end of the tenant's queue.
    pub(crate) fn enter(self: &Arc<Self>, tenant: &TenantId) -> Result<Place, Overflow> {
        let now = Instant::now();
        let limits = self.settings.load().hold;
        let _membership = self.membership.lock();
        let existing = self.queues.pin().get(tenant).cloned();
        let members = existing.as_ref().map_or(0, |shared| shared.queue.lock().members());
        if members >= limits.per_tenant || self.held.load(Ordering::Relaxed) >= limits.per_router {
            self.metrics.hold_overflows.inc();
            return Err(Overflow);
        }
        let shared = existing.unwrap_or_else(|| {
            let shared = Arc::new(Shared { queue: Mutex::new(Queue::new(now)), poked: Notify::new() });
            self.queues.pin().insert(tenant.clone(), Arc::clone(&shared));
            self.runtime.spawn(drive(Arc::clone(self), tenant.clone(), Arc::clone(&shared)));
            shared
        });
        let ticket = shared.queue.lock().join();
        self.held.fetch_add(1, Ordering::Relaxed);
        self.metrics.held.inc();
        self.metrics.held_now.inc();
        let deadline = now + Duration::from_millis(limits.patience_ms);
        Ok(Place { holds: Arc::clone(self), shared, ticket, entered: now, deadline })
    }

    /// The feed changed the tenant.
    pub(crate) fn tenant_changed(&self, tenant: &TenantId) {
        if let Some(shared) = self.queues.pin().get(tenant) {
            shared.tell_of_change();
        }
    }

    /// The feed changed a cell: whoever waits may find its endpoints now.
    pub(crate) fn cell_changed(&self) {
        self.queues.pin().values().for_each(|shared| shared.tell_of_change());
    }
}

impl Shared {
    fn tell_of_change(&self) {
        self.queue.lock().feed_changed();
        self.poked.notify_one();
    }
}

impl Place {
    /// Waits for the request's turn to be tried.
    pub(crate) async fn turn(&mut self) -> Result<(), TimedOut> {
        let (go, gone) = oneshot::channel();
        self.shared.queue.lock().wait(self.ticket, go);
        self.shared.poked.notify_one();
        match timeout_at(self.deadline, gone).await {
            Ok(Ok(())) => Ok(()),
            // The driver ends before its queue only with its runtime.
            Ok(Err(_)) | Err(_) => {
                self.holds.metrics.hold_timeouts.inc();
                Err(TimedOut)
            }
        }
    }

    /// The feed changed the tenant while the request was on its way: no news will come of that.
    pub(crate) fn feed_has_changed(&self) {
        self.shared.tell_of_change();
    }

    /// The try was admitted.
    pub(crate) fn admitted(&self) {
        self.shared.queue.lock().admitted(self.ticket, Instant::now());
        self.shared.poked.notify_one();
    }

    /// The try was not admitted.
    pub(crate) fn refused(&self) {
        self.shared.queue.lock().refused(self.ticket, Instant::now());
        self.shared.poked.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.queue.lock().leave(self.ticket, Instant::now());
        self.shared.poked.notify_one();
        self.holds.held.fetch_sub(1, Ordering::Relaxed);
        self.holds.metrics.held_now.dec();
        self.holds.metrics.held_seconds.observe(self.entered.elapsed().as_secs_f64());
    }
}

/// Lets the requests of one queue go, until it is empty.
async fn drive(holds: Arc<Holds>, tenant: TenantId, shared: Arc<Shared>) {
    loop {
        let step = shared.queue.lock().step(Instant::now(), || !holds.table.is_held(&tenant));
        match step {
            Step::WaitUntil(at) => {
                tokio::select! {
                    () = sleep_until(at) => {}
                    () = shared.poked.notified() => {}
                }
            }
            Step::Wait => shared.poked.notified().await,
            Step::Empty => {
                let _membership = holds.membership.lock();
                // Someone may have joined since.
                if shared.queue.lock().members() == 0 {
                    holds.queues.pin().remove(&tenant);
                    return;
                }
            }
        }
    }
}

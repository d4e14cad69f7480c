//! The tenants' files in use: at most one piece of work per tenant at a time, tenants in parallel.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, Semaphore};
use tokio::time::timeout_at;

use crate::requests::{TenantName, Ticket};
use crate::tenant_file::{FileId, StoreError, TenantFile};

/// Files kept open between requests.
const OPEN_FILES_MAX: usize = 64;
/// Files worked on at the same time, one thread each. A tenant takes one at most, so that a locked
/// file cannot keep the neighbours waiting.
const PARALLEL_TENANTS_MAX: usize = 16;
/// A file that stays locked for this long is answered as unavailable.
const BUSY_TIMEOUT_MS: u64 = 2_000;
/// How often a file that is replaced while it is being used is opened again.
const OPEN_ATTEMPTS_MAX: u32 = 3;

type Slot = Arc<Turn<Option<TenantFile>>>;
type Held = OwnedMutexGuard<Option<TenantFile>>;

#[derive(Debug)]
pub(crate) struct Store {
    data_dir: PathBuf,
    slots: Arc<Mutex<Slots>>,
    lanes: Arc<Semaphore>,
    stopped: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Slots {
    by_tenant: HashMap<String, (Slot, u64)>,
    uses: u64,
}

/// How long a piece of work may wait for a file's locks, and whether it may still write.
pub(crate) struct WritePermit {
    /// Counted from before the tenant's turn came: a locked file refuses all who wait together,
    /// not one after the other.
    lock_by: Instant,
    write_by: Instant,
    stopped: Arc<AtomicBool>,
}

impl WritePermit {
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(StoreError::Stopping);
        }
        if Instant::now() >= self.write_by {
            return Err(StoreError::Late);
        }
        Ok(())
    }
}

impl Store {
    pub(crate) fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            slots: Arc::default(),
            lanes: Arc::new(Semaphore::new(PARALLEL_TENANTS_MAX)),
            stopped: Arc::default(),
        }
    }

    /// Runs `work` on the file that the tenant's path leads to now, on a thread that may block.
    ///
    /// The ticket counts as running until the work has ended, also when nobody waits for it.
    pub(crate) async fn with<T, W>(&self, tenant: &TenantName, ticket: &Ticket, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Fn(&mut TenantFile, &WritePermit) -> Result<T, StoreError> + Send + 'static,
    {
        let lock_by = Instant::now() + Duration::from_millis(BUSY_TIMEOUT_MS);
        let slot = self.slots.lock().slot(tenant.as_str());
        let answer_by = ticket.answer_by.into();
        let mut held = timeout_at(answer_by, slot.lock_owned()).await.map_err(|_| StoreError::Late)?;
        let lane = timeout_at(answer_by, Arc::clone(&self.lanes).acquire_owned())
            .await
            .map_err(|_| StoreError::Late)?
            .map_err(|_| StoreError::Stopping)?;

        let path = self.data_dir.join(format!("{}.db", tenant.as_str()));
        let permit = WritePermit {
            lock_by: lock_by.min(ticket.write_by),
            write_by: ticket.write_by,
            stopped: Arc::clone(&self.stopped),
        };
        let slots = Arc::clone(&self.slots);
        let ticket = ticket.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let outcome = work_on(&path, &mut held, &permit, work);
            if slots.lock().by_tenant.len() > OPEN_FILES_MAX {
                *held = None;
            }
            drop((held, lane, ticket));
            outcome
        });
        match worked.await {
            Ok(outcome) => outcome,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(StoreError::Stopping),
        }
    }

    /// Closes idle files whose path leads elsewhere by now.
    pub(crate) async fn close_replaced(&self) {
        let slots = Arc::clone(&self.slots);
        let data_dir = self.data_dir.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let idle = slots.lock().idle();
            for (tenant, mut held) in idle {
                let path = data_dir.join(format!("{tenant}.db"));
                close_if_replaced(&path, &mut held);
            }
        });
        if swept.await.is_err() {
            tracing::warn!("looking for replaced files failed");
        }
    }

    /// Refuses all work from now on, and waits for what still runs.
    pub(crate) async fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let slots: Vec<Slot> = self.slots.lock().all();
        for slot in slots {
            *slot.lock().await = None;
        }
    }
}

impl Slots {
    fn slot(&mut self, tenant: &str) -> Slot {
        self.uses += 1;
        if let Some((slot, used)) = self.by_tenant.get_mut(tenant) {
            *used = self.uses;
            return Arc::clone(slot);
        }
        while self.by_tenant.len() >= OPEN_FILES_MAX && self.forget_oldest_idle() {}
        let slot = Slot::default();
        let entry = (Arc::clone(&slot), self.uses);
        self.by_tenant.insert(tenant.to_owned(), entry);
        slot
    }

    /// Handles are only cloned under the lock that is held here: one handle means not in use.
    fn forget_oldest_idle(&mut self) -> bool {
        let oldest = self
            .by_tenant
            .iter()
            .filter(|(_, (slot, _))| Arc::strong_count(slot) == 1)
            .min_by_key(|(_, (_, used))| *used)
            .map(|(tenant, _)| tenant.clone());
        oldest.is_some_and(|tenant| self.by_tenant.remove(&tenant).is_some())
    }

    fn idle(&self) -> Vec<(String, Held)> {
        let slots = self.by_tenant.iter();
        slots
            .filter_map(|(tenant, (slot, _))| {
                let held = Arc::clone(slot).try_lock_owned().ok()?;
                Some((tenant.clone(), held))
            })
            .collect()
    }

    fn all(&self) -> Vec<Slot> {
        let slots = self.by_tenant.values();
        slots.map(|(slot, _)| Arc::clone(slot)).collect()
    }
}

fn close_if_replaced(path: &Path, held: &mut Option<TenantFile>) {
    let here = FileId::at(path).ok();
    if held.as_ref().is_some_and(|file| Some(file.id()) != here) {
        *held = None;
    }
}

fn work_on<T>(
    path: &Path,
    held: &mut Option<TenantFile>,
    permit: &WritePermit,
    work: impl Fn(&mut TenantFile, &WritePermit) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    for _ in 0..OPEN_ATTEMPTS_MAX {
        permit.check()?;
        close_if_replaced(path, held);
        match attempt(path, held, permit, &work) {
            Err(StoreError::Replaced) => *held = None,
            Err(error @ (StoreError::Late | StoreError::Stopping)) => return Err(error),
            Err(error) => {
                *held = None;
                return Err(error);
            }
            Ok(value) => return Ok(value),
        }
    }
    Err(StoreError::Replaced)
}

fn attempt<T>(
    path: &Path,
    held: &mut Option<TenantFile>,
    permit: &WritePermit,
    work: impl Fn(&mut TenantFile, &WritePermit) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let file = match held {
        Some(file) => file,
        None => held.insert(TenantFile::open(path, permit.lock_by)?),
    };
    file.wait_for_locks_until(permit.lock_by)?;
    work(file, permit)
}

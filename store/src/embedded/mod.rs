//! The embedded store: for one process on one machine, on disk or in memory.
//!
//! All records are in memory. One thread decides on commits, makes each durable, and only then
//! publishes it to readers and watchers.

mod codec;
mod cursor;
mod disk;
mod leases;
mod state;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use cellway_core::ids::{ClusterId, Revision};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::contract::{Entry, LeaseId, Page, Store, Txn, check_ttl, cluster_id};
use crate::embedded::disk::{Batch, Disk, Loaded, LogLimits, LogRead};
use crate::embedded::state::{RingLimits, State};
use crate::embedded::writer::{Command, Queued, Reply, Writer};
use crate::error::StoreError;
use crate::watch::WatchStream;

pub(crate) use cursor::Cursor;

/// Recent revisions kept in memory.
pub const RING_REVISIONS_MAX: usize = 8_192;
/// Keys and values, old and new, of the recent revisions kept in memory.
pub const RING_SIZE_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Revisions kept in the file's log.
pub const LOG_REVISIONS_MAX: usize = 100_000;
/// Size of the file's log.
pub const LOG_SIZE_MAX_BYTES: usize = 256 * 1024 * 1024;

/// Commands that may wait for the writer; more callers wait for a place.
const QUEUE_MAX: usize = 1_024;

/// How much history an embedded store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Recent revisions in memory: for watchers that keep up, and pages at a past revision.
    pub ring_revisions: usize,
    /// Their size.
    pub ring_bytes: usize,
    /// Revisions in the file, for watchers that lag or come back.
    pub log_revisions: usize,
    /// Their size.
    pub log_bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self {
            ring_revisions: RING_REVISIONS_MAX,
            ring_bytes: RING_SIZE_MAX_BYTES,
            log_revisions: LOG_REVISIONS_MAX,
            log_bytes: LOG_SIZE_MAX_BYTES,
        }
    }
}

/// What readers, watchers and the writer share.
pub(crate) struct Shared {
    state: RwLock<State>,
    place: Place,
}

enum Place {
    Memory,
    /// `None` once the store was closed.
    Disk(RwLock<Option<Disk>>),
}

impl Shared {
    fn write_disk(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        match &self.place {
            Place::Memory => Ok(()),
            Place::Disk(disk) => disk.read().as_ref().ok_or_else(closed)?.write(batch),
        }
    }

    /// `None`: there is no log.
    fn read_log(&self, prefix: &str, after: Revision) -> Result<Option<LogRead>, StoreError> {
        match &self.place {
            Place::Memory => Ok(None),
            Place::Disk(disk) => disk.read().as_ref().ok_or_else(closed)?.read_log(prefix, after).map(Some),
        }
    }

    fn close(&self) {
        if let Place::Disk(disk) = &self.place {
            disk.write().take();
        }
    }
}

fn closed() -> StoreError {
    StoreError::unavailable_because("use the embedded store", "it was closed")
}

/// A store in this process. Dropping it finishes what is queued and lets go of the directory.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    cluster: ClusterId,
    published: watch::Receiver<Revision>,
    queue: Option<mpsc::Sender<Queued>>,
    places: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, or creates it. One handle may hold a directory at a time:
    /// another gets [`StoreError::Locked`]. Every lease's time begins anew. Reads the file: call
    /// it where blocking is allowed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(dir, History::default())
    }

    /// As [`EmbeddedStore::open`], with another length of history.
    pub fn open_with(dir: impl AsRef<Path>, history: History) -> Result<Self, StoreError> {
        let limits = LogLimits { revisions: history.log_revisions, bytes: history.log_bytes };
        let (disk, loaded) = Disk::open(dir.as_ref(), limits)?;
        Self::start(Place::Disk(RwLock::new(Some(disk))), loaded, history)
    }

    /// A store that is gone when it is dropped.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::in_memory_with(History::default())
    }

    /// As [`EmbeddedStore::in_memory`], with another length of history.
    pub fn in_memory_with(history: History) -> Result<Self, StoreError> {
        Self::start(Place::Memory, Loaded::nothing(), history)
    }

    fn start(place: Place, loaded: Loaded, history: History) -> Result<Self, StoreError> {
        let ring = RingLimits { revisions: history.ring_revisions, bytes: history.ring_bytes };
        let state = State::new(loaded.revision, loaded.records, ring);
        let shared = Arc::new(Shared { state: RwLock::new(state), place });
        let (publish, published) = watch::channel(loaded.revision);
        let (queue, commands) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), commands, publish, &loaded.leases, loaded.next_lease);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::unavailable("start the store's writer", error))?;
        Ok(Self {
            shared,
            cluster: cluster_id(loaded.cluster),
            published,
            queue: Some(queue),
            places: Arc::new(Semaphore::new(QUEUE_MAX)),
            writer: Some(writer),
        })
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(Queued { command: command(reply), place }).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.queue.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
        self.shared.close();
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self.shared.state.read().revision;
        f.debug_struct("EmbeddedStore").field("revision", &revision).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn cluster(&self) -> Result<ClusterId, StoreError> {
        Ok(self.cluster.clone())
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        let state = self.shared.state.read();
        Ok((state.records.get(key).map(|record| record.entry(key)), state.revision))
    }

    async fn range(
        &self,
        prefix: &str,
        start: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, StoreError> {
        self.shared.state.read().page(prefix, start, limit, at)
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        txn.check()?;
        self.ask(|reply| Command::Commit { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let (shared, published) = (Arc::clone(&self.shared), self.published.clone());
        Ok(WatchStream::from_cursor(Cursor::new(shared, published, prefix, after)))
    }

    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, StoreError> {
        check_ttl(ttl_ms)?;
        self.ask(|reply| Command::Grant { ttl_ms, reply }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::KeepAlive { lease, reply }).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::Revoke { lease, reply }).await
    }
}

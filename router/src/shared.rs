//! What all threads of a router share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use cellway_core::ids::{ClusterId, Revision};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::TimeLimits;
use crate::drain::Predecessor;
use crate::feed::refused::Refused;
use crate::health::Health;
use crate::hold::Holds;
use crate::https_policy::HttpsPolicy;
use crate::metrics::Metrics;
use crate::retry::RetryBudget;
use crate::settings::Settings;
use crate::table::Table;
use crate::under_way::UnderWay;
use crate::upload::ReplayBudget;

pub(crate) struct Shared {
    pub(crate) table: Arc<Table>,
    pub(crate) holds: Arc<Holds>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) replay: Arc<ReplayBudget>,
    pub(crate) under_way: Arc<UnderWay>,
    pub(crate) settings: Arc<ArcSwap<Settings>>,
    pub(crate) https: HttpsPolicy,
    /// Gates are reached over TLS.
    pub(crate) gates_have_tls: bool,
    pub(crate) health: Health,
    pub(crate) retries: RetryBudget,
    pub(crate) limits: TimeLimits,
    pub(crate) snapshot_path: Option<PathBuf>,
    #[cfg(feature = "test-faults")]
    pub(crate) faults: crate::Faults,
    pub(crate) state: FeedState,
    pub(crate) refused: Refused,
    pub(crate) draining: AtomicBool,
    /// When what is left is closed, once the drain has begun.
    pub(crate) drained_at: Mutex<Option<Instant>>,
    /// Routers that this one has replaced, and that drain.
    pub(crate) predecessors: Mutex<Vec<Predecessor>>,
    /// Whether this router writes the snapshot: two at once would spoil it. Held while it is written.
    pub(crate) saving: tokio::sync::Mutex<bool>,
    /// The connections and tunnels of each thread.
    pub(crate) threads: Mutex<Vec<TaskTracker>>,
}

/// How far the table can be trusted.
#[derive(Default)]
pub(crate) struct FeedState {
    loaded: AtomicBool,
    synced: AtomicBool,
    revision: AtomicU64,
    cluster: Mutex<Option<ClusterId>>,
}

impl Shared {
    /// Whether there is anything to route by: a snapshot from disk, or a listing.
    pub(crate) fn is_loaded(&self) -> bool {
        self.state.loaded.load(Ordering::Acquire)
    }

    /// Whether the table is in step with its source now.
    pub(crate) fn is_synced(&self) -> bool {
        self.state.synced.load(Ordering::Acquire)
    }

    /// The revision that the table has reached.
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.state.revision.load(Ordering::Acquire))
    }

    /// The cluster that the table is of, once that is known.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.state.cluster.lock().clone()
    }

    pub(crate) fn set_cluster(&self, cluster: Option<ClusterId>) {
        *self.state.cluster.lock() = cluster;
    }

    /// Whether the router is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Has this router write the snapshot, or leave it to another; waits for one that is being written.
    pub(crate) async fn may_save(&self, may: bool) {
        *self.saving.lock().await = may;
    }

    pub(crate) fn set_revision(&self, revision: Revision) {
        self.state.revision.store(revision.0, Ordering::Release);
        self.metrics.feed_revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
    }

    /// The table was filled from the snapshot on disk.
    pub(crate) fn set_loaded_from_snapshot(&self) {
        self.state.loaded.store(true, Ordering::Release);
        self.metrics.serving_from_snapshot.set(1);
    }

    /// Says whether it was in step before.
    pub(crate) fn set_synced(&self, synced: bool) -> bool {
        if synced {
            self.state.loaded.store(true, Ordering::Release);
            self.metrics.serving_from_snapshot.set(0);
        }
        self.metrics.feed_synced.set(i64::from(synced));
        self.state.synced.swap(synced, Ordering::AcqRel)
    }
}

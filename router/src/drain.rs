//! How a router ends: what is left of it, and how long it still has.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::shared::Shared;

/// A drain at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// Connections of clients, tunnels aside.
    pub connections: usize,
    /// What is under way on them: requests until their answers have come whole, event streams, WebSockets. A connection
    /// that still sends an answer counts among the connections.
    pub streams: u64,
    /// Tenants whose it is; two may count as one.
    pub tenants: u64,
    /// When what is left is closed.
    pub seconds_left: f64,
}

/// A router that has handed its listeners over, and drains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predecessor {
    /// The number of its process.
    pub process: u32,
    /// The program's version.
    pub version: String,
    /// How its drain goes.
    #[serde(flatten)]
    pub drain: Drain,
}

impl Shared {
    /// Connections of clients, tunnels aside.
    pub(crate) fn connections(&self) -> usize {
        let tasks: usize = self.threads.lock().iter().map(TaskTracker::len).sum();
        tasks.saturating_sub(usize::try_from(self.metrics.tunnels_open.get()).unwrap_or(0))
    }

    /// How the drain goes; `None` before it.
    pub(crate) fn drain(&self) -> Option<Drain> {
        let until = (*self.drained_at.lock())?;
        let (streams, tenants) = self.settings.load().under_way.count();
        let seconds_left = until.saturating_duration_since(Instant::now()).as_secs_f64();
        Some(Drain { connections: self.connections(), streams, tenants, seconds_left })
    }

    /// The drain has begun, or goes into its last part: it is over after so long.
    pub(crate) fn drains_for(&self, time: Duration) {
        *self.drained_at.lock() = Some(Instant::now() + time);
        self.draining.store(true, std::sync::atomic::Ordering::Release);
    }
}

/// The drain that `SIGTERM` begins: says so at once, and stops to take connections after the delay.
pub(crate) async fn on_shutdown(shared: &Shared, drain_ms: u64, stop: &CancellationToken) {
    let delay_ms = shared.settings.load().drain_delay_ms;
    shared.drains_for(Duration::from_millis(delay_ms.saturating_add(drain_ms)));
    tracing::info!(delay_ms, "draining");
    sleep(Duration::from_millis(delay_ms)).await;
    stop.cancel();
}

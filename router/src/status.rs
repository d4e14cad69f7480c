//! How a router is doing, as its admin listener tells it.

use serde::{Deserialize, Serialize};

use crate::drain::{Drain, Predecessor};
use crate::feed::guard::Refusal;
use crate::shared::Shared;

/// A router at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Whether it is about to end.
    pub draining: bool,
    /// Connections of clients, tunnels aside.
    pub connections: usize,
    /// Requests whose answer has not begun.
    pub requests_open: i64,
    /// WebSockets.
    pub tunnels_open: i64,
    /// Requests held.
    pub held: i64,
    /// The cluster that the routes are of, where that is known.
    pub cluster: Option<String>,
    /// The revision that the routes have reached.
    pub revision: u64,
    /// Whether the router has routes at all.
    pub loaded: bool,
    /// Whether they are in step with their source.
    pub synced: bool,
    /// Since the source was heard last; -1 if it never was.
    pub feed_silence_seconds: f64,
    /// Tenants in the table, gone ones included.
    pub tenants: usize,
    /// Custom domains in the table.
    pub hosts: usize,
    /// Cells in the table.
    pub cells: usize,
    /// Routes that the source tells and the router refuses, until an operator accepts them.
    pub refused: Option<Refusal>,
    /// How its own drain goes.
    #[serde(default)]
    pub drain: Option<Drain>,
    /// Routers that this one has replaced, as long as they drain.
    #[serde(default)]
    pub predecessors: Vec<Predecessor>,
}

impl Status {
    pub(crate) fn of(shared: &Shared) -> Self {
        let metrics = &shared.metrics;
        let (tenants, hosts, cells) = shared.table.sizes();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            draining: shared.is_draining(),
            connections: shared.connections(),
            requests_open: metrics.requests_open.get(),
            tunnels_open: metrics.tunnels_open.get(),
            held: metrics.held_now.get(),
            cluster: shared.cluster().map(|cluster| cluster.to_string()),
            revision: shared.revision().0,
            loaded: shared.is_loaded(),
            synced: shared.is_synced(),
            feed_silence_seconds: metrics.feed_silence_seconds.get(),
            tenants,
            hosts,
            cells,
            refused: shared.refused.current(),
            drain: shared.drain(),
            predecessors: shared.predecessors.lock().clone(),
        }
    }
}

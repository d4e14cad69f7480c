//! Orders of moves: one task per order, for as long as the order stands.
//!
//! The stream says all orders of the cell each time. An order that is done is not done again while it stands; one
//! that is gone is stopped.

mod tasks;

use crate::disk::Disk;
use crate::driver::Driver;
use crate::facts::Facts;
use crate::gate::table::{Gate, GateTable};
use cellway_api::agent::{OrderDown, SourceDown};
use cellway_core::ids::{Epoch, HomeId, MoveId, Revision};
use cellway_core::tenant_move::{Order, Task};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// What orders act upon.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(crate) disk: Arc<Disk>,
    pub(crate) driver: Driver,
    pub(crate) table: Arc<GateTable>,
    pub(crate) facts: Arc<Facts>,
    pub(crate) orphans: Orphans,
    /// The newest list under which each home's last changes were fetched.
    pub(crate) reached: Arc<ReachedLists>,
    /// A test fault: fences are acknowledged without being taken.
    pub(crate) ignore_fences: bool,
}

/// Remembers at which epoch, and under which list of gates, each home was last brought to a position, so that an order
/// from a replica that is behind does not bring older changes over newer ones. The epoch tells moves apart: a home that
/// is kept for a move back is brought there by several, and need not have served in between.
#[derive(Debug, Default)]
pub(crate) struct ReachedLists(Mutex<BTreeMap<HomeId, (Epoch, Revision)>>);

impl ReachedLists {
    /// Homes that are remembered; the names of older ones sort anywhere, so all are forgotten at once.
    const HOMES_MAX: usize = 10_000;

    /// Whether nothing newer was seen for this home.
    pub(crate) fn is_newest(&self, home: &HomeId, epoch: Epoch, list: Revision) -> bool {
        let mut reached = self.0.lock();
        if reached.len() >= Self::HOMES_MAX {
            reached.clear();
        }
        let newest = reached.entry(home.clone()).or_insert((epoch, list));
        *newest = (epoch, list).max(*newest);
        *newest == (epoch, list)
    }
}

/// Whether requests of the run before may still be in the app, which nobody counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Orphans {
    gone_by: Option<Instant>,
}

impl Orphans {
    /// Read as the process starts: after a clean stop there are none.
    pub(crate) fn new(stopped_clean: bool, longest_request_ms: u64) -> Self {
        let gone_by = Instant::now() + Duration::from_millis(longest_request_ms);
        Self { gone_by: (!stopped_clean).then_some(gone_by) }
    }

    /// Until when there may be any; `None` when there are none.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.gone_by.filter(|gone_by| Instant::now() < *gone_by)
    }
}

/// The orders in force.
#[derive(Debug)]
pub(crate) struct Orders {
    means: Means,
    /// By the whole order, as text.
    standing: Mutex<BTreeMap<String, Standing>>,
}

#[derive(Debug)]
struct Standing {
    /// Stops the task when the order is gone.
    _task: Option<AbortOnDropHandle<()>>,
    /// What has to be taken back then.
    undo: Option<Undo>,
}

#[derive(Debug)]
enum Undo {
    Offer(MoveId, HomeId),
    Streams(Arc<Gate>),
}

impl Orders {
    pub(crate) fn new(means: Means) -> Self {
        Self { means, standing: Mutex::default() }
    }

    /// Takes the full list of orders.
    pub(crate) fn set(&self, orders: Vec<OrderDown>) {
        let Some(own) = self.means.table.own() else {
            return;
        };
        self.means.driver.note_orders(orders.iter().map(|order| order.move_id.as_str()));
        let mut before = std::mem::take(&mut *self.standing.lock());
        let mut after = BTreeMap::new();
        let mut fresh = Vec::new();
        for order in orders {
            let Ok(key) = serde_json::to_string(&order) else {
                continue;
            };
            if let Some(standing) = before.remove(&key) {
                after.insert(key, standing);
                continue;
            }
            let source = order.source.clone();
            match order.into_order(own) {
                Ok(order) => fresh.push((key, order, source)),
                Err(error) => tracing::error!(order = key, %error, "an illegal order is passed over"),
            }
        }
        let fences = |gate: &Gate| {
            fresh.iter().any(|(_, order, _)| order.tenant == *gate.tenant() && matches!(order.task, Task::Fence { .. }))
        };
        // What is gone is stopped before anything new begins. The fence that follows refuses streams all the more.
        for standing in before.into_values() {
            match &standing.undo {
                Some(Undo::Streams(gate)) if fences(gate) => {}
                _ => self.stop(standing),
            }
        }
        // Offers first: a position can only be taken of what is offered.
        fresh.sort_by_key(|(_, order, _)| !matches!(order.task, Task::Offer { .. }));
        for (key, order, source) in fresh {
            after.insert(key, self.begin(order, source));
        }
        *self.standing.lock() = after;
    }

    fn begin(&self, order: Order, source: Option<SourceDown>) -> Standing {
        tracing::info!(move_id = %order.move_id, tenant = %order.tenant, task = ?order.task, "order");
        let undo = match &order.task {
            Task::Offer { home, to } => {
                self.means.driver.offer(&order.move_id, &order.tenant, home, to);
                let undo = Undo::Offer(order.move_id.clone(), home.clone());
                return Standing { _task: None, undo: Some(undo) };
            }
            Task::CloseStreams { .. } => Some(Undo::Streams(self.means.table.entry(&order.tenant))),
            _ => None,
        };
        let task = tokio::spawn(tasks::carry_out(self.means.clone(), order, source));
        Standing { _task: Some(AbortOnDropHandle::new(task)), undo }
    }

    fn stop(&self, standing: Standing) {
        let Standing { _task: task, undo } = standing;
        drop(task);
        match undo {
            Some(Undo::Offer(move_id, home)) => self.means.driver.withdraw_offer(&move_id, &home),
            Some(Undo::Streams(gate)) => gate.allow_streams(),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_under_an_older_list_is_late() {
        let lists = ReachedLists::default();
        let (one, other) = ("m1".parse().expect("legal"), "m2".parse().expect("legal"));
        let reach = |home, list| lists.is_newest(home, Epoch(1), Revision(list));
        assert!(reach(&one, 3) && reach(&one, 3));
        assert!(reach(&one, 18));
        assert!(!reach(&one, 3));
        assert!(reach(&other, 3));
    }

    #[test]
    fn an_order_of_an_earlier_move_into_the_same_home_is_late() {
        let lists = ReachedLists::default();
        let home = "m1".parse().expect("legal");
        assert!(lists.is_newest(&home, Epoch(1), Revision(9)));
        assert!(lists.is_newest(&home, Epoch(3), Revision(9)));
        assert!(!lists.is_newest(&home, Epoch(1), Revision(9)));
    }
}

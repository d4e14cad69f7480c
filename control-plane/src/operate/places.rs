//! Places in cells that state a capacity: each is given once, however many ask for it at the same moment.
//!
//! Tenants are counted in the view; whoever gives a place writes `places/{cell}` in the same transaction, comparing that
//! nobody has since the view was read. So of two who counted the same, one fails and counts again. A move that is taken
//! back gets its place whatever the count is: its tenant must not be kept where it should not be.

use super::NotDone;
use crate::Replica;
use crate::view::View;
use cellway_core::ids::{CellName, Revision, TenantId};
use cellway_core::tenant_move::MoveRecord;
use cellway_store::records::{PlaceGiven, Record};
use cellway_store::{Compare, Txn, keys};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// The longest wait for a turn. Without one it is tried all the same: turns save lost compare-and-swaps, no more.
const TURN_WAIT_MS: u64 = 2_000;

/// How often a place is tried for. Each time that it is lost another was given, so it ends by itself where a cell is full.
pub(super) const ATTEMPTS_MAX: u32 = 32;

/// The most cells with a turn of their own; further ones share one.
const CELLS_MAX: usize = 4_096;

/// Lets this replica's givers of places of one cell go one after the other: each would make the others count again.
#[derive(Default)]
pub(crate) struct Turns(Mutex<BTreeMap<Option<CellName>, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn wait(&self, cell: Option<&CellName>) -> Option<OwnedMutexGuard<()>> {
        let turn = {
            let mut turns = self.0.lock();
            let own = cell.filter(|cell| turns.len() < CELLS_MAX || turns.contains_key(&Some((*cell).clone())));
            turns.entry(own.cloned()).or_default().clone()
        };
        tokio::time::timeout(Duration::from_millis(TURN_WAIT_MS), turn.lock_owned()).await.ok()
    }
}

impl Replica {
    /// The turn to give a place in `cell`, or in the cell that the planner will choose, where capacities are stated.
    pub(super) async fn turn_at(&self, cell: Option<&CellName>) -> Option<OwnedMutexGuard<()>> {
        let is_stated = {
            let view = self.view.read();
            match cell {
                Some(cell) => states_capacity(&view, cell),
                None => view.cells.keys().any(|cell| states_capacity(&view, cell)),
            }
        };
        if is_stated { self.turns.wait(cell).await } else { None }
    }

    /// When the place that was lost was given: the view must have that before tenants are counted again.
    pub(super) async fn given_at(&self, key: &str) -> Result<Revision, NotDone> {
        let (entry, _) = self.store.get(key).await.map_err(|error| NotDone::Unavailable(Some(error)))?;
        Ok(entry.map_or(Revision(0), |entry| entry.mod_revision))
    }
}

fn states_capacity(view: &View, cell: &CellName) -> bool {
    view.cells.get(cell).is_some_and(|at| at.value.capacity_tenants > 0)
}

/// The key of the place that a transaction gives, if it gives one.
pub(super) fn place_of(txn: &Txn) -> Option<String> {
    txn.compares.iter().map(Compare::key).find(|key| key.starts_with(keys::PLACES)).map(str::to_owned)
}

/// Adds what gives `tenant` a place in `cell`, for which there was room in `view`.
pub(super) fn with_place(txn: Txn, view: &View, cell: &CellName, tenant: &TenantId) -> Txn {
    let cell_at = view.cells.get(cell).map_or(Revision(0), |at| at.revision);
    let txn = txn.require_revision(keys::cell(cell), cell_at);
    if !states_capacity(view, cell) {
        return txn;
    }
    let key = keys::places(cell);
    let txn = match view.places.get(cell) {
        Some(given_at) => txn.require_revision(key.clone(), *given_at),
        None => txn.require_absent(key.clone()),
    };
    txn.put(key, PlaceGiven { tenant: tenant.clone() }.encode())
}

/// Adds what tells those who count at the same moment that a move back takes its place.
pub(super) fn with_place_anyway(txn: Txn, view: &View, back: &MoveRecord) -> Txn {
    if !states_capacity(view, &back.target.name) {
        return txn;
    }
    txn.put(keys::places(&back.target.name), PlaceGiven { tenant: back.tenant.clone() }.encode())
}

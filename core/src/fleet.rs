//! All that a planner may look at, at one revision: cells, how many tenants they hold, and the moves in flight.

use crate::cell::{Cell, CellRef};
use crate::ids::{CellName, Revision};
use crate::tenant_move::{MoveRecord, MoveState};
use std::collections::BTreeMap;

/// A cell with what is counted for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetCell {
    /// The cell.
    pub cell: Cell,
    /// Tenants placed in it, and those on their way to it.
    pub tenants: u32,
    /// Every registered gate instance has been heard lately, and there is at least one.
    pub reachable: bool,
}

/// The fleet at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fleet {
    /// When it was read.
    pub revision: Revision,
    /// By name.
    pub cells: BTreeMap<CellName, FleetCell>,
    /// Each move between its start and the target's first open gate, or its end. One that waits for that gate beyond its
    /// deadline is not counted.
    pub moves_in_flight: Vec<InFlight>,
}

/// A move that has a place among the budgets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    /// From where.
    pub source: CellRef,
    /// To where.
    pub target: CellRef,
    /// Its tenant may not be frozen yet: it will follow changes until a freeze window opens.
    pub waits_for_window: bool,
}

impl InFlight {
    /// What a move is counted as at `now_ms`.
    pub fn of(record: &MoveRecord, now_ms: u64) -> Self {
        let is_before_freeze = matches!(
            record.state,
            MoveState::Planned | MoveState::Preparing | MoveState::Copying(_) | MoveState::Syncing(_)
        );
        Self {
            source: record.source.clone(),
            target: record.target.clone(),
            waits_for_window: is_before_freeze && record.freeze_from_ms(now_ms) > now_ms,
        }
    }
}

/// How many moves may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveBudgets {
    /// Out of one cell.
    pub per_source: usize,
    /// Into one cell.
    pub per_target: usize,
    /// In the whole fleet.
    pub fleet: usize,
}

impl Default for MoveBudgets {
    fn default() -> Self {
        Self { per_source: 4, per_target: 4, fleet: 16 }
    }
}

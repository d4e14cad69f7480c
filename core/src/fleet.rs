//! All that a planner may look at, at one revision: cells, how many tenants they hold, and the moves in flight.

use crate::cell::{Cell, CellRef};
use crate::ids::{CellName, Revision};
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
    /// Source and target of each move between its start and the target's first open gate, or its end. One that waits for
    /// that gate beyond its deadline is not counted.
    pub moves_in_flight: Vec<(CellRef, CellRef)>,
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

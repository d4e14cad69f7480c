//! What is counted per cell. Bounded: a fleet of any size makes no more than so many series.

use std::collections::BTreeSet;

use cellway_core::ids::CellName;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec};

/// Cells that are counted by their names, those that are gone included; all others are counted together.
pub const COUNTED_CELLS_MAX: usize = 500;

/// The name under which all others are counted. No cell can have it.
const OTHERS: &str = "_others";

/// The counters of one cell.
#[derive(Debug, Clone)]
pub(crate) struct CellCounters {
    /// Answers that its apps gave.
    pub(crate) answers: IntCounter,
    /// Requests that were sent and have no answer.
    pub(crate) failures: IntCounter,
}

pub(crate) struct ByCell {
    answers: IntCounterVec,
    failures: IntCounterVec,
    named: Mutex<BTreeSet<CellName>>,
}

impl ByCell {
    /// Both have one label, the cell.
    pub(super) fn new(answers: IntCounterVec, failures: IntCounterVec) -> Self {
        Self { answers, failures, named: Mutex::default() }
    }

    /// The counters of a cell. They are kept with the cell: looking them up is not for every request.
    pub(crate) fn of(&self, cell: &CellName) -> CellCounters {
        let mut named = self.named.lock();
        if named.len() < COUNTED_CELLS_MAX && !named.contains(cell) {
            named.insert(cell.clone());
        }
        let label = if named.contains(cell) { cell.as_str() } else { OTHERS };
        CellCounters {
            answers: self.answers.with_label_values(&[label]),
            failures: self.failures.with_label_values(&[label]),
        }
    }
}

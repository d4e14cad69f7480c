//! The planner: which cell a tenant should be in, and whether a move may start now.

use crate::cell::{CellCondition, CellKind, CellRef};
use crate::fleet::{Fleet, FleetCell, InFlight, MoveBudgets};
use crate::freeze_window::weekday_time;
use crate::ids::CellName;
use crate::tenant_move::MoveRecord;

/// Why no cell, or not this one, can take a tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// There is no such cell.
    #[error("there is no cell {0:?}: `cellway cell list` shows the ones there are")]
    Unknown(CellName),
    /// Its condition forbids it.
    #[error("cell {cell} is {condition}: it takes nobody new", condition = .condition.as_str())]
    NotOpen {
        /// The cell.
        cell: CellName,
        /// Its condition.
        condition: CellCondition,
    },
    /// It holds as many tenants as it should.
    #[error(
        "cell {cell} is full: its capacity of {capacity} tenants is used, those on their way to it included; name another cell (`cellway cell list` shows which has room), or move a tenant out first"
    )]
    Full {
        /// The cell.
        cell: CellName,
        /// Its capacity.
        capacity: u32,
    },
    /// No open cell has room.
    #[error("no open cell has room: add one, or raise a capacity")]
    Nowhere,
}

/// Whether `cell` may take one more tenant.
pub fn check_room(fleet: &Fleet, cell: &CellName) -> Result<CellRef, NoPlace> {
    let found = fleet.cells.get(cell).ok_or_else(|| NoPlace::Unknown(cell.clone()))?;
    if found.cell.condition != CellCondition::Open {
        return Err(NoPlace::NotOpen { cell: cell.clone(), condition: found.cell.condition });
    }
    if !has_room(found) {
        return Err(NoPlace::Full { cell: cell.clone(), capacity: found.cell.capacity_tenants });
    }
    Ok(found.cell.cell.clone())
}

/// The open, reachable cell with the smallest share of its capacity in use; ties go to the first name.
///
/// Plain origins are never chosen: a tenant goes there only by an operator's word, for it cannot leave by itself.
pub fn choose_cell(fleet: &Fleet) -> Result<CellRef, NoPlace> {
    let takes = |found: &&FleetCell| {
        found.cell.condition == CellCondition::Open
            && found.cell.kind == CellKind::Agent
            && found.reachable
            && has_room(found)
    };
    let fullness = |found: &&FleetCell| {
        let capacity = match found.cell.capacity_tenants {
            0 => u64::from(u32::MAX),
            stated => u64::from(stated),
        };
        (u64::from(found.tenants) * u64::from(u32::MAX)) / capacity
    };
    fleet.cells.values().filter(takes).min_by_key(fullness).map(|found| found.cell.cell.clone()).ok_or(NoPlace::Nowhere)
}

fn has_room(found: &FleetCell) -> bool {
    found.cell.capacity_tenants == 0 || found.tenants < found.cell.capacity_tenants
}

/// Why a planned move waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// It was undone because its hold took too long, and waits before the next attempt.
    #[error("attempt {attempt} begins in {wait_ms} ms: requests took too long to finish in the one before")]
    BackingOff {
        /// Which attempt.
        attempt: u32,
        /// How long it still waits.
        wait_ms: u64,
    },
    /// The emergency brake is on.
    #[error("the emergency brake is on")]
    Brake,
    /// A registered gate instance of the source is not to be reached, so the source could not be fenced.
    #[error("not every registered gate of {0} is reachable, so it could not be fenced")]
    SourceUnreachable(CellName),
    /// No gate of the target is to be reached.
    #[error("no gate of {0} is reachable")]
    TargetUnreachable(CellName),
    /// The target does not take tenants.
    #[error("cell {0} is not open")]
    TargetNotOpen(CellName),
    /// As many moves leave the source as may.
    #[error("{count} moves are leaving {cell} already")]
    SourceBusy {
        /// The source.
        cell: CellName,
        /// Moves in flight.
        count: usize,
    },
    /// As many moves go to the target as may.
    #[error("{count} moves are going to {cell} already")]
    TargetBusy {
        /// The target.
        cell: CellName,
        /// Moves in flight.
        count: usize,
    },
    /// It would only wait for its freeze window, as half of those in flight do.
    #[error("its freeze window opens {}, and as many moves as may wait for theirs already", weekday_time(*.opens_ms))]
    Window {
        /// When it opens.
        opens_ms: u64,
    },
    /// As many moves are in flight as may.
    #[error("{0} moves are in flight already")]
    FleetBusy(usize),
}

/// Whether a planned move may start.
pub fn may_start(
    fleet: &Fleet,
    budgets: &MoveBudgets,
    brake: bool,
    record: &MoveRecord,
    now_ms: u64,
) -> Result<(), NotYet> {
    if brake {
        return Err(NotYet::Brake);
    }
    if now_ms < record.not_before_ms {
        return Err(NotYet::BackingOff { attempt: record.attempt, wait_ms: record.not_before_ms - now_ms });
    }
    let cell = |wanted: &CellRef| fleet.cells.get(&wanted.name).filter(|found| found.cell.cell == *wanted);
    if !cell(&record.source).is_some_and(|source| source.reachable) {
        return Err(NotYet::SourceUnreachable(record.source.name.clone()));
    }
    match cell(&record.target) {
        Some(target) if target.cell.condition != CellCondition::Open => {
            return Err(NotYet::TargetNotOpen(record.target.name.clone()));
        }
        Some(target) if target.reachable => {}
        _ => return Err(NotYet::TargetUnreachable(record.target.name.clone())),
    }
    let count = |which: &dyn Fn(&InFlight) -> bool| fleet.moves_in_flight.iter().filter(|one| which(one)).count();
    let leaving = count(&|one| one.source == record.source);
    if leaving >= budgets.per_source {
        return Err(NotYet::SourceBusy { cell: record.source.name.clone(), count: leaving });
    }
    let coming = count(&|one| one.target == record.target);
    if coming >= budgets.per_target {
        return Err(NotYet::TargetBusy { cell: record.target.name.clone(), count: coming });
    }
    let all = fleet.moves_in_flight.len();
    if all >= budgets.fleet {
        return Err(NotYet::FleetBusy(all));
    }
    check_window(fleet, budgets, record, now_ms)
}

/// Those that will have to wait for a freeze window get half of the places at most: the others are for moves that can go
/// through.
fn check_window(fleet: &Fleet, budgets: &MoveBudgets, record: &MoveRecord, now_ms: u64) -> Result<(), NotYet> {
    let opens_ms = record.freeze_from_ms(now_ms);
    if opens_ms <= now_ms {
        return Ok(());
    }
    let waiting = |which: &dyn Fn(&InFlight) -> bool| {
        fleet.moves_in_flight.iter().filter(|one| one.waits_for_window && which(one)).count()
    };
    let has_place = waiting(&|one| one.source == record.source) < budgets.per_source / 2
        && waiting(&|one| one.target == record.target) < budgets.per_target / 2
        && waiting(&|_| true) < budgets.fleet / 2;
    if has_place { Ok(()) } else { Err(NotYet::Window { opens_ms }) }
}

#[cfg(test)]
mod tests;

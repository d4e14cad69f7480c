//! The promises: what no state may break, and what has to stay reachable from every state.

use crate::intern::NONE;
use crate::mutation::Rule;
use crate::state::{Life, REPLACED, State};
use crate::world::World;
use cellway_core::tenant_move::{MoveState, placement_of};

/// What has to stay reachable, whatever has gone wrong.
pub(crate) const REACHABLE: [&str; 2] = ["every_move_can_end", "the_tenant_can_be_served"];

impl World {
    /// Whether a move has the lock and is as far as `word` says.
    pub fn is_at(&self, state: &State, word: &str) -> bool {
        state.lock.is_some_and(|slot| self.records.get(state.moves[usize::from(slot)]).state.as_str() == word)
    }

    /// Whether the write that is followed was acknowledged.
    pub fn is_written(&self, state: &State) -> bool {
        state.written
    }

    /// Whether a gate of the n-th cell is open.
    pub fn is_served_by(&self, state: &State, cell: usize) -> bool {
        self.of_cell(cell).any(|at| self.gates.get(state.instances[at].gate).open_at().is_some())
    }

    /// The first promise that the state breaks, of those that are looked at.
    pub(crate) fn broken_promise(&self, state: &State) -> Option<&'static str> {
        let is_sought = |promise: &&'static str| self.sought.is_none_or(|sought| sought == *promise);
        let served_twice = || (self.serving_cells(state) > 1).then_some("no_two_cells_serve_one_tenant");
        state
            .flaw
            .filter(is_sought)
            .or_else(|| served_twice().filter(is_sought))
            .or_else(|| self.broken_by_data(state).filter(is_sought))
            .or_else(|| self.broken_by_release(state).filter(is_sought))
            .or_else(|| self.broken_by_record(state).filter(is_sought))
            .or_else(|| self.broken_by_reuse(state).filter(is_sought))
    }

    /// No placement ever names the new cell.
    fn broken_by_reuse(&self, state: &State) -> Option<&'static str> {
        let opens = |at: usize| self.is_of_new_cell(at) && self.gates.get(state.instances[at].gate).open_at().is_some();
        self.instances().any(opens).then_some("a_reused_name_meets_no_old_data")
    }

    fn broken_by_record(&self, state: &State) -> Option<&'static str> {
        let record = self.records.get(state.moves[usize::from(state.lock?)]);
        if placement_of(&record) != *self.placement(state) && !self.is(Rule::HoldInOneWrite) {
            return Some("the_placement_is_what_the_move_says");
        }
        let taken_over = matches!(record.state, MoveState::Switched | MoveState::Settling);
        let has_to = self.config.back && taken_over && state.left.moves > 0;
        let cannot = has_to && self.takes_back(state, &self.fresh_view(state)).is_none();
        cannot.then_some("a_move_can_be_taken_back_at_once")
    }

    /// Cells in which a gate is open or a request runs.
    fn serving_cells(&self, state: &State) -> usize {
        let serves = |at: usize| {
            let one = &state.instances[at];
            let writes = |file| {
                file != REPLACED && self.data.get(state.data[self.cell_of[at]]).is_writable(&self.homes.get(file))
            };
            let orphan = one.orphan != NONE && writes(one.orphan);
            if !matches!(one.life, Life::Up | Life::Leaving) {
                return orphan;
            }
            let gate = self.gates.get(one.gate);
            // Who is said to be dead but lives can be stopped by a data fence alone: then what counts is who can write.
            let only_writes = self.config.fences && self.is(Rule::DeathIsTrue);
            let runs = match only_writes {
                true => {
                    gate.placement().is_some_and(|seen| {
                        gate.open_at().is_some() && self.data.get(state.data[self.cell_of[at]]).is_writable(&seen.home)
                    }) || (one.file != NONE && writes(one.file))
                }
                false => gate.open_at().is_some() || gate.admitted() != (0, 0),
            };
            orphan || runs
        };
        (0..self.cells.len()).filter(|cell| self.of_cell(*cell).any(serves)).count()
    }

    fn broken_by_data(&self, state: &State) -> Option<&'static str> {
        let placement = self.placement(state);
        let owner = self.cell(&placement.cell);
        let data = self.data.get(state.data[owner]);
        let home = data.homes.get(&placement.home);
        if home.is_none_or(|home| home.dropped) {
            return Some("a_serving_copy_is_never_dropped");
        }
        if home.is_some_and(|home| !home.made || (state.written && !home.has_write)) {
            return Some("no_acknowledged_write_is_lost");
        }
        None
    }

    fn broken_by_release(&self, state: &State) -> Option<&'static str> {
        if !self.config.fences || self.is(Rule::DeathIsTrue) {
            return None;
        }
        let unreleased = |at: usize| {
            let one = &state.instances[at];
            let gate = self.gates.get(one.gate);
            let data = self.data.get(state.data[self.cell_of[at]]);
            one.life == Life::Up
                && gate.open_at().is_some()
                && gate
                    .placement()
                    .is_some_and(|seen| !data.homes.get(&seen.home).is_some_and(|home| home.is_released()))
        };
        self.instances().any(unreleased).then_some("an_open_gate_has_its_data")
    }

    /// No gate of the owner is left that could ever open.
    fn owner_is_lost(&self, state: &State) -> bool {
        let owner = self.cell(&self.placement(state).cell);
        let may_open = |at: usize| matches!(state.instances[at].life, Life::Up | Life::Down | Life::Unborn);
        !self.of_cell(owner).any(|at| may_open(at) && !self.is_of_new_cell(at))
    }

    pub(crate) fn fulfilled(&self, state: &State) -> u8 {
        let lost = self.owner_is_lost(state);
        let record = state.lock.map(|slot| self.records.get(state.moves[usize::from(slot)]));
        let is_switched = record.is_some_and(|record| record.state == MoveState::Switched);
        // A move back may still end it, if the bounds allow one.
        let excused = lost && is_switched && (state.left.moves == 0 || !self.config.back);
        let can_end = state.lock.is_none() || excused;
        let placement = self.placement(state);
        let owner = self.cell(&placement.cell);
        let is_open = |at: usize| {
            let one = &state.instances[at];
            one.life == Life::Up && self.gates.get(one.gate).open_at() == Some(placement.epoch)
        };
        let served = state.lock.is_none() && placement.hold.is_none() && self.of_cell(owner).any(is_open);
        u8::from(can_end) | u8::from(served || lost) << 1
    }
}

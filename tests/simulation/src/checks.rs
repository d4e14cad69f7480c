//! What must hold after every step, and at the end.

use crate::agent::Fate;
use crate::store::View;
use crate::world::{LIVENESS_LIMIT_MS, World, note};
use cellway_core::ids::{Epoch, HomeId, MoveId};
use cellway_core::tenant_move::{HoldingStage, MoveState, check_step, placement_of};
use std::collections::BTreeSet;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub promise: &'static str,
    /// What was seen.
    pub what: String,
}

/// What a run came to: so that a test can tell that its seeds go where they should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the whole sentence")]
pub struct Stats {
    pub events: u64,
    pub acknowledged: u64,
    pub admitted: u64,
    pub writes_refused: u64,
    pub moves_done: u64,
    pub moves_undone_before_the_hold: u64,
    pub moves_undone_after_the_hold: u64,
    pub moves_reversed: u64,
    pub retries: u64,
    pub lists_read_again: u64,
    pub positions_thrown_away: u64,
    pub conflicts: u64,
    pub refused: u64,
    pub late_orders: u64,
    pub drops: u64,
    pub orphans: u64,
    pub waits_for_orphans: u64,
    pub early_data_fences: u64,
    pub opened: u64,
    pub opened_from_disk: u64,
    pub hints: u64,
    pub held: u64,
    pub left_switched: u64,
}

impl World {
    /// After every event.
    pub(crate) fn check(&mut self) {
        self.check_one_cell_serves();
        if self.plan.fenced_data && !self.plan.lagging_lists {
            self.check_open_gates_have_their_data();
        }
    }

    fn check_one_cell_serves(&mut self) {
        let mut serving = BTreeSet::new();
        for one in &self.instances {
            if let Some(process) = &one.process
                && (process.gate.open_at().is_some() || process.gate.admitted() != (0, 0))
            {
                serving.insert(one.cell);
            }
        }
        for request in self.running.values().filter(|request| request.orphan) {
            let cell = self.instances[request.instance].cell;
            let writes = request.file.as_ref().is_some_and(|file| self.cells[cell].data.is_writable(file));
            if writes {
                serving.insert(cell);
            }
        }
        if serving.len() > 1 {
            let names: Vec<String> = serving.iter().map(|cell| self.cells[*cell].own.name.to_string()).collect();
            self.broke("no_two_cells_serve_one_tenant", format!("these serve: {}", names.join(", ")));
        }
    }

    fn check_open_gates_have_their_data(&mut self) {
        for at in 0..self.instances.len() {
            let one = &self.instances[at];
            let Some(open) = one.process.as_ref().and_then(|process| process.gate.open_at()) else { continue };
            let data = &self.cells[one.cell].data;
            let released =
                data.live.as_ref().and_then(|live| data.homes.get(live)).is_some_and(|home| home.is_released());
            if !released {
                let what = format!("{} is open at {open}, but its data is not released", one.id);
                self.broke("an_open_gate_has_its_data", what);
            }
        }
    }

    /// After every commit.
    pub(crate) fn check_commit(&mut self, before: &View) {
        let after = self.truth();
        for record in after.moves() {
            let Some((was, _)) = before.a_move(&record.id) else { continue };
            if was == record {
                continue;
            }
            note!(self, "{}: {} ▶ {} ({})", record.id, shown(&was.state), shown(&record.state), after.revision);
            if let Err(what) = check_step(was, record) {
                self.broke("check_step", format!("{}: {what}", record.id));
            }
            self.count(&was.state, &record.state);
            self.tempt_fate();
        }
        self.check_placement(before, &after);
    }

    fn check_placement(&mut self, before: &View, after: &View) {
        let Some((placement, _)) = after.placement() else { return };
        if let Some((was, _)) = before.placement() {
            if placement.epoch < was.epoch {
                self.broke("check_step", format!("the epoch went from {} to {}", was.epoch, placement.epoch));
            }
            if placement != was {
                let hold = if placement.hold.is_some() { ", held" } else { "" };
                let (cell, epoch, home) = (&placement.cell.name, placement.epoch, &placement.home);
                note!(self, "placement: {cell} at {epoch}, home {home}{hold} ({})", after.revision);
                self.check_all_acknowledged();
            }
        }
        if let Some((id, _)) = after.moving()
            && after.a_move(id).is_none_or(|(record, _)| placement_of(record) != *placement)
        {
            self.broke("check_step", format!("the placement is not what {id} says"));
        }
    }

    fn count(&mut self, was: &MoveState, is: &MoveState) {
        match (was, is) {
            (MoveState::Holding(was), MoveState::Holding(is)) if was.list != is.list && was.list.is_some() => {
                self.stats.lists_read_again += 1;
                if was.stage == HoldingStage::Last {
                    self.stats.positions_thrown_away += 1;
                }
            }
            (_, MoveState::Done(done)) if done.reversed_by.is_some() => self.stats.moves_reversed += 1,
            (_, MoveState::Done(_)) => self.stats.moves_done += 1,
            (_, MoveState::Undone(undone)) => {
                self.stats.retries += u64::from(undone.retried_by.is_some());
                self.stats.moves_undone_after_the_hold += u64::from(undone.held);
                self.stats.moves_undone_before_the_hold += u64::from(!undone.held);
            }
            _ => {}
        }
    }

    /// The owner's copy, as the store says it.
    fn owned(&self) -> Option<(usize, HomeId)> {
        let truth = self.truth();
        let (placement, _) = truth.placement()?;
        Some((self.cell_index(&placement.cell)?, placement.home.clone()))
    }

    fn content(&self, cell: usize, home: &HomeId) -> &[u64] {
        self.cells[cell].data.homes.get(home).map_or(&[], |home| &home.content)
    }

    pub(crate) fn check_acknowledged(&mut self, write: u64) {
        let Some((cell, home)) = self.owned() else { return };
        if !self.content(cell, &home).contains(&write) {
            let what = format!("write {write} is not in {home} of cell {}", self.cells[cell].own.name);
            self.broke("no_acknowledged_write_is_lost", what);
        }
    }

    pub(crate) fn check_all_acknowledged(&mut self) {
        let Some((cell, home)) = self.owned() else { return };
        let there: BTreeSet<u64> = self.content(cell, &home).iter().copied().collect();
        let lost: Vec<u64> = self.acknowledged.iter().filter(|write| !there.contains(write)).copied().collect();
        if !lost.is_empty() {
            let what = format!("writes {lost:?} are not in {home} of cell {}", self.cells[cell].own.name);
            self.broke("no_acknowledged_write_is_lost", what);
        }
    }

    pub(crate) fn check_install(&mut self, cell: usize, home: &HomeId, id: &MoveId) {
        if self.owned() == Some((cell, home.clone())) {
            note!(self, "{id} came into the home that serves");
            self.check_all_acknowledged();
        }
    }

    pub(crate) fn check_drop(&mut self, cell: usize) {
        let Some((owner, home)) = self.owned() else { return };
        if owner == cell && self.cells[cell].data.position(&home).is_none() {
            let what = format!("{home} of cell {} is dropped, but serves", self.cells[cell].own.name);
            self.broke("a_serving_copy_is_never_dropped", what);
        }
    }

    /// What an order of an ended move must leave alone at this instance: its open gate, the app's way to the data, and
    /// the data.
    pub(crate) fn served(&self, instance: usize) -> Option<(Option<Epoch>, Option<HomeId>, usize)> {
        let truth = self.truth();
        let (placement, _) = truth.placement()?;
        let cell = self.instances[instance].cell;
        let open_at = |at: usize| self.instances[at].process.as_ref().and_then(|process| process.gate.open_at());
        let mut gates = (0..self.instances.len()).filter(|at| self.instances[*at].cell == cell);
        let is_served = self.cells[cell].own == placement.cell && gates.any(|at| open_at(at) == Some(placement.epoch));
        let open = open_at(instance).filter(|open| *open == placement.epoch);
        is_served.then(|| (open, self.cells[cell].data.live.clone(), self.content(cell, &placement.home).len()))
    }

    /// Whether the run is over; past its limit that is a violation.
    pub(crate) fn is_over(&mut self) -> bool {
        let Some(quiet_ms) = self.quiet_since_ms else { return false };
        let truth = self.truth();
        let running = truth.running().next();
        let owner = truth.placement().and_then(|(placement, _)| self.cell_index(&placement.cell));
        let alive = |one: &crate::agent::Instance| Some(one.cell) == owner && one.fate == Fate::Alive;
        let owner_lives = self.instances.iter().any(alive);
        if running.is_none() && truth.moving().is_none() {
            let had = *self.ended_with.get_or_insert(self.acknowledged.len());
            if self.acknowledged.len() > had + 1 || !owner_lives {
                return true;
            }
        }
        if self.now_ms < quiet_ms + LIVENESS_LIMIT_MS {
            return false;
        }
        let what = match running {
            Some(record) if record.state == MoveState::Switched && !owner_lives => {
                self.stats.left_switched += 1;
                return true;
            }
            Some(record) => format!("{} is still {}", record.id, shown(&record.state)),
            None => "all moves have ended, but nobody serves the tenant".to_owned(),
        };
        self.broke("every_move_ends", what);
        true
    }
}

fn shown(state: &MoveState) -> String {
    match state {
        MoveState::Holding(holding) => {
            let list = holding.list.as_ref().map(|list| list.revision.0);
            format!("holding {:?}, list {list:?}, fenced {:?}", holding.stage, holding.fenced)
        }
        MoveState::Undoing(undoing) => format!("undoing ({}, held: {})", undoing.reason, undoing.held),
        other => other.as_str().to_owned(),
    }
}

//! What agents do on orders: any that was ever given to their cell, at any time, as often as they like.

use crate::data::{Data, position};
use crate::instances::Deed;
use crate::intern::{Id, NONE};
use crate::mutation::Rule;
use crate::state::{Life, REPLACED, State};
use crate::world::{Action, World};
use cellway_core::ids::{Epoch, HomeId, MoveId, Revision};
use cellway_core::tenant_move::{
    Fact, FenceReport, MoveRecord, Order, Position, PositionReport, ReachReport, Task, Witness,
};
use std::sync::Arc;

impl World {
    pub(crate) fn agents_obey(&self, state: &State, into: &mut Vec<(Action, State)>) {
        for id in self.sets.members(state.orders).iter() {
            let order = self.orders.get(*id);
            let obeys = |at: &usize| state.instances[*at].life == Life::Up && self.uid_of(*at) == order.cell.uid;
            for at in self.of_cell(self.cell(&order.cell)).filter(obeys) {
                match &order.task {
                    Task::Fence { epoch, cut: _ } => {
                        into.extend(self.fences(state, at, *epoch).map(|after| (Action::Fences(at, *id), after)));
                        let acknowledged = self.acknowledges(state, at, &order, *epoch);
                        into.extend(acknowledged.map(|after| (Action::Acknowledges(at, *id), after)));
                    }
                    Task::FenceData { home, epoch, list } => {
                        let done = self.fences_data(state, at, &order, (home, *epoch), *list);
                        into.extend(done.map(|after| (Action::FencesData(at, *id), after)));
                    }
                    Task::Reach { .. } => {
                        into.extend(self.reaches(state, at, &order).map(|after| (Action::Reaches(at, *id), after)));
                    }
                    Task::Drop { home } => {
                        into.extend(self.drops(state, at, home).map(|after| (Action::Drops(at, *id), after)));
                    }
                    Task::Prepare { .. }
                    | Task::Offer { .. }
                    | Task::Copy { .. }
                    | Task::Follow { .. }
                    | Task::Watch { .. }
                    | Task::CloseStreams { .. }
                    | Task::Open { .. }
                    | Task::Reverse { .. } => {}
                }
            }
        }
    }

    pub(crate) fn witness(&self, order: &Order, at: usize) -> Witness {
        Witness { move_id: order.move_id.clone(), cell: self.uid_of(at), instance: self.names[at].clone() }
    }

    /// A fact of a move that has ended is refused by everybody, and not kept.
    fn stated(&self, mut after: State, before: &State, fact: Fact) -> Option<State> {
        if self.facts_outlive_moves() || fact.witness().is_some_and(|by| self.is_running(before, &by.move_id)) {
            after.facts = self.sets.with(after.facts, self.facts.id(fact));
        }
        (after != *before).then_some(after)
    }

    pub(crate) fn facts_outlive_moves(&self) -> bool {
        self.is(Rule::FactsQuoteMove) || self.is(Rule::CompareLock) || self.is(Rule::CompareRecord)
    }

    fn record_of(&self, state: &State, id: &MoveId) -> Option<(usize, Arc<MoveRecord>)> {
        let known = state.moves.iter().enumerate().filter(|(_, record)| **record != NONE);
        let mut records = known.map(|(slot, record)| (slot, self.records.get(*record)));
        records.find(|(_, record)| record.id == *id)
    }

    fn is_running(&self, state: &State, id: &MoveId) -> bool {
        self.record_of(state, id).is_some_and(|(_, record)| !record.state.is_last())
    }

    pub(crate) fn data_of(&self, state: &State, cell: usize) -> Data {
        Data::clone(&self.data.get(state.data[cell]))
    }

    /// On disk, then in force.
    fn fences(&self, state: &State, at: usize, epoch: Epoch) -> Option<State> {
        let one = state.instances[at];
        let fenced = self.deed(one.gate, Deed::Fence(epoch))?;
        let is_new = self.gates.get(one.gate).fence_is_new(epoch);
        if fenced == one.gate && !is_new {
            return None;
        }
        let mut after = state.clone();
        if is_new && !self.is(Rule::FenceIsDurable) {
            after.instances[at].fence = one.fence.max(Some(epoch));
        }
        after.instances[at].gate = fenced;
        Some(after)
    }

    /// In force and drained, with nothing that a crash left in the app: only then it is said.
    fn acknowledges(&self, state: &State, at: usize, order: &Order, epoch: Epoch) -> Option<State> {
        let one = state.instances[at];
        let gate = self.gates.get(one.gate);
        let in_force = self.is(Rule::AckWhenDrained) && gate.highest_fence().is_some_and(|fence| fence >= epoch);
        if !gate.is_drained(epoch) && !in_force {
            return None;
        }
        let mut after = state.clone();
        if one.orphan != NONE && !self.is(Rule::OrphansWaitedFor) {
            // A data fence proves that none of it writes. An instance that shares its files never asks for one.
            let cell = self.cell_of[at];
            let home = gate.placement().filter(|placement| placement.cell == self.cells[cell])?.home.clone();
            let mut data = self.data_of(state, cell);
            if !self.config.fences || self.of_cell(cell).count() > 1 || data.fence(&home, epoch, true).is_err() {
                return None;
            }
            after.data[cell] = self.data.id(data);
        }
        self.stated(after, state, Fact::Fenced(FenceReport { by: self.witness(order, at), epoch, cut_requests: 0 }))
    }

    fn fences_data(
        &self,
        state: &State,
        at: usize,
        order: &Order,
        (home, epoch): (&HomeId, Epoch),
        list: Revision,
    ) -> Option<State> {
        let mut after = state.clone();
        let mut data = self.data_of(state, self.cell_of[at]);
        data.fence(home, epoch, !self.is(Rule::DataFenceHasEpoch)).ok()?;
        let position = data.position(home)?;
        after.data[self.cell_of[at]] = self.data.id(data);
        // Whichever instance says it: the record asks for the cell alone.
        let first = self.of_cell(self.cell_of[at]).next()?;
        let by = self.witness(order, first);
        self.stated(after, state, Fact::Positioned(PositionReport { by, epoch, list, position }))
    }

    /// The target fetches what the position stands for. While the move runs the source may have kept it in that form;
    /// afterwards it offers, at the most, what it has now.
    fn reaches(&self, state: &State, at: usize, order: &Order) -> Option<State> {
        let Task::Reach { home, from, epoch, list, position: wanted } = &order.task else { return None };
        let (slot, record) = self.record_of(state, &order.move_id)?;
        let (cell, source) = (self.cell_of[at], self.cell(&record.source));
        let known = state.instances[at].reached.filter(|(of, _)| usize::from(*of) == slot);
        if known.is_some_and(|(_, newest)| newest > *list) && !self.is(Rule::ReachKnowsNewest) {
            return None;
        }
        let mut after = state.clone();
        after.instances[at].reached = Some((slot as u8, *list));
        let is_kept = !record.state.is_last() || self.is(Rule::OffersEnd);
        let is_offered = is_kept || self.data_of(state, source).position(from).as_ref() == Some(wanted);
        let mut data = self.data_of(state, cell);
        let mut has_write = *wanted == position(true);
        if self.is(Rule::BackBringsAll) && record.keeps_target_home {
            has_write = data.homes.get(home).is_some_and(|row| row.has_write);
        }
        let above = Some(*epoch).filter(|_| !self.is(Rule::ReachQuotesEpoch));
        let source_answers = is_offered && self.of_cell(source).any(|at| state.instances[at].life == Life::Up);
        if !source_answers || data.install(home, has_write, above).is_err() {
            return (after != *state).then_some(after);
        }
        after.data[cell] = self.data.id(data);
        self.replace_file(&mut after, cell, self.homes.id(home.clone()));
        let by = self.witness(order, self.of_cell(cell).next()?);
        let position = Position::clone(wanted);
        self.stated(after, state, Fact::Reached(ReachReport { by, list: *list, position }))
    }

    /// Who has the old file open writes to nothing from now on.
    fn replace_file(&self, state: &mut State, cell: usize, home: Id) {
        for at in self.of_cell(cell) {
            let one = &mut state.instances[at];
            for file in [&mut one.file, &mut one.orphan] {
                if *file == home {
                    *file = REPLACED;
                }
            }
        }
    }

    fn drops(&self, state: &State, at: usize, home: &HomeId) -> Option<State> {
        let cell = self.cell_of[at];
        let mut data = self.data_of(state, cell);
        let gate = self.gates.get(state.instances[at].gate);
        let named = gate.placement().filter(|placement| placement.cell == self.cells[cell]);
        if self.is(Rule::DropNamesHome) {
            data.drop_tenant();
        } else if named.is_some_and(|named| named.home == *home) || data.drop_home(home).is_err() {
            return None;
        }
        let mut after = state.clone();
        after.data[cell] = self.data.id(data);
        (after != *state).then_some(after)
    }
}

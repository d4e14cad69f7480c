//! Steps around a move, and those that only a broken rule allows: one of them in a run.

use crate::data::{Data, Home};
use crate::intern::NONE;
use crate::mutation::Rule;
use crate::state::{Life, State};
use crate::world::{Action, World, named};
use cellway_core::admission::TenantGate;
use cellway_core::ids::{Epoch, HomeId};
use cellway_core::tenant::Placement;

impl World {
    pub(crate) fn tricks(&self, state: &State, into: &mut Vec<(Action, State)>) {
        if state.left.tricks == 0 {
            return;
        }
        let begun = into.len();
        for at in self.instances().filter(|at| self.is_listed(state, *at)) {
            if !matches!(state.instances[at].life, Life::Up | Life::Down) {
                continue;
            }
            if self.is(Rule::ListIgnoresTime) {
                into.push((Action::Tricks("a lease runs out"), self.unlists(state, at)));
            }
            if self.is(Rule::DeathIsTrue) {
                into.push((Action::Tricks("a living instance is said to be dead"), self.unlists(state, at)));
            }
            if self.is(Rule::IdsAreNew) && state.left.exits < self.config.exits {
                into.push((Action::Tricks("a late word that an instance left"), self.unlists(state, at)));
            }
        }
        if self.config.again {
            into.extend(
                self.made_again(state).map(|after| (Action::Tricks("the tenant is deleted and made again"), after)),
            );
        }
        if self.config.reused {
            into.extend(
                self.reused(state)
                    .map(|after| (Action::Tricks("the second cell is retired and its name used again"), after)),
            );
        }
        into[begun..].iter_mut().for_each(|(_, after)| after.left.tricks -= 1);
    }

    /// Deleting fences the tenant where it is; what is made then has the old id and nothing else of it.
    fn made_again(&self, state: &State) -> Option<State> {
        let placement = self.placement(state);
        let owner = self.cell(&placement.cell);
        let rests = |at: usize| {
            let one = &state.instances[at];
            one.life != Life::Down && one.life != Life::Leaving && one.file == NONE && one.orphan == NONE
        };
        if state.lock.is_some() || !self.of_cell(owner).all(rests) {
            return None;
        }
        let mut after = state.clone();
        for at in self.of_cell(owner).filter(|at| state.instances[*at].life == Life::Up) {
            let mut gate = TenantGate::clone(&self.gates.get(state.instances[at].gate));
            gate.fence(placement.epoch);
            after.instances[at].fence = gate.highest_fence();
            after.instances[at].gate = self.gates.id(gate);
        }
        let home: HomeId = named("again");
        let mut data = self.data_of(state, 0);
        data.homes.insert(home.clone(), Home { made: true, ..Home::default() });
        after.data[0] = self.data.id(data);
        after.written = false;
        let epoch = if self.is(Rule::EpochsGoOn) { Epoch(1) } else { placement.epoch.next() };
        self.place(&mut after, Placement { cell: self.cells[0].clone(), epoch, home, hold: None });
        Some(after)
    }

    /// All instances of the second cell are gone, and so is its data: a new cell gets its name.
    fn reused(&self, state: &State) -> Option<State> {
        let gone =
            |at: usize| self.is_of_new_cell(at) || matches!(state.instances[at].life, Life::Destroyed | Life::Left);
        let unused = state.lock.is_none() && self.placement(state).cell != self.cells[1];
        if !self.of_cell(1).all(gone) || (!unused && !self.is(Rule::RetiredWhenUnused)) {
            return None;
        }
        let mut after = state.clone();
        after.data[1] = self.data.id(Data { fences: self.config.fences, ..Data::default() });
        self.relist(&mut after, 1, |_| 0);
        Some(after)
    }
}

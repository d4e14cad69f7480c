//! What happens to gate instances by themselves: they join, crash, start, leave, learn of placements, and serve.

use crate::intern::{Id, NONE};
use crate::mutation::Rule;
use crate::state::{File, Instance, Life, REPLACED, State, Stood};
use crate::world::{Action, World};
use cellway_core::admission::{Opening, Registration, RequestKind, TenantGate};
use cellway_core::ids::{Epoch, Revision};
use cellway_core::tenant::PlacementRecord;
use std::sync::PoisonError;

/// What is asked of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Deed {
    Fence(Epoch),
    /// In this cell.
    Admit(usize),
    Finish,
}

/// A gate of a cell reads a placement at a revision, with the floor that its registration sets.
pub(crate) type Read = (Id, Id, Revision, Revision, bool);

impl World {
    /// The gate after a deed; `None` if it refuses.
    pub(crate) fn deed(&self, gate: Id, deed: Deed) -> Option<Id> {
        let known = || self.deeds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(after) = known().get(&(gate, deed)) {
            return *after;
        }
        let mut after = TenantGate::clone(&self.gates.get(gate));
        let done = match deed {
            Deed::Fence(epoch) => {
                after.fence(epoch);
                true
            }
            // Any router may be as far behind as it likes: the lowest stamp is admitted wherever one is.
            Deed::Admit(cell) => after.admit(Epoch(0), RequestKind::Ordinary, &self.cells[cell]).is_ok(),
            Deed::Finish => {
                after.finish(RequestKind::Ordinary);
                true
            }
        };
        let after = done.then(|| self.gates.id(after));
        known().insert((gate, deed), after);
        after
    }

    pub(crate) fn instances_act(&self, state: &State, into: &mut Vec<(Action, State)>) {
        for at in self.instances() {
            let life = state.instances[at].life;
            match life {
                // Before its own cell is there nobody of it is.
                Life::Unborn if self.is_of_new_cell(at) && state.left.tricks > 0 => {}
                Life::Unborn => into.push((Action::Joins(at), self.starts(state, at, true))),
                Life::Up => {
                    self.learns(state, at, into);
                    self.serves(state, at, into);
                    if state.left.exits > 0 {
                        into.push((Action::Closes(at), self.closes(state, at)));
                    }
                }
                Life::Down => {
                    into.push((Action::StartsAndRegisters(at), self.starts(state, at, true)));
                    into.push((Action::StartsFromDisk(at), self.starts(state, at, false)));
                }
                Life::Leaving => {
                    self.serves(state, at, into);
                    self.leaves(state, at, into);
                }
                Life::Left if self.is(Rule::LeaveErasesDisk) => {
                    into.push((Action::StartsFromDisk(at), self.starts(state, at, false)));
                }
                Life::Left if self.is(Rule::IdsAreNew) => {
                    into.push((Action::StartsAndRegisters(at), self.starts(state, at, true)));
                }
                Life::Destroyed if self.is_listed(state, at) => {
                    into.push((Action::IsSaidDead(at), self.unlists(state, at)));
                }
                Life::Absent | Life::Left | Life::Destroyed => {}
            }
            self.fails(state, at, into);
            self.orphan_ends(state, at, into);
        }
    }

    pub(crate) fn is_listed(&self, state: &State, at: usize) -> bool {
        self.list(state, self.cell_of[at]).members & 1 << at != 0
    }

    pub(crate) fn unlists(&self, state: &State, at: usize) -> State {
        let mut after = state.clone();
        self.relist(&mut after, self.cell_of[at], |members| members & !(1 << at));
        after
    }

    /// What the process knew is gone.
    fn without_memory(&self, one: Instance, life: Life) -> Instance {
        Instance { life, gate: self.gates.id(TenantGate::default()), file: NONE, reached: None, ..one }
    }

    fn fails(&self, state: &State, at: usize, into: &mut Vec<(Action, State)>) {
        let one = state.instances[at];
        if !self.config.failing.contains(self.cells[self.cell_of[at]].name.as_str()) {
            return;
        }
        if one.life == Life::Up && state.left.crashes > 0 {
            let mut after = state.clone();
            after.left.crashes -= 1;
            let orphan = if one.file == NONE { one.orphan } else { one.file };
            after.instances[at] = Instance { orphan, ..self.without_memory(one, Life::Down) };
            into.push((Action::Crashes(at), after));
        }
        if matches!(one.life, Life::Up | Life::Down) && state.left.losses > 0 {
            let mut after = state.clone();
            after.left.losses -= 1;
            let gone = Instance { floor: Revision(0), fence: None, orphan: NONE, ..one };
            after.instances[at] = self.without_memory(gone, Life::Destroyed);
            into.push((Action::IsLost(at), after));
        }
    }

    /// Comes up: registered in this run, or on what its disk says because the store is away.
    fn starts(&self, state: &State, at: usize, registers: bool) -> State {
        let mut after = state.clone();
        let mut one = after.instances[at];
        if registers {
            one.floor = self.relist(&mut after, self.cell_of[at], |members| members | 1 << at);
        }
        one.life = Life::Up;
        one.gate = self.gates.id(TenantGate::restored(one.fence));
        after.instances[at] = one;
        after
    }

    fn closes(&self, state: &State, at: usize) -> State {
        let mut after = state.clone();
        after.left.exits -= 1;
        let mut gate = TenantGate::clone(&self.gates.get(after.instances[at].gate));
        gate.close();
        after.instances[at].gate = self.gates.id(gate);
        after.instances[at].life = Life::Leaving;
        after
    }

    /// Off the list, with an erased disk, once nothing runs.
    fn leaves(&self, state: &State, at: usize, into: &mut Vec<(Action, State)>) {
        let one = state.instances[at];
        let drained = one.file == NONE && one.orphan == NONE;
        if !drained && !self.is(Rule::LeaveDrained) {
            return;
        }
        let mut after = self.unlists(state, at);
        let kept = self.is(Rule::LeaveErasesDisk);
        let (floor, fence) = if kept { (one.floor, one.fence) } else { (Revision(0), None) };
        let orphan = if one.file == NONE { one.orphan } else { one.file };
        after.instances[at] = self.without_memory(Instance { floor, fence, orphan, ..one }, Life::Left);
        into.push((Action::Leaves(at), after));
    }

    /// It reads a placement of any revision. A read that neither opens nor closes only forbids later ones, and is no
    /// step.
    fn learns(&self, state: &State, at: usize, into: &mut Vec<(Action, State)>) {
        for stood in self.history(state).iter() {
            if let Some(after) = self.learned(state, at, stood) {
                into.push((Action::Learns(at, stood.from), after));
            }
        }
    }

    fn learned(&self, state: &State, at: usize, stood: &Stood) -> Option<State> {
        let one = state.instances[at];
        // The lowest revision that counts, of those at which this placement is read, forbids the least.
        let read_at = if one.floor <= stood.until { stood.from.max(one.floor) } else { stood.from };
        let ours = self.placements.get(stood.placement).cell.uid == self.uid_of(at);
        let read: Read = (one.gate, stood.placement, read_at, one.floor, ours);
        let idle = || self.idle_reads.lock().unwrap_or_else(PoisonError::into_inner);
        if idle().contains(&read) {
            return None;
        }
        let mut gate = TenantGate::clone(&self.gates.get(one.gate));
        let before = gate.open_at();
        if self.is(Rule::OpenAboveFence) && before.is_none() && gate.admitted() == (0, 0) {
            gate = TenantGate::default();
        }
        let mut placement = cellway_core::tenant::Placement::clone(&self.placements.get(stood.placement));
        if self.is(Rule::OpenWithoutHold) {
            placement.hold = None;
        }
        let mut registration = Registration { uid: self.uid_of(at), revision: one.floor };
        if self.is(Rule::UidsCompared) && placement.cell.name == self.cells[self.cell_of[at]].name {
            registration.uid = placement.cell.uid.clone();
        }
        if self.is(Rule::ReadAfterRegistration) {
            registration.revision = Revision(0);
        }
        gate.observe(PlacementRecord::Placed(placement), read_at);
        let opening = gate.try_open(&registration);
        if gate.open_at() == before && !matches!(opening, Opening::NeedsRelease(..)) {
            idle().insert(read);
            return None;
        }
        let mut after = state.clone();
        if let Opening::NeedsRelease(home, epoch) = opening {
            let mut data = crate::data::Data::clone(&self.data.get(state.data[self.cell_of[at]]));
            if self.is(Rule::OpenNeedsRelease) || data.release(&home, epoch).is_ok() {
                after.data[self.cell_of[at]] = self.data.id(data);
                gate.released(home, epoch);
                gate.try_open(&registration);
            }
        }
        if gate.open_at() == before {
            return None;
        }
        after.instances[at].gate = self.gates.id(gate);
        Some(after)
    }

    fn serves(&self, state: &State, at: usize, into: &mut Vec<(Action, State)>) {
        let one = state.instances[at];
        if one.file != NONE {
            self.request_ends(state, at, into);
        } else if self.config.requests
            && one.life == Life::Up
            && let Some(gate) = self.deed(one.gate, Deed::Admit(self.cell_of[at]))
            && let Some(placement) = self.gates.get(gate).placement()
        {
            let mut after = state.clone();
            after.instances[at].gate = gate;
            after.instances[at].file = self.homes.id(placement.home.clone());
            into.push((Action::Admits(at), after));
        }
    }

    /// The app ends a request; the write that is followed may be its last deed.
    fn request_ends(&self, state: &State, at: usize, into: &mut Vec<(Action, State)>) {
        let Some(gate) = self.deed(state.instances[at].gate, Deed::Finish) else { return };
        let mut ended = state.clone();
        ended.instances[at].gate = gate;
        ended.instances[at].file = NONE;
        if let Some(written) = self.written(&ended, at, state.instances[at].file) {
            into.push((Action::Ends(at, true), written));
        }
        into.push((Action::Ends(at, false), ended));
    }

    fn orphan_ends(&self, state: &State, at: usize, into: &mut Vec<(Action, State)>) {
        let file = state.instances[at].orphan;
        if file == NONE {
            return;
        }
        let mut ended = state.clone();
        ended.instances[at].orphan = NONE;
        if let Some(written) = self.written(&ended, at, file) {
            into.push((Action::OrphanEnds(at, true), written));
        }
        into.push((Action::OrphanEnds(at, false), ended));
    }

    fn written(&self, state: &State, at: usize, file: File) -> Option<State> {
        if state.written || file == REPLACED {
            return None;
        }
        let cell = self.cell_of[at];
        let mut data = crate::data::Data::clone(&self.data.get(state.data[cell]));
        if !data.write(&self.homes.get(file)) {
            return None;
        }
        let mut after = state.clone();
        after.data[cell] = self.data.id(data);
        after.written = true;
        Some(after)
    }
}

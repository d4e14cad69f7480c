//! The control plane: replica 0 sees the store as it is, replica 1 as it was at some time. Both decide with `next`, and
//! write by compare-and-swap, as `control-plane/src/advance.rs` and `operate/moves.rs` do.

use crate::intern::{Id, NONE};
use crate::mutation::Rule;
use crate::state::{Life, Listed, MOVES_MAX, State, View};
use crate::world::{Action, World, named};
use cellway_core::cell::ListedGates;
use cellway_core::ids::{InstanceId, MoveId, Revision};
use cellway_core::tenant_move::{
    Admitted, CopyReport, DropReport, Fact, FollowReport, MoveRecord, MoveState, OpenReport, Task, WatchReport, Witness,
};
use std::collections::BTreeSet;
use std::sync::Arc;

impl World {
    pub(crate) fn fresh_view(&self, state: &State) -> View {
        let mut lists = [Listed { revision: Revision(0), members: 0 }; crate::state::CELLS_MAX];
        (0..self.cells.len()).for_each(|cell| lists[cell] = self.list(state, cell));
        View { moves: state.moves, lock: state.lock, placement: self.placement_id(state), lists }
    }

    pub(crate) fn replicas_act(&self, state: &State, into: &mut Vec<(Action, State)>) {
        let fresh = self.fresh_view(state);
        self.replica_acts(state, 0, &fresh, into);
        if state.cached != NONE {
            let cached = self.views.get(state.cached);
            self.replica_acts(state, 1, &cached, into);
            if *cached != fresh {
                let mut after = state.clone();
                after.cached = self.views.id(fresh);
                into.push((Action::Looks, after));
            }
        }
    }

    fn replica_acts(&self, state: &State, replica: usize, view: &View, into: &mut Vec<(Action, State)>) {
        for target in 0..self.cells.len() {
            into.extend(self.plans(state, view, target).map(|after| (Action::Plans(replica, target), after)));
        }
        into.extend(self.takes_back(state, view).map(|after| (Action::TakesBack(replica), after)));
        let Some(slot) = view.lock.map(usize::from) else { return };
        let record = self.records.get(view.moves[slot]);
        for fact in self.own_facts(state, view, &record) {
            let fact = self.facts.id(fact);
            into.extend(self.hears(state, view, slot, fact).map(|after| (Action::Hears(replica, fact), after)));
        }
        for (prepared, fact) in self.facts_on_the_spot(state, &record) {
            let fact = self.facts.id(fact);
            into.extend(self.hears(&prepared, view, slot, fact).map(|after| (Action::Hears(replica, fact), after)));
        }
        for fact in self.sets.members(state.facts).iter() {
            if let Some(quoted) = self.as_quoted(&record, *fact) {
                let after = self.hears(state, view, slot, quoted);
                into.extend(after.map(|after| (Action::Hears(replica, *fact), after)));
            }
        }
        if matches!(record.state, MoveState::Syncing(_)) {
            let after = self.hears_reports(state, view, slot, &record);
            into.extend(after.map(|after| (Action::HearsReports(replica), after)));
        }
    }

    /// What replicas state themselves: the clock, an operator's wish, the source's list of gates.
    fn own_facts(&self, state: &State, view: &View, record: &MoveRecord) -> Vec<Fact> {
        let mut facts = vec![Fact::Elapsed, Fact::UndoAsked(String::new())];
        match &record.state {
            MoveState::Planned => facts.push(Fact::Start),
            MoveState::Holding(holding) => {
                let source = self.cell(&record.source);
                let lists = match self.config.lag {
                    true => Vec::clone(&self.lists.get(state.lists[source])),
                    false => vec![view.lists[source]],
                };
                let known = holding.list.as_ref().map(|list| list.revision);
                let unknown = lists.into_iter().filter(|list| Some(list.revision) != known);
                facts.extend(
                    unknown.map(|list| {
                        Fact::Listed(ListedGates { revision: list.revision, instances: self.members(list) })
                    }),
                );
            }
            _ => {}
        }
        facts
    }

    fn members(&self, list: Listed) -> BTreeSet<InstanceId> {
        self.instances().filter(|at| list.members & 1 << at != 0).map(|at| self.names[at].clone()).collect()
    }

    fn up_in(&self, state: &State, cell: usize) -> Option<usize> {
        self.of_cell(cell).find(|at| state.instances[*at].life == Life::Up)
    }

    /// Facts that are of use only while they are fresh: each is heard as it is stated. What is lost on its way is as
    /// if it was not stated yet; what is late is refused, by the state or by the move.
    fn facts_on_the_spot(&self, state: &State, record: &MoveRecord) -> Vec<(State, Fact)> {
        let (source, target) = (self.cell(&record.source), self.cell(&record.target));
        let by =
            |at: usize| Witness { move_id: record.id.clone(), cell: self.uid_of(at), instance: self.names[at].clone() };
        let mut facts = Vec::new();
        let target_up = self.up_in(state, target);
        match &record.state {
            MoveState::Preparing => {
                let mut data = self.data_of(state, target);
                if let Some(at) = target_up.filter(|_| data.prepare(&record.target_home).is_ok()) {
                    let mut after = state.clone();
                    after.data[target] = self.data.id(data);
                    facts.push((after, Fact::Ready(by(at))));
                }
            }
            MoveState::Copying(_) => {
                let report = |at| CopyReport { by: by(at), copied_bytes: 1, total_bytes: 1, complete: true };
                facts.extend(target_up.map(|at| (state.clone(), Fact::Copied(report(at)))));
            }
            MoveState::Closing(_) => {
                for at in self.of_cell(source).filter(|at| state.instances[*at].life == Life::Up) {
                    facts.push((
                        state.clone(),
                        Fact::Watched(WatchReport { by: by(at), admitted: Admitted::default() }),
                    ));
                }
            }
            MoveState::Switched => {
                let epoch = record.epoch.next();
                let is_open = |at: usize| self.gates.get(state.instances[at].gate).open_at() >= Some(epoch);
                let all_have_to = self.is(Rule::OneOpenGate);
                let known = |at: &usize| !matches!(state.instances[*at].life, Life::Absent | Life::Unborn);
                let mut gates = self.of_cell(target).filter(known);
                let says_so = if all_have_to { gates.all(is_open) } else { gates.any(is_open) };
                if let Some(at) = target_up.filter(|_| says_so) {
                    facts.push((state.clone(), Fact::Opened(OpenReport { by: by(at), epoch })));
                }
            }
            MoveState::Cleaning(_) | MoveState::Undoing(_) => {
                let (cell, home) = match record.state {
                    MoveState::Cleaning(_) => (source, &record.source_home),
                    _ => (target, &record.target_home),
                };
                let is_dropped = self.data_of(state, cell).homes.get(home).is_none_or(|row| row.dropped);
                if let Some(at) = self.up_in(state, cell).filter(|_| is_dropped) {
                    facts.push((state.clone(), Fact::Dropped(DropReport { by: by(at), home: home.clone() })));
                }
            }
            _ => {}
        }
        facts
    }

    /// The reports of both sides that let a move go on to the hold, one after the other.
    fn hears_reports(&self, state: &State, view: &View, slot: usize, record: &MoveRecord) -> Option<State> {
        let (source, target) = (self.cell(&record.source), self.cell(&record.target));
        let by =
            |at: usize| Witness { move_id: record.id.clone(), cell: self.uid_of(at), instance: self.names[at].clone() };
        let followed =
            Fact::Followed(FollowReport { by: by(self.up_in(state, target)?), transfer_ms: 0, longest: None });
        let mut before = self.step(view.moves[slot], self.facts.id(followed))?;
        let admitted = Admitted { open_streams: u32::from(self.config.streams), ..Admitted::default() };
        let mut last = None;
        for at in self.of_cell(source).filter(|at| record.source_gates.contains(&self.names[*at])) {
            if let Some(fact) = last.replace(self.facts.id(Fact::Watched(WatchReport { by: by(at), admitted }))) {
                before = self.step(before, fact)?;
            }
            if state.instances[at].life != Life::Up {
                return None;
            }
        }
        let after = self.step(before, last?)?;
        let held = !matches!(self.records.get(after).state, MoveState::Syncing(_));
        self.commits(state, view, slot, after).filter(|_| held)
    }

    /// What a broken replica makes of a fact before it counts it; `None` if it is not about this move.
    fn as_quoted(&self, record: &MoveRecord, id: Id) -> Option<Id> {
        let fact = self.facts.get(id);
        let ours = fact.witness().is_some_and(|by| by.move_id == record.id);
        let mut quoted = Fact::clone(&fact);
        let listed = match &record.state {
            MoveState::Holding(holding) => holding.list.as_ref().map(|list| list.revision),
            _ => None,
        };
        let (forget_move, forget_list) = (self.is(Rule::FactsQuoteMove), self.is(Rule::PositionQuotesList));
        if !ours && !forget_move {
            return None;
        }
        match &mut quoted {
            Fact::Fenced(report) if forget_move => {
                report.by.move_id = record.id.clone();
                report.epoch = record.epoch;
            }
            Fact::Positioned(report) if forget_list => report.list = listed.unwrap_or(report.list),
            Fact::Reached(report) if forget_list => report.list = listed.unwrap_or(report.list),
            _ => {}
        }
        Some(self.facts.id(quoted))
    }

    fn hears(&self, state: &State, view: &View, slot: usize, fact: Id) -> Option<State> {
        let after = self.step(view.moves[slot], fact)?;
        self.commits(state, view, slot, after)
    }

    /// Writes what replica `view` decided, if all that it was decided on still stands.
    fn commits(&self, state: &State, view: &View, slot: usize, after_id: Id) -> Option<State> {
        let before = self.records.get(view.moves[slot]);
        let after = self.records.get(after_id);
        let placement = self.placements.get(view.placement);
        let (was, placed) = (self.placement_of(&before), self.placement_of(&after));
        if view.lock != Some(slot as u8) || (*placement != was && !self.is(Rule::HoldInOneWrite)) {
            return None;
        }
        if (state.moves[slot] != view.moves[slot] && !self.is(Rule::CompareRecord))
            || (state.lock != view.lock && !self.is(Rule::CompareLock))
        {
            return None;
        }
        let mut next = state.clone();
        if placed != was {
            if self.placement_id(state) != view.placement && !self.is(Rule::ComparePlacement) {
                return None;
            }
            let begins_hold = placed.hold.is_some();
            if !(self.is(Rule::HoldInOneWrite) && begins_hold && *placement == placed) {
                self.place(&mut next, placed.clone());
            }
            if self.is(Rule::HoldInOneWrite) && begins_hold && placement.hold.is_none() {
                return Some(next);
            }
            let held = matches!(before.state, MoveState::Holding(_));
            if !held && placed.epoch != was.epoch {
                next.flaw = next.flaw.or(Some("an_early_undo_leaves_the_placement_alone"));
            }
        }
        if let (MoveState::Holding(holding), MoveState::Switched) = (&before.state, &after.state)
            && let Some(list) = &holding.list
            && self.list(state, self.cell(&before.source)).revision != list.revision
            && !self.is(Rule::CompareList)
        {
            return None;
        }
        if self.broken.is_none() && cellway_core::tenant_move::check_step(&before, &after).is_err() {
            next.flaw = Some("check_step");
        }
        self.writes(&mut next, slot, after_id);
        if after.state.is_last() {
            next.lock = None;
            if let Some(again) = after.retry(0) {
                let free = self.takes_slot(&mut next)?;
                next.lock = Some(free as u8);
                let again = self.records.id(self.without_times(again));
                self.writes(&mut next, free, again);
            }
            self.ends(&mut next, slot, &after);
        }
        Some(next)
    }

    /// A place for one more move, if the bounds allow it.
    fn takes_slot(&self, state: &mut State) -> Option<usize> {
        state.left.moves = state.left.moves.checked_sub(1)?;
        (0..MOVES_MAX).find(|slot| state.moves[*slot] == NONE)
    }

    /// A record, and the orders that follow from it: from now on they may come at any time.
    fn writes(&self, state: &mut State, slot: usize, id: Id) {
        state.moves[slot] = id;
        for order in self.orders_of(id) {
            state.orders = self.sets.with(state.orders, order);
        }
    }

    /// What an end leaves behind: a home that its cell is told to drop, and facts that nobody counts any more.
    fn ends(&self, state: &mut State, slot: usize, ended: &MoveRecord) {
        state.moves[slot] = self.records.id(self.ended(ended));
        let (home, cell) = match &ended.state {
            MoveState::Done(done) => (&done.leftover, &ended.source),
            MoveState::Undone(undone) => (&undone.leftover, &ended.target),
            _ => return,
        };
        if let Some(home) = home {
            let (move_id, tenant) = (ended.id.clone(), ended.tenant.clone());
            let task = Task::Drop { home: home.clone() };
            let order = cellway_core::tenant_move::Order { move_id, tenant, cell: cell.clone(), task };
            state.orders = self.sets.with(state.orders, self.orders.id(order));
        }
        if !self.facts_outlive_moves() {
            let is_of = |fact: Id| self.facts.get(fact).witness().is_some_and(|by| by.move_id == ended.id);
            state.facts = self.sets.only(state.facts, |fact| !is_of(fact));
        }
    }

    fn plans(&self, state: &State, view: &View, target: usize) -> Option<State> {
        let placement = self.placements.get(view.placement);
        let source = self.cell(&placement.cell);
        if source == target || view.lists[target].members == 0 || view.lists[source].members == 0 {
            return None;
        }
        if self.placement_id(state) != view.placement || state.lock != view.lock {
            return None;
        }
        if self.config.reused && target == 1 && state.left.tricks == 0 {
            return None;
        }
        let mut next = state.clone();
        let slot = self.takes_slot(&mut next)?;
        let id: MoveId = named(&format!("m{}", slot + 1));
        if let Some(running) = view.lock.map(usize::from) {
            let record = self.records.get(view.moves[running]);
            if !matches!(record.state, MoveState::Cleaning(_)) || state.moves[running] != view.moves[running] {
                return None;
            }
            let ended = self.step(view.moves[running], self.facts.id(Fact::TakenOver(id.clone())))?;
            self.writes(&mut next, running, ended);
            self.ends(&mut next, running, &self.records.get(ended));
        }
        next.lock = Some(slot as u8);
        let gates = self.members(view.lists[source]);
        let record = self.planned(&placement, target, id, gates);
        self.writes(&mut next, slot, self.records.id(record));
        Some(next)
    }

    pub(crate) fn takes_back(&self, state: &State, view: &View) -> Option<State> {
        let running = usize::from(view.lock?);
        let record: Arc<MoveRecord> = self.records.get(view.moves[running]);
        if !self.config.back || self.is(Rule::MoveBackTakesOver) {
            return None;
        }
        if state.moves[running] != view.moves[running]
            || state.lock != view.lock
            || self.placement_id(state) != view.placement
        {
            return None;
        }
        let mut next = state.clone();
        let slot = self.takes_slot(&mut next)?;
        let id: MoveId = named(&format!("m{}", slot + 1));
        let gates = self.members(view.lists[self.cell(&record.target)]);
        let back = record.back(id.clone(), String::new(), gates, 0)?;
        let ended = self.step(view.moves[running], self.facts.id(Fact::TakenOver(id)))?;
        self.writes(&mut next, running, ended);
        self.ends(&mut next, running, &self.records.get(ended));
        next.lock = Some(slot as u8);
        self.writes(&mut next, slot, self.records.id(self.without_times(back)));
        Some(next)
    }
}

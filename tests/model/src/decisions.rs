//! The decisions of `core`, each worked out once, with the times taken out: a deadline may pass at any moment, and two
//! records that differ in their times alone are one.

use crate::intern::Id;
use crate::mutation::Rule;
use crate::world::{World, named};
use cellway_core::cell::MoverDriver;
use cellway_core::ids::{InstanceId, MoveId};
use cellway_core::tenant::Placement;
use cellway_core::tenant_move::{
    ATTEMPTS_MAX, Fact, HoldingStage, MoveLimits, MoveRecord, MoveState, Priority, Task, Undoing, Undone, deadline,
    next, orders_for, placement_of,
};
use std::collections::BTreeSet;
use std::sync::PoisonError;

impl World {
    /// What `next` makes of a record; `None` if it refuses the fact or changes nothing.
    pub(crate) fn step(&self, record: Id, fact: Id) -> Option<Id> {
        let known = || self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(after) = known().get(&(record, fact)) {
            return *after;
        }
        let after = self.decided(&self.records.get(record), &self.facts.get(fact));
        let after = after.map(|after| self.records.id(after)).filter(|after| *after != record);
        known().insert((record, fact), after);
        after
    }

    fn decided(&self, before: &MoveRecord, fact: &Fact) -> Option<MoveRecord> {
        let now_ms = match fact {
            // It fires as soon as it may.
            Fact::Elapsed if !before.state.is_last() => deadline(before),
            _ => 0,
        };
        let waits_for_drop = match &before.state {
            MoveState::Cleaning(cleaning) => cleaning.due,
            MoveState::Undoing(_) => true,
            _ => false,
        };
        if self.is(Rule::EndsByDeadline) && waits_for_drop && *fact == Fact::Elapsed {
            return None;
        }
        let mut after = next(before, fact.clone(), now_ms).ok()?;
        let (is_undo, was_held) =
            (!matches!(before.state, MoveState::Undoing(_)), matches!(before.state, MoveState::Holding(_)));
        if let MoveState::Undoing(Undoing { held, .. }) | MoveState::Undone(Undone { held, .. }) = &mut after.state
            && is_undo
        {
            *held &= !self.is(Rule::UndoRaisesEpoch);
            *held |= self.is(Rule::EarlyUndoKeepsEpoch) && !was_held;
        }
        Some(self.without_times(after))
    }

    /// The record as it is at time 0, without words for people.
    pub(crate) fn without_times(&self, record: MoveRecord) -> MoveRecord {
        let mut state = record.state;
        match &mut state {
            MoveState::Copying(copying) => copying.advanced_ms = 0,
            MoveState::Syncing(syncing) => {
                syncing.followed.iter_mut().for_each(|measured| measured.at_ms = 0);
                syncing.watched.values_mut().for_each(|measured| measured.at_ms = 0);
            }
            MoveState::Undoing(undoing) => undoing.reason.clear(),
            MoveState::Undone(undone) => undone.reason.clear(),
            _ => {}
        }
        MoveRecord {
            not_before_ms: 0,
            created_ms: 0,
            entered_ms: 0,
            predicted_freeze_ms: 0,
            copied: None,
            held_ms: None,
            cut_requests: 0,
            released_ms: None,
            state,
            ..record
        }
    }

    /// A move that has ended: how, nobody asks any more.
    pub(crate) fn ended(&self, record: &MoveRecord) -> MoveRecord {
        let end = Undone { reason: String::new(), held: false, leftover: None, retried_by: None };
        MoveRecord { source_gates: BTreeSet::new(), attempt: 1, state: MoveState::Undone(end), ..record.clone() }
    }

    pub(crate) fn placement_of(&self, record: &MoveRecord) -> Placement {
        placement_of(record)
    }

    /// The orders that do something also when they come late.
    pub(crate) fn orders_of(&self, record: Id) -> Vec<Id> {
        let record = self.records.get(record);
        let mut orders = orders_for(&record);
        if let MoveState::Holding(holding) = &record.state
            && let Some(list) = &holding.list
            && self.is(Rule::PositionAfterDrain)
            && holding.stage == HoldingStage::Gates
        {
            let (home, epoch) = (record.source_home.clone(), record.epoch);
            let mut early = orders[0].clone();
            early.task = Task::FenceData { home, epoch, list: list.revision };
            orders.push(early);
        }
        let lasts = |task: &Task| {
            matches!(task, Task::Fence { .. } | Task::FenceData { .. } | Task::Reach { .. } | Task::Drop { .. })
        };
        orders.into_iter().filter(|order| lasts(&order.task)).map(|order| self.orders.id(order)).collect()
    }

    /// A move as it is asked for.
    pub(crate) fn planned(
        &self,
        placement: &Placement,
        target: usize,
        id: MoveId,
        source_gates: BTreeSet<InstanceId>,
    ) -> MoveRecord {
        MoveRecord {
            tenant: named("acme"),
            source: placement.cell.clone(),
            target: self.cells[target].clone(),
            epoch: placement.epoch,
            source_home: placement.home.clone(),
            target_home: named(id.as_str()),
            id,
            keeps_target_home: false,
            source_gates,
            driver: MoverDriver::Sqlite,
            cause: String::new(),
            limits: MoveLimits::default(),
            // The last attempt, or the last but one.
            priority: Priority::Normal,
            freeze_now_ms: None,
            attempt: ATTEMPTS_MAX - u32::from(self.config.retries),
            not_before_ms: 0,
            created_ms: 0,
            entered_ms: 0,
            predicted_freeze_ms: 0,
            copied: None,
            held_ms: None,
            cut_requests: 0,
            released_ms: None,
            state: MoveState::Planned,
        }
    }
}

//! Which cell owned a tenant in which epoch, put together from placements and moves.

use cellway_api::fleet::{MoveView, TenantView};
use std::collections::BTreeMap;

/// The owner of each epoch of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    by_epoch: BTreeMap<u64, String>,
    contradictions: Vec<String>,
}

impl Owners {
    /// Who owned `tenant` when, by its placement before and after the run and all its moves.
    pub(crate) fn of_tenant(placements: &[&TenantView], moves: &[&MoveView]) -> Self {
        let mut owners = Self::default();
        for placement in placements {
            owners.learn(placement.epoch, &placement.cell);
        }
        for one in moves {
            owners.learn_move(one);
        }
        owners
    }

    /// In `epoch` the placement named `cell`.
    pub(crate) fn learn(&mut self, epoch: u64, cell: &str) {
        match self.by_epoch.get(&epoch) {
            Some(known) if known == cell => {}
            Some(known) => {
                let text = format!("in epoch {epoch} placements name both {known} and {cell}");
                self.contradictions.push(text);
            }
            None => _ = self.by_epoch.insert(epoch, cell.to_owned()),
        }
    }

    /// Up to the commit the source owns it at the move's epoch, from the commit on the target at the next one. A move
    /// that was undone after traffic was held leaves it with the source at the next one, which the tenant's later
    /// moves or its last placement tell.
    fn learn_move(&mut self, one: &MoveView) {
        self.learn(one.epoch, &one.source);
        if one.past_commit {
            self.learn(one.epoch.saturating_add(1), &one.target);
        }
    }

    /// The owner in `epoch`.
    pub(crate) fn of(&self, epoch: u64) -> Option<&str> {
        self.by_epoch.get(&epoch).map(String::as_str)
    }

    /// Whether one cell had the tenant in all known epochs from `first` to `last`.
    ///
    /// After an undo the same cell goes on at the next epoch while what it admitted before may still run.
    pub(crate) fn never_left(&self, first: u64, last: u64) -> bool {
        let mut cells = self.by_epoch.range(first..=last).map(|(_, cell)| cell);
        match cells.next() {
            Some(cell) => cells.all(|other| other == cell),
            None => false,
        }
    }

    /// What cannot all be true.
    pub(crate) fn contradictions(&self) -> &[String] {
        &self.contradictions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_move(source: &str, target: &str, epoch: u64, past_commit: bool) -> MoveView {
        serde_json::from_value(serde_json::json!({
            "id": "m", "tenant": "acme", "source": source, "target": target,
            "state": if past_commit { "done" } else { "undone" }, "ended": true, "past_commit": past_commit,
            "epoch": epoch, "driver": "sqlite", "predicted_freeze_ms": 0, "cause": "", "created_ms": 0, "entered_ms": 0,
        }))
        .expect("a move's view")
    }

    fn placed(cell: &str, epoch: u64) -> TenantView {
        serde_json::from_value(serde_json::json!({
            "id": "acme", "tier": "", "weight": 1, "freeze_budget_ms": 250, "cell": cell, "epoch": epoch,
            "held": false, "created_ms": 0,
        }))
        .expect("a tenant's view")
    }

    #[test]
    fn each_commit_hands_the_next_epoch_to_the_target() {
        let (first, last) = (placed("a", 5), placed("c", 7));
        let moves = [a_move("a", "b", 5, true), a_move("b", "c", 6, true)];
        let owners = Owners::of_tenant(&[&first, &last], &moves.iter().collect::<Vec<_>>());
        assert_eq!([5, 6, 7, 8].map(|epoch| owners.of(epoch)), [Some("a"), Some("b"), Some("c"), None]);
        assert!(owners.contradictions().is_empty());
    }

    #[test]
    fn a_move_undone_after_its_hold_leaves_the_next_epoch_with_the_source() {
        let (first, last) = (placed("a", 5), placed("b", 7));
        let moves = [a_move("a", "b", 5, false), a_move("a", "b", 6, true)];
        let owners = Owners::of_tenant(&[&first, &last], &moves.iter().collect::<Vec<_>>());
        assert_eq!([5, 6, 7].map(|epoch| owners.of(epoch)), [Some("a"), Some("a"), Some("b")]);
        assert!(owners.never_left(5, 6) && !owners.never_left(5, 7));
    }

    #[test]
    fn placements_that_disagree_are_told() {
        let (first, last) = (placed("a", 5), placed("b", 5));
        let owners = Owners::of_tenant(&[&first, &last], &[]);
        assert_eq!(owners.contradictions().len(), 1);
    }
}

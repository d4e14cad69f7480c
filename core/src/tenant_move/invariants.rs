//! What no step of a move may ever break.

use super::record::{Holding, HoldingStage, MoveRecord, MoveState, placement_of};

/// The invariants of one step: debug asserts and the simulator call this.
pub fn check_step(before: &MoveRecord, after: &MoveRecord) -> Result<(), &'static str> {
    let (was, is) = (placement_of(before), placement_of(after));
    if is.epoch < was.epoch {
        return Err("an epoch was lowered");
    }
    if is.cell != was.cell {
        let held_by_us = was.hold.as_ref() == Some(&before.id);
        if !held_by_us || is.epoch != was.epoch.next() || is.hold.is_some() {
            return Err("the owner changed other than by releasing this move's hold at the next epoch");
        }
        let MoveState::Holding(holding) = &before.state else {
            return Err("the owner changed outside of `holding`");
        };
        check_holding(holding)?;
        if holding.stage != HoldingStage::Last {
            return Err("the owner changed before the target had the last changes");
        }
    }
    if was.hold.is_some() && is.hold.is_none() && is.epoch == was.epoch {
        return Err("a hold ended without a new epoch");
    }
    if before.state.is_last() {
        return Err("a move changed after its end");
    }
    match &after.state {
        MoveState::Holding(holding) => check_holding(holding),
        _ => Ok(()),
    }
}

/// A stage is reached only with what it stands on.
fn check_holding(holding: &Holding) -> Result<(), &'static str> {
    let all_fenced = holding.list.as_ref().is_some_and(|list| list.instances.is_subset(&holding.fenced));
    match holding.stage {
        HoldingStage::Gates if holding.position.is_none() => Ok(()),
        HoldingStage::Gates => Err("a position outlived the list it was taken under"),
        HoldingStage::Data if all_fenced => Ok(()),
        HoldingStage::Last if all_fenced && holding.position.is_some() => Ok(()),
        HoldingStage::Data | HoldingStage::Last => Err("a stage was reached before every listed gate was fenced"),
    }
}

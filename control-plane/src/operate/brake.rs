//! The emergency brake: while it is on no move starts, and none that runs freezes its tenant; what is past that ends.

use super::{Attempt, NotDone, audited};
use crate::view::View;
use crate::{Replica, clock};
use cellway_api::fleet::{BrakeView, SetBrake};
use cellway_store::records::{Brake, Record};
use cellway_store::{Txn, keys};

/// The longest reason that is kept.
const WHY_MAX_CHARS: usize = 400;

impl Replica {
    /// Puts the brake on, or takes it off. What it is already, it stays, with its reason and since when.
    pub(crate) async fn set_brake(&self, wanted: SetBrake) -> Result<BrakeView, NotDone> {
        let why = wanted.cause.as_deref().unwrap_or("by an operator").chars().take(WHY_MAX_CHARS).collect();
        let brake = Brake { at_ms: clock::now_ms(), why };
        self.act(|view| Ok(Attempt { txn: attempt(view, wanted.on, &brake), answer: () })).await?;
        Ok(brake_view(&self.view.read()))
    }
}

fn attempt(view: &View, on: bool, brake: &Brake) -> Txn {
    let action = if on { "put the brake on" } else { "take the brake off" };
    let txn = match (on, &view.brake) {
        (true, None) => Txn::new().require_absent(keys::BRAKE).put(keys::BRAKE, brake.encode()),
        (false, Some(at)) => Txn::new().require_revision(keys::BRAKE, at.revision).delete(keys::BRAKE),
        (true, Some(_)) | (false, None) => return Txn::new(),
    };
    audited(txn, "api", action, "fleet", &brake.why)
}

/// The brake as the API shows it.
pub(crate) fn brake_view(view: &View) -> BrakeView {
    let brake = view.brake.as_ref().map(|at| &at.value);
    BrakeView {
        on: brake.is_some(),
        since_ms: brake.map(|brake| brake.at_ms),
        cause: brake.map(|brake| brake.why.clone()),
    }
}

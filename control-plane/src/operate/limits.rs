//! Limits of tenants: set, cleared and shown.

use super::{Attempt, NotDone, audited};
use crate::Replica;
use crate::view::View;
use cellway_api::limits::{LimitsView, SetLimits};
use cellway_core::ids::TenantId;
use cellway_core::limit::TenantLimits;
use cellway_store::records::Record;
use cellway_store::{Txn, keys};

impl Replica {
    /// Sets a tenant's limits. Limits that limit nothing leave no record.
    pub(crate) async fn set_limits(&self, tenant: &TenantId, wanted: SetLimits) -> Result<LimitsView, NotDone> {
        let if_revision = wanted.if_revision;
        let limits = wanted.limits().map_err(|error| NotDone::Invalid(error.to_string()))?;
        let (deleted, revision) = self.act(|view| attempt_set(view, tenant, &limits, if_revision)).await?;
        Ok(LimitsView::of(&limits, if deleted { 0 } else { revision.0 }))
    }
}

/// Answers whether there is no record afterwards.
fn attempt_set(
    view: &View,
    tenant: &TenantId,
    limits: &TenantLimits,
    if_revision: Option<u64>,
) -> Result<Attempt<bool>, NotDone> {
    let owner = view.tenants.get(tenant).ok_or_else(|| NotDone::NotFound(format!("there is no tenant {tenant}")))?;
    let before = view.limits.get(tenant);
    let in_force = before.map_or(0, |at| at.revision.0);
    if if_revision.is_some_and(|wanted| wanted != in_force) {
        return Err(NotDone::Conflict(format!("somebody else has changed the limits of {tenant}: read them again")));
    }
    let key = keys::limits(tenant);
    let mut txn = Txn::new().require_revision(keys::tenant(tenant), owner.revision);
    txn = match before {
        Some(at) => txn.require_revision(key.clone(), at.revision),
        None => txn.require_absent(key.clone()),
    };
    txn = match (limits.is_nothing(), before) {
        (true, None) => txn,
        (true, Some(_)) => txn.delete(key),
        (false, Some(at)) => txn.put(key, at.replaced_by(limits)),
        (false, None) => txn.put(key, limits.encode()),
    };
    let answer = limits.is_nothing();
    Ok(Attempt { txn: audited(txn, "api", "set limits", tenant.as_str(), &limits.to_string()), answer })
}

/// What a tenant may use, as the API shows it.
pub(crate) fn limits_view(view: &View, tenant: &TenantId) -> LimitsView {
    view.limits.get(tenant).map(|at| LimitsView::of(&at.value, at.revision.0)).unwrap_or_default()
}

//! Tenants and host claims.

use super::{Attempt, NotDone, audited, limits_view};
use crate::view::View;
use crate::{Replica, clock};
use cellway_api::fleet::{ClaimHost, CreateTenant, HostView, TenantView};
use cellway_core::cell::CellKind;
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, Epoch, HomeId, TenantId};
use cellway_core::placement::{check_room, choose_cell};
use cellway_core::route::HostMeaning;
use cellway_core::tenant::{FREEZE_BUDGET_MS, Placement, PlacementRecord, Tenant};
use cellway_store::records::{HostClaim, Record};
use cellway_store::{Txn, keys};

/// The range of a tenant's freeze budget.
const FREEZE_BUDGET_RANGE_MS: std::ops::RangeInclusive<u64> = 10..=10_000;

impl Replica {
    /// Creates a tenant, in the cell that was named or the one that the planner chooses.
    pub(crate) async fn create_tenant(&self, wanted: CreateTenant) -> Result<TenantView, NotDone> {
        let id = TenantId::new(&wanted.id)?;
        if self.config.domains.reserved.contains(id.as_str()) {
            let reserved: Vec<_> = self.config.domains.reserved.iter().map(String::as_str).collect();
            return Err(NotDone::Invalid(format!(
                "{id} is a reserved label and never a tenant (reserved: {})",
                reserved.join(", ")
            )));
        }
        let budget = wanted.freeze_budget_ms.unwrap_or(FREEZE_BUDGET_MS);
        if !FREEZE_BUDGET_RANGE_MS.contains(&budget) {
            return Err(NotDone::Invalid(format!(
                "freeze_budget_ms is {budget}, allowed are {} to {}",
                FREEZE_BUDGET_RANGE_MS.start(),
                FREEZE_BUDGET_RANGE_MS.end()
            )));
        }
        let named = wanted.cell.as_deref().map(CellName::new).transpose()?;
        let tenant = Tenant {
            id: id.clone(),
            tier: wanted.tier.clone().unwrap_or_else(|| "standard".to_owned()),
            weight: wanted.weight.unwrap_or(1),
            freeze_budget_ms: budget,
            created_ms: clock::now_ms(),
        };
        self.act(|view| self.attempt_create(view, &tenant, named.as_ref())).await?;
        let view = self.view.read();
        tenant_view(&view, &id).ok_or(NotDone::Unavailable(None))
    }

    fn attempt_create(&self, view: &View, tenant: &Tenant, named: Option<&CellName>) -> Result<Attempt<()>, NotDone> {
        let id = &tenant.id;
        if view.tenants.contains_key(id) {
            return Err(NotDone::Conflict(format!("there is a tenant {id} already")));
        }
        let own_hosts = self.own_hosts(id)?;
        if let Some(claim) = own_hosts.iter().find_map(|host| view.hosts.get(host.as_str())) {
            let owner = &claim.value.tenant;
            return Err(NotDone::Conflict(format!("the host of a tenant {id} is claimed by tenant {owner}")));
        }
        let fleet = view.fleet(|cell, instance| self.heard.is_reachable(cell, instance));
        let cell = match named {
            Some(name) => check_room(&fleet, name)?,
            None => choose_cell(&fleet)?,
        };
        let stored = view.cells.get(&cell.name).ok_or_else(|| NotDone::NotFound(format!("no cell {}", cell.name)))?;
        let placement_key = keys::placement(id);
        let mut txn =
            Txn::new().require_absent(keys::tenant(id)).require_revision(keys::cell(&cell.name), stored.revision);
        txn = match view.placements.get(id) {
            None => txn.require_absent(placement_key.clone()),
            Some(gone) => txn.require_revision(placement_key.clone(), gone.revision),
        };
        if stored.value.kind == CellKind::Agent {
            let gates = view.gates.get(&cell.name).filter(|gates| !gates.value.instances.is_empty());
            let gates = gates.ok_or_else(|| {
                NotDone::Conflict(format!("no agent of cell {} has registered yet: start one first", cell.name))
            })?;
            txn = txn.require_revision(keys::gates(&cell.name), gates.revision);
        }
        // Above every epoch that this id was ever served at: each of them took a commit of its own.
        let born = view.revision;
        let home = HomeId::new(&format!("new-{born}"))?;
        let placement = Placement { cell, epoch: Epoch(born.0), home, hold: None };
        txn = own_hosts.iter().fold(txn, |txn, host| txn.require_absent(keys::host(host)));
        txn =
            txn.put(keys::tenant(id), tenant.encode()).put(placement_key, PlacementRecord::Placed(placement).encode());
        Ok(Attempt { txn: audited(txn, "api", "create tenant", id.as_str(), ""), answer: () })
    }

    /// The names that a tenant has by its id alone.
    fn own_hosts(&self, id: &TenantId) -> Result<Vec<Hostname>, NotDone> {
        let host = |base: &Hostname| {
            let text = format!("{id}.{base}");
            Hostname::from_text(&text).map_err(|error| NotDone::Invalid(format!("{text} is no host name: {error}")))
        };
        self.config.domains.base.iter().map(host).collect()
    }

    /// Claims a host for a tenant: create-if-absent, so that a host has one owner.
    pub(crate) async fn claim_host(&self, claim: ClaimHost) -> Result<HostView, NotDone> {
        let tenant = TenantId::new(&claim.tenant)?;
        let host = Hostname::from_text(&claim.host)
            .map_err(|error| NotDone::Invalid(format!("{:?} is no host name: {error}", claim.host)))?;
        if self.config.domains.meaning(&host) == HostMeaning::Origin {
            return Err(NotDone::Invalid(format!("{host} is the base domain or a reserved name of it")));
        }
        let key = keys::host(&host);
        self.act(|view| {
            let owner = view.tenants.get(&tenant);
            let owner = owner.ok_or_else(|| NotDone::NotFound(format!("there is no tenant {tenant}")))?;
            let label = match self.config.domains.meaning(&host) {
                HostMeaning::Tenant(label) => TenantId::new(label).ok(),
                HostMeaning::Custom | HostMeaning::Origin => None,
            };
            if label.as_ref().is_some_and(|label| view.tenants.contains_key(label)) {
                return Err(NotDone::Conflict(format!("{host} is the own name of another tenant")));
            }
            if let Some(claimed) = view.hosts.get(host.as_str()) {
                return Err(NotDone::Conflict(format!("{host} belongs to tenant {}", claimed.value.tenant)));
            }
            let mut txn = Txn::new();
            if let Some(label) = &label {
                txn = txn.require_absent(keys::tenant(label));
            }
            let txn = txn
                .require_absent(key.clone())
                .require_revision(keys::tenant(&tenant), owner.revision)
                .put(key.clone(), HostClaim { tenant: tenant.clone() }.encode());
            Ok(Attempt { txn: audited(txn, "api", "claim host", host.as_str(), tenant.as_str()), answer: () })
        })
        .await?;
        Ok(HostView { host: host.to_string(), tenant: tenant.to_string() })
    }
}

/// A tenant as the API shows it; `None` if there is none.
pub(crate) fn tenant_view(view: &View, id: &TenantId) -> Option<TenantView> {
    let tenant = &view.tenants.get(id)?.value;
    let (placement, _) = view.placed(id)?;
    Some(TenantView {
        id: id.to_string(),
        tier: tenant.tier.clone(),
        weight: tenant.weight,
        freeze_budget_ms: tenant.freeze_budget_ms,
        cell: placement.cell.name.to_string(),
        epoch: placement.epoch.0,
        moving: view.moving.get(id).map(|moving| moving.value.id.to_string()),
        held: placement.hold.is_some(),
        limits: limits_view(view, id),
        created_ms: tenant.created_ms,
    })
}

//! Tenants and host claims.

use super::places::with_place;
use super::{Attempt, NotDone, audited, limits_view};
use crate::view::View;
use crate::{Replica, clock};
use cellway_api::fleet::{ChangeTenant, ClaimHost, CreateTenant, HostView, TenantView};
use cellway_core::cell::CellKind;
use cellway_core::freeze_window::FreezeWindows;
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, Epoch, HomeId, TenantId};
use cellway_core::placement::{check_room, choose_cell};
use cellway_core::route::HostMeaning;
use cellway_core::tenant::{FREEZE_BUDGET_MS, LongRequests, Placement, PlacementRecord, Tenant};
use cellway_store::records::{HostClaim, Record};
use cellway_store::{Txn, keys};
use std::ops::RangeInclusive;

/// The range of a tenant's freeze budget.
const FREEZE_BUDGET_RANGE_MS: RangeInclusive<u64> = 10..=10_000;

/// The range of how long a move may wait for long requests.
const LONG_REQUESTS_WAIT_RANGE_MS: RangeInclusive<u64> = 0..=86_400_000;

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
        let named = wanted.cell.as_deref().map(CellName::new).transpose()?;
        let tenant = Tenant {
            id: id.clone(),
            tier: wanted.tier.clone().unwrap_or_else(|| "standard".to_owned()),
            weight: wanted.weight.unwrap_or(1),
            freeze_budget_ms: FREEZE_BUDGET_MS,
            long_requests: LongRequests::default(),
            freeze_windows: FreezeWindows::default(),
            created_ms: clock::now_ms(),
        };
        let tenant = changed(&tenant, &wanted.how_moved())?;
        let turn = self.turn_at(named.as_ref()).await;
        self.act(|view| self.attempt_create(view, &tenant, named.as_ref())).await?;
        drop(turn);
        let view = self.view.read();
        tenant_view(&view, &id).ok_or(NotDone::Unavailable(None))
    }

    /// Changes how a tenant is moved.
    pub(crate) async fn change_tenant(&self, id: &TenantId, change: ChangeTenant) -> Result<TenantView, NotDone> {
        self.act(|view| {
            refuse_unreadable(view, id)?;
            let no_tenant = || NotDone::NotFound(format!("there is no tenant {id}"));
            let at = view.tenants.get(id).ok_or_else(no_tenant)?;
            let tenant = changed(&at.value, &change)?;
            let key = keys::tenant(id);
            let txn = Txn::new().require_revision(key.clone(), at.revision).put(key, at.replaced_by(&tenant));
            let Tenant { freeze_budget_ms, long_requests, freeze_windows, .. } = &tenant;
            let what = format!(
                "freeze budget {freeze_budget_ms} ms, {long_requests:?}, freeze windows: {}",
                freeze_windows.texts().join("; ")
            );
            Ok(Attempt { txn: audited(txn, "api", "change tenant", id.as_str(), &what), answer: () })
        })
        .await?;
        tenant_view(&self.view.read(), id).ok_or(NotDone::Unavailable(None))
    }

    fn attempt_create(&self, view: &View, tenant: &Tenant, named: Option<&CellName>) -> Result<Attempt<()>, NotDone> {
        let id = &tenant.id;
        refuse_unreadable(view, id)?;
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
        let mut txn = with_place(Txn::new(), view, &cell.name, id).require_absent(keys::tenant(id));
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

/// The tenant with what is to be changed, if that is within bounds.
fn changed(tenant: &Tenant, change: &ChangeTenant) -> Result<Tenant, NotDone> {
    let checked = |name: &str, value: Option<u64>, range: RangeInclusive<u64>, before: u64| match value {
        Some(value) if !range.contains(&value) => {
            let (least, most) = (range.start(), range.end());
            Err(NotDone::Invalid(format!("{name} is {value}, allowed are {least} to {most}")))
        }
        value => Ok(value.unwrap_or(before)),
    };
    let LongRequests { wait_ms, then } = tenant.long_requests;
    let wait_ms = checked("long_requests_wait_ms", change.long_requests_wait_ms, LONG_REQUESTS_WAIT_RANGE_MS, wait_ms)?;
    let freeze_windows = match &change.freeze_windows {
        Some(texts) => FreezeWindows::parse(texts).map_err(|error| NotDone::Invalid(error.to_string()))?,
        None => tenant.freeze_windows.clone(),
    };
    Ok(Tenant {
        freeze_budget_ms: checked(
            "freeze_budget_ms",
            change.freeze_budget_ms,
            FREEZE_BUDGET_RANGE_MS,
            tenant.freeze_budget_ms,
        )?,
        freeze_windows,
        long_requests: LongRequests { wait_ms, then: change.long_requests.map_or(then, Into::into) },
        ..tenant.clone()
    })
}

/// Refuses what would be decided without a record of the tenant that cannot be read.
pub(super) fn refuse_unreadable(view: &View, id: &TenantId) -> Result<(), NotDone> {
    view.unreadable(id).map_or(Ok(()), |why| Err(NotDone::Conflict(why)))
}

/// What is shown of a tenant whose own record cannot be read.
fn unknown(id: &TenantId) -> Tenant {
    Tenant {
        id: id.clone(),
        tier: String::new(),
        weight: 0,
        freeze_budget_ms: FREEZE_BUDGET_MS,
        long_requests: LongRequests::default(),
        freeze_windows: FreezeWindows::default(),
        created_ms: 0,
    }
}

/// A tenant as the API shows it; `None` if there is none.
pub(crate) fn tenant_view(view: &View, id: &TenantId) -> Option<TenantView> {
    let unreadable = view.unreadable(id);
    let (tenant, placement) = (view.tenants.get(id), view.placed(id));
    if unreadable.is_none() && (tenant.is_none() || placement.is_none()) {
        return None;
    }
    let unknown = if tenant.is_none() { Some(unknown(id)) } else { None };
    let tenant = tenant.map(|at| &at.value).or(unknown.as_ref())?;
    let placement = placement.map(|(placement, _)| placement);
    Some(TenantView {
        id: id.to_string(),
        tier: tenant.tier.clone(),
        weight: tenant.weight,
        freeze_budget_ms: tenant.freeze_budget_ms,
        long_requests: tenant.long_requests.then.into(),
        long_requests_wait_ms: tenant.long_requests.wait_ms,
        freeze_windows: tenant.freeze_windows.texts(),
        cell: placement.map(|placement| placement.cell.name.to_string()).unwrap_or_default(),
        epoch: placement.map_or(0, |placement| placement.epoch.0),
        moving: view.moving.get(id).map(|moving| moving.value.id.to_string()),
        held: placement.is_some_and(|placement| placement.hold.is_some()),
        unreadable,
        limits: limits_view(view, id),
        created_ms: tenant.created_ms,
    })
}

//! What a host or a tenant resolves to, with the reasons: the router's rules, told step by step.

use super::NotDone;
use crate::Replica;
use crate::view::View;
use cellway_api::fleet::LookupView;
use cellway_core::hostname::Hostname;
use cellway_core::ids::TenantId;
use cellway_core::route::HostMeaning;

impl Replica {
    /// What `tenant` resolves to.
    pub(crate) fn lookup_tenant(&self, tenant: &str) -> Result<LookupView, NotDone> {
        let tenant = TenantId::new(tenant)?;
        let view = self.view.read();
        let mut found = empty();
        resolve(&view, &tenant, &mut found);
        match found.tenant {
            None if view.unreadable(&tenant).is_some() => Ok(found),
            Some(_) => Ok(found),
            None => Err(NotDone::NotFound(format!("there is no tenant {tenant}"))),
        }
    }

    /// What `host` resolves to.
    pub(crate) fn lookup_host(&self, text: &str) -> Result<LookupView, NotDone> {
        let host = Hostname::from_authority(text)
            .or_else(|_| Hostname::from_text(text))
            .map_err(|error| NotDone::Invalid(format!("{text:?} is no host: {error}; routers answer 400")))?;
        let view = self.view.read();
        let mut found = empty();
        found.host = Some(host.to_string());
        if host.as_str() != text {
            found.steps.push(format!("{text:?} is normalised to {host}"));
        }
        match self.config.domains.meaning(&host) {
            HostMeaning::Origin => {
                found.steps.push("it is the base domain or a reserved label: it goes to the configured origin".into());
            }
            HostMeaning::Tenant(label) => match TenantId::new(label) {
                Ok(tenant) if view.placed(&tenant).is_some() || view.unreadable(&tenant).is_some() => {
                    found.steps.push(format!("it is one label below a base domain: tenant {tenant}"));
                    resolve(&view, &tenant, &mut found);
                }
                _ => {
                    found.steps.push(format!("it is one label below a base domain, but no tenant is called {label}"));
                    resolve_claim(&view, &host, &mut found);
                }
            },
            HostMeaning::Custom => {
                found.steps.push("it is outside of the base domains".into());
                resolve_claim(&view, &host, &mut found);
            }
        }
        Ok(found)
    }
}

fn empty() -> LookupView {
    LookupView {
        host: None,
        steps: Vec::new(),
        tenant: None,
        cell: None,
        epoch: None,
        held_by: None,
        endpoints: Vec::new(),
    }
}

fn resolve_claim(view: &View, host: &Hostname, found: &mut LookupView) {
    match view.hosts.get(host.as_str()) {
        Some(claim) => {
            found.steps.push(format!("it is claimed by tenant {}", claim.value.tenant));
            resolve(view, &claim.value.tenant, found);
        }
        None => found.steps.push("nobody has claimed it: routers answer 404".into()),
    }
}

fn resolve(view: &View, tenant: &TenantId, found: &mut LookupView) {
    found.steps.extend(view.unreadable(tenant));
    let Some((placement, _)) = view.placed(tenant) else {
        if view.unreadable(tenant).is_some() {
            let known = "routers that have read a good record, or have a snapshot, go on by that; others answer 503";
            found.steps.push(known.into());
            return;
        }
        found.steps.push(format!("tenant {tenant} is not placed: routers answer 404"));
        return;
    };
    let cell = &placement.cell;
    found.tenant = Some(tenant.to_string());
    found.cell = Some(cell.name.to_string());
    found.epoch = Some(placement.epoch.0);
    found.held_by = placement.hold.as_ref().map(ToString::to_string);
    found.steps.push(format!("tenant {tenant} is in cell {} at epoch {}", cell.name, placement.epoch));
    if let Some(id) = &placement.hold {
        found.steps.push(format!("its traffic is held by move {id}: routers keep requests until it is released"));
    }
    match view.cell(cell) {
        Some(known) if known.endpoints.is_empty() => {
            found.steps.push(format!("cell {} has no endpoint: requests wait, then 503", cell.name));
        }
        Some(known) => {
            found.endpoints = known.endpoints.clone();
            found.steps.push(format!("cell {} answers at {}", cell.name, known.endpoints.join(", ")));
        }
        None => found.steps.push(format!("cell {} is not known: requests wait, then 503", cell.name)),
    }
}

//! What a router knows: tenants, hosts, cells. Reads take no lock; a change touches one entry.
//!
//! A tenant's hint lives inside its entry. The feed's next change makes a new entry, so a hint cannot outlive the
//! knowledge that it was given against, and it is never in a snapshot.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use cellway_api::identity::Identity;
use cellway_core::cell::{CellCondition, CellKind};
use cellway_core::certificate::{CertificateName, SealedCertificate};
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, CellUid, Epoch, Revision, TenantId};
use cellway_core::limit::TenantLimits;
use cellway_core::route::{Owner, may_follow};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;

use crate::limits::Limits;
use crate::metrics::CellCounters;
use crate::tls::StoredCertificates;

/// Where a tenant is, as the feed says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRoute {
    /// In a cell.
    Placed {
        /// The cell's name.
        cell: CellName,
        /// The cell's identity, where the feed knows it.
        uid: Option<CellUid>,
        /// The placement's epoch.
        epoch: Epoch,
        /// Whether a move holds its traffic.
        held: bool,
    },
    /// Nowhere: deleted, or vanished from the feed. Kept, so that its epoch is never lowered.
    Gone {
        /// The last epoch.
        epoch: Epoch,
    },
    /// Somewhere, but its record cannot be read and no earlier one is known. It takes the place of nothing that is.
    Unreadable,
}

impl TenantRoute {
    /// The epoch, whichever form it is.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Placed { epoch, .. } | Self::Gone { epoch } => *epoch,
            Self::Unreadable => Epoch(0),
        }
    }
}

/// A cell, as the feed says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellRoute {
    /// Its name.
    pub name: CellName,
    /// Its identity, where the feed knows it.
    pub uid: Option<CellUid>,
    /// Where it is reached.
    pub endpoints: Vec<SocketAddr>,
    /// Its condition. It does not matter to routing: who is placed there is served there.
    pub condition: CellCondition,
    /// Gates or plain origins.
    pub kind: CellKind,
}

/// One change of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A tenant is new or was changed.
    Tenant {
        /// Which.
        tenant: TenantId,
        /// Where it is now.
        route: TenantRoute,
        /// The revision of the change.
        revision: Revision,
    },
    /// A tenant's record vanished.
    TenantRemoved(TenantId),
    /// A host belongs to a tenant.
    Host {
        /// The host.
        host: Hostname,
        /// Its owner.
        tenant: TenantId,
    },
    /// A host belongs to nobody any more.
    HostRemoved(Hostname),
    /// A cell is new or was changed.
    Cell(CellRoute),
    /// A cell's record vanished.
    CellRemoved(CellName),
    /// What a tenant may use.
    Limits {
        /// Which.
        tenant: TenantId,
        /// All of it.
        limits: TenantLimits,
    },
    /// A tenant's limits were lifted.
    LimitsRemoved(TenantId),
    /// A certificate is new or was changed.
    Certificate {
        /// What it is kept under.
        name: CertificateName,
        /// Its chain and its sealed key.
        sealed: Arc<SealedCertificate>,
    },
    /// A certificate was removed.
    CertificateRemoved(CertificateName),
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A tenant.
    Tenant(TenantId),
    /// A host.
    Host(Hostname),
    /// A cell.
    Cell(CellName),
    /// A tenant's limits.
    Limits(TenantId),
    /// A certificate.
    Certificate(CertificateName),
}

impl Change {
    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Tenant { tenant, .. } | Self::TenantRemoved(tenant) => Subject::Tenant(tenant.clone()),
            Self::Host { host, .. } | Self::HostRemoved(host) => Subject::Host(host.clone()),
            Self::Cell(cell) => Subject::Cell(cell.name.clone()),
            Self::CellRemoved(cell) => Subject::Cell(cell.clone()),
            Self::Limits { tenant, .. } | Self::LimitsRemoved(tenant) => Subject::Limits(tenant.clone()),
            Self::Certificate { name, .. } | Self::CertificateRemoved(name) => Subject::Certificate(name.clone()),
        }
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The table is different now.
    Changed,
    /// It said so already.
    Same,
    /// The change would have lowered an epoch, and was ignored.
    LowerEpoch,
}

/// A tenant's entry.
#[derive(Debug)]
pub struct TenantEntry {
    route: TenantRoute,
    revision: Revision,
    hinted: AtomicBool,
    hint: Mutex<Option<Owner>>,
}

impl TenantEntry {
    fn new(route: TenantRoute, revision: Revision) -> Self {
        Self { route, revision, hinted: AtomicBool::new(false), hint: Mutex::new(None) }
    }

    fn hint(&self) -> Option<Owner> {
        if !self.hinted.load(Ordering::Acquire) {
            return None;
        }
        self.hint.lock().clone()
    }
}

/// Where to send a tenant's request now.
#[derive(Debug, Clone)]
pub struct Target {
    /// The cell and the epoch: the feed's, or a hint's above it.
    pub owner: Owner,
    /// The cell, if it is known, and is the one that the placement means.
    pub cell: Option<Arc<Cell>>,
    /// Whether the feed says that a move holds the traffic.
    pub held: bool,
    entry: Arc<TenantEntry>,
}

/// A cell's entry.
#[derive(Debug)]
pub struct Cell {
    /// What the feed says.
    pub route: CellRoute,
    turn: AtomicUsize,
    server_name: Arc<ServerName<'static>>,
    /// What is counted of it; made at its first request.
    pub(crate) counters: OnceLock<CellCounters>,
}

impl Cell {
    fn new(route: CellRoute) -> Self {
        let server_name = Arc::new(Identity::Cell(route.name.clone()).server_name());
        Self { route, turn: AtomicUsize::new(0), server_name, counters: OnceLock::new() }
    }

    /// The name in its gates' certificates.
    pub fn server_name(&self) -> Arc<ServerName<'static>> {
        Arc::clone(&self.server_name)
    }

    /// Its endpoints, a different one first each time.
    pub fn endpoints_in_turn(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let endpoints = &self.route.endpoints;
        let first = match endpoints.len() {
            0 | 1 => 0,
            count => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        endpoints[first..].iter().chain(&endpoints[..first]).copied()
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    tenants: papaya::HashMap<TenantId, Arc<TenantEntry>>,
    hosts: papaya::HashMap<Hostname, TenantId>,
    cells: papaya::HashMap<CellName, Arc<Cell>>,
    limits: Limits,
    /// `None` where they are of no use.
    certificates: Option<Arc<StoredCertificates>>,
    version: AtomicU64,
}

impl Table {
    /// An empty one, which hands certificates on.
    pub(crate) fn new(certificates: Option<Arc<StoredCertificates>>) -> Self {
        Self { certificates, ..Self::default() }
    }

    /// Applies one change.
    pub fn apply(&self, change: Change) -> Applied {
        let applied = match change {
            // They have a version and a snapshot of their own: they are large, and seldom change.
            Change::Certificate { name, sealed } => {
                return changed_if(self.certificates.as_ref().is_some_and(|all| all.set(name, sealed)));
            }
            Change::CertificateRemoved(name) => {
                return changed_if(self.certificates.as_ref().is_some_and(|all| all.remove(&name)));
            }
            Change::Tenant { tenant, route, revision } => self.set_tenant(tenant, route, revision),
            Change::TenantRemoved(tenant) => match self.entry(&tenant) {
                Some(entry) => {
                    let gone = TenantRoute::Gone { epoch: entry.route.epoch() };
                    self.set_tenant(tenant, gone, entry.revision)
                }
                None => Applied::Same,
            },
            Change::Host { host, tenant } => {
                let before = self.hosts.pin().insert(host, tenant.clone()).cloned();
                changed_if(before != Some(tenant))
            }
            Change::HostRemoved(host) => changed_if(self.hosts.pin().remove(&host).is_some()),
            Change::Cell(route) => self.set_cell(route),
            Change::CellRemoved(cell) => changed_if(self.cells.pin().remove(&cell).is_some()),
            Change::Limits { tenant, limits } => changed_if(self.limits.set(tenant, limits)),
            Change::LimitsRemoved(tenant) => changed_if(self.limits.set(tenant, TenantLimits::default())),
        };
        if applied == Applied::Changed {
            self.version.fetch_add(1, Ordering::Release);
        }
        applied
    }

    fn set_tenant(&self, tenant: TenantId, route: TenantRoute, revision: Revision) -> Applied {
        if let Some(before) = self.entry(&tenant) {
            if route == TenantRoute::Unreadable {
                return Applied::Same;
            }
            if route.epoch() < before.route.epoch() {
                return Applied::LowerEpoch;
            }
            if route == before.route {
                return Applied::Same;
            }
        }
        self.tenants.pin().insert(tenant, Arc::new(TenantEntry::new(route, revision)));
        Applied::Changed
    }

    fn set_cell(&self, route: CellRoute) -> Applied {
        let cells = self.cells.pin();
        if cells.get(&route.name).is_some_and(|before| before.route == route) {
            return Applied::Same;
        }
        cells.insert(route.name.clone(), Arc::new(Cell::new(route)));
        Applied::Changed
    }

    /// The changes that remove what a full listing does not name.
    pub fn vanished(&self, named: &HashSet<Subject>) -> Vec<Change> {
        let mut removed = Vec::new();
        for (tenant, entry) in &self.tenants.pin() {
            let gone = matches!(entry.route, TenantRoute::Gone { .. });
            if !gone && !named.contains(&Subject::Tenant(tenant.clone())) {
                removed.push(Change::TenantRemoved(tenant.clone()));
            }
        }
        for host in self.hosts.pin().keys() {
            if !named.contains(&Subject::Host(host.clone())) {
                removed.push(Change::HostRemoved(host.clone()));
            }
        }
        for cell in self.cells.pin().keys() {
            if !named.contains(&Subject::Cell(cell.clone())) {
                removed.push(Change::CellRemoved(cell.clone()));
            }
        }
        let unnamed = self.limits.vanished(|tenant| named.contains(&Subject::Limits(tenant.clone())));
        removed.extend(unnamed.into_iter().map(Change::LimitsRemoved));
        if let Some(certificates) = &self.certificates {
            let unnamed = certificates.vanished(|name| named.contains(&Subject::Certificate(name.clone())));
            removed.extend(unnamed.into_iter().map(Change::CertificateRemoved));
        }
        removed
    }

    /// Everything but certificates, as the changes that would make it. Not at one moment if changes go on meanwhile; each entry is
    /// whole.
    pub fn contents(&self) -> Vec<Change> {
        let mut contents = Vec::new();
        contents.extend(self.cells.pin().values().map(|cell| Change::Cell(cell.route.clone())));
        contents.extend(self.tenants.pin().iter().map(|(tenant, entry)| Change::Tenant {
            tenant: tenant.clone(),
            route: entry.route.clone(),
            revision: entry.revision,
        }));
        let host = |(host, tenant): (&Hostname, &TenantId)| Change::Host { host: host.clone(), tenant: tenant.clone() };
        contents.extend(self.hosts.pin().iter().map(host));
        let limits = self.limits.contents().into_iter();
        contents.extend(limits.map(|(tenant, limits)| Change::Limits { tenant, limits }));
        contents
    }

    /// The endpoints of all cells.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.cells.pin().values().flat_map(|cell| cell.route.endpoints.iter().copied()).collect()
    }

    /// The certificates, where they are of use.
    pub(crate) fn certificates(&self) -> Option<&StoredCertificates> {
        self.certificates.as_deref()
    }

    /// Rises with every change of a certificate.
    pub(crate) fn certificates_version(&self) -> u64 {
        self.certificates.as_ref().map_or(0, |certificates| certificates.version())
    }

    /// What tenants may use.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Rises with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// How many tenants, hosts and cells there are, tombstones included.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.tenants.len(), self.hosts.len(), self.cells.len())
    }

    /// How many tenants are placed.
    pub fn placed(&self) -> usize {
        self.tenants.pin().values().filter(|entry| matches!(entry.route, TenantRoute::Placed { .. })).count()
    }

    /// The tenant that a custom domain belongs to.
    pub fn tenant_of_host(&self, host: &Hostname) -> Option<TenantId> {
        self.hosts.pin().get(host).cloned()
    }

    /// The tenant with this id, unless it is unknown or gone.
    pub fn tenant(&self, label: &str) -> Option<TenantId> {
        let tenants = self.tenants.pin();
        let (tenant, entry) = tenants.get_key_value(label)?;
        (!matches!(entry.route, TenantRoute::Gone { .. })).then(|| tenant.clone())
    }

    /// Where to send a tenant's request now; `None` if that is unknown, or the tenant is gone.
    pub fn target(&self, tenant: &TenantId) -> Option<Target> {
        let entry = self.entry(tenant)?;
        let TenantRoute::Placed { cell, uid, epoch, held } = &entry.route else { return None };
        let placed = Owner { cell: cell.clone(), epoch: *epoch };
        let (owner, uid, held) = match entry.hint() {
            Some(hint) if hint.epoch > *epoch => (hint, None, false),
            _ => (placed, uid.clone(), *held),
        };
        let cell = self.cells.pin().get(&owner.cell).cloned();
        // A new cell of an old name is not where the tenant is.
        let cell = cell.filter(|cell| uid.is_none() || cell.route.uid.is_none() || cell.route.uid == uid);
        Some(Target { owner, cell, held, entry })
    }

    /// Whether the tenant's entry is another one than when `target` was read.
    pub fn has_changed(&self, tenant: &TenantId, target: &Target) -> bool {
        self.entry(tenant).is_none_or(|entry| !Arc::ptr_eq(&entry, &target.entry))
    }

    /// Whether the feed says, now, that a move holds the tenant's traffic.
    pub fn is_held(&self, tenant: &TenantId) -> bool {
        self.target(tenant).is_some_and(|target| target.held)
    }

    /// Keeps a gate's hint, if it may be believed; says whether.
    pub fn take_hint(&self, target: &Target, hint: Owner, hops: u32) -> bool {
        let known = self.cells.pin().contains_key(&hint.cell);
        if !may_follow(&target.owner, &target.owner.cell, &hint, known, hops) {
            return false;
        }
        let mut held = target.entry.hint.lock();
        if held.as_ref().is_none_or(|before| before.epoch < hint.epoch) {
            *held = Some(hint);
            target.entry.hinted.store(true, Ordering::Release);
        }
        true
    }

    fn entry(&self, tenant: &TenantId) -> Option<Arc<TenantEntry>> {
        self.tenants.pin().get(tenant).cloned()
    }
}

fn changed_if(changed: bool) -> Applied {
    if changed { Applied::Changed } else { Applied::Same }
}

#[cfg(test)]
mod tests;

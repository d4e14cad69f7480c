//! What a router knows: tenants, hosts, cells. Reads take no lock; a change touches one entry.
//!
//! A tenant takes one row ([`rows`]), as there may be millions: its name lies in it, and where the tenant is placed is a
//! number, shared by all who are placed there. Hints are few and kept apart, each with the row that it was given against; the tenant's
//! next change in the feed makes it void, and none is in a snapshot.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use cellway_api::identity::Identity;
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, CellUid, Epoch, Revision, TenantId};
use cellway_core::limit::TenantLimits;
use cellway_core::route::{Owner, may_follow};
use cellway_proxy::Hashes;
use rustls::pki_types::ServerName;

use crate::limits::{Limited, Limits};
use crate::metrics::CellCounters;
use crate::tls::StoredCertificates;

mod change;
mod listing;
mod name;
mod numbered;
mod places;
mod rows;

use name::LongNames;
use numbered::Numbered;
use places::{Placed, Places};
use rows::{Kind, Row, Rows};

pub use listing::Listing;

pub use change::{Applied, CellRoute, Change, Subject, TenantRoute};

/// Where tenants are placed: a cell, and its identity where the feed knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    cell: CellName,
    uid: Option<CellUid>,
}

/// What a gate has said of a tenant.
#[derive(Debug)]
struct Hint {
    /// What was known then. Against anything else it says nothing.
    against: Row,
    owner: Owner,
}

/// Where to send a tenant's request now.
#[derive(Debug, Clone)]
pub struct Target {
    /// The placement's epoch: the feed's, or a hint's above it.
    pub epoch: Epoch,
    /// Whether the feed says that a move holds the traffic.
    pub held: bool,
    placed: Arc<Placed>,
    row: Row,
}

impl Target {
    /// The cell's name.
    pub fn cell_name(&self) -> &CellName {
        &self.placed.place.cell
    }

    /// The cell, if it is known, and is the one that the placement means.
    pub fn cell(&self) -> Option<&Cell> {
        self.placed.cell.as_deref()
    }

    fn owner(&self) -> Owner {
        Owner { cell: self.cell_name().clone(), epoch: self.epoch }
    }
}

/// What a request asks for of its tenant.
#[derive(Debug)]
pub struct Found {
    /// Its id.
    pub tenant: TenantId,
    /// What it may use, if it has limits.
    pub(crate) limited: Option<Arc<Limited>>,
    /// Where to send the request now, if that is known.
    pub target: Option<Target>,
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

/// Names are chosen by who may create tenants, and hashed with a secret of this process; clients only look them up.
pub(crate) type Map<K, V> = papaya::HashMap<K, V, Hashes>;

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    tenants: Rows,
    long_names: LongNames,
    places: Places,
    hints: Map<TenantId, Hint>,
    /// How many there are: mostly none, which a look-up knows by this.
    hint_count: AtomicUsize,
    hosts: Map<Hostname, TenantId>,
    cells: Map<CellName, Arc<Cell>>,
    limits: Limits,
    /// Those of tenants in the table: a large one is in no cache, so that a second look-up by name would cost.
    limited: Numbered<Limited>,
    /// `None` where they are of no use.
    certificates: Option<Arc<StoredCertificates>>,
    version: AtomicU64,
}

impl Table {
    /// An empty one, which hands certificates on.
    pub(crate) fn new(certificates: Option<Arc<StoredCertificates>>) -> Self {
        Self { certificates, ..Self::default() }
    }

    /// Makes room for so many tenants, if it has none: a table that grows as it is filled is copied again and again.
    pub(crate) fn expect(&self, tenants: usize) {
        self.tenants.expect(tenants);
    }

    /// Forgets all but certificates. For a table that nothing is served from.
    pub(crate) fn clear(&self) {
        self.tenants.clear();
        self.long_names.clear();
        self.places.clear();
        self.limited.clear();
        self.limits.clear();
        self.hints.pin().clear();
        self.hint_count.store(0, Ordering::Relaxed);
        self.hosts.pin().clear();
        self.cells.pin().clear();
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
            Change::Tenant { tenant, route, revision } => self.set_tenant(&tenant, route, revision),
            Change::TenantRemoved(tenant) => match self.row(tenant.as_str()) {
                Some(Row { epoch, revision, .. }) => {
                    self.set_tenant(&tenant, TenantRoute::Gone { epoch: Epoch(epoch) }, Revision(revision))
                }
                None => Applied::Same,
            },
            Change::Host { host, tenant } => {
                let before = self.hosts.pin().insert(host, tenant.clone()).cloned();
                changed_if(before != Some(tenant))
            }
            Change::HostRemoved(host) => changed_if(self.hosts.pin().remove(&host).is_some()),
            Change::Cell(route) => self.set_cell(route),
            Change::CellRemoved(cell) => {
                let is_removed = self.cells.pin().remove(&cell).is_some();
                self.places.set_cell(&cell, None);
                changed_if(is_removed)
            }
            Change::Limits { tenant, limits } => self.set_limits(tenant, limits),
            Change::LimitsRemoved(tenant) => self.set_limits(tenant, TenantLimits::default()),
        };
        if applied == Applied::Changed {
            self.version.fetch_add(1, Ordering::Release);
        }
        applied
    }

    fn set_tenant(&self, tenant: &TenantId, route: TenantRoute, revision: Revision) -> Applied {
        let name = self.long_names.name(tenant);
        let epoch = route.epoch().0;
        let (kind, place) = match route {
            TenantRoute::Placed { cell, uid, held, .. } => {
                let known = |name: &CellName| self.cells.pin().get(name).cloned();
                (if held { Kind::Held } else { Kind::Placed }, self.places.take(Place { cell, uid }, known))
            }
            TenantRoute::Gone { .. } => (Kind::Gone, 0),
            TenantRoute::Unreadable => (Kind::Unreadable, 0),
        };
        let updated = self.tenants.update(name, |before| {
            if let Some(before) = before {
                if kind == Kind::Unreadable {
                    return Err(Applied::Same);
                }
                if epoch < before.epoch {
                    return Err(Applied::LowerEpoch);
                }
                if (kind, place, epoch) == (before.kind, before.place, before.epoch) {
                    return Err(Applied::Same);
                }
            }
            let limited = before.map_or_else(|| self.limited_number(tenant), |before| before.limited);
            Ok(Row { kind, place, limited, epoch, revision: revision.0 })
        });
        let (applied, unused) = match updated {
            Ok(before) => (Applied::Changed, before.map_or(0, |before| before.place)),
            Err(applied) => (applied, place),
        };
        self.places.give_back(unused);
        let is_hinted = || self.hint_count.load(Ordering::Relaxed) > 0 && self.hints.pin().remove(tenant).is_some();
        if applied == Applied::Changed && is_hinted() {
            self.hint_count.fetch_sub(1, Ordering::Relaxed);
        }
        applied
    }

    fn limited_number(&self, tenant: &TenantId) -> u32 {
        self.limits.of(tenant).map_or(0, |limited| self.limited.add(limited))
    }

    fn set_limits(&self, tenant: TenantId, limits: TenantLimits) -> Applied {
        let are_lifted = limits.is_nothing();
        if !self.limits.set(tenant.clone(), limits) {
            return Applied::Same;
        }
        if let Some(name) = self.long_names.find(tenant.as_str()) {
            // A tenant that is not known finds its limits when it comes.
            let updated = self.tenants.update(name, |before| {
                let before = before.ok_or(())?;
                match (are_lifted, before.limited) {
                    (true, _) => Ok(Row { limited: 0, ..before }),
                    (false, 0) => Ok(Row { limited: self.limited_number(&tenant), ..before }),
                    (false, _) => Err(()),
                }
            });
            if let Ok(Some(Row { limited: unused @ 1.., .. })) = updated {
                self.limited.remove(unused);
            }
        }
        Applied::Changed
    }

    fn set_cell(&self, route: CellRoute) -> Applied {
        let cells = self.cells.pin();
        if cells.get(&route.name).is_some_and(|before| before.route == route) {
            return Applied::Same;
        }
        let cell = Arc::new(Cell::new(route));
        cells.insert(cell.route.name.clone(), Arc::clone(&cell));
        self.places.set_cell(&cell.route.name, Some(&cell));
        Applied::Changed
    }

    /// Everything but certificates, as the changes that would make it. Not at one moment if changes go on meanwhile; each
    /// entry is whole.
    pub fn each(&self, mut each: impl FnMut(Change)) {
        self.cells.pin().values().for_each(|cell| each(Change::Cell(cell.route.clone())));
        self.tenants.each(|name, row, _| {
            if let (Some(tenant), Some(route)) = (self.long_names.tenant(name), self.route(row)) {
                each(Change::Tenant { tenant, route, revision: Revision(row.revision) });
            }
        });
        let host = |(host, tenant): (&Hostname, &TenantId)| Change::Host { host: host.clone(), tenant: tenant.clone() };
        self.hosts.pin().iter().for_each(|entry| each(host(entry)));
        self.limits.each(|tenant, limits| each(Change::Limits { tenant: tenant.clone(), limits }));
    }

    /// [`Table::each`], all at once.
    pub fn contents(&self) -> Vec<Change> {
        let mut contents = Vec::new();
        self.each(|change| contents.push(change));
        contents
    }

    /// `None` for a place that is given back this very moment.
    fn route(&self, row: Row) -> Option<TenantRoute> {
        let epoch = Epoch(row.epoch);
        Some(match row.kind {
            Kind::Placed | Kind::Held => {
                let Place { cell, uid } = self.places.get(row.place)?.place.clone();
                TenantRoute::Placed { cell, uid, epoch, held: row.kind == Kind::Held }
            }
            Kind::Gone => TenantRoute::Gone { epoch },
            Kind::Unreadable => TenantRoute::Unreadable,
        })
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
        self.tenants.placed()
    }

    /// The tenant that a custom domain belongs to.
    pub fn tenant_of_host(&self, host: &Hostname) -> Option<TenantId> {
        self.hosts.pin().get(host).cloned()
    }

    /// The tenant with this id, unless it is unknown or gone.
    pub fn tenant(&self, label: &str) -> Option<TenantId> {
        let row = self.row(label)?;
        // What is no id may be found all the same.
        (row.kind != Kind::Gone).then(|| TenantId::new(label).ok())?
    }

    /// All that a request asks for of a tenant with this id, by one look; `None` as for [`Table::tenant`].
    pub fn find(&self, label: &str) -> Option<Found> {
        let found = |row: Row| (row, self.limited_by(row), self.placed_by(row));
        let (row, limited, placed) = self.tenants.read(self.long_names.find(label)?, found)?;
        let tenant = (row.kind != Kind::Gone).then(|| TenantId::new(label).ok())??;
        let target = placed.map(|placed| self.aim(&tenant, row, placed));
        Some(Found { tenant, limited, target })
    }

    /// Where to send a tenant's request now; `None` if that is unknown, or the tenant is gone.
    pub fn target(&self, tenant: &TenantId) -> Option<Target> {
        let name = self.long_names.find(tenant.as_str())?;
        let (row, placed) = self.tenants.read(name, |row| Some((row, self.placed_by(row)?)))??;
        Some(self.aim(tenant, row, placed))
    }

    /// Only while the row is read: its numbers are given to others later.
    fn placed_by(&self, row: Row) -> Option<Arc<Placed>> {
        if row.kind.is_placed() { self.places.get(row.place) } else { None }
    }

    /// As [`Table::placed_by`].
    fn limited_by(&self, row: Row) -> Option<Arc<Limited>> {
        if row.limited == 0 { None } else { self.limited.get(row.limited) }
    }

    fn aim(&self, tenant: &TenantId, row: Row, placed: Arc<Placed>) -> Target {
        if let Some(Owner { cell: name, epoch }) = self.hint(tenant, row) {
            let cell = self.cells.pin().get(&name).cloned();
            let placed = Arc::new(Placed::new(Place { cell: name, uid: None }, cell));
            return Target { epoch, held: false, placed, row };
        }
        Target { epoch: Epoch(row.epoch), held: row.kind == Kind::Held, placed, row }
    }

    /// A hint against this row, above it.
    fn hint(&self, tenant: &TenantId, row: Row) -> Option<Owner> {
        if self.hint_count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let hints = self.hints.pin();
        let hint = hints.get(tenant).filter(|hint| hint.against.is_of(row) && hint.owner.epoch.0 > row.epoch)?;
        Some(hint.owner.clone())
    }

    /// Whether the tenant's entry is another one than when `target` was read.
    pub fn has_changed(&self, tenant: &TenantId, target: &Target) -> bool {
        self.row(tenant.as_str()).is_none_or(|row| !row.is_of(target.row))
    }

    /// Whether the feed says, now, that a move holds the tenant's traffic.
    pub fn is_held(&self, tenant: &TenantId) -> bool {
        self.target(tenant).is_some_and(|target| target.held)
    }

    /// Keeps a gate's hint, if it may be believed; says whether.
    pub fn take_hint(&self, tenant: &TenantId, target: &Target, hint: Owner, hops: u32) -> bool {
        let known = self.cells.pin().contains_key(&hint.cell);
        if !may_follow(&target.owner(), target.cell_name(), &hint, known, hops) {
            return false;
        }
        let row = target.row;
        let is_newer = |before: &Hint| !before.against.is_of(row) || before.owner.epoch < hint.epoch;
        let hints = self.hints.pin();
        if hints.get(tenant).is_none_or(is_newer) {
            let before = hints.insert(tenant.clone(), Hint { against: row, owner: hint });
            self.hint_count.fetch_add(usize::from(before.is_none()), Ordering::Relaxed);
        }
        true
    }

    fn row(&self, label: &str) -> Option<Row> {
        self.tenants.read(self.long_names.find(label)?, |row| row)
    }
}

fn changed_if(changed: bool) -> Applied {
    if changed { Applied::Changed } else { Applied::Same }
}

#[cfg(test)]
mod tests;

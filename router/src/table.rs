//! What a router knows: tenants, hosts, cells. Reads take no lock; a change touches one entry.
//!
//! An entry is small, as there may be millions: a tenant's name lies in it, and where the tenant is placed is shared by
//! all who are placed there. Hints are few and kept apart, each with the entry that it was given against; the tenant's
//! next change in the feed makes it void, and none is in a snapshot.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use cellway_api::identity::Identity;
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, CellUid, Epoch, Revision, TenantId};
use cellway_core::limit::TenantLimits;
use cellway_core::route::{Owner, may_follow};
use cellway_proxy::Hashes;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;

use crate::limits::{Limited, Limits};
use crate::metrics::CellCounters;
use crate::tls::StoredCertificates;

mod change;

pub use change::{Applied, CellRoute, Change, Subject, TenantRoute};

/// Where tenants are placed: a cell, and its identity where the feed knows it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Place {
    cell: CellName,
    uid: Option<CellUid>,
}

/// What is known of a tenant.
#[derive(Debug, Clone)]
struct Entry {
    state: State,
    epoch: Epoch,
    revision: Revision,
    /// What it may use, as [`Limits`] has it: a large table is in no cache, so that a second look-up costs.
    limited: Option<Arc<Limited>>,
}

/// [`TenantRoute`] without what an entry has beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Placed(Arc<Place>),
    Held(Arc<Place>),
    Gone,
    Unreadable,
}

/// What a tenant costs in the table, beside a name of more than 23 bytes and the table's own places.
const ENTRY_BYTES: usize = size_of::<(TenantId, Entry)>();
const _: () = assert!(ENTRY_BYTES <= 64, "the allocator's next size is 80");

impl Entry {
    fn route(&self) -> TenantRoute {
        let placed = |place: &Place, held| {
            let (cell, uid) = (place.cell.clone(), place.uid.clone());
            TenantRoute::Placed { cell, uid, epoch: self.epoch, held }
        };
        match &self.state {
            State::Placed(place) => placed(place, false),
            State::Held(place) => placed(place, true),
            State::Gone => TenantRoute::Gone { epoch: self.epoch },
            State::Unreadable => TenantRoute::Unreadable,
        }
    }

    /// Whether it says the same of the placement as another one, of whatever revision.
    fn is_at(&self, other: &Self) -> bool {
        self.state == other.state && self.epoch == other.epoch
    }

    /// Whether it is the same word of the feed.
    fn is_of(&self, other: &Self) -> bool {
        self.is_at(other) && self.revision == other.revision
    }
}

/// What a gate has said of a tenant.
#[derive(Debug)]
struct Hint {
    /// What was known then. Against anything else it says nothing.
    against: Entry,
    owner: Owner,
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
    tenant: TenantId,
    entry: Entry,
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
    tenants: Map<TenantId, Entry>,
    /// Every place of an entry.
    places: Mutex<HashSet<Arc<Place>>>,
    hints: Map<TenantId, Hint>,
    hosts: Map<Hostname, TenantId>,
    cells: Map<CellName, Arc<Cell>>,
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
                Some(Entry { epoch, revision, .. }) => self.set_tenant(tenant, TenantRoute::Gone { epoch }, revision),
                None => Applied::Same,
            },
            Change::Host { host, tenant } => {
                let before = self.hosts.pin().insert(host, tenant.clone()).cloned();
                changed_if(before != Some(tenant))
            }
            Change::HostRemoved(host) => changed_if(self.hosts.pin().remove(&host).is_some()),
            Change::Cell(route) => self.set_cell(route),
            Change::CellRemoved(cell) => changed_if(self.cells.pin().remove(&cell).is_some()),
            Change::Limits { tenant, limits } => self.set_limits(tenant, limits),
            Change::LimitsRemoved(tenant) => self.set_limits(tenant, TenantLimits::default()),
        };
        if applied == Applied::Changed {
            self.version.fetch_add(1, Ordering::Release);
        }
        applied
    }

    fn set_tenant(&self, tenant: TenantId, route: TenantRoute, revision: Revision) -> Applied {
        let entry = Entry { limited: self.limits.of(&tenant), ..self.entry_of(route, revision) };
        if let Some(before) = self.entry(&tenant) {
            if entry.state == State::Unreadable {
                return Applied::Same;
            }
            if entry.epoch < before.epoch {
                return Applied::LowerEpoch;
            }
            if entry.is_at(&before) {
                return Applied::Same;
            }
        }
        self.tenants.pin().insert(tenant.clone(), entry);
        if !self.hints.is_empty() {
            self.hints.pin().remove(&tenant);
        }
        Applied::Changed
    }

    fn entry_of(&self, route: TenantRoute, revision: Revision) -> Entry {
        let epoch = route.epoch();
        let state = match route {
            TenantRoute::Placed { cell, uid, held: false, .. } => State::Placed(self.place(cell, uid)),
            TenantRoute::Placed { cell, uid, held: true, .. } => State::Held(self.place(cell, uid)),
            TenantRoute::Gone { .. } => State::Gone,
            TenantRoute::Unreadable => State::Unreadable,
        };
        Entry { state, epoch, revision, limited: None }
    }

    fn place(&self, cell: CellName, uid: Option<CellUid>) -> Arc<Place> {
        let place = Place { cell, uid };
        let mut places = self.places.lock();
        if let Some(known) = places.get(&place) {
            return Arc::clone(known);
        }
        // Cells come and go: those where nobody is any more are forgotten.
        places.retain(|place| Arc::strong_count(place) > 1);
        let place = Arc::new(place);
        places.insert(Arc::clone(&place));
        place
    }

    fn set_limits(&self, tenant: TenantId, limits: TenantLimits) -> Applied {
        if !self.limits.set(tenant.clone(), limits) {
            return Applied::Same;
        }
        if let Some(entry) = self.entry(&tenant) {
            let limited = self.limits.of(&tenant);
            self.tenants.pin().insert(tenant, Entry { limited, ..entry });
        }
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
            if entry.state != State::Gone && !named.contains(&Subject::Tenant(tenant.clone())) {
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
            route: entry.route(),
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

    /// What a tenant may use, if it has limits.
    pub(crate) fn limited(&self, tenant: &TenantId) -> Option<Arc<Limited>> {
        self.tenants.pin().get(tenant)?.limited.clone()
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
        self.tenants.pin().values().filter(|entry| matches!(entry.state, State::Placed(_) | State::Held(_))).count()
    }

    /// The tenant that a custom domain belongs to.
    pub fn tenant_of_host(&self, host: &Hostname) -> Option<TenantId> {
        self.hosts.pin().get(host).cloned()
    }

    /// The tenant with this id, unless it is unknown or gone.
    pub fn tenant(&self, label: &str) -> Option<TenantId> {
        let tenants = self.tenants.pin();
        let (tenant, entry) = tenants.get_key_value(label)?;
        (entry.state != State::Gone).then(|| tenant.clone())
    }

    /// Where to send a tenant's request now; `None` if that is unknown, or the tenant is gone.
    pub fn target(&self, tenant: &TenantId) -> Option<Target> {
        let entry = self.entry(tenant)?;
        let (place, held) = match &entry.state {
            State::Placed(place) => (place, false),
            State::Held(place) => (place, true),
            State::Gone | State::Unreadable => return None,
        };
        let (owner, uid, held) = match self.hint(tenant, &entry) {
            Some(hint) => (hint, None, false),
            None => (Owner { cell: place.cell.clone(), epoch: entry.epoch }, place.uid.as_ref(), held),
        };
        let cells = self.cells.pin();
        // A new cell of an old name is not where the tenant is.
        let is_meant = |cell: &&Arc<Cell>| uid.is_none() || cell.route.uid.is_none() || cell.route.uid.as_ref() == uid;
        let cell = cells.get(&owner.cell).filter(is_meant).cloned();
        Some(Target { owner, cell, held, tenant: tenant.clone(), entry })
    }

    /// A hint against this entry, above it.
    fn hint(&self, tenant: &TenantId, entry: &Entry) -> Option<Owner> {
        if self.hints.is_empty() {
            return None;
        }
        let hints = self.hints.pin();
        let hint = hints.get(tenant).filter(|hint| hint.against.is_of(entry) && hint.owner.epoch > entry.epoch)?;
        Some(hint.owner.clone())
    }

    /// Whether the tenant's entry is another one than when `target` was read.
    pub fn has_changed(&self, target: &Target) -> bool {
        self.entry(&target.tenant).is_none_or(|entry| !entry.is_of(&target.entry))
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
        let Target { tenant, entry, .. } = target;
        let is_newer = |before: &Hint| !before.against.is_of(entry) || before.owner.epoch < hint.epoch;
        let hints = self.hints.pin();
        if hints.get(tenant).is_none_or(is_newer) {
            hints.insert(tenant.clone(), Hint { against: entry.clone(), owner: hint });
        }
        true
    }

    fn entry(&self, tenant: &TenantId) -> Option<Entry> {
        self.tenants.pin().get(tenant).cloned()
    }
}

fn changed_if(changed: bool) -> Applied {
    if changed { Applied::Changed } else { Applied::Same }
}

#[cfg(test)]
mod tests;

//! What a replica has seen of the store: one revision at a time, followed from the watch.
//!
//! The view may be behind the store, never ahead of it; whoever writes compares the revisions seen here, so acting on
//! an old view can only fail.

use crate::clock;
use crate::operate::KeptCertificate;
use cellway_core::cell::{Cell, CellRef, GateList};
use cellway_core::certificate::CertificateName;
use cellway_core::fleet::{Fleet, FleetCell, InFlight};
use cellway_core::ids::{CellName, HomeId, InstanceId, MoveId, Revision, TenantId};
use cellway_core::limit::TenantLimits;
use cellway_core::tenant::{PlacementRecord, Tenant};
use cellway_core::tenant_move::{MoveRecord, MoveState, deadline};
use cellway_store::records::{BadRecord, Brake, Finding, HostClaim, Leader, Leftover, Moving, Record, Unknown};
use cellway_store::{Entry, Event, keys};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, watch};

/// How many changes a slow reader of the view may be behind before it has to look at everything again.
const CHANGES_KEPT: usize = 4_096;

/// How long an answer waits for the view to have what was just written.
const SEEN_WAIT_MS: u64 = 2_000;

/// Without any change for this long, the leader's heartbeat included, the store is out of sight: this replica is cut off
/// from it, or nobody leads.
const SIGHT_MS: u64 = 5_000;

/// A record with the revision that last wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) revision: Revision,
    /// What a newer version wrote beside it.
    pub(crate) unknown: Unknown,
}

impl<T: Record> At<T> {
    /// The bytes of what takes this record's place: what a newer version wrote beside it stays.
    pub(crate) fn replaced_by(&self, next: &T) -> Vec<u8> {
        self.unknown.kept_in(next.encode())
    }
}

/// Whose copy of what is left where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeftoverKey {
    pub(crate) cell: CellName,
    pub(crate) tenant: TenantId,
    pub(crate) home: HomeId,
}

/// Everything that was seen, at one revision.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) revision: Revision,
    pub(crate) synced: bool,
    pub(crate) cells: BTreeMap<CellName, At<Cell>>,
    pub(crate) gates: BTreeMap<CellName, At<GateList>>,
    pub(crate) tenants: BTreeMap<TenantId, At<Tenant>>,
    pub(crate) placements: BTreeMap<TenantId, At<PlacementRecord>>,
    pub(crate) hosts: BTreeMap<String, At<HostClaim>>,
    pub(crate) limits: BTreeMap<TenantId, At<TenantLimits>>,
    pub(crate) certificates: BTreeMap<CertificateName, At<KeptCertificate>>,
    pub(crate) moves: BTreeMap<MoveId, At<MoveRecord>>,
    /// The moves that have not ended.
    pub(crate) running: BTreeSet<MoveId>,
    pub(crate) moving: BTreeMap<TenantId, At<Moving>>,
    /// When a place in a cell was last given.
    pub(crate) places: BTreeMap<CellName, Revision>,
    pub(crate) leftovers: BTreeMap<LeftoverKey, At<Leftover>>,
    pub(crate) findings: BTreeMap<String, At<Finding>>,
    pub(crate) leader: Option<At<Leader>>,
    /// While it is there, nothing is started.
    pub(crate) brake: Option<At<Brake>>,
    /// Records that cannot be read, by key, and why.
    pub(crate) unreadable: BTreeMap<String, String>,
}

/// What a change of the view is about, for those who wait for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A tenant's placement.
    Placement(TenantId),
    /// A move, or what a cell has to drop: its orders may differ.
    Orders(BTreeSet<CellName>),
    /// A cell's gates.
    Gates(CellName),
    /// Anything: look at all of it again.
    All,
    /// Something that only the API shows.
    Other,
}

impl View {
    /// Takes one event of the store. A record that cannot be read leaves the last good one in force, and is remembered.
    pub(crate) fn apply(&mut self, event: &Event) -> Result<Change, BadRecord> {
        let taken = self.take(event);
        match &taken {
            Err(error) => drop(self.unreadable.insert(event.key().to_owned(), with_source(error))),
            Ok(_) => drop(self.unreadable.remove(event.key())),
        }
        taken
    }

    fn take(&mut self, event: &Event) -> Result<Change, BadRecord> {
        let (key, entry) = match event {
            Event::Put(entry) => (entry.key.as_str(), Some(entry)),
            Event::Delete { key } => (key.as_str(), None),
        };
        if key.starts_with(keys::PLACEMENTS) {
            return Ok(match keys::tenant_of_placement(key) {
                Some(tenant) => {
                    set(&mut self.placements, tenant.clone(), entry)?;
                    Change::Placement(tenant)
                }
                None => Change::Other,
            });
        }
        if let Some(id) = key.strip_prefix(keys::MOVES).and_then(|id| MoveId::new(id).ok()) {
            return self.apply_move(id, entry);
        }
        if let Some(cell) = key.strip_prefix(keys::GATES).and_then(|name| CellName::new(name).ok()) {
            set(&mut self.gates, cell.clone(), entry)?;
            return Ok(Change::Gates(cell));
        }
        if let Some((cell, tenant, home)) = keys::parts_of_leftover(key) {
            set(&mut self.leftovers, LeftoverKey { cell: cell.clone(), tenant, home }, entry)?;
            return Ok(Change::Orders([cell].into()));
        }
        self.apply_other(key, entry)?;
        Ok(Change::Other)
    }

    fn apply_move(&mut self, id: MoveId, entry: Option<&Entry>) -> Result<Change, BadRecord> {
        let before = self.moves.get(&id).map(|at| at.value.clone());
        set(&mut self.moves, id.clone(), entry)?;
        let after = self.moves.get(&id).map(|at| &at.value);
        match after {
            Some(record) if !record.state.is_last() => self.running.insert(id),
            _ => self.running.remove(&id),
        };
        let cells = before.iter().chain(after).flat_map(|record| [&record.source, &record.target]);
        Ok(Change::Orders(cells.map(|cell| cell.name.clone()).collect()))
    }

    fn apply_other(&mut self, key: &str, entry: Option<&Entry>) -> Result<(), BadRecord> {
        if let Some(cell) = key.strip_prefix(keys::CELLS).and_then(|name| CellName::new(name).ok()) {
            set(&mut self.cells, cell, entry)
        } else if let Some(tenant) = key.strip_prefix(keys::TENANTS).and_then(|id| TenantId::new(id).ok()) {
            set(&mut self.tenants, tenant, entry)
        } else if let Some(tenant) = key.strip_prefix(keys::MOVING).and_then(|id| TenantId::new(id).ok()) {
            set(&mut self.moving, tenant, entry)
        } else if let Some(cell) = key.strip_prefix(keys::PLACES).and_then(|name| CellName::new(name).ok()) {
            match entry {
                Some(entry) => self.places.insert(cell, entry.mod_revision),
                None => self.places.remove(&cell),
            };
            Ok(())
        } else if let Some(host) = key.strip_prefix(keys::HOSTS) {
            set(&mut self.hosts, host.to_owned(), entry)
        } else if let Some(tenant) = key.strip_prefix(keys::LIMITS).and_then(|id| TenantId::new(id).ok()) {
            set(&mut self.limits, tenant, entry)
        } else if let Some(name) = key.strip_prefix(keys::CERTIFICATES).and_then(CertificateName::from_key) {
            match entry {
                Some(entry) => {
                    let value = KeptCertificate::read(&entry.value)?;
                    self.certificates
                        .insert(name, At { value, revision: entry.mod_revision, unknown: Unknown::default() });
                }
                None => drop(self.certificates.remove(&name)),
            }
            Ok(())
        } else if let Some(id) = key.strip_prefix(keys::FINDINGS) {
            set(&mut self.findings, id.to_owned(), entry)
        } else if key == keys::LEADER {
            self.leader = entry.map(decoded).transpose()?;
            Ok(())
        } else if key == keys::BRAKE {
            self.apply_brake(entry)
        } else {
            Ok(())
        }
    }

    /// A brake that cannot be read brakes.
    fn apply_brake(&mut self, entry: Option<&Entry>) -> Result<(), BadRecord> {
        let Some(entry) = entry else {
            self.brake = None;
            return Ok(());
        };
        let decoded = decoded(entry);
        self.brake = match &decoded {
            Ok(at) => Some(At::clone(at)),
            Err(error) => {
                let value = Brake { at_ms: 0, why: error.to_string() };
                Some(At { value, revision: entry.mod_revision, unknown: Unknown::default() })
            }
        };
        decoded.map(drop)
    }

    /// A tenant's placement and where it was written, if it is placed.
    pub(crate) fn placed(&self, tenant: &TenantId) -> Option<(&cellway_core::tenant::Placement, Revision)> {
        let at = self.placements.get(tenant)?;
        match &at.value {
            PlacementRecord::Placed(placement) => Some((placement, at.revision)),
            PlacementRecord::Gone { .. } => None,
        }
    }

    /// Why nothing may be decided about a tenant, with what to do: one of its records cannot be read. It may be in force
    /// elsewhere, and a decision without it would be made over it.
    pub(crate) fn unreadable(&self, tenant: &TenantId) -> Option<String> {
        if self.unreadable.is_empty() {
            return None;
        }
        let of_tenant = [keys::placement(tenant), keys::tenant(tenant), keys::moving(tenant)];
        let (key, why) = of_tenant.iter().find_map(|key| self.unreadable.get_key_value(key))?;
        Some(format!(
            "record {key} in the store cannot be read ({why}): until a good one is there again, from a backup or by the \
             version that wrote it, tenant {tenant} stays where it is, and is neither moved nor created anew"
        ))
    }

    /// All tenants, those included of which there is only a record that cannot be read.
    pub(crate) fn known_tenants(&self) -> BTreeSet<TenantId> {
        self.tenants.keys().cloned().chain(self.unreadable.keys().filter_map(|key| tenant_of(key))).collect()
    }

    /// The cell that a reference means: the name may belong to another cell by now.
    pub(crate) fn cell(&self, wanted: &CellRef) -> Option<&Cell> {
        self.cells.get(&wanted.name).map(|at| &at.value).filter(|cell| cell.cell == *wanted)
    }

    /// Tenants per cell, those on their way to it included.
    pub(crate) fn tenants_per_cell(&self) -> BTreeMap<CellName, u32> {
        let mut counts = BTreeMap::new();
        for at in self.placements.values() {
            if let PlacementRecord::Placed(placement) = &at.value {
                *counts.entry(placement.cell.name.clone()).or_default() += 1;
            }
        }
        for record in self.running.iter().filter_map(|id| self.moves.get(id)) {
            if record.value.takes_place() {
                *counts.entry(record.value.target.name.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// What a planner may look at. `reachable` tells whether an instance was heard lately.
    pub(crate) fn fleet(&self, reachable: impl Fn(&CellName, &InstanceId) -> bool) -> Fleet {
        let counts = self.tenants_per_cell();
        let cell = |(name, at): (&CellName, &At<Cell>)| {
            let instances = self.gates.get(name).map(|gates| &gates.value.instances);
            let all_heard = instances.is_some_and(|list| !list.is_empty() && list.keys().all(|id| reachable(name, id)));
            let tenants = counts.get(name).copied().unwrap_or_default();
            (name.clone(), FleetCell { cell: at.value.clone(), tenants, reachable: all_heard })
        };
        let now_ms = clock::now_ms();
        let flies = |record: &&At<MoveRecord>| match record.value.state {
            MoveState::Planned | MoveState::Settling | MoveState::Cleaning(_) => false,
            // It may wait for its target for ever: it must not keep a place from others.
            MoveState::Switched => now_ms < deadline(&record.value),
            _ => true,
        };
        let running = self.running.iter().filter_map(|id| self.moves.get(id));
        Fleet {
            revision: self.revision,
            cells: self.cells.iter().map(cell).collect(),
            moves_in_flight: running.filter(flies).map(|at| InFlight::of(&at.value, now_ms)).collect(),
        }
    }
}

/// The tenant that a record's key is about.
fn tenant_of(key: &str) -> Option<TenantId> {
    let id = key.strip_prefix(keys::TENANTS).or_else(|| key.strip_prefix(keys::MOVING));
    keys::tenant_of_placement(key).or_else(|| TenantId::new(id?).ok())
}

fn with_source(error: &BadRecord) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn decoded<T: Record>(entry: &Entry) -> Result<At<T>, BadRecord> {
    let value = T::decode(&entry.value)?;
    let unknown = Unknown::of(&value, &entry.value);
    Ok(At { value, revision: entry.mod_revision, unknown })
}

fn set<K: Ord, T: Record>(map: &mut BTreeMap<K, At<T>>, key: K, entry: Option<&Entry>) -> Result<(), BadRecord> {
    match entry {
        Some(entry) => map.insert(key, decoded(entry)?),
        None => map.remove(&key),
    };
    Ok(())
}

/// A view that many read and one follower writes.
pub(crate) struct SharedView {
    view: RwLock<View>,
    revision: watch::Sender<Revision>,
    changes: broadcast::Sender<Change>,
    changed_at: Mutex<Option<Instant>>,
}

impl Default for SharedView {
    fn default() -> Self {
        Self {
            view: RwLock::default(),
            revision: watch::Sender::new(Revision(0)),
            changes: broadcast::Sender::new(CHANGES_KEPT),
            changed_at: Mutex::default(),
        }
    }
}

impl SharedView {
    /// Looks at the view. The guard must not be held across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read()
    }

    /// Whether what is seen is not long ago: an agent that listens to a replica which is cut off from the store would
    /// hear of no hold that ended.
    pub(crate) fn is_in_sight(&self) -> bool {
        self.changed_at.lock().is_some_and(|at| at.elapsed() < Duration::from_millis(SIGHT_MS))
    }

    /// Changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The revision that the view is at, and its changes.
    pub(crate) fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Replaces the view by what a listing showed.
    pub(crate) fn replace(&self, view: View) {
        let revision = view.revision;
        *self.view.write() = view;
        self.announce(revision, vec![Change::All]);
    }

    /// Applies one revision's events; returns how many records could not be read.
    pub(crate) fn apply(&self, revision: Revision, events: &[Event]) -> usize {
        let mut bad = 0;
        let mut changes = Vec::with_capacity(events.len());
        let mut view = self.view.write();
        for event in events {
            match view.apply(event) {
                Ok(Change::Other) => {}
                Ok(change) => changes.push(change),
                Err(error) => {
                    bad += 1;
                    tracing::error!(key = event.key(), %error, "a stored record is ignored");
                }
            }
        }
        view.revision = revision;
        drop(view);
        self.announce(revision, changes);
        bad
    }

    fn announce(&self, revision: Revision, changes: Vec<Change>) {
        *self.changed_at.lock() = Some(Instant::now());
        for change in changes {
            // Nobody may be listening.
            let _ = self.changes.send(change);
        }
        self.revision.send_replace(revision);
    }

    /// Waits, for a bounded time, until the view has what was committed at `revision`, so that who wrote it reads it.
    pub(crate) async fn seen(&self, revision: Revision) {
        let mut revisions = self.revisions();
        let seen = revisions.wait_for(|at| *at >= revision);
        let _ = tokio::time::timeout(Duration::from_millis(SEEN_WAIT_MS), seen).await;
    }
}

//! The keys with their history, and the leases: what a member knows, without any waiting.

use etcd_client::proto::{PbCompare, PbEvent, PbKeyValue, PbPutRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// The most operations of one transaction, as in etcd unless configured.
const TXN_OPERATIONS_MAX: usize = 128;

const EVENT_PUT: i32 = 0;
const EVENT_DELETE: i32 = 1;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    /// Each key's versions, the oldest first.
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
    /// What each revision since the compaction changed.
    log: BTreeMap<i64, Vec<PbEvent>>,
    leases: BTreeMap<i64, Lease>,
    last_lease: i64,
}

#[derive(Debug)]
struct Version {
    at: i64,
    /// `None`: deleted.
    kv: Option<PbKeyValue>,
}

#[derive(Debug)]
struct Lease {
    ttl_seconds: i64,
    deadline: Instant,
}

/// What a range names: one key, or all from a first one up to an end.
pub(crate) struct Range<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) end: &'a [u8],
}

impl Range<'_> {
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            [] => key == self.key,
            [0] => key >= self.key,
            end => key >= self.key && key < end,
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
        }
    }
}

fn lease_not_found() -> Status {
    Status::not_found("etcdserver: requested lease not found")
}

impl State {
    /// The key as it is.
    fn kv(&self, key: &[u8]) -> Option<&PbKeyValue> {
        self.keys.get(key)?.last()?.kv.as_ref()
    }

    /// Everything that begins with `prefix`, as it is.
    pub(crate) fn live<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a PbKeyValue> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let under = self.keys.range::<[u8], _>(from).take_while(move |(key, _)| key.starts_with(prefix));
        under.filter_map(|(_, versions)| versions.last()?.kv.as_ref())
    }

    /// All keys of the range as they were at `revision`; 0 means now.
    pub(crate) fn range(&self, range: &Range<'_>, revision: i64) -> Result<Vec<&PbKeyValue>, Status> {
        if revision > self.revision {
            return Err(Status::out_of_range("etcdserver: mvcc: required revision is a future revision"));
        }
        if revision > 0 && revision < self.compacted {
            return Err(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"));
        }
        let at = if revision > 0 { revision } else { self.revision };
        let from = (Bound::Included(range.key), Bound::Unbounded);
        let named = self.keys.range::<[u8], _>(from).take_while(|(key, _)| range.contains(key));
        let as_of = |versions: &'_ [Version]| versions.iter().rposition(|version| version.at <= at);
        Ok(named.filter_map(|(_, versions)| versions[as_of(versions)?].kv.as_ref()).collect())
    }

    /// Does a transaction, whose answer is whether its compares held.
    pub(crate) fn txn(&mut self, txn: &PbTxnRequest) -> Result<bool, Status> {
        let most = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
        if most > TXN_OPERATIONS_MAX {
            return Err(Status::invalid_argument("etcdserver: too many operations in txn request"));
        }
        let mut holds = true;
        for compare in &txn.compare {
            holds &= self.holds(compare)?;
        }
        let branch = if holds { &txn.success } else { &txn.failure };
        let mut written = BTreeSet::new();
        let mut writes = Vec::new();
        for operation in branch {
            let write = match &operation.request {
                Some(PbTxnOpRequest::RequestPut(put)) => self.checked(put)?,
                Some(PbTxnOpRequest::RequestDeleteRange(delete)) if delete.range_end.is_empty() => (&delete.key, None),
                _ => return Err(Status::unimplemented("a fake etcd puts and deletes single keys in a transaction")),
            };
            if write.0.is_empty() {
                return Err(Status::invalid_argument("etcdserver: key is not provided"));
            }
            if !written.insert(write.0) {
                return Err(Status::invalid_argument("etcdserver: duplicate key given in txn request"));
            }
            writes.push(write);
        }
        self.write(writes);
        Ok(holds)
    }

    fn checked<'a>(&self, put: &'a PbPutRequest) -> Result<(&'a Vec<u8>, Option<&'a PbPutRequest>), Status> {
        if put.ignore_lease || put.ignore_value || put.prev_kv {
            return Err(Status::unimplemented("a fake etcd writes whole values and does not say what was before"));
        }
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(lease_not_found());
        }
        Ok((&put.key, Some(put)))
    }

    fn holds(&self, compare: &PbCompare) -> Result<bool, Status> {
        let kv = self.kv(&compare.key);
        let (is, wanted) = match compare.target_union {
            Some(PbTargetUnion::ModRevision(wanted)) => (kv.map_or(0, |kv| kv.mod_revision), wanted),
            Some(PbTargetUnion::CreateRevision(wanted)) => (kv.map_or(0, |kv| kv.create_revision), wanted),
            Some(PbTargetUnion::Version(wanted)) => (kv.map_or(0, |kv| kv.version), wanted),
            _ => return Err(Status::unimplemented("a fake etcd compares revisions and versions")),
        };
        match compare.result {
            0 => Ok(is == wanted),
            1 => Ok(is > wanted),
            2 => Ok(is < wanted),
            3 => Ok(is != wanted),
            _ => Err(Status::invalid_argument("an unknown comparison")),
        }
    }

    /// Writes all of it at one revision; none is made when nothing changes. `None` deletes.
    fn write<'a>(&mut self, writes: impl IntoIterator<Item = (&'a Vec<u8>, Option<&'a PbPutRequest>)>) {
        let at = self.revision + 1;
        let mut events = Vec::new();
        for (key, put) in writes {
            let before = self.kv(key);
            let event = match (put, before) {
                (Some(put), before) => {
                    let kv = PbKeyValue {
                        key: key.clone(),
                        create_revision: before.map_or(at, |kv| kv.create_revision),
                        mod_revision: at,
                        version: before.map_or(1, |kv| kv.version + 1),
                        value: put.value.clone(),
                        lease: put.lease,
                    };
                    self.keys.entry(key.clone()).or_default().push(Version { at, kv: Some(kv.clone()) });
                    PbEvent { r#type: EVENT_PUT, kv: Some(kv), prev_kv: None }
                }
                (None, Some(_)) => {
                    self.keys.entry(key.clone()).or_default().push(Version { at, kv: None });
                    let kv = PbKeyValue { key: key.clone(), mod_revision: at, ..PbKeyValue::default() };
                    PbEvent { r#type: EVENT_DELETE, kv: Some(kv), prev_kv: None }
                }
                (None, None) => continue,
            };
            events.push(event);
        }
        if !events.is_empty() {
            self.revision = at;
            self.log.insert(at, events);
        }
    }

    /// What changed in the range at each revision from `start` on.
    pub(crate) fn changes(&self, range: &Range<'_>, start: i64) -> Vec<PbEvent> {
        let since = self.log.range(start..).flat_map(|(_, events)| events);
        let named = since.filter(|event| event.kv.as_ref().is_some_and(|kv| range.contains(&kv.key)));
        named.cloned().collect()
    }

    pub(crate) fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision.min(self.revision));
        let compacted = self.compacted;
        self.log = self.log.split_off(&compacted);
        self.keys.retain(|_, versions| {
            let readable = versions.iter().rposition(|version| version.at <= compacted).unwrap_or(0);
            versions.drain(..readable);
            versions.len() > 1 || versions.first().is_some_and(|version| version.kv.is_some())
        });
    }

    pub(crate) fn grant(&mut self, ttl_seconds: i64, now: Instant) -> i64 {
        self.last_lease += 1;
        let deadline = now + seconds(ttl_seconds);
        self.leases.insert(self.last_lease, Lease { ttl_seconds, deadline });
        self.last_lease
    }

    /// The lease's time to live; 0 when it has ended.
    pub(crate) fn keep_alive(&mut self, id: i64, now: Instant) -> i64 {
        let Some(lease) = self.leases.get_mut(&id) else { return 0 };
        lease.deadline = now + seconds(lease.ttl_seconds);
        lease.ttl_seconds
    }

    pub(crate) fn revoke(&mut self, id: i64) -> Result<(), Status> {
        self.leases.remove(&id).ok_or_else(lease_not_found)?;
        let every = self.keys.values().filter_map(|versions| versions.last()?.kv.as_ref());
        let leased: Vec<Vec<u8>> = every.filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
        self.write(leased.iter().map(|key| (key, None)));
        Ok(())
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.deadline).min()
    }

    /// Ends what is due; says whether anything was.
    pub(crate) fn end_leases(&mut self, now: Instant) -> bool {
        let due: Vec<i64> = self.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id).collect();
        due.into_iter().filter(|id| self.revoke(*id).is_ok()).count() > 0
    }

    pub(crate) fn restart_leases(&mut self, now: Instant) {
        for lease in self.leases.values_mut() {
            lease.deadline = now + seconds(lease.ttl_seconds);
        }
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.unsigned_abs())
}

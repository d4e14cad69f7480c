//! The embedded store's records in memory, and the ring of recent revisions. Pure: no clock, no
//! disk, no lock.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use cellway_core::ids::Revision;

use crate::contract::{Compare, Entry, Key, LeaseId, PAGE_ENTRIES_MAX, Page, Txn, Write};
use crate::error::StoreError;
use crate::watch::{Event, WatchBatch};

/// The revision of a store that was never written, as in etcd.
pub(crate) const FIRST_REVISION: Revision = Revision(1);

/// A record without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) value: Arc<[u8]>,
    pub(crate) mod_revision: Revision,
    pub(crate) create_revision: Revision,
    pub(crate) lease: Option<LeaseId>,
}

impl Record {
    pub(crate) fn entry(&self, key: &str) -> Entry {
        Entry {
            key: key.to_owned(),
            value: Arc::clone(&self.value),
            mod_revision: self.mod_revision,
            create_revision: self.create_revision,
        }
    }
}

/// One record's change at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) before: Option<Record>,
    pub(crate) after: Option<Record>,
}

impl Change {
    fn event(&self) -> Event {
        match &self.after {
            Some(record) => Event::Put(record.entry(&self.key)),
            None => Event::Delete { key: self.key.clone() },
        }
    }

    fn size_bytes(&self) -> usize {
        let value = |record: &Option<Record>| record.as_ref().map_or(0, |r| r.value.len());
        self.key.len() + value(&self.before) + value(&self.after)
    }
}

/// All changes of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Change>,
}

impl Commit {
    fn size_bytes(&self) -> usize {
        self.changes.iter().map(Change::size_bytes).sum()
    }
}

/// How many recent revisions stay in memory, for watchers and for pages at a past revision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingLimits {
    pub(crate) revisions: usize,
    pub(crate) bytes: usize,
}

/// What a watcher finds in the ring.
pub(crate) enum Look {
    /// The next revision with changes under the prefix.
    Batch(WatchBatch),
    /// Nothing up to this revision.
    Quiet(Revision),
    /// The ring begins after this revision; what the watcher wants is older.
    Behind(Revision),
    /// The watcher waits for changes after a revision that the store has not reached.
    Ahead(Revision),
}

/// The records at the current revision, and how they came about lately.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) records: BTreeMap<Key, Record>,
    /// One commit per revision without a gap; the last one is the current revision's.
    ring: VecDeque<Commit>,
    ring_bytes: usize,
    limits: RingLimits,
}

impl State {
    pub(crate) fn new(revision: Revision, records: BTreeMap<Key, Record>, limits: RingLimits) -> Self {
        Self { revision, records, ring: VecDeque::new(), ring_bytes: 0, limits }
    }

    /// Applies a commit that is durable.
    pub(crate) fn apply(&mut self, commit: Commit) {
        debug_assert_eq!(commit.revision.0, self.revision.0 + 1, "revisions have no gap");
        for change in &commit.changes {
            match &change.after {
                Some(record) => self.records.insert(change.key.clone(), record.clone()),
                None => self.records.remove(&change.key),
            };
        }
        self.revision = commit.revision;
        self.ring_bytes += commit.size_bytes();
        self.ring.push_back(commit);
        while self.ring.len() > self.limits.revisions || self.ring_bytes > self.limits.bytes {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.size_bytes();
        }
    }

    /// Every change after this revision is in the ring.
    fn ring_floor(&self) -> Revision {
        self.ring.front().map_or(self.revision, |oldest| Revision(oldest.revision.0 - 1))
    }

    fn commits_after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Commit> {
        let skip = revision.0.saturating_sub(self.ring_floor().0);
        self.ring.range(usize::try_from(skip).unwrap_or(usize::MAX).min(self.ring.len())..)
    }

    pub(crate) fn look(&self, prefix: &str, after: Revision) -> Look {
        if after > self.revision {
            return Look::Ahead(self.revision);
        }
        if after < self.ring_floor() {
            return Look::Behind(self.ring_floor());
        }
        self.commits_after(after)
            .find_map(|commit| watched(commit, prefix))
            .map_or(Look::Quiet(self.revision), Look::Batch)
    }

    /// A page of the records under `prefix`, as they were at `at`.
    pub(crate) fn page(
        &self,
        prefix: &str,
        start: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, StoreError> {
        let revision = at.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(StoreError::Compacted { at: self.revision });
        }
        if revision < self.ring_floor() {
            return Err(StoreError::Compacted { at: self.ring_floor() });
        }
        let start = start.map_or(prefix, |start| start.max(prefix));
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let past = self.records_changed_since(revision, prefix);
        let mut entries = Vec::new();
        let mut next = None;
        for (key, record) in self.merged(&past, prefix, start) {
            if entries.len() == limit {
                next = Some(key.to_owned());
                break;
            }
            entries.push(record.entry(key));
        }
        Ok(Page { entries, revision, next })
    }

    /// What the keys that have changed since `revision` held then.
    fn records_changed_since(&self, revision: Revision, prefix: &str) -> BTreeMap<&str, Option<&Record>> {
        let newest_first = self.commits_after(revision).rev();
        newest_first
            .flat_map(|commit| &commit.changes)
            .filter(|change| change.key.starts_with(prefix))
            .map(|change| (change.key.as_str(), change.before.as_ref()))
            .collect()
    }

    /// The current records from `start` on, with those in `past` put back as they were.
    fn merged<'a>(
        &'a self,
        past: &'a BTreeMap<&'a str, Option<&'a Record>>,
        prefix: &'a str,
        start: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Record)> {
        let from = (Bound::Included(start), Bound::Unbounded);
        let mut live = self
            .records
            .range::<str, _>(from)
            .map(|(key, record)| (key.as_str(), record))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| !past.contains_key(key))
            .peekable();
        let mut old =
            past.range::<str, _>(from).filter_map(|(key, record)| record.map(|record| (*key, record))).peekable();
        std::iter::from_fn(move || match (live.peek(), old.peek()) {
            (Some((live_key, _)), Some((old_key, _))) if live_key < old_key => live.next(),
            (Some(_), None) => live.next(),
            _ => old.next(),
        })
    }
}

/// The part of a commit that a watcher of `prefix` sees.
pub(crate) fn watched(commit: &Commit, prefix: &str) -> Option<WatchBatch> {
    let events: Vec<Event> =
        commit.changes.iter().filter(|change| change.key.starts_with(prefix)).map(Change::event).collect();
    (!events.is_empty()).then_some(WatchBatch { revision: commit.revision, events })
}

/// Commits that were decided on one after the other and are not durable yet.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pub(crate) commits: Vec<Commit>,
    newest: BTreeMap<Key, Option<Record>>,
}

impl Staged {
    fn record<'a>(&'a self, state: &'a State, key: &str) -> Option<&'a Record> {
        match self.newest.get(key) {
            Some(staged) => staged.as_ref(),
            None => state.records.get(key),
        }
    }

    fn revision(&self, state: &State) -> Revision {
        self.commits.last().map_or(state.revision, |commit| commit.revision)
    }

    /// Decides on `txn` as if everything staged before it had happened. Answers the revision it
    /// will have.
    pub(crate) fn stage(&mut self, state: &State, txn: &Txn) -> Result<Revision, StoreError> {
        if !txn.compares.iter().all(|compare| self.holds(state, compare)) {
            return Err(StoreError::Conflict);
        }
        let current = self.revision(state);
        let revision = Revision(current.0 + 1);
        let changes: Vec<Change> = txn.writes.iter().filter_map(|write| self.change(state, write, revision)).collect();
        if changes.is_empty() {
            return Ok(current);
        }
        for change in &changes {
            self.newest.insert(change.key.clone(), change.after.clone());
        }
        self.commits.push(Commit { revision, changes });
        Ok(revision)
    }

    fn holds(&self, state: &State, compare: &Compare) -> bool {
        let record = self.record(state, compare.key());
        match compare {
            Compare::ModRevision { is, .. } => {
                // As in etcd, an absent key counts as written at revision 0.
                record.map_or(Revision(0), |record| record.mod_revision) == *is
            }
            Compare::Absent { .. } => record.is_none(),
            Compare::Present { .. } => record.is_some(),
        }
    }

    fn change(&self, state: &State, write: &Write, revision: Revision) -> Option<Change> {
        let before = self.record(state, write.key()).cloned();
        let after = match write {
            Write::Put { value, lease, .. } => Some(Record {
                value: Arc::clone(value),
                mod_revision: revision,
                create_revision: before.as_ref().map_or(revision, |b| b.create_revision),
                lease: *lease,
            }),
            Write::Delete { .. } => None,
        };
        (before.is_some() || after.is_some()).then(|| Change { key: write.key().to_owned(), before, after })
    }
}

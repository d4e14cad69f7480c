//! The leases of an embedded store: who lives under which, and when each ends. Time comes in as
//! `now`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::contract::{Key, LeaseId};
use crate::embedded::state::{Commit, Record};

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<Key>,
}

/// All leases that have not ended.
#[derive(Debug, Default)]
pub(crate) struct LeaseBook {
    leases: BTreeMap<LeaseId, Lease>,
}

impl LeaseBook {
    pub(crate) fn grant(&mut self, id: LeaseId, ttl_ms: u64, now: Instant) {
        let ttl = Duration::from_millis(ttl_ms);
        self.leases.insert(id, Lease { ttl, deadline: now + ttl, keys: BTreeSet::new() });
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// Whether keys may still be written under the lease.
    pub(crate) fn is_alive(&self, id: LeaseId, now: Instant) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.deadline > now)
    }

    /// Whether the lease was there to be kept.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> bool {
        let alive = self.leases.get_mut(&id).filter(|lease| lease.deadline > now);
        alive.map(|lease| lease.deadline = now + lease.ttl).is_some()
    }

    /// The keys to delete with the lease.
    pub(crate) fn keys(&self, id: LeaseId) -> Vec<Key> {
        self.leases.get(&id).map_or_else(Vec::new, |lease| lease.keys.iter().cloned().collect())
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    /// Follows a commit: a key lives under the lease of its last write, and under no other.
    pub(crate) fn apply(&mut self, commit: &Commit) {
        for change in &commit.changes {
            let lease_of = |record: &Option<Record>| record.as_ref().and_then(|r| r.lease);
            if let Some(lease) = lease_of(&change.before).and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.remove(&change.key);
            }
            if let Some(id) = lease_of(&change.after) {
                self.attach(id, change.key.clone());
            }
        }
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: Key) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    /// A lease whose time is over.
    pub(crate) fn expired(&self, now: Instant) -> Option<LeaseId> {
        self.leases.iter().find(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id)
    }

    /// When the next lease ends unless it is kept alive.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.deadline).min()
    }
}

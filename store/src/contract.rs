//! The store contract: revisions, compare-and-swap, pages, watches and leases.
//!
//! Both implementations keep it, and `tests/contract.rs` holds them to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use cellway_core::ids::{ClusterId, Revision};

use crate::error::StoreError;
use crate::watch::WatchStream;

/// The most compares, and the most writes, of one transaction (etcd's default).
pub const TXN_OPERATIONS_MAX: usize = 128;

/// The most key and value bytes of one transaction: below etcd's 1.5 MiB for a whole request.
pub const TXN_SIZE_MAX_BYTES: usize = 1_400_000;

/// The most entries of one page; a larger wish is cut to it.
pub const PAGE_ENTRIES_MAX: usize = 50_000;

/// The longest time to live of a lease: 30 days.
pub const LEASE_TTL_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// Name of a record.
pub type Key = String;

/// A lease: keys written under it are deleted when it is not kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A record as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// Its content.
    pub value: Arc<[u8]>,
    /// The revision of the last commit that wrote it.
    pub mod_revision: Revision,
    /// The revision of the commit that created it, since it was last absent.
    pub create_revision: Revision,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries, in the order of their keys. A page may be shorter than the limit, even empty,
    /// with more to come.
    pub entries: Vec<Entry>,
    /// The revision that the entries were read at.
    pub revision: Revision,
    /// Where the next page starts; `None` when this is the last.
    pub next: Option<Key>,
}

/// What a transaction requires of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at exactly this revision.
    ModRevision {
        /// The key.
        key: Key,
        /// Its revision.
        is: Revision,
    },
    /// There is no such key.
    Absent {
        /// The key.
        key: Key,
    },
    /// There is such a key.
    Present {
        /// The key.
        key: Key,
    },
}

/// What a transaction changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces a record. Without a lease, an earlier lease of the key is dropped.
    Put {
        /// The key.
        key: Key,
        /// The new content.
        value: Arc<[u8]>,
        /// The lease that the record lives under.
        lease: Option<LeaseId>,
    },
    /// Deletes a record; an absent one is no error.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Write {
    /// The key that is written.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

impl Compare {
    /// The key that is compared.
    pub fn key(&self) -> &str {
        match self {
            Self::ModRevision { key, .. } | Self::Absent { key } | Self::Present { key } => key,
        }
    }
}

/// A transaction: if every compare holds, every write happens, all at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What is then written. A key may be written only once.
    pub writes: Vec<Write>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that `key` was last written at `is`.
    #[must_use]
    pub fn require_revision(mut self, key: impl Into<Key>, is: Revision) -> Self {
        self.compares.push(Compare::ModRevision { key: key.into(), is });
        self
    }

    /// Requires that `key` does not exist.
    #[must_use]
    pub fn require_absent(mut self, key: impl Into<Key>) -> Self {
        self.compares.push(Compare::Absent { key: key.into() });
        self
    }

    /// Requires that `key` exists.
    #[must_use]
    pub fn require_present(mut self, key: impl Into<Key>) -> Self {
        self.compares.push(Compare::Present { key: key.into() });
        self
    }

    /// Writes `value` to `key`.
    #[must_use]
    pub fn put(self, key: impl Into<Key>, value: impl Into<Arc<[u8]>>) -> Self {
        self.put_with(key.into(), value.into(), None)
    }

    /// Writes `value` to `key`, to be deleted when `lease` ends.
    #[must_use]
    pub fn put_leased(self, key: impl Into<Key>, value: impl Into<Arc<[u8]>>, lease: LeaseId) -> Self {
        self.put_with(key.into(), value.into(), Some(lease))
    }

    fn put_with(mut self, key: Key, value: Arc<[u8]>, lease: Option<LeaseId>) -> Self {
        self.writes.push(Write::Put { key, value, lease });
        self
    }

    /// Deletes `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Key>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }

    /// Checks the limits and rules that hold in every store, so that what one accepts the other
    /// does not refuse.
    pub fn check(&self) -> Result<(), StoreError> {
        let operations = self.compares.len().max(self.writes.len());
        if operations > TXN_OPERATIONS_MAX {
            return Err(StoreError::TooLarge { what: "operations", is: operations, max: TXN_OPERATIONS_MAX });
        }
        let bytes = self.size_bytes();
        if bytes > TXN_SIZE_MAX_BYTES {
            return Err(StoreError::TooLarge { what: "bytes", is: bytes, max: TXN_SIZE_MAX_BYTES });
        }
        let mut written = BTreeSet::new();
        for write in &self.writes {
            check_key(write.key())?;
            if !written.insert(write.key()) {
                let reason = format!("{} is written twice in one transaction", write.key());
                return Err(StoreError::Refused { reason });
            }
        }
        self.compares.iter().try_for_each(|compare| check_key(compare.key()))
    }

    fn size_bytes(&self) -> usize {
        let compared: usize = self.compares.iter().map(|compare| compare.key().len()).sum();
        let written: usize = self
            .writes
            .iter()
            .map(|write| match write {
                Write::Put { key, value, .. } => key.len() + value.len(),
                Write::Delete { key } => key.len(),
            })
            .sum();
        compared + written
    }
}

/// The id of the store with this number, as etcd's tools show it.
#[expect(clippy::expect_used, reason = "hexadecimal digits are a legal id")]
pub(crate) fn cluster_id(number: u64) -> ClusterId {
    ClusterId::new(&format!("{number:x}")).expect("hexadecimal digits are a legal id")
}

/// Refuses a key that no store takes.
pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Refused { reason: "an empty key".to_owned() });
    }
    Ok(())
}

/// Refuses a time to live that no store takes.
pub(crate) fn check_ttl(ttl_ms: u64) -> Result<(), StoreError> {
    if ttl_ms == 0 || ttl_ms > LEASE_TTL_MAX_MS {
        let reason = format!("a lease of {ttl_ms} ms (1 to {LEASE_TTL_MAX_MS} are possible)");
        return Err(StoreError::Refused { reason });
    }
    Ok(())
}

/// A small, versioned store with compare-and-swap. Reads are linearizable: they see every commit
/// that was acknowledged before they began.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Which store this is: two answers are the same if and only if their revisions belong together. It outlives the
    /// process; a copy of the data, such as a restored backup, has the id of what it is a copy of.
    async fn cluster(&self) -> Result<ClusterId, StoreError>;

    /// Reads one record, and tells the store's revision that it was read at.
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError>;

    /// Lists up to `limit` records whose keys begin with `prefix`, from `start` on (inclusive).
    /// Later pages give the first page's revision as `at`; when the history no longer reaches it,
    /// the answer is [`StoreError::Compacted`].
    async fn range(
        &self,
        prefix: &str,
        start: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, StoreError>;

    /// Writes all or nothing, and tells the revision of the commit. A transaction that changes
    /// nothing makes no revision; the answer is then the store's current one.
    /// [`StoreError::Unavailable`] leaves open whether it happened.
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError>;

    /// Follows the keys that begin with `prefix`: every change after `after`, in order, one batch
    /// per revision. Whether `after` is still (or already) in the history is told by the stream.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError>;

    /// Makes a lease that ends when it was not kept alive for `ttl_ms`. A store may round up to
    /// whole seconds.
    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time anew; [`StoreError::LeaseGone`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends the lease and deletes its keys, at one revision. A lease that has ended is no error.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError>;
}

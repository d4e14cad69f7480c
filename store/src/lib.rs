//! The store contract (revisions, compare-and-swap, pages, watches, leases) and its two
//! implementations: [`EmbeddedStore`] for one machine, [`EtcdStore`] past it.
//!
//! [`Follower`] keeps a prefix in view across lost connections and compacted history.

mod backoff;
mod contract;
mod embedded;
mod error;
mod etcd;
mod follow;
#[cfg(feature = "test-faults")]
mod hooked;
pub mod keys;
pub mod records;
mod watch;

pub use contract::{
    Compare, Entry, Key, LEASE_TTL_MAX_MS, LeaseId, PAGE_ENTRIES_MAX, Page, Store, TXN_OPERATIONS_MAX,
    TXN_SIZE_MAX_BYTES, Txn, Write,
};
pub use embedded::{
    EmbeddedStore, History, LOG_REVISIONS_MAX, LOG_SIZE_MAX_BYTES, RING_REVISIONS_MAX, RING_SIZE_MAX_BYTES,
};
pub use error::{Cause, StoreError};
pub use etcd::{
    Connect, Connecting, DEFAULT_PREFIX, EtcdConfig, EtcdStore, EtcdUser, REQUEST_ATTEMPTS_MAX, REQUEST_TIMEOUT_MS,
    WATCH_PATIENCE_MS,
};
pub use follow::{FollowEvent, FollowOptions, Follower, list_all};
#[cfg(feature = "test-faults")]
pub use hooked::{CommitHook, HookedStore};
pub use watch::{Event, WatchBatch, WatchStream};

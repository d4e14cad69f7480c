//! How to reach an etcd cluster, and where in it the records lie.

use std::fmt;

use crate::contract::Key;
use crate::keys;

/// Where the records lie unless configured.
pub const DEFAULT_PREFIX: &str = "/cellway/v1/";

/// How long one attempt of a request may take unless configured.
pub const REQUEST_TIMEOUT_MS: u64 = 2_000;

/// How long a broken watch tries to resume by itself unless configured.
pub const WATCH_PATIENCE_MS: u64 = 3_000;

/// A cluster of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Client URLs of the members. One is used at a time, the next when it fails.
    pub endpoints: Vec<String>,
    /// What every key begins with in etcd; callers of the store do not see it. A missing `/` at the
    /// end is added.
    pub prefix: String,
    /// How long one attempt of a request may take. Reads and leases are tried up to
    /// [`crate::REQUEST_ATTEMPTS_MAX`] times, commits once.
    pub request_timeout_ms: u64,
    /// How long a broken watch tries to resume before its stream answers that etcd is unavailable.
    pub watch_patience_ms: u64,
    /// The user to authenticate as.
    pub user: Option<EtcdUser>,
    /// Keys at which long listings are cut into several requests: etcd walks all keys of the range
    /// asked for, however small the page. They never change what a listing contains.
    pub split_points: Vec<Key>,
}

impl EtcdConfig {
    /// The defaults, for these members.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: DEFAULT_PREFIX.to_owned(),
            request_timeout_ms: REQUEST_TIMEOUT_MS,
            watch_patience_ms: WATCH_PATIENCE_MS,
            user: None,
            split_points: default_split_points(),
        }
    }
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// Its name.
    pub name: String,
    /// Its password; never printed.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The buckets of the placements, and the first letters where the names themselves are the keys.
fn default_split_points() -> Vec<Key> {
    let buckets = (0..=u8::MAX).map(keys::placement_bucket);
    let letters = ('0'..='9').chain('a'..='z');
    let names = letters.flat_map(|letter| [keys::HOSTS, keys::TENANTS].map(|names| format!("{names}{letter}")));
    buckets.chain(names).collect()
}

//! The store on etcd: for more than one machine.

mod config;
mod links;
mod translate;
mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cellway_core::ids::{ClusterId, Revision};
use etcd_client::{GetOptions, GetResponse};

use crate::contract::{Entry, Key, LeaseId, PAGE_ENTRIES_MAX, Page, Store, Txn, check_key, check_ttl, cluster_id};
use crate::error::StoreError;
use crate::etcd::links::Links;
use crate::etcd::translate::{KeySpace, is_too_large, lease_number, number, revision};
use crate::etcd::watch::Watch;
use crate::watch::WatchStream;

pub use config::{DEFAULT_PREFIX, EtcdConfig, EtcdUser, REQUEST_TIMEOUT_MS, WATCH_PATIENCE_MS};
pub use links::{Connect, Connecting, REQUEST_ATTEMPTS_MAX};

/// Requests that one page may take at split points; the page is short then.
const REQUESTS_PER_PAGE_MAX: usize = 64;

/// Any key: read for what comes with the answer, the revision and the cluster.
const REVISION_PROBE: &str = "-";

/// A store kept by an etcd cluster.
pub struct EtcdStore {
    links: Arc<Links>,
    keys: KeySpace,
    split_points: BTreeSet<Key>,
    watch_patience: Duration,
}

/// What one request for a range answered.
struct Part {
    entries: Vec<Entry>,
    revision: Revision,
    more: bool,
}

impl EtcdStore {
    /// Checks the configuration. Connections are made, and made again, when they are needed: etcd
    /// need not be there yet.
    pub async fn connect(config: EtcdConfig) -> Result<Self, StoreError> {
        Self::connect_by(config, links::by_network()).await
    }

    /// [`EtcdStore::connect`], by clients that are made otherwise.
    pub async fn connect_by(config: EtcdConfig, connect: Connect) -> Result<Self, StoreError> {
        let links = Arc::new(Links::new(&config, connect)?);
        if let (_, Err(error @ StoreError::Refused { .. })) = links.current().await {
            return Err(error);
        }
        Ok(Self {
            links,
            keys: KeySpace::new(&config.prefix),
            split_points: config.split_points.into_iter().collect(),
            watch_patience: Duration::from_millis(config.watch_patience_ms),
        })
    }

    /// Reads the keys from `start` up to `end`; fewer than `limit` when they are too large.
    async fn part(&self, start: &str, end: Vec<u8>, limit: usize, at: Option<Revision>) -> Result<Part, StoreError> {
        let start = self.keys.full(start);
        let mut limit = limit;
        loop {
            let mut options =
                GetOptions::new().with_range(end.clone()).with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
            if let Some(at) = at {
                options = options.with_revision(number(at));
            }
            let (key, options) = (&start, &options);
            let read = self.links.retried("list from etcd", |mut clients| async move {
                match clients.kv.get(key.as_str(), Some(options.clone())).await {
                    Err(error) if is_too_large(&error) => Ok(None),
                    answer => answer.map(Some),
                }
            });
            match read.await {
                Ok(Some(answer)) => return self.part_of(&answer, at),
                Ok(None) if limit > 1 => limit /= 2,
                Ok(None) => {
                    let detail = "a record is larger than an answer may be".to_owned();
                    return Err(StoreError::Corrupt { place: start, detail });
                }
                // etcd does not say where its history begins; after this revision, for certain.
                Err(StoreError::Compacted { .. }) => {
                    return Err(StoreError::Compacted { at: at.unwrap_or_default() });
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn part_of(&self, answer: &GetResponse, at: Option<Revision>) -> Result<Part, StoreError> {
        let entries = answer.kvs().iter().map(|kv| self.keys.entry(kv));
        let current = answer.header().map_or(Revision(0), |header| revision(header.revision()));
        Ok(Part { entries: entries.collect::<Result<_, _>>()?, revision: at.unwrap_or(current), more: answer.more() })
    }

    /// The next key after `start` at which a listing of `prefix` is cut.
    fn split_after(&self, prefix: &str, start: &str) -> Option<&str> {
        let after = (Bound::Excluded(start), Bound::Unbounded);
        let split = self.split_points.range::<str, _>(after).next();
        split.map(String::as_str).filter(|split| split.starts_with(prefix))
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("keys", &self.keys).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn cluster(&self) -> Result<ClusterId, StoreError> {
        let probe = &self.keys.full(REVISION_PROBE);
        let read = self
            .links
            .retried("read from etcd", |mut clients| async move { clients.kv.get(probe.as_str(), None).await });
        let answer = read.await?;
        let number = answer.header().map(etcd_client::ResponseHeader::cluster_id);
        number.map(cluster_id).ok_or_else(|| StoreError::Corrupt {
            place: "etcd".to_owned(),
            detail: "its answer does not name its cluster".to_owned(),
        })
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        check_key(key)?;
        let full = &self.keys.full(key);
        let read = self
            .links
            .retried("read from etcd", |mut clients| async move { clients.kv.get(full.as_str(), None).await });
        let part = self.part_of(&read.await?, None)?;
        Ok((part.entries.into_iter().next(), part.revision))
    }

    async fn range(
        &self,
        prefix: &str,
        start: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, StoreError> {
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        // A first page is asked for in one piece: for most prefixes it is the only one.
        let first = start.is_none();
        let mut from = start.map_or(prefix, |start| start.max(prefix)).to_owned();
        let mut page = Page { entries: Vec::new(), revision: Revision(0), next: None };
        let mut at = at;
        for _ in 0..REQUESTS_PER_PAGE_MAX {
            let split = if first { None } else { self.split_after(prefix, &from) };
            let end = match split {
                Some(split) => self.keys.full(split).into_bytes(),
                None => self.keys.end_of(prefix),
            };
            if self.keys.full(&from).into_bytes() >= end {
                page.next = None;
                break;
            }
            let part = self.part(&from, end, limit - page.entries.len(), at).await?;
            at = Some(part.revision);
            page.entries.extend(part.entries);
            page.next = match page.entries.last() {
                Some(last) if part.more => Some(format!("{}\0", last.key)),
                _ => split.map(str::to_owned),
            };
            match &page.next {
                Some(next) if !part.more && page.entries.len() < limit => from.clone_from(next),
                _ => break,
            }
        }
        page.revision = match at {
            Some(at) => at,
            // Nothing can be at `start`, so nothing was asked for.
            None => self.get(REVISION_PROBE).await?.1,
        };
        Ok(page)
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        txn.check()?;
        let txn = self.keys.txn(&txn);
        let committed = self.links.once("commit to etcd", |mut clients| async move { clients.kv.txn(txn).await });
        let answer = committed.await?;
        if !answer.succeeded() {
            return Err(StoreError::Conflict);
        }
        Ok(answer.header().map_or(Revision(0), |header| revision(header.revision())))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let watch = Watch {
            links: Arc::clone(&self.links),
            keys: self.keys.clone(),
            prefix: prefix.to_owned(),
            after,
            patience: self.watch_patience,
        };
        Ok(watch.start())
    }

    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, StoreError> {
        check_ttl(ttl_ms)?;
        let ttl_seconds = i64::try_from(ttl_ms.div_ceil(1_000)).unwrap_or(i64::MAX);
        // A grant whose answer was lost ends by itself, so it may be asked for again.
        let granted = self.links.retried("grant a lease in etcd", |mut clients| async move {
            clients.lease.grant(ttl_seconds, None).await
        });
        Ok(LeaseId(granted.await?.id().cast_unsigned()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let kept = self.links.retried("keep a lease alive in etcd", |mut clients| async move {
            clients.lease.keep_alive(lease_number(lease)).await
        });
        kept.await.map(drop)
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = self.links.retried("revoke a lease in etcd", |mut clients| async move {
            clients.lease.revoke(lease_number(lease)).await
        });
        match revoked.await {
            Ok(_) | Err(StoreError::LeaseGone) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

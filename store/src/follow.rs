//! Keeps a prefix in view for as long as its owner lives: a listing, then every change; a new
//! listing whenever the changes cannot be had without a gap.

use std::sync::Arc;
use std::time::Duration;

use cellway_core::ids::Revision;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::contract::{Entry, Key, Store};
use crate::error::StoreError;
use crate::watch::{TaskGuard, WatchBatch};

/// Entries asked for at a time while listing.
const PAGE_ENTRIES: usize = 10_000;

/// Events that wait for a slow owner; after that the watch waits, and may fall out of the history. Parts of a listing wait
/// here too.
const EVENTS_WAITING_MAX: usize = 64;

/// How long a heartbeat that the store has may still be on its way through the watch.
const HEARTBEAT_GRACE_MS: u64 = 500;

/// How long the store may take to say whether the watch has missed a heartbeat: enough for one member that does not
/// answer and one that does.
const DOUBT_MS: u64 = 4_000;

const RETRY_FIRST_MS: u64 = 50;
const RETRY_LONGEST_MS: u64 = 3_000;

/// How a [`Follower`] tells a quiet watch from a dead one, and how it retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowOptions {
    /// A key under the followed prefix that a leader rewrites all the time. With it, silence alone
    /// is no reason to list again: only a heartbeat that the store has and the watch did not bring.
    pub heartbeat_key: Option<Key>,
    /// How long nothing may come before the watch is doubted. `None`: never.
    pub silence_limit_ms: Option<u64>,
    /// The first pause after a failure; the pauses double.
    pub retry_first_ms: u64,
    /// The longest pause.
    pub retry_longest_ms: u64,
    /// Whether a listing is told page by page, for owners that need not have all of it in memory.
    pub in_parts: bool,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            heartbeat_key: None,
            silence_limit_ms: None,
            retry_first_ms: RETRY_FIRST_MS,
            retry_longest_ms: RETRY_LONGEST_MS,
            in_parts: false,
        }
    }
}

/// What happened to the followed prefix.
#[derive(Debug, Clone)]
pub enum FollowEvent {
    /// Everything under the prefix, at one revision. It replaces whatever was known.
    Snapshot {
        /// The records, in the order of their keys.
        entries: Vec<Entry>,
        /// Their revision.
        revision: Revision,
    },
    /// The first records under the prefix, or the next ones. What they replace is known when the snapshot has come, which
    /// has the last ones. Only told with [`FollowOptions::in_parts`].
    Part {
        /// The records, in the order of their keys.
        entries: Vec<Entry>,
        /// Whether they are the first ones. A listing may end without a snapshot; then another one begins.
        begins: bool,
    },
    /// The next changes, without a gap since the snapshot.
    Batch(WatchBatch),
    /// The store cannot be reached. What is known goes stale; the follower goes on trying, and the
    /// next event is a snapshot. Told once per outage.
    Lost {
        /// What went wrong.
        error: StoreError,
    },
}

/// Follows a prefix of a store in a task of its own, which ends when this is dropped.
pub struct Follower {
    events: mpsc::Receiver<FollowEvent>,
    _task: TaskGuard,
}

impl Follower {
    /// Begins to follow `prefix`. Call it within a tokio runtime.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<Key>, options: FollowOptions) -> Self {
        let prefix = prefix.into();
        debug_assert!(
            options.heartbeat_key.as_ref().is_none_or(|key| key.starts_with(&prefix)),
            "the heartbeat must lie under the followed prefix"
        );
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let backoff = Backoff::new(options.retry_first_ms, options.retry_longest_ms);
        let feed = Feed { store, prefix, options, events: sender, backoff, lost: false };
        Self { events, _task: TaskGuard(tokio::spawn(feed.run())) }
    }

    /// Waits for the next event. Safe to drop and call again: nothing is lost.
    pub async fn next(&mut self) -> FollowEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only with its runtime: there is nothing left to tell.
            None => std::future::pending().await,
        }
    }
}

struct Feed {
    store: Arc<dyn Store>,
    prefix: Key,
    options: FollowOptions,
    events: mpsc::Sender<FollowEvent>,
    backoff: Backoff,
    lost: bool,
}

/// Why a watch is given up.
enum End {
    /// The history has a gap, or the watch was found dead.
    ListAgain,
    Lost(StoreError),
    /// Nobody listens any more.
    Dropped,
}

impl Feed {
    async fn run(mut self) {
        loop {
            let end = match self.list().await {
                Ok((entries, revision)) => {
                    self.lost = false;
                    match self.tell(FollowEvent::Snapshot { entries, revision }).await {
                        Ok(()) => self.follow(revision).await,
                        Err(end) => end,
                    }
                }
                Err(end) => end,
            };
            match end {
                End::Dropped => return,
                End::ListAgain => tracing::debug!(prefix = self.prefix, "listing again"),
                End::Lost(error) => {
                    tracing::debug!(prefix = self.prefix, ?error, "the store is lost");
                    let known = std::mem::replace(&mut self.lost, true);
                    if !known && self.tell(FollowEvent::Lost { error }).await.is_err() {
                        return;
                    }
                }
            }
            sleep(self.backoff.next()).await;
        }
    }

    /// What is left to tell of a listing in the end.
    async fn list(&self) -> Result<(Vec<Entry>, Revision), End> {
        let unlisted = |error| match error {
            StoreError::Compacted { .. } => End::ListAgain,
            error => End::Lost(error),
        };
        if !self.options.in_parts {
            return list_all(&*self.store, &self.prefix).await.map_err(unlisted);
        }
        let mut begins = true;
        let mut page = self.store.range(&self.prefix, None, PAGE_ENTRIES, None).await.map_err(unlisted)?;
        let revision = page.revision;
        while let Some(start) = page.next {
            self.tell(FollowEvent::Part { entries: page.entries, begins }).await?;
            begins = false;
            let next = self.store.range(&self.prefix, Some(&start), PAGE_ENTRIES, Some(revision)).await;
            page = next.map_err(unlisted)?;
        }
        if begins {
            // Whatever an earlier listing has told of is void.
            self.tell(FollowEvent::Part { entries: Vec::new(), begins }).await?;
        }
        Ok((page.entries, revision))
    }

    async fn tell(&self, event: FollowEvent) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Dropped)
    }

    async fn follow(&mut self, revision: Revision) -> End {
        let mut stream = match self.store.watch(&self.prefix, revision).await {
            Ok(stream) => stream,
            Err(StoreError::Compacted { .. }) => return End::ListAgain,
            Err(error) => return End::Lost(error),
        };
        let mut seen = revision;
        let mut suspected = false;
        loop {
            let next = match self.patience(suspected) {
                Some(patience) => timeout(patience, stream.next()).await.ok(),
                None => Some(stream.next().await),
            };
            match next {
                Some(Ok(batch)) => {
                    seen = batch.revision;
                    suspected = false;
                    self.backoff.reset();
                    if let Err(end) = self.tell(FollowEvent::Batch(batch)).await {
                        return end;
                    }
                }
                Some(Err(StoreError::Compacted { .. })) => return End::ListAgain,
                Some(Err(error)) => return End::Lost(error),
                None if suspected => return End::ListAgain,
                None => match self.has_missed(seen).await {
                    Ok(missed) => suspected = missed,
                    Err(error) => return End::Lost(error),
                },
            }
        }
    }

    fn patience(&self, suspected: bool) -> Option<Duration> {
        let limit_ms = self.options.silence_limit_ms?;
        let limit_ms = if suspected { limit_ms.min(HEARTBEAT_GRACE_MS) } else { limit_ms };
        Some(Duration::from_millis(limit_ms))
    }

    /// Whether the store has something that the watch should have brought. Without a heartbeat
    /// there is no telling, so yes.
    async fn has_missed(&self, seen: Revision) -> Result<bool, StoreError> {
        let Some(key) = &self.options.heartbeat_key else { return Ok(true) };
        let asked = timeout(Duration::from_millis(DOUBT_MS), self.store.get(key)).await;
        let (heartbeat, _) = asked.map_err(|elapsed| StoreError::unavailable("ask for the heartbeat", elapsed))??;
        Ok(heartbeat.is_some_and(|entry| entry.mod_revision > seen))
    }
}

/// Lists everything under `prefix` at one revision, in pages. [`StoreError::Compacted`]: so much was
/// written meanwhile that the first page's revision fell out of the history; list again.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError> {
    let mut page = store.range(prefix, None, PAGE_ENTRIES, None).await?;
    let revision = page.revision;
    let mut entries = std::mem::take(&mut page.entries);
    while let Some(start) = page.next {
        page = store.range(prefix, Some(&start), PAGE_ENTRIES, Some(revision)).await?;
        entries.append(&mut page.entries);
    }
    Ok((entries, revision))
}

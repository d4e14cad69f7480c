//! The follower over stores that fail in ways that real ones rarely do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cellway_core::ids::{ClusterId, Revision};
use cellway_store::{
    EmbeddedStore, Entry, FollowEvent, FollowOptions, Follower, History, LeaseId, Page, Store, StoreError, Txn,
    WatchBatch, WatchStream,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{View, put_surely, within};

const SILENCE_LIMIT_MS: u64 = 100;

fn options() -> FollowOptions {
    FollowOptions {
        heartbeat_key: Some("p/heartbeat".to_owned()),
        silence_limit_ms: Some(SILENCE_LIMIT_MS),
        retry_first_ms: 5,
        retry_longest_ms: 50,
        in_parts: false,
    }
}

/// A store whose watches may be deaf and whose answers may fail.
struct Faulty {
    inner: EmbeddedStore,
    deaf: AtomicBool,
    down: AtomicBool,
    listings: AtomicUsize,
    reads: AtomicUsize,
    deaf_watches: Mutex<Vec<mpsc::Sender<Result<WatchBatch, StoreError>>>>,
}

impl Faulty {
    fn new(history: History) -> Arc<Self> {
        Arc::new(Self {
            inner: EmbeddedStore::in_memory_with(history).unwrap(),
            deaf: AtomicBool::new(false),
            down: AtomicBool::new(false),
            listings: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            deaf_watches: Mutex::new(Vec::new()),
        })
    }

    fn check_up(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable_because("do anything", "the test says so"));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Faulty {
    async fn cluster(&self) -> Result<ClusterId, StoreError> {
        self.check_up()?;
        self.inner.cluster().await
    }
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        self.check_up()?;
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.get(key).await
    }
    async fn range(
        &self,
        prefix: &str,
        start: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, StoreError> {
        self.check_up()?;
        self.listings.fetch_add(1, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.range(prefix, start, limit, at).await
    }
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        self.inner.commit(txn).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.check_up()?;
        if self.deaf.load(Ordering::SeqCst) {
            let (sender, batches) = mpsc::channel(1);
            self.deaf_watches.lock().push(sender);
            return Ok(WatchStream::from_channel(batches));
        }
        self.inner.watch(prefix, after).await
    }
    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, StoreError> {
        self.inner.grant_lease(ttl_ms).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke_lease(lease).await
    }
}

#[tokio::test]
async fn a_watch_that_misses_a_heartbeat_is_given_up_and_the_prefix_listed_again() {
    let store = Faulty::new(History::default());
    store.deaf.store(true, Ordering::SeqCst);
    put_surely(&*store, "p/heartbeat", "1").await;
    let mut follower = Follower::new(store.clone(), "p/", options());
    let mut view = View::default();
    view.take_next(&mut follower).await;
    put_surely(&*store, "p/a", "1").await;
    put_surely(&*store, "p/heartbeat", "2").await;
    view.catch_up(&mut follower, &*store, "p/").await;
    assert_eq!((view.snapshots, view.lost), (2, 0));
    store.deaf.store(false, Ordering::SeqCst);
    put_surely(&*store, "p/heartbeat", "3").await;
    view.catch_up(&mut follower, &*store, "p/").await;
}

#[tokio::test]
async fn silence_without_a_missed_heartbeat_is_no_reason_to_list_again() {
    let store = Faulty::new(History::default());
    put_surely(&*store, "p/heartbeat", "1").await;
    put_surely(&*store, "beside", "1").await;
    let mut follower = Follower::new(store.clone(), "p/", options());
    let mut view = View::default();
    view.take_next(&mut follower).await;
    let quiet = Duration::from_millis(5 * SILENCE_LIMIT_MS);
    assert!(tokio::time::timeout(quiet, follower.next()).await.is_err(), "nothing happened");
    assert_eq!(store.listings.load(Ordering::SeqCst), 1);
    put_surely(&*store, "p/a", "1").await;
    view.catch_up(&mut follower, &*store, "p/").await;
    assert_eq!(view.snapshots, 1, "the watch was kept");
}

#[tokio::test]
async fn without_a_heartbeat_silence_alone_lists_again() {
    let store = Faulty::new(History::default());
    store.deaf.store(true, Ordering::SeqCst);
    let options = FollowOptions { heartbeat_key: None, ..options() };
    let mut follower = Follower::new(store.clone(), "p/", options);
    let mut view = View::default();
    while view.snapshots < 3 {
        view.take_next(&mut follower).await;
    }
}

#[tokio::test]
async fn an_outage_is_told_once_and_ends_with_a_snapshot() {
    let store = Faulty::new(History::default());
    store.deaf.store(true, Ordering::SeqCst);
    let mut follower = Follower::new(store.clone(), "p/", options());
    let mut view = View::default();
    view.take_next(&mut follower).await;
    store.down.store(true, Ordering::SeqCst);
    let event = within("the loss", follower.next()).await;
    assert!(matches!(event, FollowEvent::Lost { .. }), "{event:?}");
    let more = tokio::time::timeout(Duration::from_millis(300), follower.next()).await;
    assert!(more.is_err(), "one outage is told once: {more:?}");
    store.down.store(false, Ordering::SeqCst);
    let event = within("the recovery", follower.next()).await;
    assert!(matches!(event, FollowEvent::Snapshot { .. }), "{event:?}");
}

#[tokio::test]
async fn an_owner_that_fell_behind_the_history_gets_a_snapshot_and_misses_nothing() {
    let history = History { ring_revisions: 8, ..History::default() };
    let store = Faulty::new(history);
    let mut follower = Follower::new(store.clone(), "p/", options());
    let mut view = View::default();
    view.take_next(&mut follower).await;
    // More than the follower's queue and the store's history hold together.
    for number in 0..300 {
        put_surely(&*store, &format!("p/{}", number % 7), &number.to_string()).await;
    }
    view.catch_up(&mut follower, &*store, "p/").await;
    assert!(view.snapshots >= 2, "{}", view.snapshots);
}

/// What a change costs a router, or a replica of the control plane: its own bytes, and no read of the store.
#[tokio::test]
async fn a_change_costs_a_follower_no_read_however_many_there_are() {
    let store = Faulty::new(History::default());
    for number in 0..500 {
        put_surely(&*store, &format!("p/{number}"), "1").await;
    }
    let options = FollowOptions { silence_limit_ms: None, ..options() };
    let mut follower = Follower::new(store.clone(), "p/", options);
    let mut view = View::default();
    view.take_next(&mut follower).await;
    let reads = store.reads.load(Ordering::SeqCst);
    for number in 0..200 {
        put_surely(&*store, &format!("p/{number}"), "2").await;
        match within("the change", follower.next()).await {
            FollowEvent::Batch(batch) => assert_eq!(batch.events.len(), 1, "the change alone"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.reads.load(Ordering::SeqCst), reads);
}

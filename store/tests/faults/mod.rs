//! What each store does when its history, its process, its network or its machine fails.

mod crash;
mod embedded;
mod etcd;
mod follower;

use std::collections::BTreeMap;
use std::time::Duration;

use cellway_store::{Event, FollowEvent, Follower, Store, StoreError, Txn, list_all};

/// How long anything that must happen may take.
const PATIENCE_MS: u64 = 20_000;

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = Duration::from_millis(PATIENCE_MS);
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("too slow: {what}"))
}

/// What a follower's owner knows.
#[derive(Debug, Default)]
struct View {
    records: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<String, Vec<u8>>,
    snapshots: usize,
    lost: usize,
}

impl View {
    async fn take_next(&mut self, follower: &mut Follower) {
        let record = |e: cellway_store::Entry| (e.key, e.value.to_vec());
        match within("the follower's next event", follower.next()).await {
            FollowEvent::Part { entries, begins } => {
                if begins {
                    self.parts.clear();
                }
                self.parts.extend(entries.into_iter().map(record));
            }
            FollowEvent::Snapshot { entries, .. } => {
                self.snapshots += 1;
                self.records = std::mem::take(&mut self.parts);
                self.records.extend(entries.into_iter().map(record));
            }
            FollowEvent::Batch(batch) => {
                for event in batch.events {
                    match event {
                        Event::Put(e) => self.records.insert(e.key, e.value.to_vec()),
                        Event::Delete { key } => self.records.remove(&key),
                    };
                }
            }
            FollowEvent::Lost { .. } => self.lost += 1,
        }
    }

    /// Takes events until it shows what the store holds under `prefix`.
    async fn catch_up(&mut self, follower: &mut Follower, store: &dyn Store, prefix: &str) {
        let (entries, _) = list_all(store, prefix).await.unwrap();
        let stored: BTreeMap<_, _> = entries.into_iter().map(|e| (e.key, e.value.to_vec())).collect();
        while self.records != stored {
            self.take_next(follower).await;
        }
    }
}

/// Commits as a careful caller does: again until it is known to have happened.
async fn put_surely(store: &dyn Store, key: &str, value: &str) {
    within("a commit", async {
        loop {
            match store.commit(Txn::new().put(key, value.as_bytes())).await {
                Ok(_) => return,
                Err(StoreError::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    })
    .await;
}

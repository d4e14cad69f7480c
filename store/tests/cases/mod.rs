//! The contract's cases, each run against every store.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod commits;
mod leases;
mod listings;
mod watches;

pub(crate) use commits::*;
pub(crate) use leases::*;
pub(crate) use listings::*;
pub(crate) use watches::*;

use std::time::Duration;

use cellway_core::ids::Revision;
use cellway_store::{Event, Store, StoreError, Txn, WatchBatch, WatchStream};

/// How long anything that must happen may take.
const PATIENCE_MS: u64 = 20_000;

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.commit(Txn::new().put(key, value.as_bytes())).await.unwrap()
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let (entry, _) = store.get(key).await.unwrap();
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

async fn current(store: &dyn Store) -> Revision {
    store.get("nothing").await.unwrap().1
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = Duration::from_millis(PATIENCE_MS);
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("too slow: {what}"))
}

async fn next(stream: &mut WatchStream) -> WatchBatch {
    within("the next change", stream.next()).await.unwrap()
}

async fn end(stream: &mut WatchStream) -> StoreError {
    within("the end of the watch", stream.next()).await.unwrap_err()
}

/// `key=value` for a put, `-key` for a delete, sorted.
fn show(batch: &WatchBatch) -> Vec<String> {
    let mut shown: Vec<String> = batch
        .events
        .iter()
        .map(|event| match event {
            Event::Put(entry) => {
                format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))
            }
            Event::Delete { key } => format!("-{key}"),
        })
        .collect();
    shown.sort();
    shown
}

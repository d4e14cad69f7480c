//! The embedded store: its lock, its file, and the ends of its history.

use std::time::{Duration, Instant};

use cellway_core::ids::Revision;
use cellway_store::{EmbeddedStore, History, Store, StoreError, Txn};

use super::within;

const SHORT: History = History { ring_revisions: 4, log_revisions: 20, ring_bytes: 1 << 20, log_bytes: 1 << 20 };

async fn put_numbers(store: &EmbeddedStore, count: u64) -> Revision {
    let mut revision = Revision(0);
    for number in 0..count {
        let txn = Txn::new().put("p/a", number.to_string().into_bytes());
        revision = store.commit(txn).await.unwrap();
    }
    revision
}

async fn ends_compacted(store: &EmbeddedStore, after: Revision) -> Revision {
    let mut stream = store.watch("p/", after).await.unwrap();
    match within("the end of the watch", stream.next()).await {
        Err(StoreError::Compacted { at }) => at,
        other => panic!("{other:?}"),
    }
}

async fn brings_all(store: &EmbeddedStore, after: Revision, until: Revision) {
    let mut stream = store.watch("p/", after).await.unwrap();
    for revision in after.0 + 1..=until.0 {
        let batch = within("a batch", stream.next()).await.unwrap();
        assert_eq!(batch.revision, Revision(revision));
    }
}

#[tokio::test]
async fn a_second_open_of_a_directory_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let first = EmbeddedStore::open(dir.path()).unwrap();
    let watcher = first.watch("", Revision(1)).await.unwrap();
    let refused = EmbeddedStore::open(dir.path()).unwrap_err();
    let StoreError::Locked { path, holder } = &refused else { panic!("{refused:?}") };
    assert!(path.starts_with(dir.path()));
    assert_eq!(*holder, Some(std::process::id()));
    assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
    drop(first);
    EmbeddedStore::open(dir.path()).expect("a dropped store lets go, whatever its watchers do");
    drop(watcher);
}

#[tokio::test]
async fn a_store_has_its_id_for_good_and_another_one_has_another() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = EmbeddedStore::open(dir.path()).unwrap().cluster().await.unwrap();
    assert_eq!(EmbeddedStore::open(dir.path()).unwrap().cluster().await.unwrap(), id);
    assert_ne!(EmbeddedStore::open(other.path()).unwrap().cluster().await.unwrap(), id);
    assert_ne!(EmbeddedStore::in_memory().unwrap().cluster().await.unwrap(), id);
}

#[tokio::test]
async fn a_watcher_of_a_closed_store_is_told() {
    let store = EmbeddedStore::in_memory().unwrap();
    let mut stream = store.watch("", Revision(1)).await.unwrap();
    drop(store);
    let end = within("the end", stream.next()).await;
    assert!(matches!(end, Err(StoreError::Unavailable { .. })), "{end:?}");
}

#[tokio::test]
async fn revisions_go_on_without_a_gap_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Revision(1);
    for _ in 0..3 {
        let store = EmbeddedStore::open(dir.path()).unwrap();
        assert_eq!(store.get("p/a").await.unwrap().1, last);
        for _ in 0..5 {
            let revision = put_numbers(&store, 1).await;
            assert_eq!(revision, Revision(last.0 + 1));
            last = revision;
        }
        brings_all(&store, Revision(1), last).await;
        let entry = store.get("p/a").await.unwrap().0.unwrap();
        assert_eq!((entry.create_revision, entry.mod_revision), (Revision(2), last));
    }
}

#[tokio::test]
async fn in_memory_a_watcher_behind_the_ring_is_told_compacted() {
    let store = EmbeddedStore::in_memory_with(SHORT).unwrap();
    let last = put_numbers(&store, 30).await;
    let floor = Revision(last.0 - 4);
    assert_eq!(ends_compacted(&store, Revision(1)).await, floor);
    assert_eq!(ends_compacted(&store, Revision(floor.0 - 1)).await, floor);
    brings_all(&store, floor, last).await;
    let page = store.range("p/", None, 1, Some(Revision(floor.0 - 1))).await;
    assert!(matches!(page, Err(StoreError::Compacted { at }) if at == floor), "{page:?}");
    store.range("p/", None, 1, Some(floor)).await.unwrap();
}

#[tokio::test]
async fn a_watcher_that_lags_too_far_is_told_compacted_and_costs_no_memory() {
    let store = EmbeddedStore::in_memory_with(SHORT).unwrap();
    let mut stream = store.watch("p/", Revision(1)).await.unwrap();
    put_numbers(&store, 2).await;
    assert_eq!(within("a batch", stream.next()).await.unwrap().revision, Revision(2));
    put_numbers(&store, 10).await;
    let end = within("the end", stream.next()).await;
    assert!(matches!(end, Err(StoreError::Compacted { .. })), "{end:?}");
}

#[tokio::test]
async fn on_disk_a_watcher_behind_the_ring_reads_the_log_to_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(dir.path(), SHORT).unwrap();
    let last = put_numbers(&store, 30).await;
    let floor = Revision(last.0 - 20);
    brings_all(&store, floor, last).await;
    assert_eq!(ends_compacted(&store, Revision(floor.0 - 1)).await, floor);
    drop(store);
    let store = EmbeddedStore::open_with(dir.path(), SHORT).unwrap();
    brings_all(&store, floor, last).await;
    assert_eq!(ends_compacted(&store, Revision(1)).await, floor);
    let last = put_numbers(&store, 30).await;
    brings_all(&store, Revision(last.0 - 20), last).await;
}

#[tokio::test]
async fn the_log_is_bounded_in_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let history = History { ring_bytes: 10_000, log_bytes: 50_000, ..History::default() };
    let store = EmbeddedStore::open_with(dir.path(), history).unwrap();
    for _ in 0..100 {
        store.commit(Txn::new().put("p/a", vec![1; 4_000])).await.unwrap();
    }
    let floor = ends_compacted(&store, Revision(1)).await;
    assert!((80..101).contains(&floor.0), "about twelve of the hundred are kept: {floor}");
    brings_all(&store, floor, Revision(101)).await;
}

#[tokio::test]
async fn leases_survive_a_reopen_and_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let lease = store.grant_lease(700).await.unwrap();
    store.commit(Txn::new().put_leased("leader", *b"me", lease)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(store);
    let reopened = Instant::now();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let at = store.get("leader").await.unwrap().1;
    let mut stream = store.watch("leader", at).await.unwrap();
    within("the lease to end", stream.next()).await.unwrap();
    assert!(reopened.elapsed() >= Duration::from_millis(700), "{:?}", reopened.elapsed());
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseGone)));
    drop(store);
    let store = EmbeddedStore::open(dir.path()).unwrap();
    assert!(store.grant_lease(700).await.unwrap() > lease, "a lease's id is never used again");
}

#[tokio::test]
async fn a_file_that_is_not_a_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(EmbeddedStore::open(dir.path()).unwrap());
    let file = dir.path().join("store.redb");
    std::fs::write(&file, b"not a database").unwrap();
    let refused = EmbeddedStore::open(dir.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"not a database");
}

#[tokio::test]
async fn a_file_of_an_unknown_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(EmbeddedStore::open(dir.path()).unwrap());
    {
        let database = redb::Database::open(dir.path().join("store.redb")).unwrap();
        let change = database.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        change.open_table(meta).unwrap().insert("format", 2).unwrap();
        change.commit().unwrap();
    }
    let refused = EmbeddedStore::open(dir.path()).unwrap_err();
    let StoreError::Corrupt { detail, .. } = &refused else { panic!("{refused:?}") };
    assert!(detail.contains("format is 2"), "{detail}");
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.redb.new"), b"half").unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    put_numbers(&store, 1).await;
}

//! Reads, compare-and-swap, atomicity.

use std::sync::Arc;

use cellway_core::ids::Revision;
use cellway_store::{Store, StoreError, TXN_OPERATIONS_MAX, TXN_SIZE_MAX_BYTES, Txn};

use super::{current, put, value};

pub(crate) async fn a_read_tells_the_record_and_the_revision_it_was_read_at(store: Arc<dyn Store>) {
    let before = current(&*store).await;
    assert!(store.get("a").await.unwrap().0.is_none());
    let first = put(&*store, "a", "1").await;
    assert_eq!(first, Revision(before.0 + 1), "revisions rise by one per commit");
    let second = put(&*store, "a", "2").await;
    let other = put(&*store, "b", "3").await;
    let (entry, at) = store.get("a").await.unwrap();
    let entry = entry.unwrap();
    assert_eq!(at, other);
    assert_eq!((entry.key.as_str(), &*entry.value), ("a", &b"2"[..]));
    assert_eq!((entry.create_revision, entry.mod_revision), (first, second));
}

pub(crate) async fn a_store_keeps_its_id(store: Arc<dyn Store>) {
    let id = store.cluster().await.unwrap();
    put(&*store, "a", "1").await;
    assert_eq!(store.cluster().await.unwrap(), id);
}

pub(crate) async fn a_commit_at_the_expected_revision_succeeds_and_a_stale_one_conflicts(store: Arc<dyn Store>) {
    let first = put(&*store, "a", "1").await;
    let swap = Txn::new().require_revision("a", first).put("a", *b"2");
    let second = store.commit(swap.clone()).await.unwrap();
    assert!(second > first);
    assert!(matches!(store.commit(swap).await, Err(StoreError::Conflict)));
    assert_eq!(value(&*store, "a").await.as_deref(), Some("2"));
    assert_eq!(current(&*store).await, second, "a conflict makes no revision");
}

pub(crate) async fn an_absent_key_counts_as_written_at_revision_zero(store: Arc<dyn Store>) {
    let create = Txn::new().require_revision("a", Revision(0)).put("a", *b"1");
    store.commit(create.clone()).await.unwrap();
    assert!(matches!(store.commit(create).await, Err(StoreError::Conflict)));
}

pub(crate) async fn a_transaction_writes_all_of_its_keys_or_none(store: Arc<dyn Store>) {
    let first = put(&*store, "lock", "free").await;
    let both = Txn::new().put("a", *b"1").put("b", *b"2").delete("lock");
    let at = store.commit(both.clone().require_revision("lock", first)).await.unwrap();
    for key in ["a", "b"] {
        assert_eq!(store.get(key).await.unwrap().0.unwrap().mod_revision, at);
    }
    assert_eq!(value(&*store, "lock").await, None);

    let again = Txn::new().put("a", *b"9").put("c", *b"9").require_revision("lock", first);
    assert!(matches!(store.commit(again).await, Err(StoreError::Conflict)));
    assert_eq!(value(&*store, "a").await.as_deref(), Some("1"));
    assert_eq!(value(&*store, "c").await, None);
}

pub(crate) async fn presence_and_absence_can_be_required(store: Arc<dyn Store>) {
    let absent = Txn::new().require_absent("a").put("seen", *b"absent");
    let present = Txn::new().require_present("a").put("seen", *b"present");
    assert!(matches!(store.commit(present.clone()).await, Err(StoreError::Conflict)));
    store.commit(absent.clone()).await.unwrap();
    put(&*store, "a", "1").await;
    assert!(matches!(store.commit(absent.clone()).await, Err(StoreError::Conflict)));
    store.commit(present).await.unwrap();
    store.commit(Txn::new().delete("a")).await.unwrap();
    store.commit(absent).await.unwrap();
}

pub(crate) async fn a_transaction_that_changes_nothing_makes_no_revision(store: Arc<dyn Store>) {
    let at = put(&*store, "a", "1").await;
    let only_compares = Txn::new().require_present("a");
    assert_eq!(store.commit(only_compares).await.unwrap(), at);
    assert_eq!(store.commit(Txn::new().delete("nothing")).await.unwrap(), at);
    assert!(put(&*store, "a", "1").await > at, "writing the same value is a change");
}

pub(crate) async fn a_key_made_again_has_a_new_create_revision(store: Arc<dyn Store>) {
    let first = put(&*store, "a", "1").await;
    store.commit(Txn::new().delete("a")).await.unwrap();
    let again = put(&*store, "a", "1").await;
    let entry = store.get("a").await.unwrap().0.unwrap();
    assert!(again > first);
    assert_eq!((entry.create_revision, entry.mod_revision), (again, again));
}

pub(crate) async fn of_fifty_tasks_that_create_one_key_one_wins(store: Arc<dyn Store>) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..50 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let name = task.to_string().into_bytes();
            let create = Txn::new().require_absent("host").put("host", name);
            store.commit(create).await.map(|_| task.to_string())
        });
    }
    let mut winners = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        match outcome.unwrap() {
            Ok(winner) => winners.push(winner),
            Err(error) => assert!(matches!(error, StoreError::Conflict), "{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(value(&*store, "host").await.as_ref(), winners.first());
}

pub(crate) async fn of_many_concurrent_swaps_none_is_lost(store: Arc<dyn Store>) {
    put(&*store, "count", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for _ in 0..10 {
                loop {
                    let entry = store.get("count").await.unwrap().0.unwrap();
                    let count: u64 = String::from_utf8_lossy(&entry.value).parse().unwrap();
                    let swap = Txn::new()
                        .require_revision("count", entry.mod_revision)
                        .put("count", (count + 1).to_string().into_bytes());
                    match store.commit(swap).await {
                        Ok(_) => break,
                        Err(StoreError::Conflict) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(value(&*store, "count").await.as_deref(), Some("80"));
}

pub(crate) async fn what_is_too_large_or_malformed_is_refused(store: Arc<dyn Store>) {
    let fill = |count: usize| (0..count).fold(Txn::new(), |txn, number| txn.put(format!("many/{number}"), *b"x"));
    store.commit(fill(TXN_OPERATIONS_MAX)).await.unwrap();
    let more = store.commit(fill(TXN_OPERATIONS_MAX + 1)).await;
    assert!(matches!(more, Err(StoreError::TooLarge { what: "operations", .. })), "{more:?}");

    let largest = vec![7; TXN_SIZE_MAX_BYTES - "large".len()];
    store.commit(Txn::new().put("large", largest.clone())).await.unwrap();
    assert_eq!(store.get("large").await.unwrap().0.unwrap().value.len(), largest.len());
    let larger = store.commit(Txn::new().put("larger", largest)).await;
    assert!(matches!(larger, Err(StoreError::TooLarge { what: "bytes", .. })), "{larger:?}");

    for malformed in [Txn::new().put("a", *b"1").delete("a"), Txn::new().put("", *b"1")] {
        let answer = store.commit(malformed).await;
        assert!(matches!(answer, Err(StoreError::Refused { .. })), "{answer:?}");
    }
}

//! Leases: what ends with them, and what does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cellway_store::{LeaseId, Store, StoreError, Txn};

use super::{current, next, put, show, value, within};

/// etcd counts leases in whole seconds.
const TTL_MS: u64 = 1_000;

pub(crate) async fn a_lease_that_is_not_kept_alive_takes_its_keys_with_it(store: Arc<dyn Store>) {
    put(&*store, "other", "x").await;
    let mut stream = store.watch("", current(&*store).await).await.unwrap();
    let granted = Instant::now();
    let lease = store.grant_lease(TTL_MS).await.unwrap();
    let leased = Txn::new().put_leased("leader", *b"me", lease).put_leased("b", *b"2", lease);
    store.commit(leased).await.unwrap();
    assert_eq!(show(&next(&mut stream).await), ["b=2", "leader=me"]);
    let ended = next(&mut stream).await;
    assert_eq!(show(&ended), ["-b", "-leader"]);
    assert!(granted.elapsed() >= Duration::from_millis(TTL_MS), "not before its time");
    assert_eq!(value(&*store, "leader").await, None);
    assert_eq!(value(&*store, "other").await.as_deref(), Some("x"));
}

pub(crate) async fn a_lease_that_is_kept_alive_lasts(store: Arc<dyn Store>) {
    let lease = store.grant_lease(2 * TTL_MS).await.unwrap();
    store.commit(Txn::new().put_leased("leader", *b"me", lease)).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(4 * TTL_MS) {
        store.keep_alive(lease).await.unwrap();
        assert_eq!(value(&*store, "leader").await.as_deref(), Some("me"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn a_revoked_lease_deletes_its_keys_at_one_revision(store: Arc<dyn Store>) {
    let lease = store.grant_lease(60_000).await.unwrap();
    let leased = Txn::new().put_leased("a", *b"1", lease).put_leased("b", *b"2", lease);
    let at = store.commit(leased).await.unwrap();
    let mut stream = store.watch("", at).await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    let batch = next(&mut stream).await;
    assert_eq!((show(&batch), batch.revision.0), (vec!["-a".to_owned(), "-b".into()], at.0 + 1));
    store.revoke_lease(lease).await.unwrap();
    store.revoke_lease(LeaseId(987_654)).await.unwrap();
}

pub(crate) async fn a_key_written_again_without_its_lease_outlives_it(store: Arc<dyn Store>) {
    let lease = store.grant_lease(60_000).await.unwrap();
    let other = store.grant_lease(60_000).await.unwrap();
    let leased = Txn::new().put_leased("a", *b"1", lease).put_leased("b", *b"1", lease);
    store.commit(leased).await.unwrap();
    store.commit(Txn::new().put("a", *b"2").put_leased("b", *b"2", other)).await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(value(&*store, "a").await.as_deref(), Some("2"));
    assert_eq!(value(&*store, "b").await.as_deref(), Some("2"));
    store.revoke_lease(other).await.unwrap();
    assert_eq!(value(&*store, "b").await, None);
}

pub(crate) async fn a_lease_that_has_ended_can_neither_be_kept_nor_written_under(store: Arc<dyn Store>) {
    let lease = store.grant_lease(TTL_MS).await.unwrap();
    store.commit(Txn::new().put_leased("leader", *b"me", lease)).await.unwrap();
    within("the lease to end", async {
        while value(&*store, "leader").await.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for gone in [lease, LeaseId(987_654)] {
        let kept = store.keep_alive(gone).await;
        assert!(matches!(kept, Err(StoreError::LeaseGone)), "{kept:?}");
        let written = store.commit(Txn::new().put_leased("leader", *b"me", gone)).await;
        assert!(matches!(written, Err(StoreError::LeaseGone)), "{written:?}");
    }
    assert_eq!(value(&*store, "leader").await, None);
    let zero = store.grant_lease(0).await;
    assert!(matches!(zero, Err(StoreError::Refused { .. })), "{zero:?}");
}

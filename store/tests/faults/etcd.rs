//! etcd that is killed, frozen, compacted, cut off, or only half there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cellway_core::ids::Revision;
use cellway_store::{EtcdConfig, EtcdStore, FollowEvent, FollowOptions, Follower, Store, StoreError, Txn, list_all};

use cellway_fake_etcd::Stall;

use super::{View, put_surely, within};
use crate::support::{Etcd, FakeMember, Relay, config_for};

const SILENCE_LIMIT_MS: u64 = 500;

fn options() -> FollowOptions {
    FollowOptions {
        heartbeat_key: Some("p/heartbeat".to_owned()),
        silence_limit_ms: Some(SILENCE_LIMIT_MS),
        retry_first_ms: 20,
        retry_longest_ms: 200,
        in_parts: true,
    }
}

async fn compact(etcd: &Etcd, at: Revision) {
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    client.compact(i64::try_from(at.0).unwrap(), None).await.unwrap();
}

async fn says_what_is_behind_the_history(store: &EtcdStore, compact: impl AsyncFnOnce(Revision)) {
    let mut last = Revision(0);
    for number in 0..10 {
        last = store.commit(Txn::new().put(format!("p/{number}"), *b"x")).await.unwrap();
    }
    compact(Revision(last.0 - 2)).await;
    let mut stream = store.watch("p/", Revision(1)).await.unwrap();
    let end = within("the end", stream.next()).await;
    assert!(matches!(end, Err(StoreError::Compacted { at }) if at.0 >= last.0 - 2), "{end:?}");
    let page = store.range("p/", None, 10, Some(Revision(2))).await;
    assert!(matches!(page, Err(StoreError::Compacted { .. })), "{page:?}");
    let page = store.range("p/", None, 10, Some(Revision(last.0 - 2))).await.unwrap();
    assert_eq!(page.entries.len(), 8);
    let mut stream = store.watch("p/", Revision(last.0 - 1)).await.unwrap();
    assert_eq!(within("a batch", stream.next()).await.unwrap().revision, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_or_a_page_behind_the_compacted_history_says_so() {
    let etcd = Etcd::start().await;
    says_what_is_behind_the_history(&etcd.store().await, async |at| compact(&etcd, at).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fake_etcd_says_so_too() {
    let member = FakeMember::start();
    let compact = async |at: Revision| member.etcd.compact(i64::try_from(at.0).unwrap());
    says_what_is_behind_the_history(&member.store().await, compact).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fake_etcd_that_stalls_answers_nothing_and_then_goes_on() {
    let member = FakeMember::start();
    let store = member.store().await;
    let first = store.commit(Txn::new().put("a", *b"1")).await.unwrap();
    let mut stream = store.watch("", first).await.unwrap();
    member.etcd.stall(Stall::BeforeWork);
    let unheard = store.commit(Txn::new().put("a", *b"2")).await;
    assert!(matches!(unheard, Err(StoreError::Unavailable { .. })), "{unheard:?}");
    member.etcd.stall(Stall::BeforeAnswer);
    let unanswered = store.commit(Txn::new().put("a", *b"3")).await;
    assert!(matches!(unanswered, Err(StoreError::Unavailable { .. })), "{unanswered:?}");
    member.etcd.stall(Stall::No);
    let (entry, _) = store.get("a").await.unwrap();
    assert_eq!(&*entry.unwrap().value, b"3", "the first was never done, the second was");
    assert_eq!(within("a batch", stream.next()).await.unwrap().revision, Revision(first.0 + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_heals_after_etcd_was_killed_and_misses_nothing() {
    let mut etcd = Etcd::start().await;
    let store: Arc<dyn Store> = Arc::new(etcd.store().await);
    put_surely(&*store, "p/a", "1").await;
    let mut follower = Follower::new(Arc::clone(&store), "p/", options());
    let mut view = View::default();
    view.catch_up(&mut follower, &*store, "p/").await;
    for round in 0..3 {
        etcd.kill();
        if round > 0 {
            // Longer than a watch resumes by itself: the loss is told.
            while view.lost < round {
                view.take_next(&mut follower).await;
            }
        }
        etcd.restart().await;
        for number in 0..20 {
            put_surely(&*store, &format!("p/{round}/{number}"), "x").await;
        }
        store.commit(Txn::new().delete(format!("p/{round}/7"))).await.unwrap();
        view.catch_up(&mut follower, &*store, "p/").await;
    }
    assert_eq!(view.records.len(), 1 + 3 * 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_whose_connection_is_cut_resumes_without_loss_or_repetition() {
    let etcd = Etcd::start().await;
    let direct = etcd.store().await;
    let relay = Relay::to(etcd.client_port()).await;
    let store = EtcdStore::connect(config_for(relay.endpoint())).await.unwrap();
    let began = store.get("p/a").await.unwrap().1;
    let mut stream = store.watch("p/", began).await.unwrap();
    for number in 0..200 {
        let revision = direct.commit(Txn::new().put("p/a", *b"x").put("p/b", *b"y")).await.unwrap();
        if number % 20 == 10 {
            relay.cut();
        }
        let batch = within("the next change", stream.next()).await.unwrap();
        assert_eq!((batch.revision, batch.events.len()), (revision, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_etcd_is_told_within_the_limit_and_heals_when_it_goes_on() {
    let etcd = Etcd::start().await;
    let store: Arc<dyn Store> = Arc::new(etcd.store().await);
    put_surely(&*store, "p/heartbeat", "1").await;
    let mut follower = Follower::new(Arc::clone(&store), "p/", options());
    let mut view = View::default();
    view.catch_up(&mut follower, &*store, "p/").await;
    etcd.freeze();
    let frozen = Instant::now();
    while view.lost == 0 {
        view.take_next(&mut follower).await;
    }
    let limit = Duration::from_millis(SILENCE_LIMIT_MS + 3 * 700 + 3_000);
    assert!(frozen.elapsed() < limit, "{:?}", frozen.elapsed());
    etcd.thaw();
    put_surely(&*store, "p/a", "1").await;
    view.catch_up(&mut follower, &*store, "p/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_fell_silent_is_found_out_by_the_heartbeat() {
    let etcd = Etcd::start().await;
    let direct = etcd.store().await;
    let relay = Relay::to(etcd.client_port()).await;
    let store = EtcdStore::connect(config_for(relay.endpoint())).await.unwrap();
    put_surely(&direct, "p/heartbeat", "1").await;
    let mut follower = Follower::new(Arc::new(store), "p/", options());
    let mut view = View::default();
    view.take_next(&mut follower).await;
    put_surely(&direct, "p/heartbeat", "2").await;
    view.catch_up(&mut follower, &direct, "p/").await;
    assert_eq!((view.snapshots, view.lost), (1, 0), "the watch is alive");
    relay.silence();
    put_surely(&direct, "p/a", "1").await;
    put_surely(&direct, "p/heartbeat", "3").await;
    view.catch_up(&mut follower, &direct, "p/").await;
    assert_eq!((view.snapshots, view.lost), (2, 0), "a new connection was made in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_outcome_is_unknown_is_unavailable_and_never_a_conflict() {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    let first = store.commit(Txn::new().put("a", *b"1")).await.unwrap();
    let swap = Txn::new().require_revision("a", first).put("a", *b"2");
    etcd.freeze();
    let answer = store.commit(swap.clone()).await;
    assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
    etcd.thaw();
    let (entry, _) = within("a read", async {
        loop {
            match store.get("a").await {
                Ok(read) => return read,
                Err(StoreError::Unavailable { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    })
    .await;
    let happened = &*entry.unwrap().value == b"2";
    let again = store.commit(swap).await;
    match happened {
        true => assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}"),
        false => assert!(matches!(again, Ok(_) | Err(StoreError::Conflict)), "{again:?}"),
    }
    assert_eq!(&*store.get("a").await.unwrap().0.unwrap().value, b"2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_costs_one_failure_and_is_then_left_alone() {
    let etcd = Etcd::start().await;
    let mut dead = Etcd::start().await;
    dead.kill();
    let endpoints = [dead.endpoint(), etcd.endpoint()];
    let config = EtcdConfig { endpoints: endpoints.to_vec(), ..etcd.config() };
    let store = EtcdStore::connect(config.clone()).await.unwrap();
    assert!(store.get("a").await.unwrap().0.is_none(), "a read finds the living member");
    for _ in 0..20 {
        store.commit(Txn::new().put("a", *b"1")).await.unwrap();
    }
    let store = EtcdStore::connect(config).await.unwrap();
    let first = store.commit(Txn::new().put("a", *b"1")).await;
    assert!(matches!(first, Err(StoreError::Unavailable { .. })), "{first:?}");
    store.commit(Txn::new().put("a", *b"2")).await.unwrap();
}

#[tokio::test]
async fn an_absent_etcd_is_unavailable_and_a_senseless_configuration_is_refused() {
    let mut etcd = Etcd::start().await;
    etcd.kill();
    let store = etcd.store().await;
    let began = Instant::now();
    let read = within("a read", store.get("a")).await;
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    assert!(began.elapsed() < Duration::from_millis(3 * 700 + 3_000));
    let follower = &mut Follower::new(Arc::new(store), "p/", options());
    let event = within("the loss", follower.next()).await;
    assert!(matches!(event, FollowEvent::Lost { .. }), "{event:?}");
    for endpoints in [vec![], vec!["http://a b".to_owned()], vec!["x".to_owned(), "x".to_owned()]] {
        let refused = EtcdStore::connect(EtcdConfig { endpoints, ..etcd.config() }).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_prefixes_of_one_etcd_do_not_see_each_other() {
    let etcd = Etcd::start().await;
    let open = async |prefix: &str| {
        let config = EtcdConfig { prefix: prefix.to_owned(), ..etcd.config() };
        EtcdStore::connect(config).await.unwrap()
    };
    let (one, other) = (open("/cellway/v1").await, open("/cellway/v10/").await);
    put_surely(&one, "a", "one").await;
    put_surely(&other, "a", "other").await;
    for (store, expected) in [(&one, "one"), (&other, "other")] {
        let (entries, _) = list_all(store, "").await.unwrap();
        let shown: Vec<_> = entries.iter().map(|e| (e.key.as_str(), &*e.value)).collect();
        assert_eq!(shown, [("a", expected.as_bytes())]);
    }
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let raw = client.get("/cellway/v1/a", None).await.unwrap();
    assert_eq!(raw.kvs()[0].value(), b"one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_above_the_answer_limit_comes_in_smaller_ones() {
    const VALUE_BYTES: usize = 1_300_000;
    let etcd = Etcd::start().await;
    let config = EtcdConfig { request_timeout_ms: 15_000, ..etcd.config() };
    let store = EtcdStore::connect(config).await.unwrap();
    let mut written = BTreeMap::new();
    for number in 0..55 {
        let key = format!("p/{number:02}");
        let revision = store.commit(Txn::new().put(key.clone(), vec![7; VALUE_BYTES])).await.unwrap();
        written.insert(key, revision);
    }
    let (entries, _) = within("the listing", list_all(&store, "p/")).await.unwrap();
    assert!(entries.iter().map(|e| (&e.key, &e.mod_revision)).eq(&written));
    assert!(entries.iter().all(|e| e.value.len() == VALUE_BYTES));
    let mut stream = store.watch("p/", Revision(1)).await.unwrap();
    for revision in written.values() {
        match within("a batch", stream.next()).await {
            Ok(batch) => assert_eq!(batch.revision, *revision),
            Err(error) => {
                assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
                break;
            }
        }
    }
}

//! Pages, and the follower that is built on them.

use std::sync::Arc;

use cellway_core::ids::Revision;
use cellway_store::{Entry, FollowEvent, FollowOptions, Follower, Store, StoreError, Txn, list_all};

use super::{current, put, show, within};

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

pub(crate) async fn pages_show_one_revision_while_writes_go_on(store: Arc<dyn Store>) {
    // The names lie on both sides of the points at which etcd's listings are cut.
    let names: Vec<String> = (0..60).map(|n| format!("routes/placements/{:02x}/{n:03}", n * 4)).collect();
    for name in &names {
        put(&*store, name, "before").await;
    }
    put(&*store, "routes/placements0", "beside").await;
    let mut page = store.range("routes/placements/", None, 7, None).await.unwrap();
    let revision = page.revision;
    let mut listed = page.entries.clone();
    let mut round = 0;
    while let Some(start) = page.next {
        put(&*store, &names[59 - round], "after").await;
        put(&*store, &format!("routes/placements/{:02x}/new", 200 + round), "after").await;
        store.commit(Txn::new().delete(names[30 + round].as_str())).await.unwrap();
        round += 1;
        page = store.range("routes/placements/", Some(&start), 7, Some(revision)).await.unwrap();
        assert!(page.entries.len() <= 7);
        assert_eq!(page.revision, revision);
        listed.extend(page.entries.clone());
    }
    assert!(round >= 8, "{round}");
    assert_eq!(keys(&listed), names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(listed.iter().all(|entry| &*entry.value == b"before"));
    assert!(listed.iter().all(|entry| entry.mod_revision <= revision));
}

pub(crate) async fn a_listing_may_start_anywhere(store: Arc<dyn Store>) {
    for key in ["a", "p/1", "p/2", "p/3", "q"] {
        put(&*store, key, "x").await;
    }
    let now = current(&*store).await;
    for (start, expected) in [
        (None, vec!["p/1", "p/2", "p/3"]),
        (Some("a"), vec!["p/1", "p/2", "p/3"]),
        (Some("p/2"), vec!["p/2", "p/3"]),
        (Some("p/2\0"), vec!["p/3"]),
        (Some("q"), vec![]),
    ] {
        let page = store.range("p/", start, 10, None).await.unwrap();
        assert_eq!(keys(&page.entries), expected, "from {start:?}");
        assert_eq!((page.revision, page.next), (now, None), "from {start:?}");
    }
    let all = list_all(&*store, "").await.unwrap();
    assert_eq!((keys(&all.0), all.1), (vec!["a", "p/1", "p/2", "p/3", "q"], now));
    let exact = store.range("p/", None, 3, None).await.unwrap();
    assert_eq!((exact.entries.len(), exact.next), (3, None), "no empty page at the end");
}

pub(crate) async fn pages_at_a_revision_never_reached_are_refused(store: Arc<dyn Store>) {
    let ahead = Revision(current(&*store).await.0 + 100);
    let page = store.range("", None, 10, Some(ahead)).await;
    assert!(matches!(page, Err(StoreError::Compacted { .. })), "{page:?}");
}

pub(crate) async fn a_follower_brings_a_snapshot_and_then_every_change(store: Arc<dyn Store>) {
    put(&*store, "p/1", "one").await;
    put(&*store, "q", "beside").await;
    let mut follower = Follower::new(Arc::clone(&store), "p/", FollowOptions::default());
    let FollowEvent::Snapshot { entries, revision } = within("a snapshot", follower.next()).await else {
        panic!("a follower begins with a snapshot")
    };
    assert_eq!((keys(&entries), revision), (vec!["p/1"], current(&*store).await));
    for number in 0..300 {
        put(&*store, "p/2", &number.to_string()).await;
    }
    for number in 0..300 {
        match within("a batch", follower.next()).await {
            FollowEvent::Batch(batch) => assert_eq!(show(&batch), [format!("p/2={number}")]),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn a_follower_in_parts_brings_everything_once(store: Arc<dyn Store>) {
    const RECORDS: usize = 10_500;
    const AT_ONCE: usize = 125;
    for first in (0..RECORDS).step_by(AT_ONCE) {
        let put = |txn: Txn, number| txn.put(format!("p/{number:05}"), &b"x"[..]);
        store.commit((first..first + AT_ONCE).fold(Txn::new(), put)).await.unwrap();
    }
    let options = FollowOptions { in_parts: true, ..FollowOptions::default() };
    let mut follower = Follower::new(Arc::clone(&store), "p/", options);
    let mut told: Vec<String> = Vec::new();
    let mut first = true;
    let revision = loop {
        match within("a part", follower.next()).await {
            FollowEvent::Part { entries, begins } => {
                assert_eq!(begins, std::mem::take(&mut first));
                told.extend(entries.into_iter().map(|entry| entry.key));
            }
            FollowEvent::Snapshot { entries, revision } => {
                told.extend(entries.into_iter().map(|entry| entry.key));
                break revision;
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(!first && revision == current(&*store).await);
    assert_eq!(told, (0..RECORDS).map(|number| format!("p/{number:05}")).collect::<Vec<_>>());
}

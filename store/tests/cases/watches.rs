//! Order, completeness and boundaries of watches.

use std::sync::Arc;
use std::time::Duration;

use cellway_core::ids::Revision;
use cellway_store::{Event, Store, StoreError, Txn};

use super::{current, end, next, put, show};

pub(crate) async fn a_watch_brings_every_change_in_order_one_batch_per_revision(store: Arc<dyn Store>) {
    let began = current(&*store).await;
    let mut live = store.watch("p/", began).await.unwrap();
    let mut expected = Vec::new();
    for number in 0..40 {
        let two = Txn::new()
            .put(format!("p/{number}"), *b"a")
            .put("p/last", number.to_string().into_bytes())
            .put("beside", *b"x");
        let revision = store.commit(two).await.unwrap();
        let mut events = vec![format!("p/last={number}"), format!("p/{number}=a")];
        events.sort();
        expected.push((revision, events));
    }
    let removed = store.commit(Txn::new().delete("p/0").delete("p/1")).await.unwrap();
    expected.push((removed, vec!["-p/0".to_owned(), "-p/1".to_owned()]));

    let mut late = store.watch("p/", began).await.unwrap();
    for stream in [&mut live, &mut late] {
        for (revision, events) in &expected {
            let batch = next(stream).await;
            assert_eq!((&batch.revision, &show(&batch)), (revision, events));
            for event in &batch.events {
                if let Event::Put(entry) = event {
                    let stored = store.get(&entry.key).await.unwrap().0;
                    assert!(stored.is_none_or(|s| s.create_revision == entry.create_revision));
                    assert_eq!(entry.mod_revision, batch.revision);
                }
            }
        }
    }
}

pub(crate) async fn a_watch_resumes_after_any_revision(store: Arc<dyn Store>) {
    let began = current(&*store).await;
    for number in 0..10 {
        put(&*store, "p/a", &number.to_string()).await;
    }
    for skip in 0..10 {
        let after = Revision(began.0 + skip);
        let mut stream = store.watch("p/", after).await.unwrap();
        for number in skip..10 {
            let batch = next(&mut stream).await;
            assert_eq!(batch.revision, Revision(began.0 + number + 1));
            assert_eq!(show(&batch), [format!("p/a={number}")]);
        }
    }
}

pub(crate) async fn a_watch_sees_its_prefix_and_nothing_beside_it(store: Arc<dyn Store>) {
    let began = current(&*store).await;
    let mut narrow = store.watch("p/", began).await.unwrap();
    let mut all = store.watch("", began).await.unwrap();
    for key in ["p", "p.", "p/", "p/x", "p/\u{ff}", "p0", "q"] {
        put(&*store, key, "v").await;
        assert_eq!(show(&next(&mut all).await), [format!("{key}=v")]);
    }
    for key in ["p/", "p/x", "p/\u{ff}"] {
        assert_eq!(show(&next(&mut narrow).await), [format!("{key}=v")]);
    }
    let mixed = Txn::new().delete("p").delete("p/x").delete("p0");
    store.commit(mixed).await.unwrap();
    assert_eq!(show(&next(&mut narrow).await), ["-p/x"]);
    assert_eq!(show(&next(&mut all).await), ["-p", "-p/x", "-p0"]);
}

pub(crate) async fn a_watch_after_a_revision_never_reached_ends_instead_of_staying_silent(store: Arc<dyn Store>) {
    let ahead = Revision(current(&*store).await.0 + 1_000);
    let mut stream = store.watch("p/", ahead).await.unwrap();
    let error = end(&mut stream).await;
    assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
    assert!(matches!(end(&mut stream).await, StoreError::Compacted { .. }), "it stays ended");
}

pub(crate) async fn a_watcher_that_is_dropped_and_polled_again_loses_nothing(store: Arc<dyn Store>) {
    let began = current(&*store).await;
    let mut stream = store.watch("p/", began).await.unwrap();
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..200 {
                put(&*store, "p/a", &number.to_string()).await;
            }
        })
    };
    let mut seen = 0;
    while seen < 200 {
        let soon = Duration::from_micros(300);
        if let Ok(batch) = tokio::time::timeout(soon, stream.next()).await {
            assert_eq!(show(&batch.unwrap()), [format!("p/a={seen}")]);
            seen += 1;
        }
    }
    writer.await.unwrap();
}

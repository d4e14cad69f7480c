//! What goes on at the servers while a tenant moves: backups, long transactions, a way back that cannot work.

use super::stage::{Hop, Stage, id};
use std::time::Duration;

/// Waits until the order 77, which was written at the new home, is in the old one.
async fn until_it_came_back(stage: &Stage) {
    for attempt in 0.. {
        if stage.a.server.count("SELECT count(*) FROM acme.orders WHERE n = 77").await == 1 {
            return;
        }
        assert!(attempt < 500, "{}", stage.a.server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_that_cannot_work_is_told_before_anything_is_copied() {
    let dir = tempfile::TempDir::new().unwrap();
    let stage = Stage::with(&["fsync=off"], |config| {
        // The source's server would reach the target's by this: nobody is there.
        let path = dir.path().join("cell-b");
        std::fs::write(&path, format!("host='{}' port=1 dbname=postgres user=cellway", dir.path().display())).unwrap();
        config.servers.get_mut("cell-b").unwrap().replication_file = Some(path);
    })
    .await;
    stage.begin_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    let error = stage.approach(&hop).await.unwrap_err();
    assert!(error.is_final(), "the move hears of it, and is undone: {error}");
    assert!(error.to_string().contains("the way back does not work"), "{error}");
    assert_eq!(b.server.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'acme'").await, 0);
    a.server.connect("acme").await.batch_execute("INSERT INTO acme.orders (n) VALUES (1)").await.unwrap();
    b.driver.drop_home(&hop.move_id(), &super::stage::acme(), &id("m-1")).await.unwrap();
    assert_eq!((a.leftovers().await, b.leftovers().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_reads_for_hours_keeps_no_tenant_from_moving() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    // As `pg_dump` does it: one snapshot, a lock on every table, and then a long time.
    let backup = a.server.connect("cellway").await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
        LOCK TABLE acme.orders, acme.counters, acme.moods IN ACCESS SHARE MODE; SELECT count(*) FROM acme.orders";
    backup.batch_execute(begin).await.unwrap();
    let at_target = b.server.connect("cellway").await;
    at_target
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT count(*) FROM pg_class")
        .await
        .unwrap();
    let there = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    let quick = stage.approach(&there).await.unwrap().freeze_ms.unwrap();
    assert!(quick < 1_500, "{quick} ms");
    there.switch().await.unwrap();
    there.keep_way_back().await;
    b.server.connect("acme").await.batch_execute("INSERT INTO acme.orders (n) VALUES (77)").await.unwrap();
    until_it_came_back(&stage).await;
    let read: i64 = backup.query_one("SELECT count(*) FROM acme.orders", &[]).await.unwrap().get(0);
    assert_eq!(read, 5_000, "and the backup goes on as of when it began");
    // What it kept from being dropped goes when it has ended.
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'cellway%_f'";
    assert!(a.server.count(triggers).await > 0);
    a.driver.sweep().await.unwrap();
    backup.batch_execute("COMMIT").await.unwrap();
    a.driver.sweep().await.unwrap();
    assert_eq!(a.server.count(triggers).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_open_over_the_switch_never_commits_and_breaks_no_way_back() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let there = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    stage.approach(&there).await.unwrap();
    let half_done = a.server.connect("acme").await;
    half_done.batch_execute("BEGIN; INSERT INTO acme.orders (n) VALUES (1), (2), (3)").await.unwrap();
    // Somebody else's, at the target: what is decoded of the tenant does not wait for it.
    b.server.run("CREATE TABLE public.other (n int)").await;
    let elsewhere = b.server.connect("cellway").await;
    elsewhere.batch_execute("BEGIN; INSERT INTO public.other VALUES (1)").await.unwrap();
    there.switch().await.unwrap();
    assert!(half_done.batch_execute("COMMIT").await.is_err(), "it was never acknowledged");
    there.keep_way_back().await;
    // A transaction of the tenant's own that is long, and then done.
    let long = b.server.connect("acme").await;
    long.batch_execute("BEGIN; INSERT INTO acme.orders (n) VALUES (77)").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    long.batch_execute("COMMIT").await.unwrap();
    until_it_came_back(&stage).await;
    for server in [&a.server, &b.server] {
        assert_eq!(server.count("SELECT count(*) FROM acme.orders WHERE n BETWEEN 1 AND 3").await, 0);
    }
    // One that is open as the move back fences is rolled back too, and all that was acknowledged is there.
    long.batch_execute("BEGIN; INSERT INTO acme.orders (n) VALUES (2)").await.unwrap();
    let back = Hop { id: "m-2", from: b, from_home: "m-1", to: a, home: "new-1", epoch: 6 };
    back.pull().await.unwrap();
    back.switch().await.unwrap();
    assert!(long.batch_execute("COMMIT").await.is_err());
    assert_eq!(a.server.count("SELECT count(*) FROM acme.orders WHERE n > 0").await, 1);
    elsewhere.batch_execute("COMMIT").await.unwrap();
}

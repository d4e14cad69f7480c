//! Moves that die somewhere: what they leave is found and removed.

use super::server::Server;
use super::stage::{Hop, Stage, Writers, acme, id};
use std::time::Duration;

/// Moves that are broken off.
const INTERRUPTED: u64 = 50;

/// Waits until the server counts nothing.
async fn until_none(server: &Server, counted: &str) {
    for _ in 0..100 {
        if server.count(counted).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{counted} still counts {}", server.count(counted).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_interrupted_moves_leave_nothing_behind() {
    let stage = Stage::with(&["fsync=off"], |config| config.dead_after_ms = 100).await;
    stage.begin_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let writers = Writers::start(1, &a.server);
    for n in 0..INTERRUPTED {
        let name = format!("m-{n}");
        let hop = Hop { id: &name, from: a, from_home: "new-1", to: b, home: &name, epoch: 5 };
        for cell in [a, b] {
            cell.driver.note_orders([name.as_str()].into_iter());
        }
        // From before the first statement to well after the copy.
        let within = Duration::from_millis(n * n);
        let _ = tokio::time::timeout(within, stage.approach(&hop)).await;
    }
    for cell in [a, b] {
        cell.driver.note_orders(std::iter::empty());
    }
    let mut left = (1, 1);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        left = (a.leftovers().await, b.leftovers().await);
        if left == (0, 0) {
            break;
        }
    }
    let names = [a.leftover_names().await, b.leftover_names().await];
    assert_eq!(left, (0, 0), "{names:?} and rows\n{}\n{}", a.server.log(), b.server.log());
    // And another one goes through.
    for cell in [a, b] {
        cell.driver.note_orders(["last"].into_iter());
    }
    let hop = Hop { id: "last", from: a, from_home: "new-1", to: b, home: "last", epoch: 5 };
    stage.approach(&hop).await.unwrap();
    writers.hold();
    hop.switch().await.unwrap();
    writers.lead_to(&b.server);
    writers.until_written(10).await;
    assert_eq!(writers.stop_and_count_lost(&b.server).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_whose_subscription_is_gone_is_removed_and_no_other() {
    let stage = Stage::with(&[], |config| config.dead_after_ms = 100).await;
    let server = &stage.b.server;
    // Only the server itself gives such names.
    server
        .run(
            "SELECT pg_replication_origin_create('orphan'), pg_replication_origin_create('an_apps_own');
             SET allow_system_table_mods = on;
             UPDATE pg_replication_origin SET roname = 'pg_4000000000' WHERE roname = 'orphan'",
        )
        .await;
    let orphaned = "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'pg\\_%'";
    until_none(server, orphaned).await;
    assert_eq!(server.count("SELECT count(*) FROM pg_replication_origin").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_of_a_dead_streams_triggers_is_removed_without_the_other() {
    let stage = Stage::with(&[], |config| config.dead_after_ms = 100).await;
    stage.begin_acme().await;
    let server = &stage.a.server;
    server
        .run(
            "CREATE TRIGGER cellway_gone_f AFTER INSERT ON acme.orders FOR EACH ROW EXECUTE FUNCTION cellway.tally('cellway_gone_f', '');
             CREATE TRIGGER cellway_lost_f_t AFTER TRUNCATE ON acme.orders EXECUTE FUNCTION cellway.tally('cellway_lost_f', '')",
        )
        .await;
    until_none(server, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'cellway%'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_move_tallied_by_is_not_copied() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    a.server
        .run("CREATE TRIGGER cellway_earlier_f_t AFTER TRUNCATE ON acme.orders EXECUTE FUNCTION cellway.tally('cellway_earlier_f', '')")
        .await;
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    stage.approach(&hop).await.unwrap();
    hop.switch().await.unwrap();
    let earlier = "SELECT count(*) FROM pg_trigger WHERE tgname = 'cellway_earlier_f_t'";
    assert_eq!((a.server.count(earlier).await, b.server.count(earlier).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_broken_off_begins_again_and_is_whole() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let writers = Writers::start(2, &a.server);
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    b.driver.prepare(&hop.move_id(), &acme(), &id("m-1"), Some("cell-a")).await.unwrap();
    for n in 1..8_u64 {
        let _ = tokio::time::timeout(Duration::from_millis(n * 60), hop.pull()).await;
    }
    // Another agent of the cell goes on.
    let (_dir, other) = b.another_agent(&stage.config);
    let progress = crate::driver::Progress::default();
    super::stage::insist(|| async { other.pull(&hop.fetch(), &progress).await.map(drop) }).await.unwrap();
    writers.until_written(20).await;
    writers.hold();
    hop.switch().await.unwrap();
    writers.lead_to(&b.server);
    writers.until_written(20).await;
    assert_eq!(writers.stop_and_count_lost(&b.server).await, 0);
}

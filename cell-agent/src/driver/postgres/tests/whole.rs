//! Whole moves: nothing is lost on the way there, nor on the way back.

use super::stage::{Hop, Stage, Writers, acme, id};
use crate::config::PostgresVerify;
use crate::driver::{DriverError, Fetch};
use cellway_core::ids::Epoch;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_and_the_move_back_lose_no_acknowledged_write() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let writers = Writers::start(3, &a.server);
    writers.until_written(50).await;
    let there = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    stage.approach(&there).await.unwrap();
    writers.until_written(50).await;
    assert!(there.pull().await.unwrap().freeze_ms.is_some());

    writers.hold();
    there.switch().await.unwrap();
    writers.lead_to(&b.server);
    there.keep_way_back().await;
    writers.until_written(100).await;
    there.keep_way_back().await;

    // It begins where data is synced, as a move that takes over from `settling` does: nothing is copied again.
    let back = Hop { id: "m-2", from: b, from_home: "m-1", to: a, home: "new-1", epoch: 6 };
    back.pull().await.unwrap();
    assert_eq!(a.server.count("SELECT count(*) FROM cellway.streams WHERE name LIKE '%m_2_f'").await, 0);
    writers.until_written(50).await;
    back.pull().await.unwrap();
    writers.hold();
    back.switch().await.unwrap();
    writers.lead_to(&a.server);
    back.keep_way_back().await;
    writers.until_written(50).await;
    let written = writers.written();
    assert_eq!(writers.stop_and_count_lost(&a.server).await, 0, "of {written}");
    let counted = a.server.count("SELECT sum(value)::bigint FROM acme.counters").await;
    assert!(counted >= i64::try_from(written).unwrap(), "{counted} < {written}");

    // The way back of the first move, which the second one used, is gone; that of the second stands.
    a.driver.drop_home(&id("m-2"), &acme(), &id("m-1")).await.unwrap();
    b.driver.drop_home(&id("m-2"), &acme(), &id("m-1")).await.unwrap();
    for cell in [a, b] {
        cell.driver.sweep().await.unwrap();
    }
    assert_eq!((a.leftovers().await, b.leftovers().await), (0, 0));
    assert_eq!(b.server.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'acme'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_types_owners_and_grants_arrive() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    for cell in [a, b] {
        cell.server.run("CREATE ROLE reader LOGIN").await;
    }
    a.server.run("GRANT USAGE ON SCHEMA acme TO reader; GRANT SELECT ON acme.orders TO reader").await;
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    stage.approach(&hop).await.unwrap();
    assert!(b.server.try_connect("acme").await.is_err(), "nobody logs in before the home is released");
    let reader = b.server.connect("reader").await;
    assert!(reader.query("SELECT FROM acme.orders", &[]).await.is_err());
    hop.switch().await.unwrap();
    let app = b.server.connect("acme").await;
    let row = app.query_one("INSERT INTO acme.orders (n) VALUES (1) RETURNING id", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 5_001);
    let row = app.query_one("SELECT moods::text FROM acme.moods", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "{good,bad}");
    let dangling = app.batch_execute("INSERT INTO acme.moods VALUES (2, '{good}', 9999999)").await;
    assert!(dangling.is_err(), "foreign keys are in force");
    assert_eq!(reader.query("SELECT FROM acme.orders", &[]).await.unwrap().len(), 5_001);
    assert!(a.server.try_connect("acme").await.is_err(), "and nobody does where it has left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_replicate_is_enough_between_servers() {
    let dir = tempfile::TempDir::new().unwrap();
    let stage = Stage::with(&["fsync=off"], |config| {
        for (cell, server) in &mut config.servers {
            let path = dir.path().join(cell.as_str());
            let conninfo = format!("host='{}' port={} dbname=postgres user=streamer", server.host, server.port);
            std::fs::write(&path, conninfo).unwrap();
            server.replication_file = Some(path);
        }
    })
    .await;
    for cell in [&stage.a, &stage.b] {
        cell.server.run("CREATE ROLE streamer LOGIN REPLICATION").await;
    }
    stage.begin_acme().await;
    let hop = Hop { id: "m-1", from: &stage.a, from_home: "new-1", to: &stage.b, home: "m-1", epoch: 5 };
    stage.approach(&hop).await.unwrap();
    hop.switch().await.unwrap();
    hop.keep_way_back().await;
    stage.b.server.run("INSERT INTO acme.orders (n) VALUES (77)").await;
    for attempt in 0.. {
        if stage.a.server.count("SELECT count(*) FROM acme.orders WHERE n = 77").await == 1 {
            break;
        }
        assert!(attempt < 500, "{}", stage.a.server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undone_move_leaves_the_source_as_it_was_and_nothing_behind() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let writers = Writers::start(2, &a.server);
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    stage.approach(&hop).await.unwrap();
    writers.until_written(20).await;
    writers.hold();
    a.fence("new-1", 5).await.unwrap();
    let position = hop.position().await.unwrap();
    hop.reach(&position).await.unwrap();
    b.driver.drop_home(&hop.move_id(), &acme(), &id("m-1")).await.unwrap();
    a.release("new-1", 6).await.unwrap();
    writers.lead_to(&a.server);
    writers.until_written(20).await;
    assert_eq!(writers.stop_and_count_lost(&a.server).await, 0);
    assert_eq!((a.leftovers().await, b.leftovers().await), (0, 0));
    assert_eq!(b.server.count("SELECT count(*) FROM pg_namespace WHERE nspname ~ 'acme|home'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_old_home_makes_room_for_a_new_one() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let there = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    stage.approach(&there).await.unwrap();
    there.switch().await.unwrap();
    there.keep_way_back().await;
    b.server.run("INSERT INTO acme.orders (n) VALUES (77)").await;
    // An ordinary move into the cell that still keeps the old home.
    let again = Hop { id: "m-2", from: b, from_home: "m-1", to: a, home: "m-2", epoch: 6 };
    stage.approach(&again).await.unwrap();
    again.switch().await.unwrap();
    assert_eq!(a.server.count("SELECT count(*) FROM acme.orders WHERE n = 77").await, 1);
    assert_eq!(a.server.count("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cellway\\_home\\_%'").await, 1);
    a.driver.drop_home(&id("m-1"), &acme(), &id("new-1")).await.unwrap();
    assert_eq!(a.server.count("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cellway\\_home\\_%'").await, 0);
    assert_eq!(a.server.count("SELECT count(*) FROM acme.orders").await, 5_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_moved_is_told_before_anything_is_copied() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    a.server
        .run(
            "SET ROLE acme; CREATE TABLE acme.log (line text); CREATE UNLOGGED TABLE acme.cache (k int PRIMARY KEY);
             CREATE MATERIALIZED VIEW acme.totals AS SELECT count(*) FROM acme.orders; SELECT lo_from_bytea(0, 'x')",
        )
        .await;
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    let error = stage.approach(&hop).await.unwrap_err();
    assert!(error.is_final());
    for said in ["\"log\"", "\"cache\"", "\"totals\"", "REPLICA IDENTITY FULL", "SET LOGGED", "1 large objects"] {
        assert!(error.to_string().contains(said), "{said} is not in {error}");
    }
    // Nothing was published, so the app's own statements still work.
    a.server.run("SET ROLE acme; INSERT INTO acme.log VALUES ('x'); UPDATE acme.log SET line = 'y'").await;
    assert_eq!(a.leftovers().await, 0);
    assert_eq!(b.server.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'acme'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_during_a_move_ends_it_whenever_it_comes() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    stage.approach(&hop).await.unwrap();
    a.server.run("SET ROLE acme; CREATE TABLE acme.later (id int PRIMARY KEY)").await;
    let error = hop.pull().await.unwrap_err();
    assert!(error.is_final() && error.to_string().contains("schema was changed"), "{error}");
    // Also between the last pass and the fence.
    a.fence("new-1", 5).await.unwrap();
    let position = hop.position().await.unwrap();
    let error = hop.reach(&position).await.unwrap_err();
    assert!(error.is_final() && error.to_string().contains("schema was changed"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_differs_is_never_committed() {
    for verify in [PostgresVerify::Counts, PostgresVerify::Checksums] {
        let stage = Stage::with(&["fsync=off"], |config| config.verify = verify).await;
        stage.begin_acme().await;
        let (a, b) = (&stage.a, &stage.b);
        let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
        stage.approach(&hop).await.unwrap();
        // Replication passes silently over what it should change and does not find.
        b.server.run("DELETE FROM acme.counters").await;
        let wrong = match verify {
            PostgresVerify::Counts => "DELETE FROM acme.counters",
            _ => "UPDATE acme.counters SET value = 1",
        };
        a.server.run(wrong).await;
        a.fence("new-1", 5).await.unwrap();
        let position = hop.position().await.unwrap();
        let error = hop.reach(&position).await.unwrap_err();
        assert!(error.is_final() && error.to_string().contains("\"counters\""), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_replication_up_shows_in_the_predicted_freeze() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    let quick = stage.approach(&hop).await.unwrap().freeze_ms.unwrap();
    let in_the_way = b.server.connect("cellway").await;
    in_the_way.batch_execute("BEGIN; LOCK TABLE acme.orders").await.unwrap();
    a.server.run("INSERT INTO acme.orders (n) VALUES (1)").await;
    let pulled = hop.pull().await.unwrap();
    let slow = pulled.freeze_ms.unwrap();
    assert!(quick < 1_500 && slow > 3_000, "{quick} ms, {slow} ms");
    let longest = pulled.longest.unwrap();
    assert!(longest.0 == "for a row to get to the target" && longest.1 >= 3_000, "{longest:?}");
    in_the_way.batch_execute("COMMIT").await.unwrap();
    let back_off = hop.pull().await.unwrap().freeze_ms.unwrap();
    assert!(back_off < 1_500, "{back_off} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_slot_up_is_named() {
    let stage = Stage::with(&["fsync=off"], |config| config.slot_wait_ms = 1_000).await;
    stage.begin_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let hop = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    // Of another tenant, say: slots wait for the whole server.
    a.server.run("CREATE TABLE public.other (n int)").await;
    let lingering = a.server.connect("cellway").await;
    lingering.batch_execute("BEGIN; INSERT INTO public.other VALUES (1)").await.unwrap();
    let pid: i32 = lingering.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let error = stage.approach(&hop).await.unwrap_err();
    let said = error.to_string();
    assert!(error.is_final() && said.contains(&format!("pid {pid} (application the app")), "{said}");
    lingering.batch_execute("COMMIT").await.unwrap();
    hop.pull().await.unwrap();
    // At the target the same holds the way back up.
    b.driver.drop_home(&hop.move_id(), &acme(), &id("m-1")).await.unwrap();
    assert_eq!((a.leftovers().await, b.leftovers().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_that_was_lost_is_copied_anew() {
    let stage = Stage::new_with_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    let there = Hop { id: "m-1", from: a, from_home: "new-1", to: b, home: "m-1", epoch: 5 };
    stage.approach(&there).await.unwrap();
    there.switch().await.unwrap();
    there.keep_way_back().await;
    // A migration at the target during the bake: replication of it stops, as it must.
    b.server
        .run("SET ROLE acme; ALTER TABLE acme.orders ADD note text; INSERT INTO acme.orders (n, note) VALUES (9, 'x')")
        .await;
    for attempt in 0.. {
        let sql = "SELECT count(*) FROM pg_subscription WHERE NOT subenabled";
        if a.server.count(sql).await == 1 {
            break;
        }
        assert!(attempt < 500, "{}", a.server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = Hop { id: "m-2", from: b, from_home: "m-1", to: a, home: "new-1", epoch: 6 };
    back.pull().await.unwrap();
    back.switch().await.unwrap();
    assert_eq!(a.server.count("SELECT count(*) FROM acme.orders WHERE note = 'x'").await, 1);
    let late = a.driver.reverse(&Fetch { home: id("new-1"), ..there.fetch() }, Epoch(5)).await;
    assert!(matches!(late, Err(DriverError::Superseded)), "what would come back is older");
}

//! The operator decides where a tenant's data is; the app follows and never writes elsewhere.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::stage::{Operator, Stage, add, eventually, ids_in, lock};

#[tokio::test]
async fn acknowledged_entries_survive_a_restart() {
    let operator = Operator::new();
    let home = operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    for id in ["a", "b", "c"] {
        assert_eq!(stage.add("acme", id, b"text").await.status, 201);
    }
    stage.stop().await;
    assert_eq!(ids_in(&home), ["a", "b", "c"]);

    let stage = Stage::start(&operator);
    let listed = stage.get("acme", "/entries").await.json();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 3);
    assert_eq!(listed["entries"][2]["id"], "c");
    stage.stop().await;
}

#[tokio::test]
async fn a_replaced_file_is_noticed_and_the_old_one_stays_as_it_was() {
    let operator = Operator::new();
    let old = operator.give_home("acme", "old");
    let stage = Stage::start(&operator);
    assert_eq!(stage.add("acme", "before", b"1").await.status, 201);
    let log = operator.home("old").with_extension("db-wal");
    let left = (std::fs::read(&old).unwrap(), std::fs::read(&log).unwrap());

    let new = operator.give_home("acme", "new");
    let after = stage.add("acme", "after", b"2").await;
    assert_eq!(after.status, 201);
    assert_eq!(after.json()["seq"], 1, "it is the first of the new file");
    assert_eq!(stage.get("acme", "/entries/before").await.status, 404);
    stage.stop().await;

    let found = (std::fs::read(&old).unwrap(), std::fs::read(&log).unwrap());
    assert!(left == found, "the old file was written to");
    assert_eq!(ids_in(&old), ["before"]);
    assert_eq!(ids_in(&new), ["after"]);
}

#[tokio::test]
async fn a_read_follows_the_path_at_once() {
    let operator = Operator::new();
    operator.give_home("acme", "old");
    let stage = Stage::start(&operator);
    assert_eq!(stage.add("acme", "a", b"1").await.status, 201);
    operator.give_home("acme", "new");
    assert_eq!(stage.get("acme", "/count").await.json()["count"], 0);
    std::fs::remove_file(operator.link("acme")).unwrap();
    assert_eq!(stage.get("acme", "/count").await.status, 503);
    operator.lead("acme", &operator.home("old"));
    assert_eq!(stage.get("acme", "/count").await.json()["count"], 1);
    stage.stop().await;
}

#[tokio::test]
async fn a_write_that_waited_while_the_file_was_replaced_goes_to_the_new_one() {
    let operator = Operator::new();
    let old = operator.give_home("acme", "old");
    let stage = Stage::start(&operator);
    assert_eq!(stage.add("acme", "before", b"1").await.status, 201);

    let held = lock(&old);
    let address = stage.address;
    let waiting = tokio::spawn(async move { add(address, "acme", "waited", b"2").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let new = operator.give_home("acme", "new");
    drop(held);

    assert_eq!(waiting.await.unwrap().status, 201);
    stage.stop().await;
    assert_eq!(ids_in(&old), ["before"]);
    assert_eq!(ids_in(&new), ["waited"]);
}

#[tokio::test]
async fn a_removed_file_is_closed_although_nobody_asks_for_it() {
    let operator = Operator::new();
    let home = operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    assert_eq!(stage.add("acme", "a", b"1").await.status, 201);
    std::fs::remove_file(operator.link("acme")).unwrap();
    eventually("the file is closed", async || !is_open(&home)).await;
    stage.stop().await;
}

#[tokio::test]
async fn without_a_file_nothing_is_created() {
    let operator = Operator::new();
    operator.lead("dangling", &operator.home("missing"));
    std::fs::create_dir(operator.link("folder")).unwrap();
    let stage = Stage::start(&operator);
    for tenant in ["nobody", "dangling", "folder"] {
        let written = stage.add(tenant, "a", b"1").await;
        for answer in [written, stage.get(tenant, "/count").await] {
            assert_eq!(answer.status, 503, "{tenant}");
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert!(answer.text.contains("no data for this tenant here"));
        }
    }
    stage.stop().await;
    assert!(!operator.link("nobody").exists());
    let homes = operator.home("missing");
    assert_eq!(homes.parent().unwrap().read_dir().unwrap().count(), 0);
    assert_eq!(operator.link("folder").read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn a_locked_file_is_unavailable_until_it_is_released() {
    let operator = Operator::new();
    let home = operator.give_home("acme", "one");
    operator.give_home("other", "two");
    let stage = Stage::start(&operator);
    assert_eq!(stage.add("acme", "a", b"1").await.status, 201);

    let held = lock(&home);
    let address = stage.address;
    let refused =
        (0..4).map(|number| tokio::spawn(async move { add(address, "acme", &format!("b{number}"), b"2").await }));
    let refused: Vec<_> = refused.collect();
    let began = Instant::now();
    assert_eq!(stage.add("other", "a", b"1").await.status, 201);
    assert!(began.elapsed() < Duration::from_millis(1_900), "it waited");
    for answer in refused {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert!(began.elapsed() < Duration::from_secs(4), "they waited for each other");
    drop(held);
    assert_eq!(stage.add("acme", "b0", b"2").await.status, 201);
    stage.stop().await;
    assert_eq!(ids_in(&home), ["a", "b0"]);
}

#[tokio::test]
async fn a_read_only_file_is_read_but_not_written() {
    let operator = Operator::new();
    let home = operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    assert_eq!(stage.add("acme", "a", b"1").await.status, 201);
    stage.stop().await;
    make_read_only(&home);

    let stage = Stage::start(&operator);
    assert_eq!(stage.get("acme", "/count").await.json()["count"], 1);
    let refused = stage.add("acme", "b", b"2").await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    stage.stop().await;
}

#[tokio::test]
async fn many_tenants_share_a_bounded_number_of_open_files() {
    let operator = Operator::new();
    let tenants: Vec<String> = (0..90).map(|number| format!("t{number}")).collect();
    let stage = Stage::start(&operator);
    for round in ["first", "second"] {
        for tenant in &tenants {
            if round == "first" {
                operator.give_home(tenant, tenant);
            }
            assert_eq!(stage.add(tenant, round, b"1").await.status, 201);
        }
    }
    let open = tenants.iter().filter(|tenant| is_open(&operator.home(tenant)));
    assert_eq!(open.count(), 64);
    stage.stop().await;
}

/// Whether this process has the file open.
fn is_open(file: &std::path::Path) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).any(|target| target == file)
}

/// Raises the file's write version beyond what SQLite knows, which makes it read-only for all,
/// also for a privileged user, who no file mode would stop.
fn make_read_only(file: &std::path::Path) {
    const WRITE_VERSION_AT: usize = 18;
    let connection = Connection::open(file).unwrap();
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    connection.query_row(checkpoint, [], |_| Ok(())).unwrap();
    drop(connection);
    let mut bytes = std::fs::read(file).unwrap();
    bytes[WRITE_VERSION_AT] = 3;
    std::fs::write(file, bytes).unwrap();
}

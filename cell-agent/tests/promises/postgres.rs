//! A whole move, order by order, between two agents with a PostgreSQL server each, there and back.

use crate::postgres_server::{PORT, Server, bin_dir};
use crate::stage::Stage;
use cellway_api::agent::{FactUp, OrderDown, SourceDown, TaskDown};
use cellway_cell_agent::{
    DriverConfig, POSTGRES_COPY_JOBS, POSTGRES_SLOT_WAIT_MS, POSTGRES_TENANT, PostgresConfig, PostgresServer,
    PostgresVerify,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const SCHEMA: &str = "CREATE SCHEMA acme AUTHORIZATION acme; SET ROLE acme;
    CREATE TABLE acme.rows (n bigint PRIMARY KEY, id bigserial)";

/// Long enough for every order of this test, short enough to be waited for.
const DEAD_AFTER_MS: u64 = 3_000;

fn reached(server: &Server) -> PostgresServer {
    PostgresServer {
        host: server.dir.path().display().to_string(),
        port: PORT,
        database: "postgres".to_owned(),
        user: "cellway".to_owned(),
        password_file: None,
        ca_file: None,
        replication_file: None,
    }
}

fn order(move_id: &str, from: &str, task: TaskDown) -> OrderDown {
    let source = SourceDown { cell: from.to_owned(), endpoints: Vec::new() };
    OrderDown { move_id: move_id.to_owned(), tenant: "acme".to_owned(), source: Some(source), task }
}

/// Writes without a pause for as long as the server lets the tenant in; tells the last number acknowledged.
async fn write_until_fenced(server: &Server, last: &AtomicI64) {
    let app = server.connect("acme").await;
    loop {
        let n = last.load(Ordering::SeqCst) + 1;
        if app.execute("INSERT INTO acme.rows (n) VALUES ($1)", &[&n]).await.is_err() {
            return;
        }
        last.store(n, Ordering::SeqCst);
    }
}

struct Side<'a> {
    stage: &'a Stage,
    server: &'a Server,
    home: &'a str,
}

/// From `follow` to the open gate at the target, and the way back begun.
async fn switch(move_id: &str, from: &Side<'_>, to: &Side<'_>, epoch: u64) {
    let (home, source_home) = (|| to.home.to_owned(), || from.home.to_owned());
    let fetching = |task| order(move_id, from.stage.cell, task);
    to.stage.plane.order(vec![fetching(TaskDown::Follow { home: home(), from: source_home() })]);
    let followed = |fact: &FactUp| matches!(fact, FactUp::Followed { move_id: id, .. } if id == move_id);
    to.stage.plane.fact(followed).await;
    let fence = || order(move_id, from.stage.cell, TaskDown::Fence { epoch, cut: false });
    from.stage.plane.order(vec![fence()]);
    let fenced = |fact: &FactUp| matches!(fact, FactUp::Fenced { move_id: id, .. } if id == move_id);
    from.stage.plane.fact(fenced).await;
    let fence_data = TaskDown::FenceData { home: source_home(), epoch, list: 7 };
    from.stage.plane.order(vec![fence(), order(move_id, from.stage.cell, fence_data)]);
    let is_position = |fact: &FactUp| matches!(fact, FactUp::Positioned { move_id: id, .. } if id == move_id);
    let FactUp::Positioned { position, .. } = from.stage.plane.fact(is_position).await else { unreachable!() };
    let reach = TaskDown::Reach { home: home(), from: source_home(), epoch, list: 7, position };
    to.stage.plane.order(vec![fetching(reach)]);
    let reached = |fact: &FactUp| matches!(fact, FactUp::Reached { move_id: id, .. } if id == move_id);
    to.stage.plane.fact(reached).await;
    to.stage.plane.place("acme", to.stage.cell, epoch + 1, to.home, None);
    to.stage.plane.order(vec![fetching(TaskDown::Open { home: home(), epoch: epoch + 1 })]);
    let opened = |fact: &FactUp| matches!(fact, FactUp::Opened { move_id: id, .. } if id == move_id);
    to.stage.plane.fact(opened).await;
    from.stage.plane.place("acme", to.stage.cell, epoch + 1, to.home, None);
    let reverse = TaskDown::Reverse { home: source_home(), from: home(), epoch };
    from.stage.plane.order(vec![order(move_id, to.stage.cell, reverse)]);
    to.stage.plane.order(vec![]);
}

async fn agents(one: &Server, other: &Server) -> (Stage, Stage) {
    let servers = [("cell-a", reached(one)), ("cell-b", reached(other))];
    let servers = servers.map(|(cell, server)| (cell.parse().unwrap(), server));
    let config = PostgresConfig {
        schema: POSTGRES_TENANT.to_owned(),
        role: POSTGRES_TENANT.to_owned(),
        bin_dir: Some(bin_dir()),
        verify: PostgresVerify::Checksums,
        copy_jobs: POSTGRES_COPY_JOBS,
        slot_wait_ms: POSTGRES_SLOT_WAIT_MS,
        dead_after_ms: DEAD_AFTER_MS,
        servers: servers.into_iter().collect(),
    };
    for server in [one, other] {
        server.run("CREATE ROLE acme LOGIN").await;
    }
    one.run(SCHEMA).await;
    let driver = |_| DriverConfig::Postgres(config.clone());
    let source = Stage::of_cell("cell-a", driver).await;
    source.plane.place("acme", "cell-a", 15, "new-15", None);
    let source = source.started().await;
    source.until_open(15).await;
    (source, Stage::of_cell("cell-b", driver).await.started().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_moves_and_comes_back_with_every_acknowledged_write() {
    let (one, other) = tokio::join!(Server::start(&["fsync=off"]), Server::start(&["fsync=off"]));
    let (source, target) = agents(&one, &other).await;
    let (one, other) = (Arc::new(one), Arc::new(other));
    let a = Side { stage: &source, server: &one, home: "new-15" };
    let b = Side { stage: &target, server: &other, home: "m1" };
    let last = Arc::new(AtomicI64::new(0));
    let write_at = |server: &Arc<Server>| {
        let (server, last) = (Arc::clone(server), Arc::clone(&last));
        tokio::spawn(async move { write_until_fenced(&server, &last).await })
    };
    let writing = write_at(&one);

    target.plane.order(vec![order("m1", "cell-a", TaskDown::Prepare { home: "m1".into() })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Ready { .. })).await;
    target.plane.order(vec![order("m1", "cell-a", TaskDown::Copy { home: "m1".into(), from: "new-15".into() })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Copied { complete: true, .. })).await;
    switch("m1", &a, &b, 15).await;
    writing.await.unwrap();
    let count = async |server: &Server| server.count("SELECT count(*) FROM acme.rows").await;
    let acknowledged = last.load(Ordering::SeqCst);
    assert!(acknowledged > 0 && count(&other).await == acknowledged);

    let writing = write_at(&other);
    tokio::time::sleep(Duration::from_millis(300)).await;
    switch("m2", &b, &a, 16).await;
    writing.await.unwrap();
    assert!(last.load(Ordering::SeqCst) > acknowledged);
    assert_eq!(count(b.server).await, last.load(Ordering::SeqCst));
    assert_eq!(count(a.server).await, last.load(Ordering::SeqCst));

    // The bake is over; then the retention is.
    target.plane.order(vec![order("m2", "cell-b", TaskDown::Drop { home: "m1".into() })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Dropped { .. })).await;
    source.plane.order(vec![]);
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)
        + (SELECT count(*) FROM pg_subscription)";
    for attempt in 0.. {
        let left = (one.count(left).await, other.count(left).await);
        if left == (0, 0) {
            break;
        }
        assert!(attempt < 300, "left behind: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_moved_is_told_in_preparing() {
    let (one, other) = tokio::join!(Server::start(&["fsync=off"]), Server::start(&["fsync=off"]));
    let (_source, target) = agents(&one, &other).await;
    one.run("SET ROLE acme; CREATE TABLE acme.log (line text)").await;
    target.plane.order(vec![order("m1", "cell-a", TaskDown::Prepare { home: "m1".into() })]);
    let told =
        |fact: &FactUp| matches!(fact, FactUp::Failed { reason, .. } if reason.contains("REPLICA IDENTITY FULL"));
    target.plane.fact(told).await;
}

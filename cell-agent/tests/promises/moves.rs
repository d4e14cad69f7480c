//! A whole move, order by order, between two agents with a SQLite file per tenant.

use crate::stage::{Stage, order};
use cellway_api::agent::{FactUp, OrderDown, SourceDown, TaskDown};
use cellway_cell_agent::DriverConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn live(stage: &Stage) -> PathBuf {
    stage.dir.path().join("live/acme.db")
}

fn open(path: &PathBuf) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_millis(5))?;
    connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY)")?;
    Ok(connection)
}

/// Writes without a pause until the data is fenced; tells how many writes were acknowledged.
fn write_until_fenced(path: PathBuf, written: Arc<AtomicU64>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let app = open(&path).unwrap();
        while path.is_symlink() {
            if app.execute("INSERT INTO rows DEFAULT VALUES", ()).is_ok() {
                written.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
}

fn fetching(source: &Stage, task: TaskDown) -> OrderDown {
    let endpoint = source.agent.as_ref().unwrap().transfer.to_string();
    let source = SourceDown { cell: "cell-a".to_owned(), endpoints: vec![endpoint] };
    OrderDown { source: Some(source), ..order(task) }
}

fn home(name: &str) -> String {
    name.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_brings_every_acknowledged_write_and_drops_only_the_old_home() {
    let source = Stage::with_sqlite().await;
    let target = Stage::new(|dir| DriverConfig::Sqlite { live_dir: dir.join("live") }).await.started().await;
    let written = Arc::new(AtomicU64::new(0));
    let writer = write_until_fenced(live(&source), Arc::clone(&written));

    target.plane.order(vec![order(TaskDown::Prepare { home: home("h2") })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Ready { .. })).await;
    let offer = || order(TaskDown::Offer { home: home("new-15"), to: "cell-b".into() });
    source.plane.order(vec![offer()]);
    target.plane.order(vec![fetching(&source, TaskDown::Copy { home: home("h2"), from: home("new-15") })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Copied { complete: true, .. })).await;
    target.plane.order(vec![fetching(&source, TaskDown::Follow { home: home("h2"), from: home("new-15") })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Followed { .. })).await;

    target.plane.order(vec![]);
    source.plane.order(vec![offer(), order(TaskDown::Fence { epoch: 15, cut: false })]);
    source.plane.fact(|fact| matches!(fact, FactUp::Fenced { epoch: 15, .. })).await;
    let fence_data = order(TaskDown::FenceData { home: home("new-15"), epoch: 15, list: 7 });
    source.plane.order(vec![offer(), order(TaskDown::Fence { epoch: 15, cut: false }), fence_data]);
    let positioned = source.plane.fact(|fact| matches!(fact, FactUp::Positioned { .. })).await;
    let FactUp::Positioned { position, list: 7, epoch: 15, .. } = positioned else { panic!("{positioned:?}") };
    writer.join().unwrap();
    let reach =
        TaskDown::Reach { home: home("h2"), from: home("new-15"), epoch: 15, list: 7, position: position.clone() };
    target.plane.order(vec![fetching(&source, reach)]);
    target.plane.fact(|fact| matches!(fact, FactUp::Reached { position: at, .. } if *at == position)).await;

    target.plane.place("acme", "cell-a", 16, "h2", None);
    target.plane.order(vec![order(TaskDown::Open { home: home("h2"), epoch: 16 })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Opened { epoch: 16, .. })).await;
    target.until_open(16).await;
    let arrived: i64 =
        open(&live(&target)).unwrap().query_row("SELECT count(*) FROM rows", (), |row| row.get(0)).unwrap();
    let acknowledged = written.load(Ordering::SeqCst);
    assert!(acknowledged > 0);
    assert_eq!(arrived.cast_unsigned(), acknowledged);

    source.plane.place("acme", "cell-b", 16, "h2", None);
    source.plane.order(vec![order(TaskDown::Drop { home: home("new-15") })]);
    source.plane.fact(|fact| matches!(fact, FactUp::Dropped { .. })).await;
    assert!(!source.dir.path().join("agent/homes/acme/new-15.db").exists());
    target.plane.order(vec![order(TaskDown::Drop { home: home("h2") })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Failed { reason, .. } if reason.contains("served"))).await;
    assert!(live(&target).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_seen_in_another_cell_leaves_a_home_that_no_old_connection_writes_to() {
    let mut source = Stage::with_sqlite().await;
    let app = open(&live(&source)).unwrap();
    let insert = || app.execute("INSERT INTO rows DEFAULT VALUES", ()).map_err(|error| error.to_string());
    insert().unwrap();
    let fence_data = order(TaskDown::FenceData { home: home("new-15"), epoch: 15, list: 7 });
    let offer = order(TaskDown::Offer { home: home("new-15"), to: "cell-b".into() });
    source.plane.order(vec![offer, order(TaskDown::Fence { epoch: 15, cut: false }), fence_data]);
    source.plane.fact(|fact| matches!(fact, FactUp::Positioned { .. })).await;
    assert!(insert().unwrap_err().contains("locked"));
    source.plane.order(vec![]);
    source.plane.place("acme", "cell-b", 16, "h2", None);
    for attempt in 0.. {
        let refused = insert().unwrap_err();
        if refused.contains("fenced by cellway") {
            break;
        }
        assert!(attempt < 300, "{refused}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    source.stop().await;
    assert!(insert().unwrap_err().contains("fenced by cellway"), "no agent has to run for it");
}

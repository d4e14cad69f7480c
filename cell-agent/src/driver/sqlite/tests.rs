//! What the driver promises: nothing is lost under live writes, a fence holds, a lost disk never looks empty.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::DriverConfig;
use crate::driver::{Driver, Fetch, Progress, Pulled};
use crate::listener;
use crate::transfer::TransferClient;
use cellway_api::identity::Identity;
use cellway_core::ids::{CellName, CellUid, Epoch, Revision};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tempfile::TempDir;

/// One cell: its disk, its driver and its transfer endpoint.
struct Cell {
    dir: TempDir,
    driver: Driver,
    endpoint: String,
    server: tokio::task::JoinHandle<()>,
}

impl Cell {
    async fn start(registered: u64) -> Self {
        Self::open(TempDir::new().unwrap(), registered).await
    }

    async fn open(dir: TempDir, registered: u64) -> Self {
        let disk = Arc::new(Disk::open(dir.path()).unwrap());
        disk.start(&CellName::new("cell-a").unwrap()).unwrap();
        disk.registered(&CellUid::new("u1").unwrap(), Revision(registered)).unwrap();
        let config = DriverConfig::Sqlite { live_dir: dir.path().join("live") };
        let (cell, client) = ("cell-a".parse().unwrap(), TransferClient::new(None).unwrap());
        let driver = Driver::open(&config, &cell, disk, client, Faults::default()).await.unwrap();
        let socket = cellway_machine::Bound::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let endpoint = socket.local_addr().unwrap().to_string();
        let answering = driver.clone();
        let answer: listener::Answer = Arc::new(move |_, request| {
            let driver = answering.clone();
            Box::pin(async move { crate::transfer::answer(&driver, None, request).await })
        });
        let server = tokio::spawn(async move {
            let _ = listener::serve(socket, None, answer).await;
        });
        Self { dir, driver, endpoint, server }
    }

    async fn restart(self) -> Self {
        self.server.abort();
        let _ = self.server.await;
        drop(self.driver);
        Self::open(self.dir, 1).await
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live/acme.db")
    }

    fn home_file(&self, home: &str) -> PathBuf {
        self.dir.path().join(format!("homes/acme/{home}.db"))
    }

    fn staged(&self, home: &str) -> PathBuf {
        self.dir.path().join(format!("staging/m1/in-{home}.db"))
    }

    async fn release(&self, home: &str, epoch: u64) -> Result<(), DriverError> {
        self.driver.release(&tenant(), &id(home), Epoch(epoch)).await
    }

    async fn fence(&self, home: &str, epoch: u64) -> Result<(), DriverError> {
        self.driver.fence(&tenant(), &id(home), Epoch(epoch)).await
    }

    async fn drop_home(&self, home: &str) -> Result<(), DriverError> {
        self.driver.drop_home(&a_move(), &tenant(), &id(home)).await
    }

    /// Brings `from` of `source` here as `home`, the source being fenced at `epoch` at the end.
    async fn take_over(&self, source: &Cell, from: &str, home: &str, epoch: u64) {
        let fetch = self.fetch(source, from, home);
        source.driver.offer(&a_move(), &tenant(), &id(from), &cell_b());
        self.driver.pull(&fetch, true, Arc::default()).await.unwrap();
        source.fence(from, epoch).await.unwrap();
        let position = source.driver.position(&a_move(), &id(from)).await.unwrap();
        self.driver.reach(&fetch, Epoch(epoch), &position).await.unwrap();
        source.driver.withdraw_offer(&a_move(), &id(from));
    }

    fn fetch(&self, source: &Cell, from: &str, home: &str) -> Fetch {
        let endpoints = vec![source.endpoint.clone()];
        Fetch { move_id: a_move(), tenant: tenant(), home: id(home), from: id(from), from_cell: None, endpoints }
    }
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn cell_b() -> CellName {
    CellName::new("cell-b").unwrap()
}

fn id(home: &str) -> HomeId {
    HomeId::new(home).unwrap()
}

fn a_move() -> MoveId {
    MoveId::new("m1").unwrap()
}

/// An app's connection.
fn app(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let connection = Connection::open_with_flags(path, flags).unwrap();
    connection.busy_timeout(Duration::from_millis(50)).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, body BLOB NOT NULL)",
        )
        .unwrap();
    connection
}

fn insert(app: &Connection, n: u64) -> rusqlite::Result<usize> {
    app.execute("INSERT INTO rows (n, body) VALUES (?1, randomblob(900))", [n.cast_signed()])
}

fn rows(path: &Path) -> Vec<(i64, Vec<u8>)> {
    let connection = app(path);
    let mut statement = connection.prepare("SELECT n, body FROM rows ORDER BY n").unwrap();
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_under_live_writes_arrives_complete() {
    let (source, target) = (Cell::start(1).await, Cell::start(1).await);
    source.release("new-5", 5).await.unwrap();
    let (live, written, stop) = (source.live(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, stopped) = (Arc::clone(&written), Arc::clone(&stop));
    let writer = std::thread::spawn(move || {
        let app = app(&live);
        let mut n = 0;
        while !stopped.load(Ordering::Relaxed) {
            match insert(&app, n) {
                Ok(_) => {
                    n += 1;
                    count.store(n, Ordering::SeqCst);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    while written.load(Ordering::SeqCst) < 500 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    target.driver.prepare(&"m1".parse().unwrap(), &tenant(), &id("h2"), None).await.unwrap();
    source.driver.offer(&a_move(), &tenant(), &id("new-5"), &cell_b());
    let fetch = target.fetch(&source, "new-5", "h2");
    for _ in 0..3 {
        target.driver.pull(&fetch, true, Arc::new(Progress::default())).await.unwrap();
    }
    source.fence("new-5", 5).await.unwrap();
    let position = source.driver.position(&a_move(), &id("new-5")).await.unwrap();
    target.driver.reach(&fetch, Epoch(5), &position).await.unwrap();
    target.release("h2", 6).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();

    // Read last: a write that was let through after the fence is counted, and missing.
    let acknowledged = written.load(Ordering::SeqCst);
    let arrived = rows(&target.live());
    assert_eq!(arrived.len() as u64, acknowledged, "every row that was acknowledged, and none more");
    assert_eq!(arrived, rows(&source.home_file("new-5")));
    assert!(!source.live().exists());
}

#[tokio::test]
async fn a_data_fence_blocks_writers_and_outlives_a_restart() {
    let cell = Cell::start(1).await;
    cell.release("new-5", 5).await.unwrap();
    let app = app(&cell.live());
    insert(&app, 1).unwrap();
    cell.fence("new-5", 5).await.unwrap();
    cell.fence("new-5", 5).await.unwrap();
    assert!(insert(&app, 2).is_err());
    let cell = cell.restart().await;
    assert!(insert(&app, 3).is_err());
    assert!(!cell.live().is_symlink());
    cell.release("new-5", 6).await.unwrap();
    insert(&app, 4).unwrap();
    assert_eq!(rows(&cell.live()).len(), 2);
}

#[tokio::test]
async fn a_release_below_a_fence_does_nothing_and_neither_does_a_fence_below_a_release() {
    let cell = Cell::start(1).await;
    cell.release("new-5", 5).await.unwrap();
    drop(app(&cell.live()));
    cell.fence("new-5", 7).await.unwrap();
    for stale in [5, 6, 7] {
        assert!(matches!(cell.release("new-5", stale).await, Err(DriverError::Superseded)));
        assert!(!cell.live().is_symlink());
    }
    cell.release("new-5", 8).await.unwrap();
    assert!(matches!(cell.fence("new-5", 7).await, Err(DriverError::Superseded)));
    insert(&app(&cell.live()), 1).unwrap();
}

#[tokio::test]
async fn a_served_home_is_never_dropped_and_a_dropped_one_never_comes_back() {
    let cell = Cell::start(1).await;
    cell.release("new-5", 5).await.unwrap();
    insert(&app(&cell.live()), 1).unwrap();
    assert!(matches!(cell.drop_home("new-5").await, Err(DriverError::Served(_))));
    assert_eq!(rows(&cell.live()).len(), 1);
    cell.fence("new-5", 5).await.unwrap();
    for _ in 0..2 {
        cell.drop_home("new-5").await.unwrap();
    }
    assert!(!cell.home_file("new-5").exists());
    assert!(!beside(&cell.home_file("new-5"), "-wal").exists());
    assert!(matches!(cell.release("new-5", 6).await, Err(DriverError::Dropped(_))));
    cell.drop_home("never-heard-of").await.unwrap();
}

#[tokio::test]
async fn a_lost_disk_never_shows_as_an_empty_tenant() {
    let lost = |result| matches!(result, Err(DriverError::Lost { .. }));
    // The tenant was created before this disk was registered: its data was on another one.
    let cell = Cell::start(9).await;
    assert!(lost(cell.release("new-8", 20).await));
    // It came by a move that this disk knows nothing of.
    assert!(lost(cell.release("m7", 20).await));
    assert!(!cell.live().is_symlink());
    // Its file was here, and is gone.
    cell.release("new-9", 20).await.unwrap();
    std::fs::remove_file(cell.home_file("new-9")).unwrap();
    assert!(lost(cell.release("new-9", 21).await));
    // It was announced, and never arrived.
    cell.driver.prepare(&"m8".parse().unwrap(), &tenant(), &id("m8"), None).await.unwrap();
    assert!(lost(cell.release("m8", 22).await));
    assert!(!cell.home_file("m8").exists());
}

#[tokio::test]
async fn a_move_back_to_a_kept_home_brings_only_what_changed() {
    let (first, second) = (Cell::start(1).await, Cell::start(1).await);
    first.release("new-5", 5).await.unwrap();
    let old_app = app(&first.live());
    for n in 0..2_000 {
        insert(&old_app, n).unwrap();
    }
    second.take_over(&first, "new-5", "h2", 5).await;
    second.release("h2", 6).await.unwrap();
    insert(&app(&second.live()), 5_000).unwrap();

    let back = first.fetch(&second, "h2", "new-5");
    second.driver.offer(&a_move(), &tenant(), &id("h2"), &cell_b());
    let Driver::Sqlite(source) = &second.driver else { panic!("sqlite was configured") };
    let wanted = source.passes().make(&a_move(), &id("h2")).await.unwrap();
    let base = first.dir.path().join("base.db");
    outgoing::back_up(&first.home_file("new-5"), &base).unwrap();
    let missing = crate::driver::chunks::ChunkMap::of_file(&base).unwrap().missing(&wanted.map).len();
    assert!(missing > 0 && missing * 10 < wanted.map.hashes.len(), "{missing} of {}", wanted.map.hashes.len());
    first.driver.pull(&back, true, Arc::default()).await.unwrap();
    assert_eq!(std::fs::metadata(first.staged("new-5")).unwrap().len(), wanted.map.size);
    first.take_over(&second, "h2", "new-5", 6).await;
    for suffix in ["-wal", "-shm"] {
        assert!(!beside(&first.home_file("new-5"), suffix).exists(), "the old copy's {suffix} is not the new file's");
    }
    first.release("new-5", 7).await.unwrap();

    assert_eq!(rows(&first.live()), rows(&second.home_file("h2")));
    assert_eq!(rows(&first.live()).len(), 2_001);
    // The app of before still has the replaced file open: closing it must not touch the new one.
    insert(&app(&first.live()), 6_000).unwrap();
    drop(old_app);
    assert_eq!(rows(&first.live()).len(), 2_002);
}

#[tokio::test]
async fn a_late_reach_never_goes_over_a_home_that_was_served_since() {
    let (source, target) = (Cell::start(1).await, Cell::start(1).await);
    source.release("new-5", 5).await.unwrap();
    insert(&app(&source.live()), 1).unwrap();
    target.take_over(&source, "new-5", "h2", 5).await;
    target.release("h2", 6).await.unwrap();
    insert(&app(&target.live()), 2).unwrap();
    // On the way back: the target's home is fenced, so it is no longer released.
    target.fence("h2", 6).await.unwrap();
    source.driver.offer(&a_move(), &tenant(), &id("new-5"), &cell_b());
    let position = source.driver.position(&a_move(), &id("new-5")).await.unwrap();
    let late = target.driver.reach(&target.fetch(&source, "new-5", "h2"), Epoch(5), &position).await;
    assert!(matches!(late, Err(DriverError::Superseded)), "{late:?}");
    assert_eq!(rows(&target.home_file("h2")).len(), 2);
}

#[tokio::test]
async fn a_tenant_that_never_wrote_moves_too() {
    let (source, target) = (Cell::start(1).await, Cell::start(1).await);
    source.release("new-5", 5).await.unwrap();
    target.take_over(&source, "new-5", "h2", 5).await;
    target.release("h2", 6).await.unwrap();
    insert(&app(&target.live()), 1).unwrap();
}

#[tokio::test]
async fn a_copy_that_ends_after_its_home_was_dropped_leaves_nothing() {
    let (source, target) = (Cell::start(1).await, Cell::start(1).await);
    source.release("new-5", 5).await.unwrap();
    insert(&app(&source.live()), 1).unwrap();
    target.driver.prepare(&"m1".parse().unwrap(), &tenant(), &id("h2"), None).await.unwrap();
    target.drop_home("h2").await.unwrap();
    source.driver.offer(&a_move(), &tenant(), &id("new-5"), &cell_b());
    let position = source.driver.position(&a_move(), &id("new-5")).await.unwrap();
    let fetch = target.fetch(&source, "new-5", "h2");
    assert!(matches!(target.driver.reach(&fetch, Epoch(5), &position).await, Err(DriverError::Dropped(_))));
    assert!(!target.home_file("h2").exists());
}

#[tokio::test]
async fn only_what_is_offered_for_that_very_move_is_handed_out() {
    let (source, target) = (Cell::start(1).await, Cell::start(1).await);
    source.release("new-5", 5).await.unwrap();
    drop(app(&source.live()));
    let fetch = target.fetch(&source, "new-5", "h2");
    let refused = |result| {
        let text = format!("{:#}", anyhow::Error::from(Result::<Pulled, DriverError>::unwrap_err(result)));
        assert!(text.contains("403"), "{text}");
    };
    refused(target.driver.pull(&fetch, true, Arc::default()).await);
    source.driver.offer(&a_move(), &tenant(), &id("new-5"), &cell_b());
    target.driver.pull(&fetch, true, Arc::default()).await.unwrap();
    let other = Fetch { move_id: MoveId::new("m2").unwrap(), ..fetch.clone() };
    refused(target.driver.pull(&other, true, Arc::default()).await);
    source.driver.withdraw_offer(&a_move(), &id("new-5"));
    refused(target.driver.pull(&fetch, true, Arc::default()).await);
}

#[tokio::test]
async fn a_home_is_handed_out_to_the_cell_that_it_is_offered_to_and_to_no_other() {
    let source = Cell::start(1).await;
    source.release("new-5", 5).await.unwrap();
    drop(app(&source.live()));
    source.driver.offer(&a_move(), &tenant(), &id("new-5"), &cell_b());
    let cell = |name: &str| Identity::Cell(CellName::new(name).unwrap());
    for (peer, status) in [
        (Some(cell("cell-b")), 200),
        (Some(cell("cell-c")), 403),
        (Some(cell("cell-a")), 403),
        (Some(Identity::Router), 403),
        (None, 200),
    ] {
        // There is no pass of that digest.
        for (what, body, right) in [("pass", "{}", 200), ("chunks", "{\"digest\":\"d\",\"chunks\":[]}", 410)] {
            let request = http::Request::post(format!("/v1/transfer/m1/new-5/{what}"));
            let request = request.body(http_body_util::Full::new(bytes::Bytes::from(body))).unwrap();
            let answer = crate::transfer::answer(&source.driver, peer.as_ref(), request).await;
            let right = if status == 403 { 403 } else { right };
            assert_eq!(answer.status().as_u16(), right, "{what} for {peer:?}");
        }
    }
}

#[tokio::test]
async fn nothing_is_fetched_into_a_home_that_is_served() {
    let (source, target) = (Cell::start(1).await, Cell::start(1).await);
    for cell in [&source, &target] {
        cell.release("new-5", 5).await.unwrap();
        insert(&app(&cell.live()), 1).unwrap();
    }
    source.driver.offer(&a_move(), &tenant(), &id("new-5"), &cell_b());
    let fetch = target.fetch(&source, "new-5", "new-5");
    assert!(matches!(target.driver.pull(&fetch, true, Arc::default()).await, Err(DriverError::Served(_))));
}

impl Cell {
    fn locks(&self) -> usize {
        let Driver::Sqlite(driver) = &self.driver else { panic!("sqlite was configured") };
        driver.locks.lock().len()
    }

    async fn departed(&self, epoch: u64) {
        self.driver.departed(&tenant(), Epoch(epoch)).await.unwrap();
    }
}

#[tokio::test]
async fn a_home_of_a_tenant_that_left_needs_no_lock_and_refuses_connections_of_before() {
    let cell = Cell::start(1).await;
    cell.release("new-5", 5).await.unwrap();
    let app = app(&cell.live());
    let mut prepared = app.prepare("INSERT INTO rows (n, body) VALUES (?1, zeroblob(9))").unwrap();
    prepared.execute([1]).unwrap();
    cell.fence("new-5", 5).await.unwrap();
    cell.departed(5).await;
    assert_eq!(cell.locks(), 1, "only a later epoch is a departure");
    cell.departed(6).await;
    assert_eq!(cell.locks(), 0);
    let refused = |result: rusqlite::Result<usize>| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("fenced by cellway"), "{text}");
    };
    refused(prepared.execute([2]));
    refused(insert(&app, 3));
    for other in ["UPDATE rows SET n = n + 10", "DELETE FROM rows", "CREATE TABLE more (n)", "DROP TABLE rows"] {
        refused(app.execute(other, ()));
    }
    app.execute_batch("BEGIN IMMEDIATE").unwrap();
    refused(insert(&app, 4));
    app.execute_batch("ROLLBACK").unwrap();
    let later = Connection::open(cell.home_file("new-5")).unwrap();
    refused(later.execute("DELETE FROM rows", ()));
}

#[tokio::test]
async fn a_seal_outlives_a_restart_without_a_lock_and_a_later_release_takes_it_away() {
    let cell = Cell::start(1).await;
    cell.release("new-5", 5).await.unwrap();
    let old_app = app(&cell.live());
    insert(&old_app, 1).unwrap();
    cell.fence("new-5", 5).await.unwrap();
    cell.departed(6).await;
    let cell = cell.restart().await;
    assert_eq!(cell.locks(), 0);
    cell.fence("new-5", 5).await.unwrap();
    assert_eq!(cell.locks(), 0, "a fence that comes again finds the seal");
    assert!(insert(&old_app, 2).is_err());
    cell.release("new-5", 7).await.unwrap();
    cell.departed(6).await;
    insert(&old_app, 3).unwrap();
    assert_eq!(rows(&cell.live()).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 3]);
    cell.fence("new-5", 7).await.unwrap();
    assert!(insert(&old_app, 4).is_err());
    cell.departed(8).await;
    assert!(insert(&old_app, 5).is_err());
}

#[tokio::test]
async fn a_home_without_a_write_ahead_log_is_sealed_once_nobody_reads_it() {
    let cell = Cell::start(1).await;
    cell.release("new-5", 5).await.unwrap();
    let app = app(&cell.live());
    let mode: String = app.query_row("PRAGMA journal_mode = DELETE", (), |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    insert(&app, 1).unwrap();
    let reader = Connection::open(cell.live()).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM rows").unwrap();
    cell.fence("new-5", 5).await.unwrap();
    assert!(cell.driver.departed(&tenant(), Epoch(6)).await.is_err());
    assert_eq!(cell.locks(), 1, "what cannot be sealed stays locked");
    assert!(insert(&app, 2).is_err());
    drop(reader);
    cell.departed(6).await;
    assert_eq!(cell.locks(), 0);
    assert!(insert(&app, 3).unwrap_err().to_string().contains("fenced by cellway"));
}

#[tokio::test]
async fn a_connection_of_before_never_writes_to_a_home_that_was_replaced_or_dropped() {
    let (first, second) = (Cell::start(1).await, Cell::start(1).await);
    first.release("new-5", 5).await.unwrap();
    let old_app = app(&first.live());
    insert(&old_app, 1).unwrap();
    second.take_over(&first, "new-5", "h2", 5).await;
    second.release("h2", 6).await.unwrap();
    let second_app = app(&second.live());
    insert(&second_app, 2).unwrap();
    first.departed(6).await;
    first.take_over(&second, "h2", "new-5", 6).await;
    first.release("new-5", 7).await.unwrap();
    assert!(insert(&old_app, 3).is_err(), "into a file that nobody would find");
    assert_eq!(rows(&first.live()).len(), 2, "the way back brought no seal");
    second.drop_home("h2").await.unwrap();
    assert!(insert(&second_app, 4).is_err());
    assert_eq!((first.locks(), second.locks()), (0, 0));
}

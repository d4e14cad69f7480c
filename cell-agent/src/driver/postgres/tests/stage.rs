//! Two cells with a server and a driver each, and an app that writes.

use super::server::{PORT, Server, bin_dir};
use crate::config::{PostgresConfig, PostgresServer, PostgresVerify};
use crate::disk::Disk;
use crate::driver::postgres::PostgresDriver;
use crate::driver::{DriverError, Fetch, Progress, Pulled};
use cellway_core::ids::{Epoch, HomeId, InvalidId, MoveId, TenantId};
use cellway_core::tenant_move::Position;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

pub(crate) const SCHEMA: &str = "
    CREATE ROLE acme LOGIN;
    CREATE SCHEMA acme AUTHORIZATION acme;
    SET ROLE acme;
    CREATE TABLE acme.orders (id bigserial PRIMARY KEY, n bigint NOT NULL, at timestamptz DEFAULT now());
    CREATE TABLE acme.counters (name text PRIMARY KEY, value bigint NOT NULL, twice bigint GENERATED ALWAYS AS (value * 2) STORED);
    CREATE TYPE acme.mood AS ENUM ('good', 'bad');
    CREATE TABLE acme.moods (id int PRIMARY KEY, moods acme.mood[], order_id bigint REFERENCES acme.orders);
    INSERT INTO acme.counters SELECT 'writes-' || n, 0 FROM generate_series(0, 20) n;
    INSERT INTO acme.orders (n) SELECT -n FROM generate_series(1, 5000) n;
    INSERT INTO acme.moods VALUES (1, '{good,bad}', 1)";

pub(crate) fn id<T: std::str::FromStr<Err = InvalidId>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(crate) fn acme() -> TenantId {
    id("acme")
}

pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) server: Server,
    pub(crate) driver: Arc<PostgresDriver>,
    _dir: TempDir,
}

impl Cell {
    /// Another agent of the cell, with a disk of its own that knows nothing.
    pub(crate) fn another_agent(&self, config: &PostgresConfig) -> (TempDir, Arc<PostgresDriver>) {
        let dir = TempDir::new().unwrap();
        let driver = PostgresDriver::start(disk(&dir, self.name), &id(self.name), config);
        (dir, driver)
    }

    pub(crate) async fn release(&self, home: &str, epoch: u64) -> Result<(), DriverError> {
        self.driver.release(&acme(), &id(home), Epoch(epoch)).await
    }

    pub(crate) async fn fence(&self, home: &str, epoch: u64) -> Result<(), DriverError> {
        self.driver.fence(&acme(), &id(home), Epoch(epoch)).await
    }

    /// Publications, slots and subscriptions, and rows of the books.
    pub(crate) async fn leftovers(&self) -> i64 {
        let sql = "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)
            + (SELECT count(*) FROM pg_subscription) + (SELECT count(*) FROM pg_replication_origin)
            + (SELECT count(*) FROM cellway.streams) + (SELECT count(*) FROM cellway.marks)
            + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'cellway%') + (SELECT count(*) FROM cellway.tally)";
        self.server.count(sql).await
    }

    /// What of that has a name.
    pub(crate) async fn leftover_names(&self) -> String {
        let sql = "SELECT coalesce(string_agg(name, ', '), '') FROM (SELECT 'publication ' || pubname AS name FROM pg_publication
            UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots
            UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
            UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
            UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE 'cellway%') AS left_over";
        self.server.connect("cellway").await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// How agents, and the other server, reach it.
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

fn disk(dir: &TempDir, cell: &str) -> Arc<Disk> {
    let disk = Arc::new(Disk::open(&dir.path().join("disk")).unwrap());
    disk.start(&id(cell)).unwrap();
    disk
}

pub(crate) struct Stage {
    pub(crate) a: Cell,
    pub(crate) b: Cell,
    pub(crate) config: PostgresConfig,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(&["fsync=off"], |_| {}).await
    }

    /// Tenant acme in home `new-1` of cell a, released at epoch 5; its role is known in both cells.
    pub(crate) async fn new_with_acme() -> Self {
        let stage = Self::new().await;
        stage.begin_acme().await;
        stage
    }

    pub(crate) async fn begin_acme(&self) {
        self.a.server.run(SCHEMA).await;
        self.b.server.run("CREATE ROLE acme LOGIN").await;
        self.a.release("new-1", 5).await.unwrap();
    }

    pub(crate) async fn with(settings: &[&str], change: impl FnOnce(&mut PostgresConfig)) -> Self {
        let (one, other) = tokio::join!(Server::start(settings), Server::start(settings));
        let servers = [(id("cell-a"), reached(&one)), (id("cell-b"), reached(&other))];
        let mut config = PostgresConfig {
            schema: "{tenant}".to_owned(),
            role: "{tenant}".to_owned(),
            bin_dir: Some(bin_dir()),
            verify: PostgresVerify::Checksums,
            copy_jobs: 2,
            slot_wait_ms: 5_000,
            dead_after_ms: 3_600_000,
            servers: servers.into_iter().collect(),
        };
        change(&mut config);
        let cell = |name, server| {
            let dir = TempDir::new().unwrap();
            let driver = PostgresDriver::start(disk(&dir, name), &id(name), &config);
            Cell { name, server, driver, _dir: dir }
        };
        Self { a: cell("cell-a", one), b: cell("cell-b", other), config }
    }

    /// Up to the moment before the freeze.
    pub(crate) async fn approach(&self, hop: &Hop<'_>) -> Result<Pulled, DriverError> {
        hop.to.driver.prepare(&hop.move_id(), &acme(), &id(hop.home), Some(hop.from.name)).await?;
        hop.pull().await
    }
}

/// One move.
pub(crate) struct Hop<'a> {
    pub(crate) id: &'a str,
    pub(crate) from: &'a Cell,
    pub(crate) from_home: &'a str,
    pub(crate) to: &'a Cell,
    pub(crate) home: &'a str,
    pub(crate) epoch: u64,
}

impl Hop<'_> {
    pub(crate) fn move_id(&self) -> MoveId {
        id(self.id)
    }

    pub(crate) fn fetch(&self) -> Fetch {
        Fetch {
            move_id: self.move_id(),
            tenant: acme(),
            home: id(self.home),
            from: id(self.from_home),
            from_cell: Some(self.from.name.to_owned()),
            endpoints: Vec::new(),
        }
    }

    pub(crate) async fn pull(&self) -> Result<Pulled, DriverError> {
        self.to.driver.pull(&self.fetch(), &Progress::default()).await
    }

    pub(crate) async fn position(&self) -> Result<Position, DriverError> {
        self.from.driver.position(&self.move_id(), &id::<HomeId>(self.from_home)).await
    }

    pub(crate) async fn reach(&self, position: &Position) -> Result<(), DriverError> {
        let fetch = self.fetch();
        insist(|| self.to.driver.reach(&fetch, Epoch(self.epoch), position)).await
    }

    /// From the fence to the release: how long fence, position, reach and release took.
    pub(crate) async fn switch(&self) -> Result<[Duration; 4], DriverError> {
        let begun = Instant::now();
        self.from.fence(self.from_home, self.epoch).await?;
        let fenced = begun.elapsed();
        let position = self.position().await?;
        let positioned = begun.elapsed();
        self.reach(&position).await?;
        let reached = begun.elapsed();
        self.to.release(self.home, self.epoch + 1).await?;
        Ok([fenced, positioned - fenced, reached - positioned, begun.elapsed() - reached])
    }

    /// The old home begins to be kept current.
    pub(crate) async fn keep_way_back(&self) {
        let back = Fetch {
            home: id(self.from_home),
            from: id(self.home),
            from_cell: Some(self.to.name.to_owned()),
            ..self.fetch()
        };
        self.from.driver.reverse(&back, Epoch(self.epoch)).await.unwrap();
    }
}

/// As the agent does while the order stands.
pub(crate) async fn insist<F>(attempt: impl Fn() -> F) -> Result<(), DriverError>
where
    F: Future<Output = Result<(), DriverError>>,
{
    for _ in 0..200 {
        match attempt().await {
            Err(error) if !error.is_final() && !matches!(error, DriverError::Superseded) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
    attempt().await
}

/// Who writes, to where it is told to.
pub(crate) struct Writers {
    to: watch::Sender<Option<std::path::PathBuf>>,
    stop: watch::Sender<bool>,
    pub(crate) acknowledged: Arc<Mutex<Vec<(i64, Instant)>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    pub(crate) fn start(count: usize, server: &Server) -> Self {
        Self::of("acme", (count, Duration::from_millis(3)), server)
    }

    /// So many writers of a tenant, each at this pace.
    pub(crate) fn of(tenant: &'static str, (count, pace): (usize, Duration), server: &Server) -> Self {
        let to = watch::Sender::new(Some(server.dir.path().to_owned()));
        let stop = watch::Sender::new(false);
        let (acknowledged, next) = (Arc::<Mutex<Vec<(i64, Instant)>>>::default(), Arc::new(AtomicU64::new(1)));
        let task = |writer| {
            let (to, stop) = (to.subscribe(), stop.subscribe());
            tokio::spawn(write((tenant, pace, writer), to, stop, Arc::clone(&next), Arc::clone(&acknowledged)))
        };
        let tasks = (0..count).map(task).collect();
        Self { to, stop, acknowledged, tasks }
    }

    pub(crate) fn hold(&self) {
        self.to.send_replace(None);
    }

    pub(crate) fn lead_to(&self, server: &Server) {
        self.to.send_replace(Some(server.dir.path().to_owned()));
    }

    pub(crate) fn written(&self) -> usize {
        self.acknowledged.lock().len()
    }

    pub(crate) async fn until_written(&self, more: usize) {
        let before = self.written();
        for _ in 0..2_000 {
            if self.written() >= before + more {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody writes any more");
    }

    /// Ends them, and looks every acknowledged write up.
    pub(crate) async fn stop_and_count_lost(self, server: &Server) -> usize {
        self.stop.send_replace(true);
        self.to.send_modify(|_| {});
        for task in self.tasks {
            task.await.unwrap();
        }
        let rows = server.connect("cellway").await.query("SELECT n FROM acme.orders WHERE n > 0", &[]).await.unwrap();
        let there: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        self.acknowledged.lock().iter().filter(|(n, _)| !there.contains(n)).count()
    }
}

async fn write(
    (tenant, pace, writer): (&'static str, Duration, usize),
    mut to: watch::Receiver<Option<std::path::PathBuf>>,
    stop: watch::Receiver<bool>,
    next: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Vec<(i64, Instant)>>>,
) {
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connection: Option<(std::path::PathBuf, Client)> = None;
    while !*stop.borrow() {
        let Some(dir) = to.borrow_and_update().clone() else {
            let _ = to.changed().await;
            continue;
        };
        if connection.as_ref().is_none_or(|(at, client)| *at != dir || client.is_closed()) {
            let mut config = tokio_postgres::Config::new();
            config.host_path(&dir).port(5432).user(tenant).dbname("postgres");
            match config.connect(tokio_postgres::NoTls).await {
                Ok((client, driving)) => {
                    tokio::spawn(driving);
                    connection = Some((dir, client));
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            }
        }
        let Some((_, client)) = &connection else { continue };
        let n = next.fetch_add(1, Ordering::Relaxed).cast_signed();
        let sql = format!(
            "BEGIN; INSERT INTO {tenant}.orders (n) VALUES ({n});
             UPDATE {tenant}.counters SET value = value + 1 WHERE name = 'writes-{writer}'; COMMIT"
        );
        ticks.tick().await;
        if client.batch_execute(&sql).await.is_ok() {
            acknowledged.lock().push((n, Instant::now()));
        } else {
            let _ = client.batch_execute("ROLLBACK").await;
        }
    }
}

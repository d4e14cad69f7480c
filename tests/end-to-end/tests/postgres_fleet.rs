//! A whole fleet whose tenants' data is in a PostgreSQL server per cell.

use crate::postgres_server::{PORT, Server, bin_dir};
use crate::whole_moves::{be_patient, survives_kills, there_and_back_by_command};
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::ledger::{App, Entry, Keeps};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_postgres::{Client, Config, NoTls};

const SCHEMA: &str = "CREATE SCHEMA acme AUTHORIZATION acme; SET ROLE acme;
    CREATE TABLE acme.entries (seq bigserial PRIMARY KEY, id text UNIQUE NOT NULL, cell text NOT NULL, epoch bigint NOT NULL)";

/// How long an old home is kept: a move ends only then.
const RETENTION_MS: u64 = 200;

/// When what a move left behind is removed: longer than any agent of these tests is away.
const DEAD_AFTER_MS: u64 = 5_000;

/// What a move may have left behind in a server.
const LEFT: &str = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)
    + (SELECT count(*) FROM pg_subscription)";

/// The tenant's schema, written by its own role as an app does.
struct Schema {
    socket_dir: PathBuf,
    connection: Mutex<Option<Arc<Client>>>,
}

impl Schema {
    async fn connection(&self) -> anyhow::Result<Arc<Client>> {
        if let Some(open) = self.connection.lock().as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(open));
        }
        let mut config = Config::new();
        config.host_path(&self.socket_dir).port(PORT).user("acme").dbname("postgres");
        let (client, driving) = config.connect(NoTls).await?;
        tokio::spawn(driving);
        let client = Arc::new(client);
        *self.connection.lock() = Some(Arc::clone(&client));
        Ok(client)
    }
}

impl Keeps for Schema {
    async fn add(&self, _: &str, entry: Entry) -> anyhow::Result<()> {
        let epoch = i64::try_from(entry.epoch)?;
        let sql = "INSERT INTO acme.entries (id, cell, epoch) VALUES ($1, $2, $3)";
        self.connection().await?.execute(sql, &[&entry.id, &entry.cell, &epoch]).await?;
        Ok(())
    }

    async fn all(&self, _: &str) -> anyhow::Result<Vec<Entry>> {
        let sql = "SELECT id, cell, epoch FROM acme.entries ORDER BY seq";
        let rows = self.connection().await?.query(sql, &[]).await?;
        let entry = |row: &tokio_postgres::Row| {
            let epoch: i64 = row.get(2);
            Ok(Entry { id: row.get(0), cell: row.get(1), epoch: u64::try_from(epoch)? })
        };
        rows.iter().map(entry).collect()
    }
}

struct Stage {
    servers: Vec<Server>,
    apps: Vec<App>,
}

const CELLS: [&str; 3] = ["cell-a", "cell-b", "cell-c"];

impl Stage {
    async fn new() -> Self {
        let begin = || Server::start(&["fsync=off"]);
        let (a, b, c) = tokio::join!(begin(), begin(), begin());
        let servers = vec![a, b, c];
        let mut apps = Vec::new();
        for (cell, server) in CELLS.iter().zip(&servers) {
            server.run("CREATE ROLE acme LOGIN").await;
            let socket_dir = server.dir.path().to_owned();
            apps.push(App::start(cell, Schema { socket_dir, connection: Mutex::default() }).await);
        }
        servers[0].run(SCHEMA).await;
        Self { servers, apps }
    }

    async fn fleet(&self) -> Fleet {
        let server = |(cell, server): (&&str, &Server)| {
            let host = server.dir.path().display();
            format!("      {cell}: {{host: {host}, database: postgres, user: cellway}}\n")
        };
        let servers: String = CELLS.iter().zip(&self.servers).map(server).collect();
        let driver = format!(
            "driver:\n  postgres:\n    verify: checksums\n    dead_after_ms: {DEAD_AFTER_MS}\n    bin_dir: {}\n    \
             servers:\n{servers}",
            bin_dir().display()
        );
        let apps = self.apps.iter().map(|app| app.address).collect();
        let fleet = Plan::of(&["acme"]).with_data(apps, &driver).with_retention_ms(RETENTION_MS).start().await;
        be_patient(&fleet).await;
        fleet
    }

    async fn nothing_is_left(&self) {
        for (cell, server) in CELLS.iter().zip(&self.servers) {
            let none = async || (server.count(LEFT).await == 0).then_some(());
            let what = format!("{cell} has no slot, no publication and no subscription");
            cellway_end_to_end::eventually(&what, none).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_in_postgres_moves_there_and_back_under_writes() {
    let stage = Stage::new().await;
    let fleet = stage.fleet().await;
    println!("driver postgres: {}", there_and_back_by_command(&fleet).await);
    stage.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_in_postgres_outlives_kill_9_of_agents_and_control_plane() {
    let stage = Stage::new().await;
    let mut fleet = stage.fleet().await;
    survives_kills(&mut fleet).await;
    stage.nothing_is_left().await;
}

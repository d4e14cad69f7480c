//! A PostgreSQL server of a test's own, in a directory of its own, reached by a Unix socket alone.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

/// Only a part of the socket's name: nobody listens on the network.
pub(crate) const PORT: u16 = 5432;

const SETTINGS: [&str; 12] = [
    "wal_level=logical",
    "max_replication_slots=40",
    "max_wal_senders=40",
    "max_logical_replication_workers=16",
    "max_worker_processes=32",
    "wal_retrieve_retry_interval=200ms",
    "max_prepared_transactions=4",
    "listen_addresses=",
    "log_min_messages=warning",
    "max_wal_size=4GB",
    "autovacuum_naptime=10s",
    "checkpoint_timeout=10min",
];

/// A running server; it ends with this, or with the thread that started it.
pub(crate) struct Server {
    pub(crate) dir: TempDir,
    port: u16,
    child: Child,
}

/// Where the newest installed server's programs are.
pub(crate) fn bin_dir() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
    dirs.retain(|dir| dir.join("initdb").exists());
    dirs.sort();
    dirs.pop().expect("PostgreSQL 15 or later is needed for these tests: scripts/setup postgres")
}

/// The user that the server runs as, where we are root, whom it refuses.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

fn as_postgres(program: &Path) -> Command {
    let Some((user, group)) = postgres_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args(["--clear-groups", "--pdeathsig=KILL"]);
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg(program);
    command
}

impl Server {
    pub(crate) async fn start(more: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((user, group)) = postgres_user() {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let data = dir.path().join("data");
        let mut initdb = as_postgres(&bin_dir().join("initdb"));
        initdb.args(["--auth=trust", "--username=cellway", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"]);
        let made = initdb.arg(&data).current_dir("/").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings: Vec<&str> = SETTINGS.iter().chain(more).copied().collect();
        Self { child: run(&dir, &settings), port: PORT, dir }.up().await
    }

    async fn up(self) -> Self {
        let server = self;
        for _ in 0..1_000 {
            if server.try_connect("cellway").await.is_ok() {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no server: {}", server.log());
    }

    /// Lets the server own a file.
    #[allow(dead_code)]
    pub(crate) fn give(&self, path: &Path) {
        if let Some((user, group)) = postgres_user() {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// The same server, started anew as its own settings say, with this port in its socket's name.
    #[allow(dead_code)]
    pub(crate) async fn again(mut self, port: u16, hba: &str) -> Self {
        self.stop();
        std::fs::write(self.dir.path().join("data/pg_hba.conf"), hba).unwrap();
        (self.port, self.child) = (port, run(&self.dir, &["fsync=off"]));
        self.up().await
    }

    fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.child.wait();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) async fn try_connect(&self, user: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config.host_path(self.dir.path()).port(self.port).user(user).dbname("postgres").application_name("the app");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(crate) async fn connect(&self, user: &str) -> Client {
        self.try_connect(user).await.unwrap()
    }

    /// One number of one row.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.connect("cellway").await.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.connect("cellway").await.batch_execute(sql).await.unwrap();
    }
}

fn run(dir: &TempDir, settings: &[&str]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
    let mut postgres = as_postgres(&bin_dir().join("postgres"));
    postgres.arg("-D").arg(dir.path().join("data")).arg("-k").arg(dir.path());
    for setting in settings {
        postgres.arg("-c").arg(setting);
    }
    postgres.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

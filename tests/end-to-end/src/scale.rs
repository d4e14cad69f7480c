//! A router with as many tenants as one is given, fed by etcd or by a file, and what that takes.

use crate::alone::Backend;
use crate::fleet::etcd::PREFIX;
use crate::ports::Ports;
use crate::process::{Process, Recipe};
use crate::{binary, eventually, tool};
use etcd_client::{Client, ConnectOptions, Txn, TxnOp};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Records in one transaction while the store is filled.
const FILLED_AT_ONCE: usize = 5_000;
/// Transactions under way at a time.
pub const COMMITS_AT_ONCE: usize = 64;
/// Tenants are spread over so many cells.
const CELLS: usize = 50;
/// The longest wait for one answer.
const ANSWER_MS: u64 = 2_000;
/// The longest wait for the slowest start.
const PATIENCE_MS: u64 = 300_000;

/// Where a router's routes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// etcd.
    Store,
    /// A file.
    File,
}

/// A stage: a directory, ports, an app that answers all, and perhaps an etcd.
pub struct Stage {
    /// The app of all cells.
    app: Backend,
    ports: Ports,
    dir: TempDir,
    http: reqwest::Client,
    starts: usize,
}

/// What a start took.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Until the router was ready.
    pub ready: Duration,
    /// Requests that were answered 404 before, which would be wrong.
    pub wrong_404s: usize,
    /// Requests that were answered 503 before, or not at all.
    pub put_off: usize,
}

impl Stage {
    /// An empty one.
    pub async fn new() -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(ANSWER_MS)).build();
        let (app, ports) = (Backend::start(Duration::ZERO).await, Ports::take());
        Self { app, ports, dir: tempfile::tempdir().expect("a directory"), http: http.expect("a client"), starts: 0 }
    }

    /// A path of this stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(&self, port: u16) -> String {
        format!("http://127.0.0.1:{}", self.ports.at(port))
    }

    /// Starts etcd. It need not keep anything: commits do not wait for the disk.
    pub async fn etcd(&self) -> Process {
        let program = tool("etcd", "etcd-server");
        let (client, peer) = (self.url(10), self.url(11));
        let data = self.path("etcd").display().to_string();
        let args = [
            ("--data-dir", data.as_str()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("default={peer}")),
            ("--quota-backend-bytes", "8589934592"),
            ("--max-txn-ops", "10000"),
            ("--max-request-bytes", "10000000"),
            ("--unsafe-no-fsync", "true"),
            ("--log-level", "error"),
        ];
        let args = args.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        let log = self.path("etcd.log");
        let etcd = Process::start(Recipe { name: "etcd".to_owned(), program, args, env: Vec::new(), log });
        eventually("etcd answers", async || self.client().await.get("-", None).await.ok()).await;
        etcd
    }

    /// A client of etcd.
    pub async fn client(&self) -> Client {
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(30));
        eventually("etcd is there", async || Client::connect([self.url(10)], Some(options.clone())).await.ok()).await
    }

    /// Fills etcd with cells and tenants.
    pub async fn fill_store(&self, tenants: usize) {
        let mut client = self.client().await;
        let cells: Vec<TxnOp> =
            (0..CELLS).map(|cell| TxnOp::put(cell_key(cell), self.stored_cell(cell), None)).collect();
        client.txn(Txn::new().and_then(cells)).await.expect("written");
        for first in (0..tenants).step_by(FILLED_AT_ONCE) {
            let some = first..tenants.min(first + FILLED_AT_ONCE);
            let puts: Vec<TxnOp> = some.map(|tenant| put(tenant, 1)).collect();
            client.txn(Txn::new().and_then(puts)).await.expect("written");
        }
    }

    fn stored_cell(&self, cell: usize) -> String {
        let endpoint = self.app.address();
        format!(
            "{{\"format\":1,\"cell\":{{\"name\":\"cell-{cell}\",\"uid\":\"uid-{cell}\"}},\"condition\":\"open\",\
             \"kind\":\"origin\",\"version\":\"1\",\"endpoints\":[\"{endpoint}\"]}}"
        )
    }

    /// Writes the file of the routes, and moves it into its place. `epoch` is that of the first tenants, so many as it says.
    pub fn write_file(&self, tenants: usize, changed: usize, epoch: u64) {
        let mut file = BufWriter::new(File::create(self.path("routes.new")).expect("created"));
        for cell in 0..CELLS {
            let endpoint = self.app.address();
            let line = format!("{{\"cell\":\"cell-{cell}\",\"endpoints\":[\"{endpoint}\"],\"kind\":\"origin\"}}\n");
            file.write_all(line.as_bytes()).expect("written");
        }
        let mut line = String::new();
        for tenant in 0..tenants {
            let (cell, epoch) = (tenant % CELLS, if tenant < changed { epoch } else { 1 });
            line.clear();
            writeln!(line, "{{\"tenant\":\"{}\",\"cell\":\"cell-{cell}\",\"epoch\":{epoch}}}", name(tenant))
                .expect("text");
            file.write_all(line.as_bytes()).expect("written");
        }
        file.flush().expect("written");
        std::fs::rename(self.path("routes.new"), self.path("routes.jsonl")).expect("moved");
    }

    /// Takes the file of the routes away.
    pub fn remove_file(&self) {
        std::fs::remove_file(self.path("routes.jsonl")).expect("removed");
    }

    /// Starts a router, and asks it for a tenant all the time until it is ready.
    pub async fn router(&mut self, feed: Feed) -> (Process, Start) {
        let source = match feed {
            Feed::Store => format!("etcd:\n    endpoints: [\"{}\"]\n    prefix: {PREFIX}\n", self.url(10)),
            Feed::File => format!("file: {}\n", self.path("routes.jsonl").display()),
        };
        let config = format!(
            "role: router\nlisten: 127.0.0.1:{}\nadmin: 127.0.0.1:{}\nbase_domains: [cells.localhost]\nthreads: 2\n\
             snapshot: {}\nfeed:\n  {source}",
            self.ports.at(0),
            self.ports.at(3),
            self.path("routes.snapshot").display(),
        );
        let path = self.path("router.yaml");
        std::fs::write(&path, config).expect("written");
        self.starts += 1;
        let args = ["router".to_owned(), "--config".to_owned(), path.display().to_string()].to_vec();
        let log = self.path(&format!("router.log.{}", self.starts));
        let recipe = Recipe { name: "router".to_owned(), program: binary(), args, env: Vec::new(), log };
        let begun = Instant::now();
        let router = Process::start(recipe);
        let (mut wrong_404s, mut put_off) = (0, 0);
        loop {
            match self.ask(0).await {
                Some(404) => wrong_404s += 1,
                Some(200) if self.is_ready().await => break,
                _ => put_off += 1,
            }
            assert!(begun.elapsed() < Duration::from_millis(PATIENCE_MS), "the router does not get ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (router, Start { ready: begun.elapsed(), wrong_404s, put_off })
    }

    /// The status of a request for a tenant; `None` if there is no answer.
    pub async fn ask(&self, tenant: usize) -> Option<u16> {
        let host = format!("{}.cells.localhost", name(tenant));
        Some(self.http.get(self.url(0)).header("host", host).send().await.ok()?.status().as_u16())
    }

    async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/readyz", self.url(3))).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// What `/status` says of this.
    pub async fn status(&self, what: &str) -> Option<u64> {
        let answer = self.http.get(format!("{}/status", self.url(3))).send().await.ok()?;
        answer.json::<serde_json::Value>().await.ok()?.get(what)?.as_u64()
    }
}

/// A tenant's name.
pub fn name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

fn cell_key(cell: usize) -> String {
    format!("{PREFIX}routes/cells/cell-{cell}")
}

/// Places a tenant at an epoch, in its cell.
pub fn put(tenant: usize, epoch: u64) -> TxnOp {
    let cell = tenant % CELLS;
    let name = name(tenant);
    let key = format!("{PREFIX}routes/placements/{:02x}/{name}", bucket(&name));
    let value = format!(
        "{{\"format\":1,\"is\":\"placed\",\"cell\":{{\"name\":\"cell-{cell}\",\"uid\":\"uid-{cell}\"}},\"epoch\":{epoch},\
         \"home\":\"home-{tenant}\"}}"
    );
    TxnOp::put(key, value, None)
}

/// As the store spreads placements: FNV-1a, its bytes folded into one.
fn bucket(tenant: &str) -> u8 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    tenant.bytes().fold(0xcbf2_9ce4_8422_2325, step).to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

/// What a process has in memory now, and had at the most, in MiB.
pub fn memory_mib(process: &Process) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    (kib("VmRSS:") / 1_024, kib("VmHWM:") / 1_024)
}

/// Forgets the most that a process had in memory.
pub fn forget_peak(process: &Process) {
    let _ = std::fs::write(format!("/proc/{}/clear_refs", process.id()), "5");
}

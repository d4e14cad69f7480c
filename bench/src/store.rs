//! An etcd with the tenants of the measurement, some of which are changed all the time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use etcd_client::{Client, ConnectOptions, Txn, TxnOp};
use tokio::task::JoinSet;

use crate::machine;
use crate::process::Process;
use crate::scenario::asked_hosts;

/// What every key begins with.
pub(crate) const PREFIX: &str = "/cellway/v1/";
/// Records in one transaction while it is filled.
const FILLED_AT_ONCE: usize = 5_000;
/// The longest request.
const REQUEST_S: u64 = 30;
/// Between two looks at what is due.
const TICK_MS: u64 = 10;
/// Changes in a commit: who changes shares a core with the etcd, the clients and the app, and one at a time is too dear there.
const CHANGES_IN_A_COMMIT: usize = 10;
/// Commits under way at a time.
const COMMITS_AT_ONCE: usize = 16;
/// A prime, so that neighbours are not changed one after the other.
const STRIDE: usize = 15_485_863;

/// An etcd; killed when dropped.
pub(crate) struct Store {
    _process: Process,
    address: SocketAddr,
    tenants: usize,
}

/// Changes under way, until they are stopped.
pub(crate) struct Changing {
    stop: Arc<AtomicBool>,
    changer: JoinHandle<anyhow::Result<usize>>,
    begun: Instant,
}

/// Starts an etcd, and waits until it listens.
pub(crate) fn etcd(dir: &Path, core: usize) -> anyhow::Result<(Process, SocketAddr)> {
    let program = machine::program("etcd").context("etcd is not installed")?;
    let [address, peer] = machine::free_addresses()?;
    let data = dir.join("etcd").display().to_string();
    let args = [
        ("--data-dir", data),
        ("--listen-client-urls", format!("http://{address}")),
        ("--advertise-client-urls", format!("http://{address}")),
        ("--listen-peer-urls", format!("http://{peer}")),
        ("--initial-advertise-peer-urls", format!("http://{peer}")),
        ("--initial-cluster", format!("default=http://{peer}")),
        ("--quota-backend-bytes", "8589934592".to_owned()),
        ("--max-txn-ops", "10000".to_owned()),
        ("--max-request-bytes", "10000000".to_owned()),
        ("--unsafe-no-fsync", "true".to_owned()),
        ("--log-level", "error".to_owned()),
    ];
    let args: Vec<String> = args.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
    let mut process = Process::start("etcd", core, &program, &args, dir)?;
    process.listens_on(address)?;
    Ok((process, address))
}

/// The lines of a router's configuration that say to follow an etcd.
pub(crate) fn feed(etcd: SocketAddr) -> String {
    format!("feed:\n  etcd:\n    endpoints: [\"http://{etcd}\"]\n    prefix: {PREFIX}\n")
}

impl Store {
    /// Starts one and fills it.
    pub(crate) fn start(dir: &Path, core: usize, origin: SocketAddr, tenants: usize) -> anyhow::Result<Self> {
        let (process, address) = etcd(dir, core)?;
        let store = Self { _process: process, address, tenants };
        runtime()?.block_on(store.fill(origin))?;
        Ok(store)
    }

    /// The lines of a router's configuration that say to follow it.
    pub(crate) fn feed(&self) -> String {
        feed(self.address)
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(REQUEST_S));
        Client::connect([format!("http://{}", self.address)], Some(options)).await.context("etcd does not answer")
    }

    async fn fill(&self, origin: SocketAddr) -> anyhow::Result<()> {
        let cell = format!(
            "{{\"format\":1,\"cell\":{{\"name\":\"a\",\"uid\":\"a-1\"}},\"condition\":\"open\",\"kind\":\"agent\",\
             \"version\":\"1\",\"endpoints\":[\"{origin}\"]}}"
        );
        let mut puts = vec![TxnOp::put(format!("{PREFIX}routes/cells/a"), cell, None)];
        puts.extend(asked_hosts(self.tenants).map(limits));
        puts.extend((0..self.tenants).map(|tenant| placement(tenant, 1)));
        let mut client = self.client().await?;
        while !puts.is_empty() {
            let rest = puts.split_off(puts.len().min(FILLED_AT_ONCE));
            client.txn(Txn::new().and_then(puts)).await.context("cannot fill etcd")?;
            puts = rest;
        }
        Ok(())
    }

    /// Brings so many tenants a second to a higher epoch, some in each commit.
    pub(crate) fn change(&self, per_second: u32) -> anyhow::Result<Changing> {
        let runtime = runtime()?;
        let client = runtime.block_on(self.client())?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tenants, stopped, begun) = (self.tenants, Arc::clone(&stop), Instant::now());
        let changes = async move {
            let mut done = 0;
            while !stopped.load(Ordering::Relaxed) {
                let due = (begun.elapsed().as_secs_f64() * f64::from(per_second)) as usize;
                let mut commits = JoinSet::new();
                for _ in 0..((due - done) / CHANGES_IN_A_COMMIT).min(COMMITS_AT_ONCE) {
                    let numbers = done..done + CHANGES_IN_A_COMMIT;
                    let puts: Vec<TxnOp> =
                        numbers.map(|number| placement(number * STRIDE % tenants, epoch())).collect();
                    let mut client = client.clone();
                    commits.spawn(async move { client.txn(Txn::new().and_then(puts)).await });
                    done += CHANGES_IN_A_COMMIT;
                }
                while let Some(committed) = commits.join_next().await {
                    committed?.context("cannot change etcd")?;
                }
                tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            }
            Ok(done)
        };
        Ok(Changing { stop, changer: std::thread::spawn(move || runtime.block_on(changes)), begun })
    }
}

impl Changing {
    /// Ends the changes, and says how many there were in a second.
    pub(crate) fn end(self) -> anyhow::Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.changer.join().map_err(|_| anyhow::anyhow!("the changes have panicked"))??;
        Ok(done as f64 / self.begun.elapsed().as_secs_f64())
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")
}

/// One that is higher than any before.
fn epoch() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(2, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn placement(tenant: usize, epoch: u64) -> TxnOp {
    let name = format!("t{tenant}");
    let key = format!("{PREFIX}routes/placements/{:02x}/{name}", bucket(&name));
    let value = format!(
        "{{\"format\":1,\"is\":\"placed\",\"cell\":{{\"name\":\"a\",\"uid\":\"a-1\"}},\"epoch\":{epoch},\"home\":\"h{tenant}\"}}"
    );
    TxnOp::put(key, value, None)
}

/// Limits that are asked for each request and never reached.
fn limits(tenant: usize) -> TxnOp {
    let value =
        "{\"format\":1,\"requests\":{\"per_second\":1000000,\"burst\":1000000},\"concurrency\":1000,\"mode\":\"open\"}";
    TxnOp::put(format!("{PREFIX}routes/limits/t{tenant}"), value, None)
}

/// As the store spreads placements: FNV-1a, its bytes folded into one.
fn bucket(tenant: &str) -> u8 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    tenant.bytes().fold(0xcbf2_9ce4_8422_2325, step).to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

//! A real etcd for tests: started on free loopback ports with a temporary directory. And a fake one, in this process.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

mod fake;
mod relay;

pub(crate) use fake::FakeMember;
pub(crate) use relay::Relay;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cellway_store::{EtcdConfig, EtcdStore, Store};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long etcd may take until it serves.
const START_LIMIT_MS: u64 = 30_000;
/// How often a start is tried: a port found free may be taken by another process.
const START_ATTEMPTS_MAX: usize = 5;

/// A single-member etcd; it ends, and its data goes, when this is dropped.
pub(crate) struct Etcd {
    child: Child,
    client_port: u16,
    peer_port: u16,
    dir: TempDir,
}

impl Etcd {
    /// Starts an etcd and waits until it serves.
    pub(crate) async fn start() -> Self {
        for _ in 0..START_ATTEMPTS_MAX {
            let (client_port, peer_port) = (free_port(), free_port());
            let dir = tempfile::tempdir().unwrap();
            let child = spawn(&dir, client_port, peer_port);
            let mut etcd = Self { child, client_port, peer_port, dir };
            if etcd.serves().await {
                return etcd;
            }
        }
        panic!("etcd did not begin to serve in {START_ATTEMPTS_MAX} attempts");
    }

    /// Its client URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// The port that clients reach it on.
    pub(crate) fn client_port(&self) -> u16 {
        self.client_port
    }

    /// A configuration with short timeouts.
    pub(crate) fn config(&self) -> EtcdConfig {
        config_for(self.endpoint())
    }

    /// A store on it.
    pub(crate) async fn store(&self) -> EtcdStore {
        EtcdStore::connect(self.config()).await.unwrap()
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same ports and data.
    pub(crate) async fn restart(&mut self) {
        for _ in 0..START_ATTEMPTS_MAX {
            self.child = spawn(&self.dir, self.client_port, self.peer_port);
            if self.serves().await {
                return;
            }
        }
        panic!("etcd did not serve again on port {}", self.client_port);
    }

    /// Stops it without closing anything: connections stay open and silent.
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it came to serve; false when it has ended.
    async fn serves(&mut self) -> bool {
        let store = self.store().await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(START_LIMIT_MS) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if store.get("ready").await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration with short timeouts for the member at `endpoint`.
pub(crate) fn config_for(endpoint: String) -> EtcdConfig {
    EtcdConfig { request_timeout_ms: 700, watch_patience_ms: 700, ..EtcdConfig::new([endpoint]) }
}

fn spawn(dir: &TempDir, client_port: u16, peer_port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let started = Command::new("etcd")
        .args(["--name", "test", "--log-level", "error", "--logger", "zap"])
        .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
        .arg("--data-dir")
        .arg(dir.path())
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Ok(child) => child,
        Err(error) => panic!("these tests need etcd in PATH ({error}): install the Debian package `etcd-server`"),
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

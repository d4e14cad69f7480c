//! One agent between a control plane and an app, all played on this machine.

use crate::app::{App, read_head};
use crate::control_plane::ControlPlane;
use cellway_api::agent::{OrderDown, TaskDown};
use cellway_cell_agent::{Agent, AgentConfig, DriverConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub(crate) const LONGEST_REQUEST_MS: u64 = 1_500;

pub(crate) struct Stage {
    pub(crate) cell: &'static str,
    pub(crate) plane: ControlPlane,
    pub(crate) app: App,
    pub(crate) dir: TempDir,
    pub(crate) driver: DriverConfig,
    pub(crate) agent: Option<Running>,
}

/// A running agent.
pub(crate) struct Running {
    pub(crate) gate: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) transfer: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Stage {
    /// Driver `none`, and tenant `acme` served at epoch 5.
    pub(crate) async fn with_acme_open() -> Self {
        let stage = Self::new(|_| DriverConfig::None).await;
        stage.plane.place("acme", "cell-a", 5, "new-5", None);
        let stage = stage.started().await;
        stage.until_open(5).await;
        stage
    }

    /// Driver `sqlite`, and tenant `acme` served at epoch 15 in a home that began here.
    pub(crate) async fn with_sqlite() -> Self {
        let stage = Self::new(|dir| DriverConfig::Sqlite { live_dir: dir.join("live") }).await;
        stage.plane.place("acme", "cell-a", 15, "new-15", None);
        let stage = stage.started().await;
        stage.until_open(15).await;
        stage
    }

    pub(crate) async fn new(driver: impl Fn(PathBuf) -> DriverConfig) -> Self {
        Self::of_cell("cell-a", driver).await
    }

    pub(crate) async fn of_cell(cell: &'static str, driver: impl Fn(PathBuf) -> DriverConfig) -> Self {
        let dir = TempDir::new().unwrap();
        let driver = driver(dir.path().to_owned());
        Self { cell, plane: ControlPlane::start().await, app: App::start().await, dir, driver, agent: None }
    }

    pub(crate) fn config(&self) -> AgentConfig {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        AgentConfig {
            cell: self.cell.parse().unwrap(),
            control_plane: vec![format!("http://{}", self.plane.address)],
            gate_listen: any,
            transfer_listen: any,
            admin_listen: any,
            gate_threads: 2,
            app: self.app.address,
            data_dir: self.dir.path().join("agent"),
            driver: self.driver.clone(),
            longest_request_ms: LONGEST_REQUEST_MS,
            advertise_gate: None,
            advertise_transfer: None,
            identity: None,
            #[cfg(feature = "test-faults")]
            faults: Default::default(),
        }
    }

    pub(crate) async fn started(mut self) -> Self {
        self.start();
        self
    }

    pub(crate) fn start(&mut self) {
        self.start_with(|_| {});
    }

    pub(crate) fn start_with(&mut self, change: impl FnOnce(&mut AgentConfig)) {
        let mut config = self.config();
        change(&mut config);
        let agent = Agent::bind(config).unwrap();
        let (gate, admin, transfer) = (agent.gate_addr(), agent.admin_addr(), agent.transfer_addr());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(agent.run(prometheus::Registry::new(), shutdown.clone()));
        self.agent = Some(Running { gate, admin, transfer, shutdown, task });
    }

    /// The process stops as on SIGTERM.
    pub(crate) async fn stop(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.shutdown.cancel();
        agent.task.await.unwrap().unwrap();
    }

    /// The process dies.
    pub(crate) async fn kill(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.task.abort();
        let _ = agent.task.await;
        // The disk is free again once the last thread has let go of it.
        for _ in 0..500 {
            let lock = std::fs::File::open(self.dir.path().join("agent/agent.lock")).unwrap();
            if lock.try_lock().is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the disk stays locked");
    }

    pub(crate) fn gate(&self) -> SocketAddr {
        self.agent.as_ref().unwrap().gate
    }

    /// A connection to the gate on which `request` was sent: a request line, without fields.
    pub(crate) async fn ask(&self, line: &str, epoch: u64, rest: &str) -> Wire {
        let mut wire = Wire::connect(self.gate()).await;
        wire.ask(line, epoch, rest).await;
        wire
    }

    /// Status and verdict of a plain request.
    pub(crate) async fn verdict(&self, epoch: u64) -> (u16, Option<String>) {
        let mut wire = self.ask("GET /", epoch, "\r\n").await;
        let head = wire.head().await;
        (status(&head), crate::app::field(&head, "x-cellway-verdict").map(str::to_owned))
    }

    pub(crate) async fn until_open(&self, epoch: u64) {
        self.until(epoch, 200, None).await;
    }

    /// Waits until a request is answered so.
    pub(crate) async fn until(&self, epoch: u64, wanted: u16, verdict: Option<&str>) {
        let mut last = None;
        for _ in 0..300 {
            let said = self.verdict(epoch).await;
            if said.0 == wanted && said.1.as_deref() == verdict {
                return;
            }
            last = Some(said);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the gate keeps saying {last:?}");
    }
}

/// An order of move `m1` for tenant `acme`.
pub(crate) fn order(task: TaskDown) -> OrderDown {
    OrderDown { move_id: "m1".into(), tenant: "acme".into(), source: None, task }
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// A connection, as bytes.
pub(crate) struct Wire(pub(crate) TcpStream);

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) async fn ask(&mut self, line: &str, epoch: u64, rest: &str) {
        let fields = format!("host: acme.test\r\nx-cellway-tenant: acme\r\nx-cellway-epoch: {epoch}");
        self.send(&format!("{line} HTTP/1.1\r\n{fields}\r\n{rest}")).await;
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next head, in lower case.
    pub(crate) async fn head(&mut self) -> String {
        let head = tokio::time::timeout(Duration::from_secs(10), read_head(&mut self.0)).await;
        head.expect("an answer in time").expect("an answer")
    }

    pub(crate) async fn body(&mut self, length: usize) -> String {
        String::from_utf8(self.body_bytes(length).await).unwrap()
    }

    /// So many bytes, whatever they are.
    pub(crate) async fn body_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        let read = tokio::time::timeout(Duration::from_secs(10), self.0.read_exact(&mut body)).await;
        read.expect("bytes in time").unwrap();
        body
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), self.0.read_to_end(&mut rest)).await.expect("an end");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

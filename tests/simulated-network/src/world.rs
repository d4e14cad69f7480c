//! The hosts of the simulation, and what runs on each.

use crate::app;
use crate::client;
use crate::history::History;
use crate::network::{self, address};
use crate::operator;
use crate::rules::Broken;
use cellway_cell_agent::{Agent, AgentConfig, DriverConfig, Faults};
use cellway_control_plane::{ControlPlane, ControlPlaneConfig};
use cellway_core::hostname::Hostname;
use cellway_fake_etcd::FakeEtcd;
use cellway_router::{FeedSource, Router, RouterConfig};
use cellway_store::{EtcdConfig, EtcdStore, Store};
use futures_util::Stream;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use turmoil::Sim;
use turmoil::net::{TcpListener, TcpStream};

/// What tenants are called, below this domain.
pub(crate) const BASE: &str = "cells.localhost";

/// No ordinary request runs longer in the app.
pub(crate) const LONGEST_REQUEST_MS: u64 = 1_000;

const ETCD_PORT: u16 = 2379;
const API_PORT: u16 = 8082;
const GATE_PORT: u16 = 81;
const APP_PORT: u16 = 82;
const TRANSFER_PORT: u16 = 83;
const ADMIN_PORT: u16 = 84;
/// Where routers serve.
pub(crate) const ROUTER_PORT: u16 = 80;

/// How long a process that has ended is away before it is started again.
const RESTART_MS: u64 = 200;

/// The id of the cluster: any number.
const CLUSTER: u64 = 0xce11;

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    /// The only member of etcd.
    Etcd,
    /// A replica of the control plane.
    Control(u8),
    /// A cell: its agent.
    Cell(u8),
    /// The app of a cell: on the same machine, but it outlives its agent.
    App(u8),
    /// A router.
    Router(u8),
    /// Where clients are.
    Clients,
    /// Where the operator is.
    Operator,
}

impl Host {
    /// All of them, in the order in which they run.
    pub(crate) const ALL: [Self; 11] = [
        Self::Etcd,
        Self::Control(1),
        Self::Control(2),
        Self::Cell(1),
        Self::Cell(2),
        Self::App(1),
        Self::App(2),
        Self::Router(1),
        Self::Router(2),
        Self::Clients,
        Self::Operator,
    ];

    /// Its name in the simulated network.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Control(1) => "control-1",
            Self::Control(_) => "control-2",
            Self::Cell(1) => "cell-a",
            Self::Cell(_) => "cell-b",
            Self::App(1) => "app-a",
            Self::App(_) => "app-b",
            Self::Router(1) => "router-1",
            Self::Router(_) => "router-2",
            Self::Clients => "clients",
            Self::Operator => "operator",
        }
    }

    /// The machine that it is on. What is between two of one machine does not break.
    pub(crate) fn machine(self) -> Self {
        match self {
            Self::App(number) => Self::Cell(number),
            other => other,
        }
    }

    /// The end of its address.
    pub(crate) fn number(self) -> u8 {
        Self::ALL.iter().zip(1..).find(|(host, _)| **host == self).map_or(0, |(_, number)| number)
    }

    /// The host with this number.
    pub(crate) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|host| host.number() == number)
    }

    /// The host of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|host| host.name() == name)
    }
}

/// What all hosts of one simulation share: what they could not know of each other is only written to.
#[derive(Clone)]
pub(crate) struct Shared {
    /// The seed.
    pub(crate) seed: u64,
    /// The rule that is broken on purpose.
    pub(crate) broken: Option<Broken>,
    /// What happened.
    pub(crate) history: Rc<History>,
    /// The store's content, which outlives its host.
    pub(crate) etcd: FakeEtcd,
    /// Where the hosts' disks are.
    pub(crate) disks: Rc<PathBuf>,
}

impl Shared {
    /// A world that nothing happened in.
    pub(crate) fn new(seed: u64, broken: Option<Broken>, disks: &Path) -> Self {
        let disks = Rc::new(disks.to_owned());
        Self { seed, broken, history: Rc::new(History::default()), etcd: FakeEtcd::new(CLUSTER), disks }
    }
}

/// Puts every host into the simulation.
pub(crate) fn build(sim: &mut Sim<'_>, shared: &Shared) {
    for host in Host::ALL {
        // The first to be named has the lowest address.
        sim.lookup(host.name());
    }
    for host in Host::ALL {
        let shared = shared.clone();
        sim.host(host.name(), move || run(host, shared.clone()));
    }
}

async fn run(host: Host, shared: Shared) -> turmoil::Result {
    network::runs(host);
    loop {
        let ended = match host {
            Host::Etcd => etcd(&shared).await,
            Host::Control(_) => control_plane(host, &shared).await,
            Host::Cell(_) => cell(host, &shared).await,
            Host::App(number) => app::serve(Host::Cell(number), address(host, APP_PORT), &shared).await,
            Host::Router(_) => router(host, &shared).await,
            Host::Clients => client::run(&shared).await,
            Host::Operator => operator::run(&shared).await,
        };
        let why = ended.map_or_else(|error| format!("{error:#}"), |()| "it returned".to_owned());
        shared.history.say(&format!("{} has ended: {why}", host.name()));
        tokio::time::sleep(Duration::from_millis(RESTART_MS)).await;
    }
}

async fn etcd(shared: &Shared) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", ETCD_PORT)).await?;
    let connections = futures_util::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| Connection(stream));
        Some((accepted, listener))
    });
    let connections: Pin<Box<dyn Stream<Item = io::Result<Connection>>>> = Box::pin(connections);
    Ok(shared.etcd.serve(connections).await?)
}

async fn store() -> anyhow::Result<Arc<dyn Store>> {
    let config = EtcdConfig::new([format!("http://{}", address(Host::Etcd, ETCD_PORT))]);
    Ok(Arc::new(EtcdStore::connect_by(config, Arc::new(network::etcd)).await?))
}

/// The replicas' base URLs, beginning with that of this number.
pub(crate) fn control_planes(first: u8) -> Vec<String> {
    let others = [1, 2].into_iter().filter(|number| *number != first);
    let all = std::iter::once(first).chain(others);
    all.map(|number| format!("http://{}", address(Host::Control(number), API_PORT))).collect()
}

async fn control_plane(host: Host, shared: &Shared) -> anyhow::Result<()> {
    let base = Hostname::from_text(BASE)?;
    let mut config = ControlPlaneConfig::new(address(host, API_PORT), vec![base]);
    let limits = &mut config.move_limits;
    (limits.preparing_ms, limits.syncing_ms) = (4_000, 6_000);
    if shared.seed.is_multiple_of(2) {
        // Long enough for an agent that dies in a hold to be there again.
        (limits.freeze_budget_ms, limits.drain_ms, limits.holding_ms) = (2_500, 2_000, 3_000);
    }
    (limits.closing_ms, limits.bake_ms, limits.retention_ms, limits.drop_ms) = (500, 300, 200, 3_000);
    let plane = ControlPlane::bind(config)?;
    plane.run(store().await?, prometheus::Registry::new(), CancellationToken::new()).await
}

async fn cell(host: Host, shared: &Shared) -> anyhow::Result<()> {
    let Host::Cell(number) = host else { return Ok(()) };
    let config = AgentConfig {
        cell: host.name().parse()?,
        control_plane: control_planes(number),
        gate_listen: address(host, GATE_PORT),
        transfer_listen: address(host, TRANSFER_PORT),
        admin_listen: address(host, ADMIN_PORT),
        gate_threads: 1,
        app: address(Host::App(number), APP_PORT),
        data_dir: shared.disks.join(host.name()),
        driver: DriverConfig::None,
        longest_request_ms: if shared.broken == Some(Broken::OutlastLimit) { 1 } else { LONGEST_REQUEST_MS },
        advertise_gate: None,
        advertise_transfer: None,
        identity: None,
        faults: Faults {
            ignore_fences: shared.broken == Some(Broken::IgnoreFences),
            open_at_once: shared.broken == Some(Broken::OpenAtOnce),
        },
    };
    Agent::bind(config)?.run(prometheus::Registry::new(), CancellationToken::new()).await
}

async fn router(host: Host, shared: &Shared) -> anyhow::Result<()> {
    let mut config = RouterConfig::new(vec![Hostname::from_text(BASE)?]);
    config.listen = address(host, ROUTER_PORT);
    config.admin = address(host, ADMIN_PORT);
    config.threads = 1;
    config.snapshot_path = Some(shared.disks.join(format!("{}.routes", host.name())));
    config.faults.lose_replay = shared.broken == Some(Broken::LoseReplay);
    let feed = FeedSource::Store(store().await?);
    Router::bind(config)?.run(feed, prometheus::Registry::new(), CancellationToken::new()).await
}

/// A connection to etcd.
struct Connection(TcpStream);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

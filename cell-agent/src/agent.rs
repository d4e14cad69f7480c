//! The agent as a whole: bound first, so that its ports are known, then run.

use crate::config::AgentConfig;
use crate::control_plane::ControlPlane;
use crate::disk::{Disk, Identity};
use crate::driver::Driver;
use crate::facts::Facts;
use crate::feed::{Endpoints, Feed};
use crate::gate::opening::Opener;
use crate::gate::serve::{FAREWELL, GateHandler, GateParts};
use crate::gate::table::GateTable;
use crate::health::Health;
use crate::metrics::{self, GateMetrics};
use crate::orders::{Means, Orders, Orphans};
use crate::transfer::TransferClient;
use crate::{admin, listener, load, survey, transfer};
use anyhow::Context;
use cellway_api::identity::{Callers, LiveIdentity};
use cellway_api::plan::SURVEY_PATH;
use cellway_core::hostname::Hostname;
use cellway_machine::{Bound, off_thread};
use cellway_proxy::serve::CONNECTIONS_PER_THREAD_MAX;
use cellway_proxy::serve::DRAIN_MS;
use cellway_proxy::{Covers, Handshakes, Listeners, PoolLimits, Protocol, ServeOptions, ServerTls, files};
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

/// The drain of a stopping gate is as long as the app's longest request, but no longer than this.
const DRAIN_MAX_MS: u64 = 30_000;

/// An agent whose ports are bound and whose disk is locked.
pub struct Agent {
    config: AgentConfig,
    disk: Arc<Disk>,
    gate: Listeners,
    transfer: Bound,
    admin: Bound,
    addresses: Addresses,
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    gate: SocketAddr,
    transfer: SocketAddr,
    admin: SocketAddr,
}

/// Binds and runs an agent until `shutdown`.
pub async fn run(config: AgentConfig, registry: Registry, shutdown: CancellationToken) -> anyhow::Result<()> {
    Agent::bind(config)?.run(registry, shutdown).await
}

impl Agent {
    /// Checks the configuration, locks the data directory and binds the ports.
    pub fn bind(config: AgentConfig) -> anyhow::Result<Self> {
        config.check()?;
        // Each fenced home that is not sealed yet keeps three open, and each connection one.
        files::raise();
        let disk = Arc::new(Disk::open(&config.data_dir)?);
        let threads = config.gate_threads.max(1);
        let gate = cellway_proxy::bind(config.gate_listen, threads)
            .with_context(|| format!("the gate cannot listen on {}", config.gate_listen))?;
        let bind =
            |name: &str, address| Bound::new(address).with_context(|| format!("{name} cannot listen on {address}"));
        let transfer = bind("the transfer endpoint", config.transfer_listen)?;
        let admin = bind("the admin endpoint", config.admin_listen)?;
        let addresses =
            Addresses { gate: gate.local_addr(), transfer: transfer.local_addr()?, admin: admin.local_addr()? };
        Ok(Self { config, disk, gate, transfer, admin, addresses })
    }

    /// Where routers reach the gate.
    pub fn gate_addr(&self) -> SocketAddr {
        self.addresses.gate
    }

    /// Where other agents fetch data.
    pub fn transfer_addr(&self) -> SocketAddr {
        self.addresses.transfer
    }

    /// Where the admin pages are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.addresses.admin
    }

    /// Runs until `shutdown`, then drains and stops. The instance stays registered and its fences stay in force.
    pub async fn run(self, registry: Registry, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { config, disk, gate, transfer, admin, addresses } = self;
        let parts = Parts::start(&config, disk, &registry).await?;
        // Whatever still opens gates when this ends, or is dropped, stops with it.
        let _shut_on_drop = ShutOnDrop(Arc::clone(&parts.table));
        let mut chores = JoinSet::new();
        let pages = admin::pages(registry.clone(), Arc::clone(&parts.health));
        let routers = config.identity.as_ref().map(for_routers);
        let callers = Callers::CellsAndControlPlane;
        let peers = config.identity.as_ref().map(|identity| Arc::new(identity.server_config(callers)).into());
        spawn_listener(&mut chores, admin, None, pages);
        spawn_listener(&mut chores, transfer, peers, parts.peers());
        if let Some(identity) = config.identity.clone() {
            let fresh = metrics::watch_identity(&registry, identity)?;
            chores.spawn(async move {
                fresh.await;
                Ok(())
            });
        }
        parts.spawn_feed(&mut chores, &config, addresses);
        parts.spawn_reports(&mut chores, &registry)?;
        let ended = serve_gate(gate, parts.gate.clone(), &mut chores, routers, shutdown).await;
        parts.table.shut();
        chores.shutdown().await;
        ended?;
        if parts.gate.cut.load(Ordering::Acquire) {
            tracing::warn!("requests were cut by the stop: the next start takes it for an unclean one");
            return Ok(());
        }
        if parts.means.orphans.until().is_some() {
            tracing::warn!("the run before may have left requests in the app: the next start takes it into account");
            return Ok(());
        }
        off_thread(move || parts.disk.stopped_clean()).await??;
        tracing::info!("agent stopped, drained");
        Ok(())
    }
}

/// What the chores of a running agent share.
struct Parts {
    disk: Arc<Disk>,
    identity: Identity,
    driver: Driver,
    table: Arc<GateTable>,
    health: Arc<Health>,
    facts: Arc<Facts>,
    control_plane: Arc<ControlPlane>,
    means: Means,
    gate: GateParts,
}

impl Parts {
    /// Counts the run on disk, and takes every fence of earlier runs again, before anything is served.
    async fn start(config: &AgentConfig, disk: Arc<Disk>, registry: &Registry) -> anyhow::Result<Self> {
        let identity = disk.start(&config.cell)?;
        tracing::info!(cell = %config.cell, instance = %identity.instance, run = identity.run, "agent starts");
        let faults = config.faults();
        let driver = {
            let client = TransferClient::new(config.identity.as_ref())?;
            Driver::open(&config.driver, &config.cell, Arc::clone(&disk), client, faults)
        }
        .await?;
        let table = Arc::new(GateTable::new(config.cell.clone(), disk.fences()?, faults));
        let facts = Arc::new(Facts::default());
        let means = Means {
            disk: Arc::clone(&disk),
            driver: driver.clone(),
            table: Arc::clone(&table),
            facts: Arc::clone(&facts),
            orphans: Orphans::new(identity.stopped_clean, config.longest_request_ms),
            reached: Arc::default(),
            ignore_fences: faults.ignore_fences,
        };
        let gate = GateParts {
            table: Arc::clone(&table),
            app: config.app,
            longest_request_ms: config.longest_request_ms,
            metrics: GateMetrics::new(registry)?,
            cut: Arc::new(AtomicBool::new(false)),
        };
        let control_plane =
            Arc::new(ControlPlane::new(config.cell.clone(), &config.control_plane, config.identity.clone())?);
        let health = Arc::new(Health::default());
        Ok(Self { disk, identity, driver, table, health, facts, control_plane, means, gate })
    }

    /// What other agents and the control plane are answered.
    fn peers(&self) -> listener::Answer {
        let (driver, table) = (self.driver.clone(), Arc::clone(&self.table));
        Arc::new(move |peer, request| {
            let (driver, table) = (driver.clone(), Arc::clone(&table));
            Box::pin(async move {
                match request.uri().path() {
                    SURVEY_PATH => survey::answer(&driver, &table, peer.as_ref(), request).await,
                    _ => transfer::answer(&driver, peer.as_ref(), request).await,
                }
            })
        })
    }

    fn spawn_feed(&self, chores: &mut JoinSet<anyhow::Result<()>>, config: &AgentConfig, addresses: Addresses) {
        let feed = Feed {
            control_plane: Arc::clone(&self.control_plane),
            disk: Arc::clone(&self.disk),
            identity: self.identity.clone(),
            endpoints: Endpoints {
                gate: config.advertise_gate.clone().unwrap_or_else(|| addresses.gate.to_string()),
                transfer: config.advertise_transfer.clone().unwrap_or_else(|| addresses.transfer.to_string()),
                driver: config.driver.kind(),
            },
            table: Arc::clone(&self.table),
            opener: Opener::new(Arc::clone(&self.table), self.driver.clone()),
            orders: Arc::new(Orders::new(self.means.clone())),
            health: Arc::clone(&self.health),
        };
        chores.spawn(async move { feed.run().await.map(|never| match never {}) });
    }

    fn spawn_reports(&self, chores: &mut JoinSet<anyhow::Result<()>>, registry: &Registry) -> anyhow::Result<()> {
        let (table, health) = (Arc::clone(&self.table), Arc::clone(&self.health));
        let gauges = metrics::watch(registry, table, health, Arc::clone(&self.facts))?;
        let instance = self.identity.instance.clone();
        let facts = Arc::clone(&self.facts).send(Arc::clone(&self.control_plane), instance.clone());
        let load = load::report(Arc::clone(&self.table), Arc::clone(&self.control_plane), instance);
        chores.spawn(async move {
            tokio::join!(gauges, facts, load);
            Ok(())
        });
        Ok(())
    }
}

fn spawn_listener(
    chores: &mut JoinSet<anyhow::Result<()>>,
    listener: Bound,
    tls: Option<TlsAcceptor>,
    answer: listener::Answer,
) {
    chores.spawn(async move {
        let never = listener::serve(listener, tls, answer).await.context("a listener failed")?;
        match never {}
    });
}

/// A gate's side of TLS: routers alone get in, and what they ask for is theirs to say.
fn for_routers(identity: &Arc<LiveIdentity>) -> ServerTls {
    let mut config = identity.server_config(Callers::Routers);
    config.alpn_protocols = [Protocol::Http2, Protocol::Http1].map(|protocol| protocol.alpn().to_vec()).into();
    let gate = Arc::new(GateTls(Arc::new(config)));
    ServerTls { handshakes: Arc::clone(&gate) as _, covers: gate }
}

struct GateTls(Arc<ServerConfig>);

impl Handshakes for GateTls {
    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

impl Covers for GateTls {
    fn covers(&self, _: Option<&str>, _: &Hostname) -> bool {
        true
    }
}

/// Serves until `shutdown` and the end of the drain, or until one of the `chores` fails.
async fn serve_gate(
    listeners: Listeners,
    parts: GateParts,
    chores: &mut JoinSet<anyhow::Result<()>>,
    routers: Option<ServerTls>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let stop = shutdown.child_token();
    let drain_ms = parts.longest_request_ms.saturating_add(1_000).clamp(DRAIN_MS, DRAIN_MAX_MS);
    let connections_per_thread =
        files::connections_per_thread(files::raise(), listeners.threads(), CONNECTIONS_PER_THREAD_MAX);
    let options =
        ServeOptions { drain_ms, tls: routers, connections_per_thread, farewell: FAREWELL, ..ServeOptions::default() };
    let table = Arc::clone(&parts.table);
    let limits = PoolLimits::default().of_threads(listeners.threads(), connections_per_thread);
    let make = move |context| GateHandler::new(parts.clone(), context, limits);
    let serving = cellway_proxy::serve(listeners, options, stop.clone(), make);
    tokio::pin!(serving);
    let mut failure = None;
    tokio::select! {
        served = &mut serving => {
            return served.context("the gate stopped serving");
        }
        ended = chores.join_next() => {
            failure = Some(match ended {
                Some(Ok(Err(error))) => error,
                Some(Err(error)) => anyhow::Error::from(error).context("a part of the agent has died"),
                Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the agent has ended"),
            });
            stop.cancel();
        }
        () = shutdown.cancelled() => {}
    }
    // Streams would last as long as the drain.
    table.each(|gate| gate.end_all_streams());
    let served = serving.await.context("the gate stopped serving");
    failure.map_or(served, Err)
}

struct ShutOnDrop(Arc<GateTable>);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        self.0.shut();
    }
}

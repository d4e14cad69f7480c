//! The parts of `dev`: each bound first, so that a busy port is told before anything runs, then spawned.

use super::layout::Layout;
use super::trust::Trust;
use super::{DevArgs, Parts, seed};
use crate::process::config::EtcdFields;
use crate::process::roles;
use anyhow::Context;
use cellway_api::identity::Identity;
use cellway_cell_agent::{Agent, AgentConfig, DriverConfig};
use cellway_control_plane::{ControlPlane, ControlPlaneConfig};
use cellway_core::ids::CellName;
use cellway_demo::DemoConfig;
use cellway_router::tls::TlsConfig;
use cellway_router::{FeedSource, HttpsConfig, Router, RouterConfig};
use cellway_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a moved tenant is watched, and its old home kept: short, so that moves can be seen to end.
const BAKE_MS: u64 = 1_000;
const RETENTION_MS: u64 = 10_000;

/// The demo app's own limit on a request.
const LONGEST_REQUEST_MS: u64 = 30_000;

/// How long etcd may take to answer at the start.
const ETCD_WAIT_MS: u64 = 5_000;

/// All listeners of `dev`.
pub(super) struct Bound {
    pub(super) control_plane: ControlPlane,
    pub(super) router: Router,
    pub(super) cells: Vec<BoundCell>,
}

/// One cell's agent and app.
pub(super) struct BoundCell {
    agent: Agent,
    app: DemoConfig,
}

/// Binds every listener.
pub(super) fn bind(args: &DevArgs, layout: &Layout, trust: &Trust) -> anyhow::Result<Bound> {
    let names = layout.cell_names();
    let cells = names.iter().enumerate().map(|(index, name)| bind_cell(args, layout, trust, index, name));
    let mut plane = ControlPlaneConfig::new(layout.api(), vec![args.base_domain.clone()]);
    plane.move_limits.bake_ms = BAKE_MS;
    plane.move_limits.retention_ms = RETENTION_MS;
    plane.identity = trust.identity(Identity::ControlPlane)?;
    plane.certificate_secrets = Some(trust.secret());
    plane.sole_writer = args.etcd.is_none();
    #[cfg(feature = "test-faults")]
    {
        plane.stall_file = std::env::var_os(roles::STALL_VARIABLE).map(Into::into);
    }
    let router = RouterConfig {
        listen: layout.router(),
        https: Some(HttpsConfig {
            listen: layout.https(),
            public_port: None,
            tls: TlsConfig {
                certificates: vec![trust.server.clone()],
                default: Some(trust.server.clone()),
                stored: Some(trust.secret()),
                ..TlsConfig::default()
            },
            redirect: false,
            hsts: None,
        }),
        identity: trust.identity(Identity::Router)?,
        admin: layout.router_admin(),
        snapshot_path: Some(layout.snapshot()),
        #[cfg(feature = "test-faults")]
        faults: cellway_router::Faults { lose_replay: args.break_rule == Some(super::BrokenRule::LoseReplay) },
        ..RouterConfig::new(vec![args.base_domain.clone()])
    };
    if let Some(dir) = layout.snapshot().parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    }
    Ok(Bound {
        control_plane: ControlPlane::bind(plane)?,
        router: Router::bind(router)?,
        cells: cells.collect::<anyhow::Result<_>>()?,
    })
}

fn bind_cell(
    args: &DevArgs,
    layout: &Layout,
    trust: &Trust,
    index: usize,
    name: &CellName,
) -> anyhow::Result<BoundCell> {
    let (agent_dir, app_dir) = (layout.agent_dir(name), layout.app_dir(name));
    for dir in [&agent_dir, &app_dir] {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    }
    let (listen, app) = cellway_demo::bind(layout.app(index))
        .with_context(|| format!("cannot listen on {} (the app of {name})", layout.app(index)))?;
    #[cfg(feature = "test-faults")]
    let faults = cellway_cell_agent::Faults {
        ignore_fences: args.break_rule == Some(super::BrokenRule::IgnoreFences),
        open_at_once: args.break_rule == Some(super::BrokenRule::OpenAtOnce),
    };
    #[cfg(not(feature = "test-faults"))]
    let _ = args;
    let agent = Agent::bind(AgentConfig {
        cell: name.clone(),
        control_plane: vec![trust.api(layout)],
        gate_listen: layout.gate(index),
        transfer_listen: layout.transfer(index),
        admin_listen: layout.agent_admin(index),
        gate_threads: 1,
        app,
        data_dir: agent_dir,
        driver: DriverConfig::Sqlite { live_dir: app_dir.clone() },
        longest_request_ms: LONGEST_REQUEST_MS,
        advertise_gate: None,
        advertise_transfer: None,
        identity: trust.cell(name)?,
        #[cfg(feature = "test-faults")]
        faults,
    })?;
    let app = DemoConfig {
        name: name.to_string(),
        version: seed::version_of(index),
        data_dir: app_dir,
        listen,
        max_request_ms: LONGEST_REQUEST_MS,
    };
    Ok(BoundCell { agent, app })
}

/// Opens the embedded store, or reaches etcd.
pub(super) async fn open_store(args: &DevArgs, layout: &Layout) -> anyhow::Result<Arc<dyn Store>> {
    let Some(url) = &args.etcd else {
        return roles::embedded(layout.store_dir()).await;
    };
    let store = roles::etcd(&EtcdFields { endpoints: vec![url.clone()], prefix: None }).await?;
    let answer = tokio::time::timeout(Duration::from_millis(ETCD_WAIT_MS), store.get("leader")).await;
    match answer {
        Ok(Ok(_)) => Ok(store),
        Ok(Err(error)) => Err(error).with_context(|| format!("etcd at {url} does not answer")),
        Err(_) => anyhow::bail!("etcd at {url} does not answer within {ETCD_WAIT_MS} ms"),
    }
}

/// Starts the control plane.
pub(super) fn spawn_control_plane(
    plane: ControlPlane,
    store: Arc<dyn Store>,
    shutdown: &CancellationToken,
    tasks: &mut Parts,
) {
    let shutdown = shutdown.clone();
    tasks.spawn(async move { plane.run(store, prometheus::Registry::new(), shutdown).await.context("control plane") });
}

/// Starts the agents and the apps.
pub(super) fn spawn_cells(cells: Vec<BoundCell>, shutdown: &CancellationToken, tasks: &mut Parts) {
    for BoundCell { agent, app } in cells {
        let name = app.name.clone();
        let (for_agent, for_app) = (shutdown.clone(), shutdown.clone());
        let called = name.clone();
        tasks.spawn(async move {
            agent.run(prometheus::Registry::new(), for_agent).await.with_context(|| format!("agent of {called}"))
        });
        tasks.spawn(async move { cellway_demo::run(app, for_app).await.with_context(|| format!("app of {name}")) });
    }
}

/// Starts the router.
pub(super) fn spawn_router(router: Router, store: Arc<dyn Store>, shutdown: &CancellationToken, tasks: &mut Parts) {
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let feed = FeedSource::Store(store);
        router.run(feed, prometheus::Registry::new(), shutdown).await.context("router")
    });
}

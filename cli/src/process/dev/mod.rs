//! `cellway dev`: the whole system on one machine in one process, to try and to develop against.

mod greeting;
mod layout;
mod parts;
mod seed;
mod trust;

use super::{logging, signals};
use crate::output::{self, Failure};
use anyhow::Context;
use cellway_api::Client;
use cellway_core::hostname::Hostname;
use clap::Args;
use layout::Layout;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trust::Trust;

/// The most cells of `dev`: the ports are laid out for this many.
const CELLS_MAX: i64 = 10;

/// The most tenants that `dev` creates by itself.
const TENANTS_MAX: i64 = 10_000;

/// How long everything is given to stop.
const STOP_MS: u64 = 10_000;

/// Run the whole system on this machine: control plane, router, cells with agents and a demo app.
///
/// Everything is in one process and on loopback; the state is kept in --dir, so that the next start goes on where this
/// one ended. Ports, from --port-base on: +0 the router (browsers), +1 the same over HTTPS, +2 the API, +3 the router's
/// metrics, +10 and up the cells' gates, +20 the apps, +30 the agents' transfers, +40 the agents' metrics.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  cellway dev                          three cells, a dozen tenants; open http://acme.cells.localhost:8080
  cellway dev --cells 5 --tenants 100  more of both
  cellway dev --fresh                  forget the state of earlier runs
  cellway dev --etcd http://127.0.0.1:2379   the same on a real etcd")]
pub(crate) struct DevArgs {
    /// How many cells.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=CELLS_MAX))]
    pub(super) cells: u16,
    /// How many tenants there should be at least.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(0..=TENANTS_MAX))]
    tenants: u16,
    /// Where the state is kept.
    #[arg(long, default_value = ".cellway/dev")]
    dir: PathBuf,
    /// Wipe the state of earlier runs first.
    #[arg(long)]
    fresh: bool,
    /// Tenants are one label below this domain. Browsers take any name below `localhost` for this machine.
    #[arg(long, default_value = "cells.localhost", value_parser = |text: &str| Hostname::from_text(text))]
    base_domain: Hostname,
    /// The first port.
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    port_base: u16,
    /// Give every hop TLS and every part an identity, as between machines: routers to gates, agents and commands to
    /// the API, agents to each other. Browsers have HTTPS in any case.
    #[arg(long)]
    mutual_tls: bool,
    /// Keep intent in this etcd instead of the embedded store.
    #[arg(long, value_name = "URL")]
    etcd: Option<String>,
    /// Break a rule on purpose, to see `cellway soak` find it.
    #[cfg(feature = "test-faults")]
    #[arg(long = "break", value_enum)]
    break_rule: Option<BrokenRule>,
}

/// The rules that a test build can break.
#[cfg(feature = "test-faults")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BrokenRule {
    /// Gates acknowledge fences without closing or draining.
    IgnoreFences,
    /// The router answers a refused request instead of sending it again.
    LoseReplay,
    /// Gates admit whatever names their cell, held or not.
    OpenAtOnce,
}

/// Runs `cellway dev`.
pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    logging::start("warn").map_err(Failure::start_up)?;
    let shutdown = signals::shutdown().map_err(Failure::start_up)?;
    let started = start(&args, &shutdown).await;
    let (layout, trust, mut tasks) = match started {
        Ok(started) => started,
        Err(_) if shutdown.is_cancelled() => return Ok(()),
        Err(error) => return Err(Failure::start_up(error)),
    };
    output::talk(&greeting::text(&args.base_domain, &layout, &trust));
    let ended = wait(&mut tasks, &shutdown).await;
    drop(layout);
    ended.map_err(Failure::Command)
}

/// Starts all parts, in the order in which they need each other, and returns when every one is ready.
async fn start(args: &DevArgs, shutdown: &CancellationToken) -> anyhow::Result<(Layout, Trust, Parts)> {
    let layout = Layout::open(args.dir.clone(), args.fresh, args.port_base, args.cells)?;
    let trust = Trust::prepare(&layout, &args.base_domain, args.mutual_tls)?;
    let bound = parts::bind(args, &layout, &trust)?;
    let store = parts::open_store(args, &layout).await?;
    let mut tasks = Parts::new();
    parts::spawn_control_plane(bound.control_plane, store.clone(), shutdown, &mut tasks);
    let operator = trust.operator()?;
    let client = match operator.clone() {
        Some(tls) => Client::with_tls(&trust.api(&layout), tls)?,
        None => Client::new(&trust.api(&layout))?,
    };
    let ready = async {
        seed::wait_ready(&client, operator).await?;
        seed::cells(&client, &layout).await?;
        parts::spawn_cells(bound.cells, shutdown, &mut tasks);
        seed::wait_registered(&client, args.cells).await?;
        seed::tenants(&client, args.tenants, &layout).await?;
        parts::spawn_router(bound.router, store, shutdown, &mut tasks);
        seed::wait_ready_at(&format!("http://{}", layout.router_admin()), None).await
    };
    tokio::select! {
        outcome = ready => outcome?,
        () = shutdown.cancelled() => anyhow::bail!("stopped while starting"),
    }
    if let Some(ended) = tasks.try_join_next() {
        ended.context("a part panicked")?.context("a part ended at its start")?;
    }
    Ok((layout, trust, tasks))
}

/// The running parts. Each ends only at shutdown or with an error.
type Parts = JoinSet<anyhow::Result<()>>;

async fn wait(tasks: &mut Parts, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let first = tokio::select! {
        Some(ended) = tasks.join_next() => ended.context("a part panicked").and_then(|outcome| outcome),
        () = shutdown.cancelled() => Ok(()),
    };
    let asked = shutdown.is_cancelled();
    if !asked {
        shutdown.cancel();
    }
    let stopping = async {
        while let Some(ended) = tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::warn!(error = format!("{error:#}"), "a part did not stop cleanly");
            }
        }
    };
    if tokio::time::timeout(Duration::from_millis(STOP_MS), stopping).await.is_err() {
        tracing::warn!("not everything stopped within {STOP_MS} ms");
    }
    match first {
        Ok(()) if !asked => anyhow::bail!("a part ended by itself; the log says why"),
        outcome => outcome,
    }
}

/// An address of this machine.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

//! Starts a router from its configuration file, and has it take over the file anew at each SIGHUP.

use super::config::{self, FeedFile, IdentityFields, NamingFile, RouterFile};
use super::logging::{self, LogLevel};
use super::{roles, signals};
use crate::commands::router::{self, RouterCommand};
use crate::output::Failure;
use anyhow::Context;
use cellway_api::identity::Identity;
use cellway_router::{FeedSource, HoldLimits, Reload, Router, RouterConfig};
use clap::Args;
use std::path::{Path, PathBuf};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};

/// What is logged unless the file or the environment says.
const LOG_DEFAULT: &str = "info";

/// Routers run, or are asked how they are.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct RouterArgs {
    #[command(subcommand)]
    command: Option<RouterCommand>,
    /// The role's configuration. A commented example is `config/router.yaml`. SIGHUP has it read again.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
}

/// Runs `cellway router` and what is below it.
pub(crate) async fn run(args: RouterArgs) -> Result<(), Failure> {
    match args.command {
        Some(command) => router::run(command).await,
        None => serve(&args.config.context("--config is missing").map_err(Failure::start_up)?).await,
    }
}

async fn serve(path: &Path) -> Result<(), Failure> {
    let file: RouterFile = config::load(path).map_err(Failure::start_up)?;
    let level = logging::start(file.log.as_ref().map_or(LOG_DEFAULT, |log| &log.0)).map_err(Failure::start_up)?;
    let shutdown = signals::shutdown().map_err(Failure::start_up)?;
    let hangups = signals::hangups().map_err(Failure::start_up)?;
    let fixed = Fixed::of(&file);
    let source = match &fixed.feed {
        FeedFile::File(path) => FeedSource::File(path.clone()),
        FeedFile::Etcd(fields) => FeedSource::Store(roles::etcd(fields).await.map_err(Failure::start_up)?),
    };
    let config = config_of(file).map_err(Failure::start_up)?;
    let router = Router::open(config).await.map_err(Failure::start_up)?;
    let https = router.https_addr().map(tracing::field::display);
    tracing::info!(address = %router.local_addr(), https, "the router listens");
    let (reloads, taken) = mpsc::channel(1);
    let reloader = Reloader { path: path.to_owned(), fixed, level, reloads };
    tokio::spawn(reloader.run(hangups));
    router.run_with(source, prometheus::Registry::new(), taken, shutdown).await.map_err(Failure::Command)
}

fn config_of(file: RouterFile) -> anyhow::Result<RouterConfig> {
    let https = file.listen_tls.zip(file.tls.clone()).map(|(listen, tls)| tls.https(listen.0));
    let identity = file.identity.clone().map(|files| files.load(&Identity::Router)).transpose()?;
    let domains = file.domains();
    let handover = file.handover();
    let defaults = RouterConfig::new(domains.base);
    let hold = HoldLimits::default();
    let mut serve = file.connections.options(file.proxy_protocol.as_ref(), defaults.serve.clone());
    serve.drain_ms = file.drain_ms.unwrap_or(serve.drain_ms);
    Ok(RouterConfig {
        listen: file.listen.0,
        allow_clear: file.allow_clear,
        https,
        identity,
        admin: file.admin.0,
        threads: file.threads.map_or(defaults.threads, |threads| usize::from(threads.get())),
        reserved_labels: domains.reserved,
        forwarding: file.forwarding(),
        naming: file.tenant_from.map_or_else(Default::default, NamingFile::naming),
        cookies: file.cookies.into(),
        origin: file.origin.map(|origin| origin.0),
        handover,
        snapshot_path: Some(file.snapshot),
        hold: HoldLimits {
            per_tenant: file.hold.per_tenant_requests.unwrap_or(hold.per_tenant),
            per_router: file.hold.per_router_requests.unwrap_or(hold.per_router),
            patience_ms: file.hold.patience_ms.unwrap_or(hold.patience_ms),
        },
        requests_in_flight_max: file
            .overload
            .requests_in_flight_max
            .map_or(defaults.requests_in_flight_max, std::num::NonZeroU64::get),
        serve,
        time_limits: file.time_limits.limits(),
        retry_idempotent: file.retry_idempotent,
        drain_delay_ms: file.drain_delay_ms.unwrap_or(defaults.drain_delay_ms),
        access_log: file.access_log.map(|log| log.config()),
        mass_drop: file.mass_drop.limits(),
        ..defaults
    })
}

/// What stays as it was at the start, beside what the router itself refuses to change.
struct Fixed {
    feed: FeedFile,
    identity: Option<IdentityFields>,
}

impl Fixed {
    fn of(file: &RouterFile) -> Self {
        Self { feed: file.feed.clone(), identity: file.identity.clone() }
    }

    fn check(&self, file: &RouterFile) -> anyhow::Result<()> {
        let changed = [("feed", self.feed != file.feed), ("identity", self.identity != file.identity)];
        match changed.into_iter().find(|(_, changed)| *changed) {
            Some((key, _)) => anyhow::bail!("`{key}` cannot change while the router runs; restart it"),
            None => Ok(()),
        }
    }
}

/// Reads the file again and again.
struct Reloader {
    path: PathBuf,
    fixed: Fixed,
    level: LogLevel,
    reloads: mpsc::Sender<Reload>,
}

impl Reloader {
    async fn run(self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            let read = self.read();
            let log = read.as_ref().ok().and_then(|file| file.log.clone());
            let (answer, answered) = oneshot::channel();
            let config = read.and_then(config_of).map_err(|error| format!("{error:#}"));
            if self.reloads.send(Reload { config, answer }).await.is_err() {
                return;
            }
            // The router has logged why, where it refused.
            if let Ok(Ok(())) = answered.await
                && let Err(error) = self.level.set(log.as_ref().map_or(LOG_DEFAULT, |log| &log.0))
            {
                tracing::error!(%error, "what is logged stays as it was");
            }
        }
    }

    fn read(&self) -> anyhow::Result<RouterFile> {
        let file: RouterFile = config::load(&self.path).context("the configuration cannot be used")?;
        self.fixed.check(&file)?;
        Ok(file)
    }
}

//! Starts one role from its configuration file, as a process of its own.

use super::config::{self, AgentFile, AppFile, ControlPlaneFile, EtcdFields, StoreFile};
use super::{logging, signals};
use crate::output::Failure;
use anyhow::Context;
use cellway_api::identity::Identity;
use cellway_api::sealing::{SealingSecrets, SecretFiles};
use cellway_cell_agent::{Agent, AgentConfig, CommandConfig, DriverConfig};
use cellway_control_plane::{ControlPlane, ControlPlaneConfig};
use cellway_demo::{DemoConfig, Listen};
use cellway_store::{EmbeddedStore, EtcdConfig, EtcdStore, Store};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "test-faults")]
pub(super) const STALL_VARIABLE: &str = "CELLWAY_TEST_STALL_FILE";
#[cfg(feature = "test-faults")]
const CRASH_VARIABLE: &str = "CELLWAY_TEST_CRASH_FILE";

/// What every role is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleArgs {
    /// The role's configuration. Commented examples are in `config/`; `cellway config check FILE` checks one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Agents run, or leave their cell for good.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// The role's configuration. A commented example is `config/agent.yaml`.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum AgentCommand {
    /// Unregister a stopped agent and erase its identity; its disk then belongs to no cell.
    ///
    /// The agent must not run, and its cell must own no tenant whose data only this agent has.
    Leave(RoleArgs),
}

/// Reads the file, sets logging and signals up. Errors up to here, and those of starting, are exit code 2.
fn prepare<T: config::RoleFile>(file: &Path) -> Result<(T, CancellationToken), Failure> {
    let loaded = config::load(file).map_err(Failure::start_up)?;
    logging::start("info").map_err(Failure::start_up)?;
    let shutdown = signals::shutdown().map_err(Failure::start_up)?;
    Ok((loaded, shutdown))
}

/// Runs `cellway control-plane`.
pub(crate) async fn control_plane(args: RoleArgs) -> Result<(), Failure> {
    let (file, shutdown) = prepare::<ControlPlaneFile>(&args.config)?;
    let domains = file.domains();
    let identity = file.identity.clone().map(|files| files.load(&Identity::ControlPlane));
    let secrets = file.certificates.clone().map(SecretFiles::from);
    if let Some(files) = &secrets {
        // Read again at each use; here only so that a mistake is told at the start.
        SealingSecrets::from_files(files).map_err(Failure::start_up)?;
    }
    let config = ControlPlaneConfig {
        domains,
        advertise: file.advertise.as_ref().map(|api| api.0.clone()),
        identity: identity.transpose().map_err(Failure::start_up)?,
        certificate_secrets: secrets,
        move_limits: file.move_limits(),
        move_budgets: file.move_budgets(),
        sole_writer: matches!(file.store, StoreFile::Embedded(_)),
        #[cfg(feature = "test-faults")]
        stall_file: std::env::var_os(STALL_VARIABLE).map(PathBuf::from),
        #[cfg(feature = "test-faults")]
        crash_file: std::env::var_os(CRASH_VARIABLE).map(PathBuf::from),
        ..ControlPlaneConfig::new(file.listen.0, Vec::new())
    };
    let plane = ControlPlane::bind(config).map_err(Failure::start_up)?;
    let store = match file.store {
        StoreFile::Embedded(dir) => embedded(dir).await,
        StoreFile::Etcd(fields) => etcd(&fields).await,
    };
    let store = store.map_err(Failure::start_up)?;
    plane.run(store, prometheus::Registry::new(), shutdown).await.map_err(Failure::Command)
}

/// Runs `cellway agent` and `cellway agent leave`.
pub(crate) async fn agent(args: AgentArgs) -> Result<(), Failure> {
    if let Some(AgentCommand::Leave(args)) = args.command {
        let (file, _) = prepare::<AgentFile>(&args.config)?;
        let config = agent_config(file).map_err(Failure::start_up)?;
        return cellway_cell_agent::leave(&config).await.map_err(Failure::Command);
    }
    let path = args.config.context("--config is missing").map_err(Failure::start_up)?;
    let (file, shutdown) = prepare::<AgentFile>(&path)?;
    let agent = agent_config(file).and_then(Agent::bind).map_err(Failure::start_up)?;
    agent.run(prometheus::Registry::new(), shutdown).await.map_err(Failure::Command)
}

fn agent_config(file: AgentFile) -> anyhow::Result<AgentConfig> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let identity = file.identity.map(|files| files.load(&Identity::Cell(file.cell.0.clone()))).transpose()?;
    Ok(AgentConfig {
        cell: file.cell.0,
        control_plane: file.control_plane.into_iter().map(|api| api.0).collect(),
        gate_listen: file.gate.0,
        transfer_listen: file.transfer.0,
        admin_listen: file.admin.0,
        gate_threads: file.threads.map_or(cores, |threads| usize::from(threads.get())),
        app: file.app.address.0,
        data_dir: file.data_dir,
        driver: match file.driver {
            config::DriverFile::None => DriverConfig::None,
            config::DriverFile::Sqlite(fields) => DriverConfig::Sqlite { live_dir: fields.live_dir },
            config::DriverFile::Command(fields) => {
                let config::CommandFields { program, step_ms, stall_ms } = fields;
                DriverConfig::Command(CommandConfig { program, step_ms, stall_ms })
            }
            config::DriverFile::Postgres(fields) => DriverConfig::Postgres(fields.into_config()),
        },
        longest_request_ms: file.app.longest_request_ms,
        advertise_gate: file.advertise_gate.map(|address| address.0.to_string()),
        advertise_transfer: file.advertise_transfer.map(|address| address.0.to_string()),
        identity,
        #[cfg(feature = "test-faults")]
        faults: cellway_cell_agent::Faults::default(),
    })
}

/// Runs `cellway app`.
pub(crate) async fn app(args: RoleArgs) -> Result<(), Failure> {
    let (file, shutdown) = prepare::<AppFile>(&args.config)?;
    std::fs::create_dir_all(&file.data_dir)
        .with_context(|| format!("{} cannot be made", file.data_dir.display()))
        .map_err(Failure::start_up)?;
    let config = DemoConfig {
        name: file.name,
        version: file.version,
        data_dir: file.data_dir,
        listen: Listen::Address(file.listen.0),
        max_request_ms: file.longest_request_ms,
    };
    cellway_demo::run(config, shutdown).await.map_err(Failure::Command)
}

/// The embedded store, opened off the runtime.
pub(super) async fn embedded(dir: PathBuf) -> anyhow::Result<Arc<dyn Store>> {
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&dir)).await;
    Ok(Arc::new(opened.context("opening the store panicked")?.context("the store cannot be opened")?))
}

/// etcd; it need not be up yet.
pub(super) async fn etcd(fields: &EtcdFields) -> anyhow::Result<Arc<dyn Store>> {
    let mut config = EtcdConfig::new(fields.endpoints.iter().cloned());
    if let Some(prefix) = &fields.prefix {
        config.prefix = prefix.clone();
    }
    Ok(Arc::new(EtcdStore::connect(config).await.context("etcd cannot be used")?))
}

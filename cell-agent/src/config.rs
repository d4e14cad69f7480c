//! What an agent has to know before it starts.

use cellway_api::identity::{Identity, LiveIdentity};
use cellway_core::cell::MoverDriver;
use cellway_core::ids::CellName;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the agent is, whom it talks to, and what stands behind it.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The cell that this agent is of.
    pub cell: CellName,
    /// Base URLs of the control plane's API, tried in turn.
    pub control_plane: Vec<String>,
    /// Where routers reach the gate.
    pub gate_listen: SocketAddr,
    /// Where other agents fetch the data of a tenant that moves.
    pub transfer_listen: SocketAddr,
    /// Where metrics, `healthz` and `readyz` are served.
    pub admin_listen: SocketAddr,
    /// How many threads serve the gate.
    pub gate_threads: usize,
    /// The app.
    pub app: SocketAddr,
    /// The agent's own disk: identity, fences, homes.
    pub data_dir: PathBuf,
    /// How tenants' data is kept, and so how it is moved.
    pub driver: DriverConfig,
    /// No ordinary request runs longer in the app: the app's own limit.
    pub longest_request_ms: u64,
    /// What to call the gate towards routers, `host:port`, where it is not the address it listens on.
    pub advertise_gate: Option<String>,
    /// What to call the transfer endpoint towards other agents, where it is not the address it listens on.
    pub advertise_transfer: Option<String>,
    /// Who the agent is: with it, gate, transfers and control plane are reached over TLS by identities of the same CA;
    /// without it in clear, and only on this machine.
    pub identity: Option<Arc<LiveIdentity>>,
    /// What is broken on purpose.
    #[cfg(feature = "test-faults")]
    pub faults: Faults,
}

/// The longest limit of an app on its requests: as long as a connection to it is kept for a request that nobody waits
/// for any more.
pub(crate) const LONGEST_REQUEST_MAX_MS: u64 = cellway_proxy::pool::ABANDONED_MS;

/// How tenants' data is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverConfig {
    /// There is none in the cell, or all cells share it.
    None,
    /// One SQLite file per tenant.
    Sqlite {
        /// Where the app finds `{tenant}.db`.
        live_dir: PathBuf,
    },
    /// Whatever a program of the user moves.
    Command(CommandConfig),
    /// A Postgres schema per tenant.
    Postgres(PostgresConfig),
}

/// The default of [`CommandConfig::step_ms`].
pub const COMMAND_STEP_MS: u64 = 30_000;

/// The default of [`CommandConfig::stall_ms`].
pub const COMMAND_STALL_MS: u64 = 60_000;

/// The program that moves tenants' data, and what it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandConfig {
    /// The program, called with the step as its one argument.
    pub program: PathBuf,
    /// The longest step.
    pub step_ms: u64,
    /// How long `copy`, `sync` and `reverse`, which may take as long as they like, may say nothing.
    pub stall_ms: u64,
}

/// Stands for the tenant's id in [`PostgresConfig::schema`] and [`PostgresConfig::role`].
pub const POSTGRES_TENANT: &str = "{tenant}";

/// The default of [`PostgresConfig::slot_wait_ms`].
pub const POSTGRES_SLOT_WAIT_MS: u64 = 20_000;

/// The default of [`PostgresConfig::dead_after_ms`].
pub const POSTGRES_DEAD_AFTER_MS: u64 = 600_000;

/// The default of [`PostgresConfig::copy_jobs`].
pub const POSTGRES_COPY_JOBS: usize = 2;

/// Tenants' schemas in Postgres, and how the servers are reached. The same at all agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// What a tenant's schema is called, in every cell: with [`POSTGRES_TENANT`] in it.
    pub schema: String,
    /// The role that the app writes a tenant's schema with: with [`POSTGRES_TENANT`] in it.
    pub role: String,
    /// Where `psql`, `pg_dump` and `pg_restore` are, if not on the `PATH`.
    pub bin_dir: Option<PathBuf>,
    /// What is compared before a move is committed.
    pub verify: PostgresVerify,
    /// Tables copied, and indexes built, at a time.
    pub copy_jobs: usize,
    /// How long a replication slot may wait for the transactions of its server, before the move is given up.
    pub slot_wait_ms: u64,
    /// How long nobody may have ordered anything of a move before what it left in the servers is removed.
    pub dead_after_ms: u64,
    /// The server of each cell.
    pub servers: BTreeMap<CellName, PostgresServer>,
}

/// What is compared between the two copies after the fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PostgresVerify {
    /// Nothing but the shape of the schema.
    None,
    /// How many rows each table has.
    Counts,
    /// Counts, and a checksum over each table's rows.
    Checksums,
}

/// How the agents, and the other servers, reach the server of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresServer {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database that has the tenants' schemas.
    pub database: String,
    /// Who the mover is there.
    pub user: String,
    /// A file with the password, read at each connection.
    pub password_file: Option<PathBuf>,
    /// The certificates that vouch for the server: with them the connection has TLS and the name is checked.
    pub ca_file: Option<PathBuf>,
    /// A file with a libpq connection string by which *other servers* reach this one, where it is not as above.
    pub replication_file: Option<PathBuf>,
}

impl DriverConfig {
    /// The driver's name.
    pub fn kind(&self) -> MoverDriver {
        match self {
            Self::None => MoverDriver::None,
            Self::Sqlite { .. } => MoverDriver::Sqlite,
            Self::Command(_) => MoverDriver::Command,
            Self::Postgres(_) => MoverDriver::Postgres,
        }
    }
}

/// What is broken on purpose, to prove that the checker finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Fences of gate and data are acknowledged, but nothing is closed, drained or locked.
    pub ignore_fences: bool,
    /// Every request of a tenant whose placement names this cell is admitted, and its data is never fenced.
    pub open_at_once: bool,
}

impl AgentConfig {
    /// The faults asked for: none, unless the build has them.
    pub(crate) fn faults(&self) -> Faults {
        #[cfg(feature = "test-faults")]
        return self.faults;
        #[cfg(not(feature = "test-faults"))]
        Faults::default()
    }

    /// Without an identity nothing may be reached from, or reach, another machine.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        // These have no TLS in any case: the app is behind the gate, the admin pages are this machine's.
        let in_clear = [("admin_listen", self.admin_listen), ("app", self.app)];
        let by_identity = [("gate_listen", self.gate_listen), ("transfer_listen", self.transfer_listen)];
        let by_identity = by_identity.iter().filter(|_| self.identity.is_none());
        for (name, address) in in_clear.iter().chain(by_identity) {
            if !address.ip().is_loopback() {
                return Err(ConfigError::NotLoopback { name, address: address.to_string() });
            }
        }
        if self.control_plane.is_empty() {
            return Err(ConfigError::NoControlPlane);
        }
        if !(1..=LONGEST_REQUEST_MAX_MS).contains(&self.longest_request_ms) {
            return Err(ConfigError::LongestRequest { longest_request_ms: self.longest_request_ms });
        }
        if let Some(base) = self.control_plane.iter().find(|base| !may_reach(base, self.identity.is_some())) {
            return Err(match self.identity {
                None => ConfigError::NotLoopback { name: "control_plane", address: base.clone() },
                Some(_) => ConfigError::InClear { base: base.clone() },
            });
        }
        match self.identity.as_ref().map(|identity| identity.identity()) {
            Some(is) if is != Identity::Cell(self.cell.clone()) => {
                Err(ConfigError::OtherIdentity { is, cell: self.cell.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Whether the URL may be spoken to: over TLS with an identity, else in clear on this machine.
pub(crate) fn may_reach(base: &str, has_identity: bool) -> bool {
    if has_identity { base.starts_with("https://") } else { is_loopback_url(base) }
}

/// Whether `base` is an `http` URL of this machine.
fn is_loopback_url(base: &str) -> bool {
    let Some(rest) = base.strip_prefix("http://") else {
        return false;
    };
    is_loopback_endpoint(rest.split('/').next().unwrap_or(rest))
}

/// Whether `host:port` is on this machine.
pub(crate) fn is_loopback_endpoint(endpoint: &str) -> bool {
    match endpoint.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => endpoint.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The address is not on this machine.
    #[error(
        "{name} is {address}, but without TLS only loopback addresses (127.0.0.1, ::1) are allowed: see `identity`"
    )]
    NotLoopback {
        /// The setting.
        name: &'static str,
        /// Its value.
        address: String,
    },
    /// An agent with an identity shows it.
    #[error("control_plane is {base}, but an agent with an identity speaks https")]
    InClear {
        /// The URL.
        base: String,
    },
    /// The certificate is somebody else's.
    #[error(
        "the certificate is of {is}, but this is an agent of {cell}: issue one with `cellway ca issue cell {cell}`"
    )]
    OtherIdentity {
        /// Who it is.
        is: Identity,
        /// The cell of the configuration.
        cell: CellName,
    },
    /// The app's limit is none.
    #[error("longest_request_ms is {longest_request_ms}, allowed are 1 to {LONGEST_REQUEST_MAX_MS} (an hour)")]
    LongestRequest {
        /// What was given.
        longest_request_ms: u64,
    },
    /// No control plane was named.
    #[error("control_plane is empty: name at least one base URL, as in http://127.0.0.1:8082")]
    NoControlPlane,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_reached_without_tls() {
        for near in ["http://127.0.0.1:8082", "http://[::1]:80/", "http://localhost:8082"] {
            assert!(is_loopback_url(near), "{near}");
        }
        for far in
            ["http://10.0.0.1:80", "https://127.0.0.1:80", "http://example.com:80", "http://localhost.example:80"]
        {
            assert!(!is_loopback_url(far), "{far}");
        }
    }
}

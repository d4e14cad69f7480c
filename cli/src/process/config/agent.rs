//! The agent's file.

use super::fields::{Address, ApiField, CellField, IdentityFields, Loopback};
use super::postgres::PostgresFields;
use super::{Role, RoleFile};
use cellway_cell_agent::{COMMAND_STALL_MS, COMMAND_STEP_MS};
use serde::Deserialize;
use std::path::PathBuf;

/// See `config/agent.yaml`, which is commented.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentFile {
    role: Role,
    pub(crate) cell: CellField,
    pub(crate) control_plane: Vec<ApiField>,
    pub(crate) gate: Address,
    pub(crate) transfer: Address,
    pub(crate) admin: Loopback,
    #[serde(default)]
    pub(crate) threads: Option<std::num::NonZeroU16>,
    pub(crate) data_dir: PathBuf,
    pub(crate) app: AppFields,
    pub(crate) driver: DriverFile,
    #[serde(default)]
    pub(crate) identity: Option<IdentityFields>,
    #[serde(default)]
    pub(crate) advertise_gate: Option<Address>,
    #[serde(default)]
    pub(crate) advertise_transfer: Option<Address>,
}

/// The app behind the gate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppFields {
    pub(crate) address: Loopback,
    pub(crate) longest_request_ms: u64,
}

/// How tenants' data is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DriverFile {
    /// There is none in the cell.
    None,
    /// One SQLite file per tenant.
    Sqlite(SqliteFields),
    /// What a program of the user moves.
    Command(CommandFields),
    /// A Postgres schema per tenant.
    Postgres(Box<PostgresFields>),
}

/// The program, and what it may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandFields {
    pub(crate) program: PathBuf,
    #[serde(default = "step_ms")]
    pub(crate) step_ms: u64,
    #[serde(default = "stall_ms")]
    pub(crate) stall_ms: u64,
}

impl CommandFields {
    fn check(&self) -> Result<(), String> {
        if !self.program.is_absolute() {
            let program = self.program.display();
            return Err(format!("driver: command: program: {program} is not an absolute path"));
        }
        for (key, limit_ms) in [("step_ms", self.step_ms), ("stall_ms", self.stall_ms)] {
            if limit_ms == 0 {
                return Err(format!("driver: command: {key}: 0 would leave no time for anything"));
            }
        }
        Ok(())
    }
}

fn step_ms() -> u64 {
    COMMAND_STEP_MS
}

fn stall_ms() -> u64 {
    COMMAND_STALL_MS
}

/// Where the app's files are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqliteFields {
    pub(crate) live_dir: PathBuf,
}

impl RoleFile for AgentFile {
    const ROLE: Role = Role::Agent;
    fn role(&self) -> Role {
        self.role
    }

    fn check(&self) -> Result<(), String> {
        for (key, address, advertised) in
            [("gate", self.gate, &self.advertise_gate), ("transfer", self.transfer, &self.advertise_transfer)]
        {
            if address.0.ip().is_unspecified() && advertised.is_none() {
                return Err(format!("{key}: {}: say in `advertise_{key}` how it is reached", address.0));
            }
        }
        if let DriverFile::Command(command) = &self.driver {
            command.check()?;
        }
        if let DriverFile::Postgres(postgres) = &self.driver {
            postgres.check(&self.cell)?;
        }
        if self.identity.is_some() {
            let in_clear = self.control_plane.iter().find(|api| !api.0.starts_with("https://"));
            return in_clear.map_or(Ok(()), |api| {
                Err(format!("control_plane: {}: an agent with an identity speaks https", api.0))
            });
        }
        self.gate.need_loopback("gate", "`identity`")?;
        self.transfer.need_loopback("transfer", "`identity`")?;
        match self.control_plane.iter().find(|api| api.0.starts_with("https://")) {
            Some(api) => {
                Err(format!("control_plane: {}: https needs `identity`, which shows who this agent is", api.0))
            }
            None => Ok(()),
        }
    }
}

//! The agent's file.

use super::fields::{ApiField, CellField, Loopback};
use super::{Role, RoleFile};
use serde::Deserialize;
use std::path::PathBuf;

/// See `config/agent.yaml`, which is commented.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentFile {
    role: Role,
    pub(crate) cell: CellField,
    pub(crate) control_plane: Vec<ApiField>,
    pub(crate) gate: Loopback,
    pub(crate) transfer: Loopback,
    pub(crate) admin: Loopback,
    #[serde(default)]
    pub(crate) threads: Option<std::num::NonZeroU16>,
    pub(crate) data_dir: PathBuf,
    pub(crate) app: AppFields,
    pub(crate) driver: DriverFile,
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
}

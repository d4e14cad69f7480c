//! The demo app's file.

use super::fields::Loopback;
use super::{Role, RoleFile};
use serde::Deserialize;
use std::path::PathBuf;

/// See `config/app.yaml`, which is commented.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppFile {
    role: Role,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) listen: Loopback,
    pub(crate) data_dir: PathBuf,
    pub(crate) longest_request_ms: u64,
}

impl RoleFile for AppFile {
    const ROLE: Role = Role::App;
    fn role(&self) -> Role {
        self.role
    }
}

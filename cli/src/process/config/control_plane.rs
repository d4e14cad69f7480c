//! The control plane's file.

use super::fields::{
    Address, ApiField, DomainFields, EtcdFields, HostField, IdentityFields, SecretFields, reserved_labels,
};
use super::{Role, RoleFile};
use cellway_core::fleet::MoveBudgets;
use cellway_core::freeze_window::{FREEZE_WINDOWS_MAX, FreezeWindow, FreezeWindows, InvalidWindow};
use cellway_core::tenant_move::MoveLimits;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// See `config/control-plane.yaml`, which is commented.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ControlPlaneFile {
    role: Role,
    pub(crate) listen: Address,
    #[serde(default)]
    pub(crate) advertise: Option<ApiField>,
    #[serde(default)]
    pub(crate) identity: Option<IdentityFields>,
    #[serde(default)]
    pub(crate) certificates: Option<SecretFields>,
    base_domains: Vec<HostField>,
    #[serde(default = "reserved_labels")]
    reserved_labels: BTreeSet<String>,
    pub(crate) store: StoreFile,
    #[serde(default)]
    moves: MovesFile,
}

/// Where intent is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreFile {
    /// In a directory of this machine, by this process alone.
    Embedded(PathBuf),
    /// In etcd.
    Etcd(EtcdFields),
}

/// When a tenant may be frozen that has no windows of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct WindowField(FreezeWindow);

impl TryFrom<String> for WindowField {
    type Error = InvalidWindow;

    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        text.parse().map(Self)
    }
}

/// Budgets and deadlines of moves; what is left out has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct MovesFile {
    per_source: Option<usize>,
    per_target: Option<usize>,
    fleet: Option<usize>,
    #[serde(default)]
    freeze_windows: Vec<WindowField>,
    syncing_ms: Option<u64>,
    closing_ms: Option<u64>,
    drain_ms: Option<u64>,
    holding_ms: Option<u64>,
    bake_ms: Option<u64>,
    retention_ms: Option<u64>,
    drop_ms: Option<u64>,
}

impl ControlPlaneFile {
    pub(crate) fn domains(&self) -> cellway_core::route::Domains {
        DomainFields { base: self.base_domains.clone(), reserved: self.reserved_labels.clone() }.domains()
    }

    pub(crate) fn move_budgets(&self) -> MoveBudgets {
        let defaults = MoveBudgets::default();
        MoveBudgets {
            per_source: self.moves.per_source.unwrap_or(defaults.per_source),
            per_target: self.moves.per_target.unwrap_or(defaults.per_target),
            fleet: self.moves.fleet.unwrap_or(defaults.fleet),
        }
    }

    pub(crate) fn move_limits(&self) -> MoveLimits {
        let defaults = MoveLimits::default();
        MoveLimits {
            freeze_windows: FreezeWindows::of(self.moves.freeze_windows.iter().map(|window| window.0)),
            syncing_ms: self.moves.syncing_ms.unwrap_or(defaults.syncing_ms),
            closing_ms: self.moves.closing_ms.unwrap_or(defaults.closing_ms),
            drain_ms: self.moves.drain_ms.unwrap_or(defaults.drain_ms),
            holding_ms: self.moves.holding_ms.unwrap_or(defaults.holding_ms),
            bake_ms: self.moves.bake_ms.unwrap_or(defaults.bake_ms),
            retention_ms: self.moves.retention_ms.unwrap_or(defaults.retention_ms),
            drop_ms: self.moves.drop_ms.unwrap_or(defaults.drop_ms),
            ..defaults
        }
    }
}

impl RoleFile for ControlPlaneFile {
    const ROLE: Role = Role::ControlPlane;
    fn role(&self) -> Role {
        self.role
    }

    fn check(&self) -> Result<(), String> {
        if self.moves.freeze_windows.len() > FREEZE_WINDOWS_MAX {
            return Err(format!("moves: freeze_windows: at most {FREEZE_WINDOWS_MAX}"));
        }
        if self.identity.is_some() {
            return match &self.advertise {
                Some(api) if !api.0.starts_with("https://") => {
                    Err(format!("advertise: {}: with `identity` the API speaks https", api.0))
                }
                None if self.listen.0.ip().is_unspecified() => {
                    Err(format!("listen: {}: say in `advertise` how agents reach this replica", self.listen.0))
                }
                _ => Ok(()),
            };
        }
        self.listen.need_loopback("listen", "`identity`")
    }
}

//! The router's file.

use super::fields::{Address, DomainFields, EtcdFields, HostField, IdentityFields, Loopback, reserved_labels};
use super::{Role, RoleFile, TlsFile};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// See `config/router.yaml`, which is commented.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouterFile {
    role: Role,
    pub(crate) listen: Address,
    #[serde(default)]
    pub(crate) allow_clear: bool,
    #[serde(default)]
    pub(crate) listen_tls: Option<Address>,
    #[serde(default)]
    pub(crate) tls: Option<TlsFile>,
    #[serde(default)]
    pub(crate) identity: Option<IdentityFields>,
    pub(crate) admin: Loopback,
    #[serde(default)]
    pub(crate) threads: Option<std::num::NonZeroU16>,
    base_domains: Vec<HostField>,
    #[serde(default = "reserved_labels")]
    reserved_labels: BTreeSet<String>,
    #[serde(default)]
    pub(crate) origin: Option<Loopback>,
    pub(crate) snapshot: PathBuf,
    pub(crate) feed: FeedFile,
    #[serde(default)]
    pub(crate) hold: HoldFile,
}

/// Where a router learns routes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FeedFile {
    /// From etcd.
    Etcd(EtcdFields),
    /// From a watched file of JSON lines.
    File(PathBuf),
}

/// Bounds of held requests; what is left out has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldFile {
    pub(crate) patience_ms: Option<u64>,
    pub(crate) per_tenant_requests: Option<usize>,
    pub(crate) per_router_requests: Option<usize>,
}

impl RouterFile {
    pub(crate) fn domains(&self) -> cellway_core::route::Domains {
        DomainFields { base: self.base_domains.clone(), reserved: self.reserved_labels.clone() }.domains()
    }
}

impl RoleFile for RouterFile {
    const ROLE: Role = Role::Router;
    fn role(&self) -> Role {
        self.role
    }

    fn check(&self) -> Result<(), String> {
        let redirects = self.tls.as_ref().is_some_and(|tls| tls.redirect);
        if self.listen_tls.is_some() != self.tls.is_some() {
            return Err("`listen_tls` and `tls` belong together: where HTTPS is served, and with what".into());
        }
        if self.allow_clear || redirects {
            return Ok(());
        }
        self.listen.need_loopback("listen", "`tls` with `redirect: true`, or `allow_clear: true`,")
    }
}

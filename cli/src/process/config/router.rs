//! The router's file.

use super::clients::{self, CookiesFile, NamingFile, TrustedFieldFile};
use super::exchanges::{ConnectionsFile, ProxyProtocolFile, TimeLimitsFile};
use super::fields::{
    Address, DomainFields, EtcdFields, HostField, IdentityFields, Loopback, NetworkField, reserved_labels,
};
use super::operation::{AccessLogFile, LogField, MassDropFile};
use super::{Role, RoleFile, TlsFile};
use cellway_router::HandoverConfig;
use cellway_router::handover::PATH_MAX_BYTES;
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
    pub(crate) tenant_from: Option<NamingFile>,
    #[serde(default)]
    trusted_proxies: Vec<NetworkField>,
    #[serde(default)]
    trusted_field: TrustedFieldFile,
    #[serde(default = "yes")]
    x_forwarded: bool,
    #[serde(default)]
    pub(crate) cookies: CookiesFile,
    #[serde(default)]
    pub(crate) origin: Option<Loopback>,
    pub(crate) snapshot: PathBuf,
    #[serde(default)]
    handover: Option<PathBuf>,
    #[serde(default)]
    handover_ready_ms: Option<u64>,
    #[serde(default)]
    handover_delay_ms: Option<u64>,
    pub(crate) feed: FeedFile,
    #[serde(default)]
    pub(crate) hold: HoldFile,
    #[serde(default)]
    pub(crate) overload: OverloadFile,
    #[serde(default)]
    pub(crate) proxy_protocol: Option<ProxyProtocolFile>,
    #[serde(default)]
    pub(crate) connections: ConnectionsFile,
    #[serde(default)]
    pub(crate) time_limits: TimeLimitsFile,
    #[serde(default)]
    pub(crate) retry_idempotent: bool,
    #[serde(default)]
    pub(crate) drain_ms: Option<u64>,
    #[serde(default)]
    pub(crate) drain_delay_ms: Option<u64>,
    #[serde(default)]
    pub(crate) access_log: Option<AccessLogFile>,
    #[serde(default)]
    pub(crate) mass_drop: MassDropFile,
    #[serde(default)]
    pub(crate) log: Option<LogField>,
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

/// What a router takes at once; what is left out has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OverloadFile {
    pub(crate) requests_in_flight_max: Option<std::num::NonZeroU64>,
}

impl RouterFile {
    pub(crate) fn forwarding(&self) -> cellway_router::Forwarding {
        clients::forwarding(&self.trusted_proxies, self.trusted_field, self.x_forwarded)
    }

    /// How it is replaced; kept connections may be idle for as long as at any other time, unless that is said.
    pub(crate) fn handover(&self) -> Option<HandoverConfig> {
        let mut handover = HandoverConfig::new(self.handover.clone()?);
        handover.ready_ms = self.handover_ready_ms.unwrap_or(handover.ready_ms);
        let head_ms = self.connections.head_ms.map(std::num::NonZeroU64::get);
        handover.delay_ms = self.handover_delay_ms.or(head_ms).unwrap_or(handover.delay_ms);
        Some(handover)
    }

    /// Refuses a path that the kernel would not take, or that depends on where the router was started.
    fn check_handover(&self) -> Result<(), String> {
        let Some(path) = &self.handover else {
            let lonely = self.handover_ready_ms.or(self.handover_delay_ms).is_some();
            return if lonely {
                Err("`handover_ready_ms` and `handover_delay_ms` need `handover`".into())
            } else {
                Ok(())
            };
        };
        let length = path.as_os_str().len();
        if !path.is_absolute() || length > PATH_MAX_BYTES {
            return Err(format!(
                "`handover` is an absolute path of at most {PATH_MAX_BYTES} bytes, not {} ({length} bytes)",
                path.display()
            ));
        }
        Ok(())
    }

    pub(crate) fn domains(&self) -> cellway_core::route::Domains {
        DomainFields { base: self.base_domains.clone(), reserved: self.reserved_labels.clone() }.domains()
    }
}

fn yes() -> bool {
    true
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
        self.check_handover()?;
        if self.allow_clear || redirects {
            return Ok(());
        }
        self.listen.need_loopback("listen", "`tls` with `redirect: true`, or `allow_clear: true`,")
    }
}

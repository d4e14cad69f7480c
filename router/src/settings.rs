//! What of a router's configuration can change while it runs: one immutable value, replaced as a whole.
//!
//! A request reads it once, at its beginning, and keeps what it read to its end.

use std::net::SocketAddr;
use std::sync::Arc;

use cellway_core::route::Domains;
use cellway_proxy::{Forwarding, ServeOptions};

use crate::RouterConfig;
use crate::access_log::{AccessLog, AccessLogConfig, LogCounters, LogTarget};
use crate::cookie_policy::CookiePolicy;
use crate::feed::guard::MassDropLimits;
use crate::hold::HoldLimits;
use crate::resolve::TenantNaming;
use crate::under_way::UnderWay;

pub(crate) struct Settings {
    pub(crate) domains: Domains,
    pub(crate) naming: TenantNaming,
    pub(crate) forwarding: Forwarding,
    pub(crate) cookies: CookiePolicy,
    pub(crate) origin: Option<SocketAddr>,
    pub(crate) hold: HoldLimits,
    pub(crate) drain_delay_ms: u64,
    pub(crate) mass_drop: MassDropLimits,
    pub(crate) access_log: Option<AccessLog>,
    /// Not a setting: what requests count themselves in, over all settings.
    pub(crate) under_way: Arc<UnderWay>,
}

/// Why a configuration is not taken over. The one before stays, all of it.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// It changes what only a restart can.
    #[error("`{key}` cannot change while the router runs: it is {is}, the new configuration says {wanted}; restart it")]
    Fixed {
        /// The key.
        key: &'static str,
        /// Its value.
        is: String,
        /// Its new value.
        wanted: String,
    },
    /// The access log cannot be opened.
    #[error("{} cannot be opened as access log", .target)]
    AccessLog {
        /// Where lines should go.
        target: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// The keys that stay as they were at the start, each with its value as it is shown.
pub(crate) struct Fixed(Vec<(&'static str, String)>);

impl Settings {
    /// The settings of a configuration. `before` are those in force: a log whose target stays is kept.
    pub(crate) fn of(config: RouterConfig, before: Option<&Self>, counters: &LogCounters) -> Result<Self, ReloadError> {
        let open = before.and_then(|settings| settings.access_log.as_ref());
        let under_way = || Arc::new(UnderWay::new(config.requests_in_flight_max));
        Ok(Self {
            domains: Domains { base: config.base_domains, reserved: config.reserved_labels },
            naming: config.naming,
            forwarding: config.forwarding,
            cookies: config.cookies,
            origin: config.origin,
            hold: config.hold,
            drain_delay_ms: config.drain_delay_ms,
            mass_drop: config.mass_drop,
            access_log: config.access_log.map(|wanted| reach(wanted, open, counters)).transpose()?,
            under_way: before.map_or_else(under_way, |settings| Arc::clone(&settings.under_way)),
        })
    }
}

impl Fixed {
    pub(crate) fn of(config: &RouterConfig) -> Self {
        // Every field is named: a new one has to be put on one side or the other.
        let RouterConfig {
            listen,
            allow_clear,
            https,
            identity,
            admin,
            threads,
            base_domains: _,
            reserved_labels: _,
            naming: _,
            forwarding: _,
            cookies: _,
            origin: _,
            snapshot_path,
            handover,
            hold: _,
            requests_in_flight_max,
            replay_max_bytes,
            time_limits,
            knock_every_ms,
            retry_idempotent,
            pool,
            serve,
            drain_delay_ms: _,
            mass_drop: _,
            access_log: _,
            #[cfg(feature = "test-faults")]
                faults: _,
        } = config;
        let snapshot = snapshot_path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
        Self(vec![
            ("listen", listen.to_string()),
            ("allow_clear", allow_clear.to_string()),
            ("tls", format!("{https:?}")),
            ("identity", if identity.is_some() { "given" } else { "none" }.to_owned()),
            ("admin", admin.to_string()),
            ("threads", threads.to_string()),
            ("snapshot", snapshot),
            ("handover", handover.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
            ("replay_max_bytes", replay_max_bytes.to_string()),
            ("requests_in_flight_max", requests_in_flight_max.to_string()),
            ("time_limits", format!("{time_limits:?}")),
            ("knock_every_ms", format!("{knock_every_ms:?}")),
            ("retry_idempotent", retry_idempotent.to_string()),
            ("pool", format!("{pool:?}")),
            ("drain_ms", serve.drain_ms.to_string()),
            ("serve", format!("{:?}", ServeOptions { tls: None, ..serve.clone() })),
        ])
    }

    /// Whether another configuration leaves these keys alone.
    pub(crate) fn check(&self, wanted: &Self) -> Result<(), ReloadError> {
        let changed = self.0.iter().zip(&wanted.0).find(|(is, wanted)| is != wanted);
        changed.map_or(Ok(()), |((key, is), (_, wanted))| {
            Err(ReloadError::Fixed { key, is: is.clone(), wanted: wanted.clone() })
        })
    }
}

fn reach(wanted: AccessLogConfig, open: Option<&AccessLog>, counters: &LogCounters) -> Result<AccessLog, ReloadError> {
    let target = match &wanted.target {
        LogTarget::Stdout => "stdout".to_owned(),
        LogTarget::File(path) => path.display().to_string(),
    };
    let opened = match open {
        Some(log) => log.configured(wanted),
        None => AccessLog::open(wanted, counters.clone()),
    };
    opened.map_err(|source| ReloadError::AccessLog { target, source })
}

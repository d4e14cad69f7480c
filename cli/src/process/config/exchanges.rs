//! How a router's connections and its exchanges with cells are bounded.

use super::clients::networks;
use super::fields::NetworkField;
use cellway_proxy::ServeOptions;
use cellway_proxy::proxy_protocol::ProxyProtocol;
use cellway_router::TimeLimits;
use serde::Deserialize;
use std::num::{NonZeroU64, NonZeroUsize};

/// Demands the PROXY protocol on the listeners of browsers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProxyProtocolFile {
    trusted: Vec<NetworkField>,
}

/// Bounds of clients' connections; what is left out has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionsFile {
    per_address: Option<NonZeroUsize>,
    per_thread: Option<NonZeroUsize>,
    opening_ms: Option<NonZeroU64>,
    pub(super) head_ms: Option<NonZeroU64>,
    idle_ms: Option<NonZeroU64>,
    age_ms: Option<NonZeroU64>,
}

/// How long exchanges with cells may take; what is left out has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeLimitsFile {
    answer_ms: Option<NonZeroU64>,
    stall_ms: Option<NonZeroU64>,
    total_ms: Option<NonZeroU64>,
}

impl ConnectionsFile {
    pub(crate) fn options(&self, proxy_protocol: Option<&ProxyProtocolFile>, base: ServeOptions) -> ServeOptions {
        let ms = |given: Option<NonZeroU64>, default| given.map_or(default, NonZeroU64::get);
        ServeOptions {
            connections_per_address: self.per_address.map_or(base.connections_per_address, NonZeroUsize::get),
            connections_per_thread: self.per_thread.map_or(base.connections_per_thread, NonZeroUsize::get),
            opening_ms: ms(self.opening_ms, base.opening_ms),
            head_timeout_ms: ms(self.head_ms, base.head_timeout_ms),
            idle_ms: ms(self.idle_ms, base.idle_ms),
            age_ms: ms(self.age_ms, base.age_ms),
            proxy_protocol: proxy_protocol.map(|file| ProxyProtocol { trusted: networks(&file.trusted) }),
            ..base
        }
    }
}

impl TimeLimitsFile {
    pub(crate) fn limits(&self) -> TimeLimits {
        let (ms, base) =
            (|given: Option<NonZeroU64>, default| given.map_or(default, NonZeroU64::get), TimeLimits::default());
        TimeLimits {
            answer_ms: ms(self.answer_ms, base.answer_ms),
            stall_ms: ms(self.stall_ms, base.stall_ms),
            total_ms: ms(self.total_ms, base.total_ms),
        }
    }
}

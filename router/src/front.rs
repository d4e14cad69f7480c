//! Where browsers reach a router: over TLS, in clear, or in clear only to be sent to TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use cellway_proxy::Listeners;
use prometheus::Registry;
use rustls::ClientConfig;

use crate::RouterConfig;
use crate::handover::taking::Passed;
use crate::https_policy::{Hsts, HttpsPolicy};
use crate::tls::{FrontTls, TlsConfig};
use cellway_api::identity::Servers;

/// How a router serves HTTPS.
#[derive(Debug, Clone)]
pub struct HttpsConfig {
    /// Where. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// The port that browsers reach it at, where it is not the one it listens on.
    pub public_port: Option<u16>,
    /// Certificates and the rest of TLS.
    pub tls: TlsConfig,
    /// The listener in clear sends browsers here instead of serving them.
    pub redirect: bool,
    /// What browsers are told to remember.
    pub hsts: Option<Hsts>,
}

/// The HTTPS side of a router, its port open and its certificates read.
pub(crate) struct Front {
    pub(crate) listeners: Listeners,
    pub(crate) tls: FrontTls,
    policy: HttpsPolicy,
}

impl Front {
    pub(crate) fn bind(config: &HttpsConfig, threads: usize, passed: &mut Passed) -> anyhow::Result<Self> {
        let tls = FrontTls::open(&config.tls)?;
        let listeners = passed
            .listeners(config.listen, threads)
            .with_context(|| format!("cannot listen on {} (HTTPS)", config.listen))?;
        let port = config.public_port.unwrap_or(listeners.local_addr().port());
        let policy = HttpsPolicy::new(config.redirect.then_some(port), config.hsts);
        Ok(Self { listeners, tls, policy })
    }

    pub(crate) fn policy(front: Option<&Self>) -> HttpsPolicy {
        front.map(|front| front.policy.clone()).unwrap_or_default()
    }
}

/// Refuses what would serve tenants in clear where others can listen, unless that is said to be wanted.
pub(crate) fn check(config: &RouterConfig) -> anyhow::Result<()> {
    let only_redirects = config.https.as_ref().is_some_and(|https| https.redirect);
    ensure!(
        config.listen.ip().is_loopback() || config.allow_clear || only_redirects,
        "the router's listen address {} is not a loopback address and would serve tenants in clear: serve HTTPS and let \
         it redirect there, or say `allow_clear: true` where a TLS terminator on another machine is in front",
        config.listen
    );
    ensure!(
        config.admin.ip().is_loopback(),
        "the router's admin address {} is not a loopback address, and it has no TLS",
        config.admin
    );
    Ok(())
}

/// How gates are reached: over TLS as a router, if the router has an identity.
pub(crate) fn towards_gates(config: &RouterConfig) -> Option<Arc<ClientConfig>> {
    config.identity.as_ref().map(|identity| Arc::new(identity.client_config(Servers::Named)))
}

/// Keeps the router's own identity fresh, for ever, and shows how long it is still good for.
pub(crate) fn watch_identity(
    config: &RouterConfig,
    registry: &Registry,
) -> prometheus::Result<impl Future<Output = ()> + Send + 'static> {
    let help = "How long this process's own certificate is still good for.";
    let left = prometheus::IntGauge::new("cellway_identity_expiry_seconds", help)?;
    let identity = config.identity.clone();
    if identity.is_some() {
        registry.register(Box::new(left.clone()))?;
    }
    Ok(async move {
        if let Some(identity) = identity {
            identity.keep_fresh(move |seconds| left.set(seconds)).await;
        }
    })
}

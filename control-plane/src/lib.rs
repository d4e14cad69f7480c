//! The control plane: the API, the leader's loops, and the streams to the agents.
//!
//! Every replica follows the store into a [`view::View`], answers the API and hears the agents' facts; the one that
//! leads also starts moves and expires deadlines. Nothing is decided here that `cellway-core` can decide, and nothing
//! is written but by compare-and-swap, so a replica that is behind, or wrongly thinks that it leads, changes nothing.

mod advance;
mod clock;
mod config;
#[cfg(feature = "test-faults")]
mod crash;
mod heard;
mod http;
mod loops;
mod metrics;
mod operate;
mod view;

pub use config::ControlPlaneConfig;

use crate::advance::Mover;
use anyhow::Context;
use cellway_api::identity::Servers;
use cellway_api::plan::Surveyor;
use cellway_machine::Bound;
use cellway_store::Store;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What all parts of one replica share.
pub(crate) struct Replica {
    pub(crate) config: ControlPlaneConfig,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) view: view::SharedView,
    pub(crate) heard: heard::Heard,
    pub(crate) leading: loops::leader::Leading,
    pub(crate) metrics: metrics::Metrics,
    /// Who gives a place in a cell, one after the other.
    pub(crate) turns: operate::Turns,
    /// Asks agents what runs in their cells.
    pub(crate) surveyor: Surveyor,
    pub(crate) id: String,
}

impl Replica {
    pub(crate) fn mover(&self) -> Mover<'_> {
        Mover {
            store: &*self.store,
            view: &self.view,
            metrics: &self.metrics,
            #[cfg(feature = "test-faults")]
            config: &self.config,
        }
    }
}

/// A control plane whose listener is bound, so that its address is known before it runs.
pub struct ControlPlane {
    config: ControlPlaneConfig,
    listener: Bound,
}

impl ControlPlane {
    /// Binds the API's listener. Without an identity it refuses anything but loopback.
    pub fn bind(config: ControlPlaneConfig) -> anyhow::Result<Self> {
        let listen = config.listen;
        anyhow::ensure!(
            config.identity.is_some() || listen.ip().is_loopback(),
            "without an identity the API is served in clear, so only on loopback: {listen} is refused"
        );
        let listener = Bound::new(listen).with_context(|| format!("cannot listen on {listen}"))?;
        Ok(Self { config, listener })
    }

    /// Where the API answers.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("the listener has no address")
    }

    /// Runs until `shutdown`, on a multi-thread runtime.
    pub async fn run(
        self,
        store: Arc<dyn Store>,
        registry: prometheus::Registry,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let address = self.local_addr()?;
        #[cfg(feature = "test-faults")]
        let store = match self.config.crash_file.clone() {
            Some(file) => crash::crashing(store, file),
            None => store,
        };
        let replica = Arc::new(Replica {
            view: view::SharedView::default(),
            heard: heard::Heard::default(),
            leading: loops::leader::Leading::default(),
            metrics: metrics::Metrics::new(&registry)?,
            surveyor: surveyor(&self.config)?,
            turns: operate::Turns::default(),
            id: clock::token(),
            config: self.config,
            store,
        });
        let identity = replica.config.identity.clone();
        let scheme = if identity.is_some() { "https" } else { "http" };
        let advertised = replica.config.advertise.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(loops::follow::run(replica.clone(), shutdown.clone()));
        tasks.spawn(loops::leader::run(replica.clone(), advertised, shutdown.clone()));
        tasks.spawn(loops::mover::run(replica.clone(), shutdown.clone()));
        tasks.spawn(loops::janitor::run(replica.clone(), shutdown.clone()));
        if let Some(identity) = identity.clone() {
            let fresh = shutdown.clone().run_until_cancelled_owned(metrics::watch_identity(&registry, identity)?);
            tasks.spawn(async move {
                let _ = fresh.await;
            });
        }
        let served = http::serve(replica, registry, self.listener, identity, shutdown.clone()).await;
        shutdown.cancel();
        while tasks.join_next().await.is_some() {}
        served
    }
}

fn surveyor(config: &ControlPlaneConfig) -> anyhow::Result<Surveyor> {
    let tls = config.identity.as_ref().map(|identity| identity.client_config(Servers::Cells));
    Surveyor::new(tls).context("no HTTP client towards the agents can be made")
}

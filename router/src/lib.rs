//! The router: the reverse proxy that browsers reach. It follows the placements, and never decides.
//!
//! Read `forward.rs` first: the life of a request. `table.rs` is what the router knows, `feed/` how it learns,
//! `snapshot.rs` what it starts from when nobody can be asked, `hold.rs` what waits while a tenant moves.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context;
use cellway_api::identity::LiveIdentity;
use cellway_core::hostname::Hostname;
use cellway_core::route::{Domains, RESERVED_LABELS};
use cellway_proxy::serve::ServeError;
use cellway_proxy::{Handler, Listeners, Pool, PoolLimits, ServeOptions, ThreadContext, serve};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

mod admin;
mod errand;
mod failure;
pub mod feed;
mod forward;
mod front;
pub mod hold;
pub mod https_policy;
mod metrics;
mod shared;
pub mod snapshot;
pub mod table;
pub mod tls;
mod upload;

pub use errand::REQUEST_ID_MAX_BYTES;
pub use feed::{FeedEvent, FeedSource};
pub use forward::{ANSWER_MS, STALL_MS};
pub use front::HttpsConfig;
pub use hold::HoldLimits;
pub use upload::{KEPT_MAX_BYTES, READ_MS, REPLAY_MAX_BYTES};

use admin::Admin;
use forward::Forwarder;
use front::Front;
use hold::Holds;
use https_policy::HttpsPolicy;
use metrics::Metrics;
use shared::Shared;
use table::Table;
use upload::ReplayBudget;

/// How a router runs.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// Where browsers reach it in clear. Port 0 takes any free one. Only loopback, unless it does nothing but redirect
    /// to HTTPS, or `allow_clear` says otherwise.
    pub listen: SocketAddr,
    /// Tenants may be served in clear beyond this machine: a TLS terminator elsewhere is in front.
    pub allow_clear: bool,
    /// How browsers reach it over HTTPS.
    pub https: Option<HttpsConfig>,
    /// Who the router is: with it, gates are reached over TLS; without it in clear.
    pub identity: Option<Arc<LiveIdentity>>,
    /// Where `/metrics`, `/healthz` and `/readyz` are. Only loopback.
    pub admin: SocketAddr,
    /// Threads that serve requests.
    pub threads: usize,
    /// Tenants are one label below one of these.
    pub base_domains: Vec<Hostname>,
    /// Labels that are never tenants.
    pub reserved_labels: BTreeSet<String>,
    /// Where the bare base domains and the reserved labels go. Without it they are unknown hosts.
    pub origin: Option<SocketAddr>,
    /// Where the last known routes are kept. Without it, a router cannot start when its source is away.
    pub snapshot_path: Option<PathBuf>,
    /// How much is held, and how long.
    pub hold: HoldLimits,
    /// How much is kept of bodies that may have to be sent again.
    pub replay_max_bytes: usize,
    /// How long an ordinary exchange may stand still, once it is under way.
    pub stall_ms: u64,
    /// Bounds of connections to cells.
    pub pool: PoolLimits,
    /// Bounds of connections of clients.
    pub serve: ServeOptions,
    /// What to do wrong.
    #[cfg(feature = "test-faults")]
    pub faults: Faults,
}

/// Faults that tests switch on, to prove that they would be found.
#[cfg(feature = "test-faults")]
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Instead of sending a refused POST again, answer it with 200.
    pub lose_replay: bool,
}

impl RouterConfig {
    /// A router of these base domains with the default bounds, on any free loopback ports, with one thread per core.
    pub fn new(base_domains: Vec<Hostname>) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: anywhere,
            allow_clear: false,
            https: None,
            identity: None,
            admin: anywhere,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            base_domains,
            reserved_labels: RESERVED_LABELS.map(str::to_owned).into(),
            origin: None,
            snapshot_path: None,
            hold: HoldLimits::default(),
            replay_max_bytes: REPLAY_MAX_BYTES,
            stall_ms: STALL_MS,
            pool: PoolLimits::default(),
            // Not bounded per address: on loopback, behind a TLS terminator, all clients have the same one.
            serve: ServeOptions::default(),
            #[cfg(feature = "test-faults")]
            faults: Faults::default(),
        }
    }
}

/// A router whose ports are open and which does not serve yet.
pub struct Router {
    config: RouterConfig,
    data: Listeners,
    front: Option<Front>,
    admin: Listeners,
}

/// Binds and serves: [`Router::bind`], then [`Router::run`].
pub async fn run(
    config: RouterConfig,
    feed: FeedSource,
    registry: Registry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    Router::bind(config)?.run(feed, registry, shutdown).await
}

impl Router {
    /// Opens the ports.
    pub fn bind(config: RouterConfig) -> anyhow::Result<Self> {
        front::check(&config)?;
        let open = |what: &str, address: SocketAddr, threads: usize| {
            cellway_proxy::bind(address, threads).with_context(|| format!("cannot listen on {address} ({what})"))
        };
        let data = open("listen", config.listen, config.threads.max(1))?;
        let front = config.https.as_ref().map(|https| Front::bind(https, config.threads.max(1))).transpose()?;
        let admin = open("admin", config.admin, 1)?;
        Ok(Self { config, data, front, admin })
    }

    /// Where it serves.
    pub fn local_addr(&self) -> SocketAddr {
        self.data.local_addr()
    }

    /// Where it serves HTTPS.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.front.as_ref().map(|front| front.listeners.local_addr())
    }

    /// Where its metrics are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// Serves until `shutdown` fires and the connections are drained. Metrics are registered with `registry`, which
    /// the admin listener shows.
    pub async fn run(self, feed: FeedSource, registry: Registry, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { config, data, front, admin } = self;
        let gates = front::towards_gates(&config);
        let policy = Front::policy(front.as_ref());
        let own_identity = front::watch_identity(&config, &registry).context("cannot register a metric")?;
        let limits = config.pool;
        let options = ServeOptions { unread_ms: Some(config.stall_ms), ..config.serve.clone() };
        let for_admins = ServeOptions { tls: None, ..options.clone() };
        let shared = Arc::new(share(config, policy, &registry)?);
        let path = shared.snapshot_path.clone();
        if let Some(path) = path {
            let loading = Arc::clone(&shared);
            tokio::task::spawn_blocking(move || load_snapshot(&loading, &path))
                .await
                .context("loading the snapshot")?;
        }
        let stop_feed = CancellationToken::new();
        let _stop_on_drop = stop_feed.clone().drop_guard();
        let feed = tokio::spawn(feed::follow(feed, Arc::clone(&shared), stop_feed.clone()));

        let registry_of_https = registry.clone();
        let for_admin = Arc::clone(&shared);
        let admin = serve(admin, for_admins, shutdown.clone(), move |_| {
            Rc::new(Admin { shared: Arc::clone(&for_admin), registry: registry.clone() })
        });
        let make = move |thread| {
            let pool = Pool::with_tls(limits, gates.clone());
            Rc::new(Forwarder { shared: Arc::clone(&shared), pool, thread })
        };
        let (fresh, https) = serve_https(front, options.clone(), &registry_of_https, shutdown.clone(), make.clone())?;
        let chores =
            tokio::spawn(stop_feed.clone().run_until_cancelled_owned(async { tokio::join!(own_identity, fresh) }));
        let data = serve(data, options, shutdown, make);
        tokio::try_join!(data, https, admin)?;
        stop_feed.cancel();
        chores.await.context("the task that looks after certificates has died")?;
        feed.await.context("the task that follows the feed has died")
    }
}

/// The HTTPS side: what keeps its certificates fresh, and what serves.
fn serve_https<H: Handler, F: Fn(ThreadContext) -> Rc<H> + Send + Sync + 'static>(
    front: Option<Front>,
    options: ServeOptions,
    registry: &Registry,
    shutdown: CancellationToken,
    make: F,
) -> anyhow::Result<(
    impl Future<Output = ()> + Send + use<H, F>,
    impl Future<Output = Result<(), ServeError>> + Send + use<H, F>,
)> {
    let (tls, served) = match front {
        None => (None, None),
        Some(Front { listeners, tls, .. }) => {
            tls.register(registry).context("cannot register the metrics of TLS")?;
            let options = ServeOptions { tls: Some(tls.server()), ..options };
            (Some(tls), Some(serve(listeners, options, shutdown, make)))
        }
    };
    let fresh = async {
        if let Some(tls) = tls {
            tls.keep_fresh().await;
        }
    };
    let served = async {
        match served {
            Some(served) => served.await,
            None => Ok(()),
        }
    };
    Ok((fresh, served))
}

fn share(config: RouterConfig, https: HttpsPolicy, registry: &Registry) -> anyhow::Result<Shared> {
    let metrics = Arc::new(Metrics::new(registry).context("cannot register the router's metrics")?);
    let table = Arc::new(Table::default());
    let runtime = tokio::runtime::Handle::current();
    Ok(Shared {
        holds: Arc::new(Holds::new(Arc::clone(&table), Arc::clone(&metrics), config.hold, runtime)),
        replay: Arc::new(ReplayBudget::new(config.replay_max_bytes, metrics.replay_bytes.clone())),
        table,
        metrics,
        domains: Domains { base: config.base_domains, reserved: config.reserved_labels },
        origin: config.origin,
        https,
        gates_have_tls: config.identity.is_some(),
        stall_ms: config.stall_ms,
        snapshot_path: config.snapshot_path,
        #[cfg(feature = "test-faults")]
        faults: config.faults,
        state: shared::FeedState::default(),
    })
}

fn load_snapshot(shared: &Shared, path: &std::path::Path) {
    let (snapshot, refused) = snapshot::load(path);
    for (path, reason) in refused {
        tracing::error!(path = %path.display(), %reason, "a snapshot of the routes is not used");
    }
    if let Some(snapshot) = snapshot {
        let entries = snapshot.contents.len();
        for change in snapshot.contents {
            shared.table.apply(change);
        }
        shared.set_revision(snapshot.revision);
        shared.set_loaded_from_snapshot();
        tracing::info!(entries, revision = snapshot.revision.0, "serving from the snapshot until the source answers");
    }
}

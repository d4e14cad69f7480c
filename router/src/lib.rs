//! The router: the reverse proxy that browsers reach. It follows the placements, and never decides.
//!
//! Read `forward.rs` first: the life of a request. `table.rs` is what the router knows, `feed/` how it learns,
//! `snapshot.rs` what it starts from when nobody can be asked, `hold.rs` what waits while a tenant moves, `handover/` how
//! one process takes the place of another.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use arc_swap::ArcSwap;
use cellway_api::identity::LiveIdentity;
use cellway_core::hostname::Hostname;
use cellway_core::route::RESERVED_LABELS;
use cellway_proxy::serve::ServeError;
use cellway_proxy::{Copies, Handler, Listeners, Pool, PoolLimits, ServeOptions, ThreadContext, Timers, files, serve};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub mod access_log;
mod admin;
mod cookie_policy;
pub mod drain;
mod errand;
mod exchange;
mod failure;
pub mod feed;
mod forward;
mod front;
pub mod handover;
mod health;
pub mod hold;
pub mod https_policy;
mod journey;
mod limits;
mod metrics;
mod reload;
mod resolve;
mod retry;
mod settings;
mod shared;
pub mod snapshot;
mod status;
pub mod table;
pub mod tls;
mod under_way;
mod upload;

pub use access_log::{AccessLogConfig, LogTarget};
pub use cellway_proxy::{Forwarding, TrustedField};
pub use cookie_policy::CookiePolicy;
pub use errand::REQUEST_ID_MAX_BYTES;
pub use feed::guard::MassDropLimits;
pub use feed::{FeedEvent, FeedSource};
pub use forward::{ANSWER_MS, STALL_MS, TOTAL_MS};
pub use front::HttpsConfig;
pub use handover::HandoverConfig;
pub use health::KNOCK_EVERY_MS;
pub use hold::HoldLimits;
pub use metrics::COUNTED_CELLS_MAX;
pub use reload::Reload;
pub use resolve::{InvalidNamingHeader, NamingHeader, TenantNaming};
pub use settings::ReloadError;
pub use status::Status;
pub use under_way::REQUESTS_IN_FLIGHT_MAX;
pub use upload::{KEPT_MAX_BYTES, REPLAY_MAX_BYTES};

use admin::Admin;
use forward::Forwarder;
use front::Front;
use handover::taking::Passed;
use handover::{Life, Office};
use health::Health;
use hold::Holds;
use metrics::Metrics;
use retry::RetryBudget;
use settings::Settings;
use shared::Shared;
use snapshot::certificates::SavedCertificates;
use snapshot::{BadSnapshot, Loaded};
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
    /// Who may name a tenant otherwise than by its host.
    pub naming: TenantNaming,
    /// Which proxies in front are believed about their clients, and how cells are told.
    pub forwarding: Forwarding,
    /// What becomes of cookies that go beyond a tenant's own hosts.
    pub cookies: CookiePolicy,
    /// Where the bare base domains and the reserved labels go. Without it they are unknown hosts.
    pub origin: Option<SocketAddr>,
    /// Where the last known routes are kept. Without it, a router cannot start when its source is away.
    pub snapshot_path: Option<PathBuf>,
    /// Where a router that starts takes the listeners of the one that runs. Without it, one ends before the other begins.
    pub handover: Option<HandoverConfig>,
    /// How much is held, and how long.
    pub hold: HoldLimits,
    /// How many requests may be in flight: sent or held, their answer not begun. In the upper half, tenants with more
    /// than their part are shed.
    pub requests_in_flight_max: u64,
    /// How much is kept of bodies that may have to be sent again.
    pub replay_max_bytes: usize,
    /// How long exchanges with cells may take.
    pub time_limits: TimeLimits,
    /// How often each endpoint of a cell is knocked at, to know which are away; never without it.
    pub knock_every_ms: Option<u64>,
    /// Whether a request that may be repeated by HTTP's own rules is sent once more when its cell breaks off before it
    /// answers: at most a tenth of all requests.
    pub retry_idempotent: bool,
    /// Bounds of connections to cells.
    pub pool: PoolLimits,
    /// Bounds of connections of clients.
    pub serve: ServeOptions,
    /// How long new connections are taken after the shutdown began, while `/readyz` tells load balancers to stop
    /// sending any. After that, connections have [`ServeOptions::drain_ms`] to end.
    pub drain_delay_ms: u64,
    /// How many tenants a listing of routes may drop without an operator's word.
    pub mass_drop: MassDropLimits,
    /// What is logged of requests; nothing, unless asked for.
    pub access_log: Option<AccessLogConfig>,
    /// What to do wrong.
    #[cfg(feature = "test-faults")]
    pub faults: Faults,
}

/// How long exchanges with cells may take.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimits {
    /// How long a cell may take to begin its answer, from the last byte of the request that moved.
    pub answer_ms: u64,
    /// How long an ordinary exchange may stand still, once it is under way.
    pub stall_ms: u64,
    /// How long an ordinary exchange may take altogether, from the attempt that was admitted. Tunnels and event streams
    /// have no limit.
    pub total_ms: u64,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { answer_ms: ANSWER_MS, stall_ms: STALL_MS, total_ms: TOTAL_MS }
    }
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
            naming: TenantNaming::default(),
            forwarding: Forwarding::default(),
            cookies: CookiePolicy::default(),
            origin: None,
            snapshot_path: None,
            handover: None,
            hold: HoldLimits::default(),
            requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX,
            replay_max_bytes: REPLAY_MAX_BYTES,
            time_limits: TimeLimits::default(),
            knock_every_ms: Some(KNOCK_EVERY_MS),
            retry_idempotent: false,
            pool: PoolLimits::default(),
            // Not bounded per address: on loopback, behind a TLS terminator, all clients have the same one.
            serve: ServeOptions::default(),
            drain_delay_ms: 0,
            mass_drop: MassDropLimits::default(),
            access_log: None,
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
    office: Option<Office>,
}

/// Binds and serves: [`Router::open`], then [`Router::run`].
pub async fn run(
    config: RouterConfig,
    feed: FeedSource,
    registry: Registry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    Router::open(config).await?.run(feed, registry, shutdown).await
}

impl Router {
    /// Opens the ports; nobody's listeners are taken, and this router hands over to nobody.
    pub fn bind(config: RouterConfig) -> anyhow::Result<Self> {
        Self::bind_with(config, &mut Passed::default())
    }

    /// Takes the listeners of the router that runs, if there is one and `handover` is given, and opens what else is
    /// needed. That router goes on until this one serves.
    pub async fn open(config: RouterConfig) -> anyhow::Result<Self> {
        front::check(&config)?;
        let Some(handover) = &config.handover else { return Self::bind(config) };
        let (mut office, mut passed) = Office::open(handover).await?;
        let mut router = Self::bind_with(config, &mut passed)?;
        office.has_bound(passed);
        router.office = Some(office);
        Ok(router)
    }

    fn bind_with(config: RouterConfig, passed: &mut Passed) -> anyhow::Result<Self> {
        front::check(&config)?;
        let threads = config.threads.max(1);
        let mut open = |what: &str, address: SocketAddr, threads: usize| {
            let opened = passed.listeners(address, threads);
            opened.with_context(|| format!("cannot listen on {address} ({what})"))
        };
        let data = open("listen", config.listen, threads)?;
        let admin = open("admin", config.admin, 1)?;
        let front = config.https.as_ref().map(|https| Front::bind(https, threads, passed)).transpose()?;
        Ok(Self { config, data, front, admin, office: None })
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
        let (_, nothing) = mpsc::channel(1);
        self.run_with(feed, registry, nothing, shutdown).await
    }

    /// As [`Router::run`], and takes over the configurations that come by `reloads`.
    pub async fn run_with(
        mut self,
        feed: FeedSource,
        registry: Registry,
        reloads: mpsc::Receiver<Reload>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let own_identity = front::watch_identity(&self.config, &registry).context("cannot register a metric")?;
        let fixed = settings::Fixed::of(&self.config);
        let knock_every_ms = self.config.knock_every_ms;
        let is_first = !self.office.as_ref().is_some_and(Office::is_taking);
        let shared = Arc::new(share(self.config.clone(), self.front.as_ref(), is_first, &registry)?);
        let reloads = tokio::spawn(reload::follow(reloads, Arc::clone(&shared), fixed));
        if let Some(path) = shared.snapshot_path.clone() {
            let loading = Arc::clone(&shared);
            cellway_machine::off_thread(move || load_snapshot(&loading, &path))
                .await
                .context("loading the snapshot")?;
        }
        let stop_feed = CancellationToken::new();
        let _stop_on_drop = stop_feed.clone().drop_guard();
        let feed = tokio::spawn(feed::follow(feed, Arc::clone(&shared), stop_feed.clone()));

        if let Some(every_ms) = knock_every_ms {
            tokio::spawn(health::watch(Arc::clone(&shared), every_ms, stop_feed.clone()));
        }
        tokio::spawn(stop_feed.clone().run_until_cancelled_owned(own_identity));
        if let Some(office) = &mut self.office {
            office.until_ready(&shared, &shutdown).await?;
        }
        self.serve(Arc::clone(&shared), registry, &shutdown, &stop_feed).await?;
        reloads.abort();
        if let Some(log) = &shared.settings.load_full().access_log {
            log.finish().await;
        }
        stop_feed.cancel();
        feed.await.context("the task that follows the feed has died")
    }

    /// Serves on all listeners until the drain is over; the admin listener tells how the drain goes, so it ends last.
    async fn serve(
        self,
        shared: Arc<Shared>,
        registry: Registry,
        shutdown: &CancellationToken,
        stop_chores: &CancellationToken,
    ) -> anyhow::Result<()> {
        let copies = self.copies()?;
        let Self { config, data, front, admin, office } = self;
        let gates = front::towards_gates(&config);
        let threads = data.threads() + front.as_ref().map_or(0, |front| front.listeners.threads());
        let connections_per_thread =
            files::connections_per_thread(files::raise(), threads, config.serve.connections_per_thread);
        let unread_ms = Some(config.time_limits.stall_ms);
        let options = ServeOptions { unread_ms, connections_per_thread, ..config.serve };
        let for_admins = ServeOptions { tls: None, proxy_protocol: None, ..options.clone() };
        let drain_ms = config.serve.drain_ms;
        let life = Life { shared: Arc::clone(&shared), office, copies, threads, drain_ms };
        let (stop_data, stop_admin) = (CancellationToken::new(), CancellationToken::new());
        let registry_of_https = registry.clone();
        let for_admin = Arc::clone(&shared);
        let admin = serve(admin, for_admins, stop_admin.clone(), move |_| {
            Rc::new(Admin { shared: Arc::clone(&for_admin), registry: registry.clone() })
        });
        let (limits, for_data) = (config.pool.of_threads(threads, connections_per_thread), Arc::clone(&shared));
        let make = move |thread: ThreadContext| {
            for_data.threads.lock().push(thread.tasks.clone());
            let pool = Pool::of_thread(&thread, limits, gates.clone());
            Rc::new(Forwarder { shared: Arc::clone(&for_data), pool, thread, timers: Timers::default() })
        };
        let (fresh, https) = serve_https(front, options.clone(), &registry_of_https, stop_data.clone(), make.clone())?;
        tokio::spawn(stop_chores.clone().run_until_cancelled_owned(fresh));
        let data = serve(data, options, stop_data.clone(), make);
        let given_up = OnceLock::new();
        let living = async {
            if let Err(error) = life.run(shutdown, &stop_data).await {
                let _ = given_up.set(error);
                stop_data.cancel();
            }
            std::future::pending().await
        };
        let serving = async {
            let served = tokio::select! {
                served = async { tokio::try_join!(data, https) } => served.map(drop),
                never = living => never,
            };
            stop_admin.cancel();
            served
        };
        tokio::try_join!(serving, admin)?;
        given_up.into_inner().map_or(Ok(()), Err)
    }

    /// Handles of all listeners, where another router may ask for them.
    fn copies(&self) -> anyhow::Result<Vec<Copies>> {
        if self.office.is_none() {
            return Ok(Vec::new());
        }
        let https = self.front.as_ref().map(|front| &front.listeners);
        let all = [Some(&self.data), https, Some(&self.admin)];
        let copies = all.into_iter().flatten().map(Listeners::copies).collect::<Result<_, _>>();
        copies.context("cannot make the handles of the listeners that another router may ask for")
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

fn share(config: RouterConfig, front: Option<&Front>, is_first: bool, registry: &Registry) -> anyhow::Result<Shared> {
    let metrics = Arc::new(Metrics::new(registry).context("cannot register the router's metrics")?);
    metrics.last_reload_success.set(1);
    let table = Arc::new(Table::new(front.and_then(|front| front.tls.stored())));
    let runtime = tokio::runtime::Handle::current();
    let settings = Settings::of(config.clone(), None, &metrics.access_log)?;
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    Ok(Shared {
        holds: Arc::new(Holds::new(Arc::clone(&table), Arc::clone(&metrics), Arc::clone(&settings), runtime)),
        replay: Arc::new(ReplayBudget::new(config.replay_max_bytes, metrics.replay_bytes.clone())),
        under_way: Arc::clone(&settings.load().under_way),
        table,
        metrics,
        settings,
        https: Front::policy(front),
        gates_have_tls: config.identity.is_some(),
        health: Health::default(),
        retries: RetryBudget::new(config.retry_idempotent),
        limits: config.time_limits,
        snapshot_path: config.snapshot_path,
        #[cfg(feature = "test-faults")]
        faults: config.faults,
        state: shared::FeedState::default(),
        refused: feed::refused::Refused::default(),
        draining: AtomicBool::new(false),
        drained_at: Mutex::default(),
        predecessors: Mutex::default(),
        saving: tokio::sync::Mutex::new(is_first),
        threads: Mutex::default(),
    })
}

fn load_snapshot(shared: &Shared, path: &std::path::Path) {
    if let Some(certificates) = shared.table.certificates() {
        let (saved, refused) = SavedCertificates::open(&snapshot::of_certificates(path));
        warn_of(refused);
        certificates.start_from(saved);
    }
    let (loaded, refused) = snapshot::load(path, &shared.table);
    warn_of(refused);
    if let Some(Loaded { revision, cluster, entries }) = loaded {
        shared.set_revision(revision);
        shared.set_cluster(cluster);
        shared.set_loaded_from_snapshot();
        tracing::info!(entries, revision = revision.0, "serving from the snapshot until the source answers");
    }
}

fn warn_of(refused: Vec<(PathBuf, BadSnapshot)>) {
    for (path, reason) in refused {
        tracing::error!(path = %path.display(), %reason, "a snapshot is not used");
    }
}

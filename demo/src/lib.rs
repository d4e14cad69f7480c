//! A small multi-tenant app: one SQLite file per tenant, pages, uploads, WebSocket and SSE.
//!
//! It learns its tenant from a request header and knows nothing else of what stands in front of
//! it. An operator may replace or remove a tenant's file at any time.

mod entries;
mod live;
mod page;
mod requests;
mod store;
mod tenant_file;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::serve::ListenerExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use requests::Running;
use store::Store;

/// Requests that are still running this long after shutdown began are cut off.
const SHUTDOWN_GRACE_MS: u64 = 5_000;
/// How often files that were moved away are looked for and closed.
const SWEEP_INTERVAL_MS: u64 = 1_000;

/// Where the app accepts connections.
#[derive(Debug)]
pub enum Listen {
    /// Bind this address when the app starts.
    Address(SocketAddr),
    /// Use this socket, which is bound and listening already.
    Bound(TcpListener),
}

impl Listen {
    fn into_listener(self) -> io::Result<tokio::net::TcpListener> {
        let listener = match self {
            Self::Address(address) => TcpListener::bind(address)?,
            Self::Bound(listener) => listener,
        };
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }
}

/// Binds `address` and tells the address in fact taken, so that port 0 can be used.
///
/// Connections made from now on wait until [`run`] accepts them.
pub fn bind(address: SocketAddr) -> io::Result<(Listen, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    Ok((Listen::Bound(listener), bound))
}

/// What the app has to know.
#[derive(Debug)]
pub struct DemoConfig {
    /// Shown as the cell's name, and recorded with every entry.
    pub name: String,
    /// Shown as the app's version.
    pub version: String,
    /// Holds `{tenant}.db` for each tenant served here. The app never creates these files.
    pub data_dir: PathBuf,
    /// Where connections are accepted.
    pub listen: Listen,
    /// No request but `/ws` and `/events` runs longer, and none writes later.
    pub max_request_ms: u64,
}

/// What every request can reach.
#[derive(Clone)]
pub(crate) struct App {
    name: Arc<str>,
    version: Arc<str>,
    max_request_ms: u64,
    store: Arc<Store>,
    running: Running,
    streams: TaskTracker,
    shutdown: CancellationToken,
}

/// Serves until `shutdown` is cancelled, then lets running requests finish for up to 5 s.
///
/// Nothing is written after this has returned.
pub async fn run(config: DemoConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = config.listen.into_listener().context("cannot listen")?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let app = App {
        name: config.name.into(),
        version: config.version.into(),
        max_request_ms: config.max_request_ms,
        store: Arc::new(Store::new(config.data_dir)),
        running: Running::default(),
        streams: TaskTracker::new(),
        shutdown: shutdown.clone(),
    };
    tracing::info!(cell = %app.name, %address, "demo app serves");

    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    let serve = axum::serve(listener, routes(app.clone())).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let finished = async {
        let served = serve.await;
        app.streams.close();
        app.streams.wait().await;
        served.context("serving ended")
    };
    let outcome = tokio::select! {
        outcome = finished => outcome,
        () = grace_over(&shutdown) => {
            tracing::warn!(running = app.running.count(), "requests cut off at shutdown");
            Ok(())
        }
        never = sweep(&app.store) => match never {},
    };
    app.store.stop().await;
    outcome
}

async fn grace_over(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(Duration::from_millis(SHUTDOWN_GRACE_MS)).await;
}

async fn sweep(store: &Arc<Store>) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(Duration::from_millis(SWEEP_INTERVAL_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        store.close_replaced().await;
    }
}

fn routes(app: App) -> Router {
    let timed = Router::new()
        .merge(entries::routes())
        .merge(page::routes())
        .merge(requests::routes())
        .layer(from_fn_with_state(app.clone(), requests::timed));
    let streams = live::routes().layer(from_fn_with_state(app.clone(), requests::untimed));
    Router::new().merge(timed).merge(streams).merge(requests::operator_routes()).with_state(app)
}

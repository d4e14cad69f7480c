//! The connections to the members of a cluster: one is used at a time, the next when it fails.
//!
//! The client's own balancing goes on choosing a dead member, so each member has a client of its
//! own. Idempotent requests are retried; commits are not.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, WatchClient};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::error::StoreError;
use crate::etcd::config::EtcdConfig;
use crate::etcd::translate::from_etcd;

/// How often a read, or a request about a lease, is tried.
pub const REQUEST_ATTEMPTS_MAX: usize = 3;

/// Largest answer that is read; the client's own 4 MiB is less than a page of large records.
pub(crate) const ANSWER_MAX_BYTES: usize = 64 * 1024 * 1024;

const RETRY_FIRST_MS: u64 = 20;
const RETRY_LONGEST_MS: u64 = 500;

/// etcd closes a connection whose pings come faster than every 5 s.
const KEEP_ALIVE_MS: u64 = 10_000;
const KEEP_ALIVE_TIMEOUT_MS: u64 = 5_000;

/// A client on its way.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Client, etcd_client::Error>> + Send>>;

/// How a client of the member with this URL is made.
pub type Connect = Arc<dyn Fn(&str, ConnectOptions) -> Connecting + Send + Sync>;

/// Over the network.
pub(crate) fn by_network() -> Connect {
    Arc::new(|endpoint, options| {
        let endpoint = endpoint.to_owned();
        Box::pin(async move { Client::connect([endpoint], Some(options)).await })
    })
}

/// The clients of one member.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) kv: KvClient,
    pub(crate) watch: WatchClient,
    pub(crate) lease: LeaseClient,
}

struct Link {
    endpoint: String,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    generation: u64,
    clients: Option<Clients>,
}

/// The connection that a request was made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    link: usize,
    generation: u64,
}

pub(crate) struct Links {
    links: Vec<Link>,
    current: AtomicUsize,
    options: ConnectOptions,
    connect: Connect,
    request_timeout: Duration,
}

impl Links {
    pub(crate) fn new(config: &EtcdConfig, connect: Connect) -> Result<Self, StoreError> {
        let endpoints: BTreeSet<&String> = config.endpoints.iter().collect();
        if endpoints.is_empty() || endpoints.len() < config.endpoints.len() {
            let reason = "etcd needs at least one endpoint, and each only once".to_owned();
            return Err(StoreError::Refused { reason });
        }
        let request_timeout = Duration::from_millis(config.request_timeout_ms.max(1));
        let keep_alive = Duration::from_millis(KEEP_ALIVE_MS);
        let mut options = ConnectOptions::new()
            .with_connect_timeout(request_timeout)
            .with_keep_alive(keep_alive, Duration::from_millis(KEEP_ALIVE_TIMEOUT_MS))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &config.user {
            options = options.with_user(&user.name, &user.password);
        }
        let link = |endpoint: &String| Link { endpoint: endpoint.clone(), connection: Mutex::default() };
        let links = config.endpoints.iter().map(link).collect();
        Ok(Self { links, current: AtomicUsize::new(0), options, connect, request_timeout })
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// The member in use; give [`Used`] back to [`Links::give_up`] when it does not answer.
    pub(crate) async fn current(&self) -> (Used, Result<Clients, StoreError>) {
        let number = self.current.load(Ordering::Relaxed);
        let link = &self.links[number];
        let (generation, open) = {
            let connection = link.connection.lock();
            (connection.generation, connection.clients.clone())
        };
        let used = Used { link: number, generation };
        if let Some(clients) = open {
            return (used, Ok(clients));
        }
        let connect = (self.connect)(&link.endpoint, self.options.clone());
        let client = match timeout(self.request_timeout, connect).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return (used, Err(from_etcd("connect to etcd", error))),
            Err(elapsed) => {
                return (used, Err(StoreError::unavailable("connect to etcd", elapsed)));
            }
        };
        let clients = Clients {
            kv: client.kv_client().max_decoding_message_size(ANSWER_MAX_BYTES),
            watch: client.watch_client().max_decoding_message_size(ANSWER_MAX_BYTES),
            lease: client.lease_client(),
        };
        let mut connection = link.connection.lock();
        if connection.generation == generation {
            connection.clients = Some(clients.clone());
        }
        (used, Ok(clients))
    }

    /// Turns to the next member, and connects anew when this one's turn comes again: a connection
    /// that has gone silent is not waited for. Does nothing when that was done already.
    pub(crate) fn give_up(&self, used: Used) {
        let link = &self.links[used.link];
        {
            let mut connection = link.connection.lock();
            if connection.generation != used.generation {
                return;
            }
            *connection = Connection { generation: used.generation + 1, clients: None };
        }
        let next = (used.link + 1) % self.links.len();
        let turned = self.current.compare_exchange(used.link, next, Ordering::Relaxed, Ordering::Relaxed);
        if turned.is_ok() && next != used.link {
            let (from, to) = (&link.endpoint, &self.links[next].endpoint);
            tracing::info!(from, to, "turning to another member of etcd");
        }
    }

    /// One attempt.
    pub(crate) async fn once<T, F>(&self, doing: &'static str, call: impl FnOnce(Clients) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let (used, clients) = self.current().await;
        let answer = match clients {
            Ok(clients) => match timeout(self.request_timeout, call(clients)).await {
                Ok(answer) => answer.map_err(|error| from_etcd(doing, error)),
                Err(elapsed) => Err(StoreError::unavailable(doing, elapsed)),
            },
            Err(error) => Err(error),
        };
        if matches!(answer, Err(StoreError::Unavailable { .. })) {
            self.give_up(used);
        }
        answer
    }

    /// For requests that may be sent twice.
    pub(crate) async fn retried<T, F>(&self, doing: &'static str, call: impl Fn(Clients) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut backoff = Backoff::new(RETRY_FIRST_MS, RETRY_LONGEST_MS);
        for _ in 1..REQUEST_ATTEMPTS_MAX {
            match self.once(doing, &call).await {
                Err(StoreError::Unavailable { .. }) => sleep(backoff.next()).await,
                answer => return answer,
            }
        }
        self.once(doing, &call).await
    }
}

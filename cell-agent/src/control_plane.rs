//! The addresses of the control plane: the one in use, and the leader's.

use crate::config::may_reach;
use cellway_api::identity::{LiveIdentity, Servers};
use cellway_api::{ApiError, Client};
use cellway_core::ids::CellName;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// The control plane as this agent knows it.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    cell: CellName,
    identity: Option<Arc<LiveIdentity>>,
    /// Never empty.
    clients: Vec<Client>,
    current: AtomicUsize,
    turned: Notify,
    leader: Mutex<Option<Client>>,
}

impl ControlPlane {
    /// `bases` must not be empty.
    pub(crate) fn new(cell: CellName, bases: &[String], identity: Option<Arc<LiveIdentity>>) -> Result<Self, ApiError> {
        let clients = bases.iter().map(|base| client(base, identity.as_ref())).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            cell,
            identity,
            clients,
            current: AtomicUsize::new(0),
            turned: Notify::new(),
            leader: Mutex::default(),
        })
    }

    pub(crate) fn cell(&self) -> &CellName {
        &self.cell
    }

    /// The replica in use.
    pub(crate) fn current(&self) -> &Client {
        &self.clients[self.current.load(Ordering::Relaxed) % self.clients.len()]
    }

    /// The replica `failed` did not answer: the next one is used, unless somebody has seen to that already.
    pub(crate) fn turn_from(&self, failed: &Client) {
        let index = self.current.load(Ordering::Relaxed);
        if self.current().base() == failed.base()
            && self.current.compare_exchange(index, index + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.turned.notify_waiters();
        }
    }

    /// Waits until another replica than `client` is in use: one that stands still is not waited for.
    pub(crate) async fn turned_from(&self, client: &Client) {
        loop {
            let turned = self.turned.notified();
            tokio::pin!(turned);
            turned.as_mut().enable();
            if self.current().base() != client.base() {
                return;
            }
            turned.await;
        }
    }

    /// The leader, as last heard; else the replica in use.
    pub(crate) fn leader(&self) -> Client {
        self.leader.lock().clone().unwrap_or_else(|| self.current().clone())
    }

    /// The control plane has named its leader.
    pub(crate) fn heard_leader(&self, address: Option<&str>) {
        let base = address.map(|address| match address.contains("://") {
            true => address.trim_end_matches('/').to_owned(),
            false => format!("http://{address}"),
        });
        let mut leader = self.leader.lock();
        if leader.as_ref().map(Client::base) == base.as_deref() {
            return;
        }
        let base = base.filter(|base| may_reach(base, self.identity.is_some()));
        *leader = base.and_then(|base| client(&base, self.identity.as_ref()).ok());
    }
}

/// A client of one replica, which has to be the control plane by its certificate where we have one ourselves.
pub(crate) fn client(base: &str, identity: Option<&Arc<LiveIdentity>>) -> Result<Client, ApiError> {
    match identity {
        Some(identity) => Client::with_tls(base, identity.client_config(Servers::ControlPlane)),
        None => Client::new(base),
    }
}

/// Pauses between attempts: they double, and are never quite the same for two agents.
#[derive(Debug)]
pub(crate) struct BackOff {
    next_ms: u64,
    min_ms: u64,
    max_ms: u64,
}

impl BackOff {
    pub(crate) fn new(min_ms: u64, max_ms: u64) -> Self {
        Self { next_ms: min_ms, min_ms, max_ms }
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        self.next_ms = self.min_ms;
    }

    /// Waits half to all of the next pause.
    pub(crate) async fn pause(&mut self) {
        let pause_ms = rand::random_range(self.next_ms.div_ceil(2)..=self.next_ms);
        self.next_ms = (self.next_ms * 2).min(self.max_ms);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

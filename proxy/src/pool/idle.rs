//! Connections that lie idle: those of one endpoint, within what all endpoints of a pool keep together.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Connection;
use super::places::{Place, Places};
use crate::clock;
use crate::socket::Idleness;

/// Those of an endpoint, the one used last at the end.
pub(super) struct Idle {
    lying: RefCell<VecDeque<Lying>>,
    places: Places,
}

struct Lying {
    connection: Connection,
    since: Instant,
    _place: Place,
}

impl Idle {
    pub(super) fn within(places: Places) -> Self {
        Self { lying: RefCell::default(), places }
    }

    /// The connection used last, so that those that are not needed grow old. Whether its peer has closed it meanwhile is
    /// seen as a request is sent.
    pub(super) fn take(&self, now: Instant) -> Option<Connection> {
        loop {
            let Lying { connection, since, .. } = self.lying.borrow_mut().pop_back()?;
            if now.duration_since(since) < Duration::from_millis(connection.limits().idle_ms) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection. Where the endpoint or the pool has as many as it may, the one that has lain longest is closed, or
    /// this one where the endpoint has no other.
    pub(super) fn put(&self, connection: Connection) {
        let limits = *connection.limits();
        if self.lying.borrow().len() >= limits.idle_per_endpoint || self.places.used() >= limits.idle_per_pool {
            // Closing calls back into the endpoint, so nothing of it may be borrowed.
            let oldest = self.lying.borrow_mut().pop_front();
            drop(oldest);
        }
        if let Some(place) = self.places.take(limits.idle_per_pool) {
            self.lying.borrow_mut().push_back(Lying { connection, since: clock::now(), _place: place });
        }
    }

    /// Closes those that have lain too long, or are of no use any more.
    pub(super) fn drop_old(&self) {
        let usable = |lying: &Lying| {
            let limit = Duration::from_millis(lying.connection.limits().idle_ms);
            lying.since.elapsed() < limit && lying.connection.socket.idleness() == Idleness::Quiet
        };
        let (kept, dropped): (VecDeque<_>, VecDeque<_>) = self.lying.take().into_iter().partition(usable);
        *self.lying.borrow_mut() = kept;
        drop(dropped);
    }

    /// Closes all, and says how many that were.
    pub(super) fn clear(&self) -> usize {
        let lying = self.lying.take();
        lying.len()
    }
}

//! An HTTP/1.1 connection of a pool, and its place among those of its endpoint.

use std::rc::Rc;

use super::http1::Wire;
use super::share::{Share, Shares};
use super::{Chore, Chores, Endpoint, PoolLimits};
use crate::socket::SocketHandle;

/// A connection of a pool. Dropped without being given back, it is closed.
pub(super) struct Connection {
    pub(super) wire: Wire,
    pub(super) socket: SocketHandle,
    pub(super) chores: Chores,
    /// It has carried a request before, so the peer may be closing it for having been idle.
    pub(super) reused: bool,
    /// Of who uses it now, if its use is counted.
    pub(super) share: Option<Share>,
    pub(super) slot: Slot,
}

/// The right to have one connection open. It is the last field of its connection, so that who waits for it finds
/// the connection closed.
pub(super) struct Slot {
    endpoint: Rc<Endpoint>,
    /// Among those whose answers last, and not among those for requests.
    lasts: bool,
}

impl Connection {
    pub(super) fn limits(&self) -> &PoolLimits {
        &self.slot.endpoint.limits
    }

    /// Its answer lasts, so it leaves its place to requests, if there is one among those that last.
    pub(super) fn last(&mut self) {
        let (endpoint, limits) = (Rc::clone(&self.slot.endpoint), self.limits());
        if self.slot.lasts || endpoint.lasting.get() >= limits.lasting_per_endpoint {
            return;
        }
        let max = limits.lasting_per_tenant;
        let shares = || endpoint.lasting_shares.get_or_init(Shares::default);
        if self.share.as_mut().is_none_or(|share| share.move_to(shares(), max)) {
            self.slot.move_to_lasting();
        }
    }

    /// The answer was read to its end.
    pub(super) fn give_back(self) {
        if self.wire.is_free() {
            self.settle();
        } else if self.wire.is_still_sending() {
            let chores = self.chores.clone();
            let _ = chores.send(Chore::Settle(self));
        }
    }

    pub(super) fn settle(mut self) {
        self.reused = true;
        self.share = None;
        if !self.slot.move_to_open() {
            return;
        }
        let endpoint = Rc::clone(&self.slot.endpoint);
        endpoint.idle.put(self);
        endpoint.freed.tell_one();
    }
}

impl Slot {
    pub(super) fn take(endpoint: &Rc<Endpoint>) -> Option<Self> {
        endpoint.has_room().then(|| {
            endpoint.open.set(endpoint.open.get() + 1);
            Self { endpoint: Rc::clone(endpoint), lasts: false }
        })
    }

    fn move_to_lasting(&mut self) {
        self.lasts = true;
        self.endpoint.lasting.set(self.endpoint.lasting.get() + 1);
        self.endpoint.open.set(self.endpoint.open.get() - 1);
        self.endpoint.freed.tell_one();
    }

    /// Whether it is, or again is, one of those for requests.
    fn move_to_open(&mut self) -> bool {
        if self.lasts && self.endpoint.has_room() {
            self.lasts = false;
            self.endpoint.lasting.set(self.endpoint.lasting.get() - 1);
            self.endpoint.open.set(self.endpoint.open.get() + 1);
        }
        !self.lasts
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.lasts {
            self.endpoint.lasting.set(self.endpoint.lasting.get() - 1);
        } else {
            self.endpoint.open.set(self.endpoint.open.get() - 1);
            self.endpoint.freed.tell_one();
        }
    }
}

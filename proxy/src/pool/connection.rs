//! An HTTP/1.1 connection of a pool, and its place among those of its endpoint.

use std::rc::Rc;

use super::http1::Wire;
use super::places::Place;
use super::share::Share;
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
    /// Its place among those whose answers last, where it has none among those for requests.
    lasting: Option<Place>,
}

impl Connection {
    pub(super) fn limits(&self) -> &PoolLimits {
        &self.slot.endpoint.limits
    }

    /// Its answer lasts: its place, and its user's share, are of those for requests no more, if there is a place for it.
    pub(super) fn leave_requests(&mut self) {
        let max = self.limits().lasting_per_pool;
        if self.slot.lasting.is_none()
            && let Some(place) = self.slot.endpoint.lasting.take(self.share.as_mut(), max)
        {
            self.slot.leave(place);
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
        let endpoint = Rc::clone(&self.slot.endpoint);
        if !self.slot.come_back() {
            return;
        }
        endpoint.idle.put(self);
        endpoint.freed.tell_one();
    }
}

impl Slot {
    pub(super) fn take(endpoint: &Rc<Endpoint>) -> Option<Self> {
        endpoint.open_one().then(|| Self { endpoint: Rc::clone(endpoint), lasting: None })
    }

    fn leave(&mut self, place: Place) {
        self.lasting = Some(place);
        self.endpoint.open_one_less();
    }

    /// Whether it has a place among those for requests, or gets one again.
    fn come_back(&mut self) -> bool {
        if self.lasting.is_some() && self.endpoint.open_one() {
            self.lasting = None;
        }
        self.lasting.is_none()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.lasting.is_none() {
            self.endpoint.open_one_less();
        }
    }
}

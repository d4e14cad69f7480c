//! An HTTP/1.1 connection of a pool, and its place among those of its endpoint.

use std::rc::Rc;

use super::http1::Wire;
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
    pub(super) _slot: Slot,
}

/// The right to have one connection open. It is the last field of its connection, so that who waits for it finds
/// the connection closed.
pub(super) struct Slot(pub(super) Rc<Endpoint>);

impl Connection {
    pub(super) fn limits(&self) -> &PoolLimits {
        &self._slot.0.limits
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
        let endpoint = Rc::clone(&self._slot.0);
        endpoint.idle.put(self);
        endpoint.freed.tell_one();
    }
}

impl Slot {
    pub(super) fn take(endpoint: &Rc<Endpoint>) -> Option<Self> {
        let open = endpoint.open.get();
        (open < endpoint.limits.open_per_endpoint).then(|| {
            endpoint.open.set(open + 1);
            Self(Rc::clone(endpoint))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.freed.tell_one();
    }
}

//! What held requests may keep waiting in a connection that they share with others.
//!
//! A held request's body is not read, so what its client sends lies in the connection's window. Up to
//! [`HELD_UNREAD_MAX_BYTES`] of it may; beyond that the latest held streams are refused, which tells their client that
//! nothing was done and that they can be sent again. The rest of the window is left to the other requests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use h2::FlowControl;
use tokio::sync::Notify;

use super::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};

/// Most of the connection's window: two streams' worth is always left to the requests that are not held.
pub const HELD_UNREAD_MAX_BYTES: usize = (CONNECTION_WINDOW_BYTES - 2 * STREAM_WINDOW_BYTES) as usize;

/// The held streams of one connection, in the order in which they were held.
#[derive(Clone, Default)]
pub(crate) struct Holding(Rc<RefCell<Vec<Rc<Held>>>>);

struct Held {
    flow: FlowControl,
    refused: Cell<bool>,
    told: Notify,
}

/// A stream that may be held.
#[derive(Clone)]
pub(crate) struct HoldSlot {
    holding: Holding,
    flow: FlowControl,
}

/// A request that is held, for as long as this lives.
pub struct Hold(Option<(Holding, Rc<Held>)>);

impl Holding {
    pub(super) fn slot(&self, flow: FlowControl) -> HoldSlot {
        HoldSlot { holding: self.clone(), flow }
    }

    /// Refuses the latest held streams until the others fit.
    pub(super) fn check(&self) {
        let held = self.0.borrow();
        let mut unread: usize = held.iter().map(|stream| stream.flow.used_capacity()).sum();
        for stream in held.iter().rev() {
            if unread <= HELD_UNREAD_MAX_BYTES {
                return;
            }
            let freed = stream.flow.used_capacity();
            if freed > 0 {
                unread -= freed;
                stream.refused.set(true);
                stream.told.notify_one();
            }
        }
    }
}

impl Hold {
    /// Of a request that shares its connection with no other.
    pub(crate) fn alone() -> Self {
        Self(None)
    }

    pub(crate) fn of(slot: &HoldSlot) -> Self {
        let held = Rc::new(Held { flow: slot.flow.clone(), refused: Cell::new(false), told: Notify::new() });
        slot.holding.0.borrow_mut().push(Rc::clone(&held));
        Self(Some((slot.holding.clone(), held)))
    }

    /// Waits until there is no room for what the client sends meanwhile.
    pub async fn refused(&self) {
        let Some((_, held)) = &self.0 else { return std::future::pending().await };
        while !held.refused.get() {
            held.told.notified().await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some((holding, held)) = &self.0 {
            holding.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, held));
        }
    }
}

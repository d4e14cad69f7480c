//! How many of an endpoint's connections one user (a tenant) may have in use, so that none can take them all.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::hashes::Hashes;

/// The shares of one endpoint.
#[derive(Default)]
pub(super) struct Shares {
    users: RefCell<HashMap<Box<str>, Rc<User>, Hashes>>,
}

#[derive(Default)]
struct User {
    used: Cell<usize>,
    freed: Notify,
}

/// The right to have one connection in use, given back when dropped.
pub(super) struct Share(Rc<User>);

impl Shares {
    /// Waits until `user` may use one more of the `max` that it may use; `None` once `deadline` has passed.
    pub(super) async fn take(&self, user: &str, max: usize, deadline: Instant) -> Option<Share> {
        let user = self.user(user);
        while user.used.get() >= max {
            timeout_at(deadline, user.freed.notified()).await.ok()?;
        }
        user.used.set(user.used.get() + 1);
        Some(Share(user))
    }

    /// Forgets users that use nothing and wait for nothing.
    pub(super) fn forget_absent(&self) {
        self.users.borrow_mut().retain(|_, user| Rc::strong_count(user) > 1);
    }

    fn user(&self, name: &str) -> Rc<User> {
        let mut users = self.users.borrow_mut();
        if let Some(user) = users.get(name) {
            return Rc::clone(user);
        }
        Rc::clone(users.entry(name.into()).or_default())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.used.set(self.0.used.get() - 1);
        self.0.freed.notify_one();
    }
}

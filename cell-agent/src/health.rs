//! What `readyz` and the metrics say of the agent as a whole.

use std::sync::atomic::{AtomicBool, Ordering};

/// How the agent is.
#[derive(Debug, Default)]
pub(crate) struct Health {
    following: AtomicBool,
    serving: AtomicBool,
    unlisted: AtomicBool,
}

impl Health {
    /// The stream has said all placements, or it broke off.
    pub(crate) fn set_following(&self, following: bool) {
        self.following.store(following, Ordering::Relaxed);
        if following {
            self.set_serving();
        }
    }

    /// The gates have placements to open on.
    pub(crate) fn set_serving(&self) {
        self.serving.store(true, Ordering::Relaxed);
    }

    /// The instance is off its cell's list.
    pub(crate) fn set_unlisted(&self) {
        self.unlisted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_following(&self) -> bool {
        self.following.load(Ordering::Relaxed)
    }

    /// `Err` says why the agent is not ready.
    pub(crate) fn ready(&self) -> Result<(), &'static str> {
        if self.unlisted.load(Ordering::Relaxed) {
            return Err("this instance is not on its cell's list");
        }
        if self.serving.load(Ordering::Relaxed) { Ok(()) } else { Err("no placements are known yet") }
    }
}

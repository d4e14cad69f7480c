//! Timers that are used again.

use std::cell::RefCell;
use std::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that a thread keeps for its next exchanges. Each keeps the task that used it last until its moment.
const KEPT_MAX: usize = 64;

/// Timers that exchanges have used, for the next ones: to set one to a later moment costs a fraction of making one. One that
/// lies here may wake whoever used it last, once and for nothing.
#[derive(Default)]
pub struct Timers(RefCell<Vec<Pin<Box<Sleep>>>>);

impl Timers {
    /// A timer that is over at this moment.
    pub fn take(&self, at: Instant) -> Pin<Box<Sleep>> {
        let Some(mut timer) = self.0.borrow_mut().pop() else { return Box::pin(sleep_until(at)) };
        timer.as_mut().reset(at);
        timer
    }

    /// Keeps it for another. One that is dropped instead is only not used again.
    pub fn give_back(&self, timer: Pin<Box<Sleep>>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT_MAX {
            kept.push(timer);
        }
    }
}

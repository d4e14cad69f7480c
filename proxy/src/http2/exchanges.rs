//! Futures that share one task, each polled only where something has happened to it.
//!
//! `futures_util`'s set of futures wakes its task once more whenever it has polled all that it has, and allocates for each;
//! here a place is used again. One that panics ends alone, as a task would.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// Places that are kept while nobody has them.
const KEPT_PLACES: usize = 8;

/// One request and its answer.
pub(super) type Exchange = Pin<Box<dyn Future<Output = ()>>>;

/// The exchanges of a connection.
#[derive(Default)]
pub(super) struct Exchanges {
    places: Vec<Place>,
    free: Vec<usize>,
    /// Those that are polled before anybody has a second turn.
    turn: VecDeque<usize>,
    due: Arc<Due>,
}

struct Place {
    exchange: Option<Exchange>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Whose turn is next, and the task that is woken for them.
#[derive(Default)]
struct Due {
    places: Mutex<VecDeque<usize>>,
    task: AtomicWaker,
}

/// Rung when something has happened to who has the place.
struct Bell {
    place: usize,
    rung: AtomicBool,
    due: Arc<Due>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.due.places.lock().push_back(self.place);
            self.due.task.wake();
        }
    }
}

impl Exchanges {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Takes one, whose first turn is the next.
    pub(super) fn begin(&mut self, exchange: Exchange) {
        let number = self.free.pop().unwrap_or_else(|| {
            let bell = Arc::new(Bell { place: self.places.len(), rung: AtomicBool::new(false), due: self.due.clone() });
            self.places.push(Place { exchange: None, waker: Waker::from(Arc::clone(&bell)), bell });
            self.places.len() - 1
        });
        let place = &mut self.places[number];
        place.exchange = Some(exchange);
        // Who had the place before may have rung, and its turn is then this one's.
        if !place.bell.rung.swap(true, Ordering::AcqRel) {
            self.turn.push_back(number);
        }
    }

    /// Polls those to which something had happened, until `at_most` have ended; says whether there may be more to poll.
    /// Else the task is woken when there is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at_most: usize) -> bool {
        self.due.task.register(cx.waker());
        // What happens from here on wakes the task: who keeps waking itself does not keep all others waiting.
        self.turn.append(&mut self.due.places.lock());
        let mut ended = 0;
        while let Some(number) = self.turn.pop_front() {
            let place = &mut self.places[number];
            // Before the poll, so that what happens during it counts, and what happened before is seen by it.
            place.bell.rung.swap(false, Ordering::AcqRel);
            let Some(exchange) = &mut place.exchange else { continue };
            // One that has panicked is only dropped, which resets its stream.
            let poll = AssertUnwindSafe(|| exchange.as_mut().poll(&mut Context::from_waker(&place.waker)));
            if catch_unwind(poll).map_or(true, |polled| polled.is_ready()) {
                place.exchange = None;
                self.free.push(number);
                ended += 1;
                if ended == at_most {
                    return !self.turn.is_empty();
                }
            }
        }
        false
    }

    /// Gives back what a crowd has taken, once it has gone.
    pub(super) fn rest(&mut self) {
        if self.is_empty() && self.places.len() > KEPT_PLACES {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests;

//! A count of what there may be only so much of.

use std::cell::Cell;
use std::rc::Rc;

/// How many connections of a pool there are of one kind, whichever endpoints they go to.
#[derive(Clone, Default)]
pub(super) struct Places(Rc<Cell<usize>>);

/// One of them.
pub(super) struct Place(Rc<Cell<usize>>);

impl Places {
    pub(super) fn used(&self) -> usize {
        self.0.get()
    }

    pub(super) fn take(&self, max: usize) -> Option<Place> {
        (self.used() < max).then(|| {
            self.0.set(self.used() + 1);
            Place(Rc::clone(&self.0))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

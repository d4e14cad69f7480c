//! Boxes whose contents are made where they stay.

use std::pin::Pin;

/// A box of what `make` makes. `Box::new` copies all of it from the stack, of a future what has no value yet, too: a
/// panic between the two would have to drop it there. With the room at hand first there is nothing between.
#[inline(always)]
pub fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    let room = Box::new_uninit();
    Box::write(room, make())
}

/// [`boxed`], pinned.
#[inline(always)]
pub(crate) fn pinned<T>(make: impl FnOnce() -> T) -> Pin<Box<T>> {
    Box::into_pin(boxed(make))
}

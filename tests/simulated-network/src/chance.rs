//! Chance that follows from a seed. Each part of the simulation has its own, so that what one draws changes nothing for
//! the others.

use crate::hermetic::{STEP, mix};
use std::ops::Range;

/// A source of chance.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// That of one part.
    pub(crate) fn of(seed: u64, part: &str) -> Self {
        Self(part.bytes().fold(mix(seed.wrapping_add(STEP)), |state, byte| mix(state.wrapping_add(u64::from(byte)))))
    }

    /// A number of the range, which must not be empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        range.start + mix(self.0) % (range.end - range.start)
    }

    /// One of them; there must be one.
    pub(crate) fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let index = self.within(0..of.len() as u64);
        &of[usize::try_from(index).unwrap_or(0)]
    }
}

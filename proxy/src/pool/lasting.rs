//! Connections whose answers last: WebSockets and event streams, counted apart from those for requests.

use super::idle::{Place, Places};
use super::share::{Share, Shares};
use crate::hashes::Hashes;

/// Those of one thread, to whichever endpoints. They take files that clients could have, so who accepts clients looks
/// at their number. Clones count together.
#[derive(Clone)]
pub(crate) struct Lasting {
    places: Places,
    shares: Shares,
    hashes: Hashes,
}

impl Default for Lasting {
    fn default() -> Self {
        let hashes = Hashes::default();
        Self { places: Places::default(), shares: Shares::by(&hashes), hashes }
    }
}

impl Lasting {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.used()
    }

    /// Shares in something else, which can be moved here.
    pub(super) fn other_shares(&self) -> Shares {
        Shares::by(&self.hashes)
    }

    /// A place among the `max` that there are, to which the `share` of who uses it is moved; one user has half of them.
    pub(super) fn take(&self, share: Option<&mut Share>, max: usize) -> Option<Place> {
        let place = self.places.take(max)?;
        share.is_none_or(|share| share.move_to(&self.shares, max.div_ceil(2))).then_some(place)
    }
}

//! How much is under way for how many tenants: requests until the last byte of their answer has come and its connection is
//! about to send it, event streams, WebSockets.
//!
//! Tenants are counted in a table of fixed size by their hash: a request costs two additions, and nobody waits. Tenants
//! that share a place count as one.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};

use cellway_core::ids::TenantId;
use cellway_proxy::Hashes;

/// The places of the table; 4 bytes each. A power of two.
const PLACES: usize = 8_192;

/// The counts.
pub(crate) struct UnderWay {
    places: Box<[AtomicU32]>,
    hashes: Hashes,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU32::new(0)).collect(), hashes: Hashes::default() }
    }
}

impl UnderWay {
    /// Something of this tenant begins. The result is for [`UnderWay::leave`].
    pub(crate) fn enter(&self, tenant: &TenantId) -> usize {
        let place = usize::try_from(self.hashes.hash_one(tenant) % PLACES as u64).unwrap_or(0);
        self.places[place].fetch_add(1, Ordering::Relaxed);
        place
    }

    /// It has ended.
    pub(crate) fn leave(&self, place: usize) {
        self.places[place].fetch_sub(1, Ordering::Relaxed);
    }

    /// How much there is, and of how many tenants.
    pub(crate) fn count(&self) -> (u64, u64) {
        let counts = self.places.iter().map(|place| u64::from(place.load(Ordering::Relaxed)));
        counts.filter(|count| *count > 0).fold((0, 0), |(streams, tenants), count| (streams + count, tenants + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_counted_by_tenant_until_it_ends() {
        let under_way = UnderWay::default();
        let tenant = |id: &str| TenantId::new(id).expect("legal");
        let places = [tenant("a"), tenant("a"), tenant("a")].map(|tenant| under_way.enter(&tenant));
        assert_eq!(under_way.count(), (3, 1));
        let other = under_way.enter(&tenant("b"));
        assert_eq!(under_way.count().0, 4);
        places.into_iter().for_each(|place| under_way.leave(place));
        under_way.leave(other);
        assert_eq!(under_way.count(), (0, 0));
    }
}

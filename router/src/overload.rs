//! Overload is shed fairly: when too many requests are in flight, tenants with more than their part of them go first.
//!
//! Requests are counted per tenant in two tables of fixed size, by two hashes; the smaller count is taken. A tenant is
//! mistaken for a larger one only where both of its places meet larger ones. So the state does not grow with tenants,
//! a request costs the same at any load, and nobody waits for a lock.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cellway_core::ids::TenantId;
use cellway_core::limit::is_shed;
use cellway_proxy::Hashes;

/// How many requests may be in flight in a router: sent or held, their answer not begun. Each keeps its head and up to
/// 64 KiB of its body.
pub const REQUESTS_IN_FLIGHT_MAX: u64 = 20_000;
/// The places of one table; 4 bytes each. A power of two.
const PLACES: usize = 8_192;

/// The counts.
pub(crate) struct Overload {
    max: u64,
    total: AtomicU64,
    /// How many places of the first table are in use: about as many tenants have requests in flight.
    used: AtomicU64,
    tables: [Box<[AtomicU32]>; 2],
    /// Its keys are of this process, so that nobody can choose names that meet.
    hashes: Hashes,
}

/// A request in flight, counted until it is dropped.
pub(crate) struct InFlight<'a> {
    overload: &'a Overload,
    places: [usize; 2],
}

impl Overload {
    /// Sheds above half of `max`; above it, everyone.
    pub(crate) fn new(max: u64) -> Self {
        let table = || (0..PLACES).map(|_| AtomicU32::new(0)).collect();
        Self {
            max,
            total: AtomicU64::new(0),
            used: AtomicU64::new(0),
            tables: [table(), table()],
            hashes: Hashes::default(),
        }
    }

    /// Counts a request of `tenant`; `None` if it is to be shed.
    pub(crate) fn enter(&self, tenant: &TenantId) -> Option<InFlight<'_>> {
        let hash = self.hashes.hash_one(tenant);
        let place = |hash: u64| usize::try_from(hash).unwrap_or(0) % PLACES;
        let in_flight = InFlight { overload: self, places: [place(hash & 0xffff_ffff), place(hash >> 32)] };
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        let counts = [0, 1].map(|table| in_flight.count(table).fetch_add(1, Ordering::Relaxed) + 1);
        if counts[0] == 1 {
            self.used.fetch_add(1, Ordering::Relaxed);
        }
        let own = u64::from(counts[0].min(counts[1]));
        (!is_shed(own, total, self.max, self.used.load(Ordering::Relaxed))).then_some(in_flight)
    }
}

impl InFlight<'_> {
    fn count(&self, table: usize) -> &AtomicU32 {
        &self.overload.tables[table][self.places[table]]
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.overload.total.fetch_sub(1, Ordering::Relaxed);
        if self.count(0).fetch_sub(1, Ordering::Relaxed) == 1 {
            self.overload.used.fetch_sub(1, Ordering::Relaxed);
        }
        self.count(1).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: usize) -> TenantId {
        TenantId::new(&format!("t{number}")).expect("legal")
    }

    #[test]
    fn a_flood_of_one_tenant_leaves_room_for_the_others() {
        let overload = Overload::new(100);
        let flood: Vec<_> = (0..1_000).filter_map(|_| overload.enter(&tenant(0))).collect();
        assert_eq!(flood.len(), 50, "one alone has half");
        let others: Vec<_> = (1..=25).flat_map(|number| [tenant(number), tenant(number)]).collect();
        let served = others.iter().filter_map(|other| overload.enter(other)).collect::<Vec<_>>().len();
        assert!(overload.enter(&tenant(0)).is_none());
        assert!(served >= 25, "{served} of 50");
    }

    #[test]
    fn what_has_ended_is_not_counted() {
        let overload = Overload::new(10);
        for round in 0..100 {
            let held: Vec<_> = (0..5).map(|_| overload.enter(&tenant(round))).collect();
            assert!(held.iter().all(Option::is_some), "round {round}");
        }
        drop(overload.enter(&tenant(0)));
        assert_eq!(overload.total.load(Ordering::Relaxed), 0);
        assert_eq!(overload.used.load(Ordering::Relaxed), 0);
        assert!(overload.tables.iter().flatten().all(|count| count.load(Ordering::Relaxed) == 0));
    }
}

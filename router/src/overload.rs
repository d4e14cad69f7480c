//! Overload is shed fairly: when too many requests are in flight, tenants with more than their part of them go first.
//!
//! Requests are counted per tenant in a table of fixed size, at two places of one line of the processor's cache; the smaller
//! count is taken. A tenant is mistaken for a larger one only where both of its places meet larger ones: one in 65,536 for each of these. So the state
//! does not grow with tenants, a request costs the same at any load, and nobody waits for a lock.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cellway_core::ids::TenantId;
use cellway_core::limit::is_shed;
use cellway_proxy::Hashes;

/// How many requests may be in flight in a router: sent or held, their answer not begun. Each keeps its head and up to
/// 64 KiB of its body.
pub const REQUESTS_IN_FLIGHT_MAX: u64 = 20_000;
/// The lines of the table. A power of two.
const LINES: usize = 1_024;
/// The places of half a line: a tenant has one in each half.
const PLACES: usize = 8;

/// The counts of some tenants.
#[derive(Default)]
#[repr(align(64))]
struct Line([[AtomicU32; PLACES]; 2]);

/// The counts.
pub(crate) struct Overload {
    max: u64,
    total: AtomicU64,
    /// How many places of first halves are in use: about as many tenants have requests in flight.
    used: AtomicU64,
    lines: Box<[Line]>,
    /// Its keys are of this process, so that nobody can choose names that meet.
    hashes: Hashes,
}

/// A request in flight, counted until it is dropped.
pub(crate) struct InFlight<'a> {
    overload: &'a Overload,
    /// Its places in both halves of a line.
    counts: [&'a AtomicU32; 2],
}

impl Overload {
    /// Sheds above half of `max`; above it, everyone.
    pub(crate) fn new(max: u64) -> Self {
        let lines = (0..LINES).map(|_| Line::default()).collect();
        Self { max, total: AtomicU64::new(0), used: AtomicU64::new(0), lines, hashes: Hashes::default() }
    }

    /// Counts a request of `tenant`; `None` if it is to be shed.
    pub(crate) fn enter(&self, tenant: &TenantId) -> Option<InFlight<'_>> {
        let hash = self.hashes.hash_one(tenant);
        let part = |shift: u32, of: usize| (hash >> shift) as usize % of;
        let Line([first, second]) = &self.lines[part(0, LINES)];
        let in_flight = InFlight { overload: self, counts: [&first[part(32, PLACES)], &second[part(48, PLACES)]] };
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        let counts = in_flight.counts.map(|count| count.fetch_add(1, Ordering::Relaxed) + 1);
        if counts[0] == 1 {
            self.used.fetch_add(1, Ordering::Relaxed);
        }
        let own = u64::from(counts[0].min(counts[1]));
        (!is_shed(own, total, self.max, self.used.load(Ordering::Relaxed))).then_some(in_flight)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.overload.total.fetch_sub(1, Ordering::Relaxed);
        let [before, _] = self.counts.map(|count| count.fetch_sub(1, Ordering::Relaxed));
        if before == 1 {
            self.overload.used.fetch_sub(1, Ordering::Relaxed);
        }
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
        let counts = overload.lines.iter().flat_map(|Line(halves)| halves).flatten();
        assert!(counts.map(|count| count.load(Ordering::Relaxed)).all(|count| count == 0));
    }
}

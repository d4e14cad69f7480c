//! What is under way for whom: requests in flight, by which overload is shed fairly, and all that has begun and not ended, by
//! which a drain is seen.
//!
//! Tenants are counted in a table of fixed size, all of one tenant in one line of the processor's cache: the state does not grow
//! with tenants, a request costs the same at any load, and nobody waits for a lock. Requests in flight are counted at two places;
//! the smaller count is taken. A tenant is mistaken for a larger one only where both of its places meet larger ones: one in
//! 51,200 for each of these.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cellway_core::limit::is_shed;
use cellway_proxy::Hashes;

/// How many requests may be in flight in a router: sent or held, their answer not begun. Each keeps its head and up to
/// 64 KiB of its body.
pub const REQUESTS_IN_FLIGHT_MAX: u64 = 20_000;
/// The lines of the table. A power of two.
const LINES: usize = 2_048;
/// The places of each kind in a line.
const PLACES: usize = 5;

/// The counts of some tenants.
#[derive(Default)]
#[repr(align(64))]
struct Line {
    in_flight: [[AtomicU32; PLACES]; 2],
    /// Requests until the last byte of their answer has come and its connection is about to send it, event streams, WebSockets.
    begun: [AtomicU32; PLACES],
}

const _: () = assert!(size_of::<Line>() == 64, "a tenant's counts are in one line of the cache");

/// The counts.
pub(crate) struct UnderWay {
    max: u64,
    total: AtomicU64,
    /// How many first places are in use: about as many tenants have requests in flight.
    used: AtomicU64,
    lines: Box<[Line]>,
    /// Its keys are of this process, so that nobody can choose names that meet.
    hashes: Hashes,
}

/// Where a tenant is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    line: u16,
    in_flight: [u8; 2],
    begun: u8,
}

/// A request in flight, counted until it is dropped.
pub(crate) struct InFlight<'a> {
    under_way: &'a UnderWay,
    counts: [&'a AtomicU32; 2],
}

impl UnderWay {
    /// Sheds above half of `max` requests in flight; above it, everyone.
    pub(crate) fn new(max: u64) -> Self {
        let lines = (0..LINES).map(|_| Line::default()).collect();
        Self { max, total: AtomicU64::new(0), used: AtomicU64::new(0), lines, hashes: Hashes::default() }
    }

    /// Where the tenant of this name is counted. The line is looked at, so that it is on its way to the caches while others are
    /// waited for.
    pub(crate) fn tally(&self, tenant: &str) -> Tally {
        let hash = self.hashes.hash_one(tenant);
        let part = |shift: u32, of: usize| ((hash >> shift & 0xffff) as usize * of) >> 16;
        let place = |shift| part(shift, PLACES) as u8;
        let tally = Tally { line: part(0, LINES) as u16, in_flight: [place(16), place(32)], begun: place(48) };
        black_box(self.begun(tally).load(Ordering::Relaxed));
        tally
    }

    /// Something of the tenant begins.
    pub(crate) fn begin(&self, tally: Tally) {
        self.begun(tally).fetch_add(1, Ordering::Relaxed);
    }

    /// It has ended.
    pub(crate) fn end(&self, tally: Tally) {
        self.begun(tally).fetch_sub(1, Ordering::Relaxed);
    }

    fn begun(&self, tally: Tally) -> &AtomicU32 {
        &self.lines[usize::from(tally.line)].begun[usize::from(tally.begun)]
    }

    /// Counts a request of the tenant that is counted there; `None` if it is to be shed.
    pub(crate) fn admit(&self, tally: Tally) -> Option<InFlight<'_>> {
        let [first, second] = &self.lines[usize::from(tally.line)].in_flight;
        let counts = [&first[usize::from(tally.in_flight[0])], &second[usize::from(tally.in_flight[1])]];
        let in_flight = InFlight { under_way: self, counts };
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        let counts = in_flight.counts.map(|count| count.fetch_add(1, Ordering::Relaxed) + 1);
        if counts[0] == 1 {
            self.used.fetch_add(1, Ordering::Relaxed);
        }
        let own = u64::from(counts[0].min(counts[1]));
        (!is_shed(own, total, self.max, self.used.load(Ordering::Relaxed))).then_some(in_flight)
    }

    /// How much has begun and not ended, and for how many tenants. Those that share a place count as one.
    pub(crate) fn count(&self) -> (u64, u64) {
        let counts = self.lines.iter().flat_map(|line| &line.begun).map(|count| count.load(Ordering::Relaxed));
        counts.filter(|count| *count > 0).fold((0, 0), |(all, tenants), count| (all + u64::from(count), tenants + 1))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.under_way.total.fetch_sub(1, Ordering::Relaxed);
        let [before, _] = self.counts.map(|count| count.fetch_sub(1, Ordering::Relaxed));
        if before == 1 {
            self.under_way.used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(under_way: &UnderWay, number: usize) -> Tally {
        let tally = under_way.tally(&format!("t{number}"));
        under_way.begin(tally);
        tally
    }

    #[test]
    fn a_flood_of_one_tenant_leaves_room_for_the_others() {
        let under_way = UnderWay::new(100);
        let tally = |number| begin(&under_way, number);
        let flood: Vec<_> = (0..1_000).filter_map(|_| under_way.admit(tally(0))).collect();
        assert_eq!(flood.len(), 50, "one alone has half");
        let others: Vec<_> = (1..=25).flat_map(|number| [tally(number), tally(number)]).collect();
        let served = others.iter().filter_map(|other| under_way.admit(*other)).collect::<Vec<_>>().len();
        assert!(under_way.admit(tally(0)).is_none());
        assert!(served >= 25, "{served} of 50");
    }

    #[test]
    fn what_has_ended_is_not_counted() {
        let under_way = UnderWay::new(10);
        for round in 0..100 {
            let tallies: Vec<_> = (0..5).map(|_| begin(&under_way, round)).collect();
            let held: Vec<_> = tallies.iter().map(|tally| under_way.admit(*tally)).collect();
            assert!(held.iter().all(Option::is_some), "round {round}");
            assert_eq!(under_way.count(), (5, 1));
            drop(held);
            tallies.into_iter().for_each(|tally| under_way.end(tally));
        }
        assert_eq!(under_way.total.load(Ordering::Relaxed), 0);
        assert_eq!(under_way.used.load(Ordering::Relaxed), 0);
        let counts = under_way.lines.iter().flat_map(|line| line.in_flight.as_flattened().iter().chain(&line.begun));
        assert!(counts.map(|count| count.load(Ordering::Relaxed)).all(|count| count == 0));
    }

    #[test]
    fn what_is_under_way_is_counted_by_tenant_until_it_ends() {
        let under_way = UnderWay::new(10);
        let tallies = [0; 3].map(|number| begin(&under_way, number));
        assert_eq!(under_way.count(), (3, 1));
        let other = begin(&under_way, 1);
        assert_eq!(under_way.count().0, 4);
        tallies.into_iter().for_each(|tally| under_way.end(tally));
        under_way.end(other);
        assert_eq!(under_way.count(), (0, 0));
    }

    #[test]
    fn tenants_are_spread_over_all_places() {
        let under_way = UnderWay::new(10);
        let tallies: Vec<_> = (0..20_000).map(|number| begin(&under_way, number)).collect();
        let distinct =
            |of: &dyn Fn(&Tally) -> usize| tallies.iter().map(of).collect::<std::collections::HashSet<_>>().len();
        assert!(distinct(&|tally| tally.line.into()) > LINES * 9 / 10);
        assert_eq!(distinct(&|tally| tally.begun.into()), PLACES);
        let both = |tally: &Tally| usize::from(tally.in_flight[0]) * PLACES + usize::from(tally.in_flight[1]);
        assert_eq!(distinct(&both), PLACES * PLACES);
    }
}

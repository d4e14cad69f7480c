//! How many of an endpoint's connections, or of those that last, one user (a tenant) may have in use, so that none can take
//! them all.
//!
//! Uses are counted in two tables of fixed size, by two hashes of the user's name; the smaller count is taken. So nobody has
//! more than it may, and a user is kept waiting for others only where they fill both of its places. A map of users would cost each request several lines of memory that are in no cache.

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::hashes::Hashes;

/// The places of one table; 4 bytes each. A power of two.
const PLACES: usize = 512;

/// The shares in one endpoint's connections for requests, or in a thread's that last.
#[derive(Clone)]
pub(super) struct Shares(Rc<Counts>);

struct Counts {
    tables: [[Cell<u32>; PLACES]; 2],
    hashes: Hashes,
    /// Who waits, by place.
    waiting: RefCell<Vec<(Places, Rc<Notify>)>>,
}

/// Where a user is counted, in each table.
type Places = [usize; 2];

/// The right to have one connection in use, given back when dropped.
pub(super) struct Share {
    shares: Shares,
    places: Places,
}

impl Shares {
    /// Shares that nobody has. The keys of `hashes` are of this process, so that nobody can choose names that meet.
    pub(super) fn by(hashes: &Hashes) -> Self {
        let table = || [const { Cell::new(0) }; PLACES];
        let hashes = hashes.clone();
        Self(Rc::new(Counts { tables: [table(), table()], hashes, waiting: RefCell::default() }))
    }

    /// Waits until `user` may use one more of the `max` that it may use; `None` once `deadline` has passed.
    pub(super) async fn take(&self, user: &str, max: usize, deadline: Instant) -> Option<Share> {
        let places = self.places_of(user);
        if self.0.used(places) >= max {
            Box::pin(self.0.wait(places, max, deadline)).await?;
        }
        Some(self.count(places))
    }

    /// Whether `user` may use one more of `max`.
    pub(super) fn has_room(&self, user: &str, max: usize) -> bool {
        self.0.used(self.places_of(user)) < max
    }

    fn places_of(&self, user: &str) -> Places {
        let hash = self.0.hashes.hash_one(user);
        [hash, hash >> 32].map(|hash| (hash & (PLACES as u64 - 1)) as usize)
    }

    fn count(&self, places: Places) -> Share {
        self.0.counts(places).for_each(|count| count.set(count.get() + 1));
        Share { shares: self.clone(), places }
    }
}

impl Share {
    /// Counts in other shares, of the same hashes, from now on, if its user may have one more of `max` there. Says whether
    /// it does.
    pub(super) fn move_to(&mut self, shares: &Shares, max: usize) -> bool {
        let has_room = shares.0.used(self.places) < max;
        if has_room {
            *self = shares.count(self.places);
        }
        has_room
    }
}

impl Counts {
    fn counts(&self, places: Places) -> impl Iterator<Item = &Cell<u32>> {
        self.tables.iter().zip(places).map(|(table, place)| &table[place])
    }

    fn used(&self, places: Places) -> usize {
        self.counts(places).map(|count| count.get() as usize).min().unwrap_or(0)
    }

    async fn wait(&self, places: Places, max: usize, deadline: Instant) -> Option<()> {
        let freed = {
            let mut waiting = self.waiting.borrow_mut();
            match waiting.iter().find(|(others, _)| *others == places) {
                Some((_, freed)) => Rc::clone(freed),
                None => {
                    let freed = Rc::<Notify>::default();
                    waiting.push((places, Rc::clone(&freed)));
                    freed
                }
            }
        };
        let waits = Waits { counts: self, freed };
        while self.used(places) >= max {
            timeout_at(deadline, waits.freed.notified()).await.ok()?;
        }
        Some(())
    }

    /// Wakes one of each user that has a place in common with who gave back.
    fn freed(&self, places: Places) {
        let meets = |others: &Places| others.iter().zip(places).any(|(other, place)| *other == place);
        let waiting = self.waiting.borrow();
        waiting.iter().filter(|(others, _)| meets(others)).for_each(|(_, freed)| freed.notify_one());
    }
}

/// One who waits. The last of a user takes its entry away.
struct Waits<'a> {
    counts: &'a Counts,
    freed: Rc<Notify>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        // The entry's own, and this one.
        if Rc::strong_count(&self.freed) <= 2 {
            self.counts.waiting.borrow_mut().retain(|(_, freed)| !Rc::ptr_eq(freed, &self.freed));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let counts = &self.shares.0;
        counts.counts(self.places).for_each(|count| count.set(count.get() - 1));
        if !counts.waiting.borrow().is_empty() {
            counts.freed(self.places);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_more_than_it_may_and_who_waits_goes_on_when_one_is_free() {
        let shares = Shares::by(&Hashes::default());
        let first = shares.take("a", 2, soon()).await.unwrap();
        let _second = shares.take("a", 2, soon()).await.unwrap();
        assert!(shares.take("a", 2, soon()).await.is_none());
        assert!(shares.take("b", 2, soon()).await.is_some(), "others go on");
        let (third, ()) = tokio::join!(shares.take("a", 2, soon()), async { drop(first) });
        assert!(third.is_some());
        assert!(shares.0.waiting.borrow().is_empty(), "nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_nobody_elses_turn() {
        let shares = Shares::by(&Hashes::default());
        let held = shares.take("a", 1, soon()).await.unwrap();
        let (long, short) = (Instant::now() + Duration::from_secs(1), soon());
        let leaves = async { drop(tokio::time::timeout(Duration::ZERO, shares.take("a", 1, short)).await) };
        let ends = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(held);
        };
        let (stays, (), ()) = tokio::join!(shares.take("a", 1, long), leaves, ends);
        assert!(stays.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_two_meet_keeps_nobody_waiting_whose_other_place_is_free() {
        let shares = Shares::by(&Hashes::default());
        let mut met = Vec::new();
        // Full places of the first table alone.
        shares.0.tables[0].iter().for_each(|count| count.set(5));
        for number in 0..5 {
            met.push(shares.take(&number.to_string(), 1, soon()).await);
        }
        assert!(met.iter().filter(|share| share.is_some()).count() >= 3, "three of five hardly meet in 512 places");
    }
}

//! Connections whose answers last: WebSockets and event streams, counted apart from those for requests.

use tokio_util::task::TaskTracker;

use super::places::{Place, Places};
use super::share::{Share, Shares};
use crate::hashes::Hashes;

/// Those of one thread, to whichever endpoints. Clones count together.
#[derive(Clone)]
pub(crate) struct Lasting {
    places: Places,
    shares: Shares,
    /// All shares that are moved here are by these.
    hashes: Hashes,
    /// The thread's connections of clients, and how many files they and what lasts may have.
    clients: TaskTracker,
    files_max: usize,
}

impl Lasting {
    /// None, beside these `clients`.
    pub(crate) fn beside(clients: TaskTracker, files_max: usize) -> Self {
        let hashes = Hashes::default();
        Self { places: Places::default(), shares: Shares::by(&hashes), hashes, clients, files_max }
    }

    /// Whether clients and what lasts have all the files that they may have.
    pub(crate) fn leaves_no_file(&self) -> bool {
        self.clients.len() + self.places.used() >= self.files_max
    }

    /// Shares of requests, to be moved here.
    pub(super) fn shares_of_requests(&self) -> Shares {
        Shares::by(&self.hashes)
    }

    /// Whether there may be no place for some user; otherwise there is one for each, whoever it is.
    pub(super) fn is_crowded(&self, max: usize) -> bool {
        self.places.used() >= half(max) || self.leaves_no_file()
    }

    /// Whether `user` may have one more of `max`: each may have half of them, and what is nobody's only the first half.
    pub(super) fn has_room(&self, user: Option<&str>, max: usize) -> bool {
        let may = || user.is_some_and(|user| self.shares.has_room(user, half(max)));
        !self.is_crowded(max) || !self.leaves_no_file() && self.places.used() < max && may()
    }

    /// A place among `max`, to which the `share` of who uses it is moved.
    pub(super) fn take(&self, share: Option<&mut Share>, max: usize) -> Option<Place> {
        if self.leaves_no_file() {
            return None;
        }
        match share {
            None => self.places.take(half(max)),
            Some(share) => {
                let place = self.places.take(max)?;
                share.move_to(&self.shares, half(max)).then_some(place)
            }
        }
    }
}

const fn half(max: usize) -> usize {
    max.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_leaves_files_to_clients_and_has_none_that_they_have() {
        let clients = TaskTracker::new();
        let lasting = Lasting::beside(clients.clone(), 3);
        let _first = lasting.take(None, 100).unwrap();
        assert!(!lasting.leaves_no_file() && lasting.has_room(Some("acme"), 100));
        let _clients = [clients.token(), clients.token()];
        assert!(lasting.leaves_no_file() && !lasting.has_room(Some("acme"), 100));
        assert!(lasting.take(None, 100).is_none());
    }

    #[test]
    fn what_belongs_to_nobody_has_no_more_than_one_user_may_have() {
        let lasting = Lasting::beside(TaskTracker::new(), 100);
        let _two = [lasting.take(None, 4).unwrap(), lasting.take(None, 4).unwrap()];
        assert!(lasting.take(None, 4).is_none() && !lasting.has_room(None, 4));
        assert!(lasting.has_room(Some("acme"), 4));
    }
}

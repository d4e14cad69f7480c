//! What was sent and what was answered, per tenant, while the run goes on.

use super::checker::{Entry, Outcome, Write};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads ask for one of so many writes that were acknowledged last.
const RECENT_MAX: usize = 64;

/// The books of all tenants, and the run's one counter of events.
#[derive(Debug)]
pub(crate) struct Ledger {
    books: Vec<Mutex<Book>>,
    events: AtomicU64,
}

#[derive(Debug, Default)]
struct Book {
    writes: Vec<Write>,
    /// Places in `writes`, in the order of their acknowledgement.
    acknowledged: Vec<usize>,
    count_at_start: i64,
    highest_count: i64,
}

impl Ledger {
    /// Empty books for tenants that have so many entries already.
    pub(crate) fn new(counts_at_start: &[i64]) -> Self {
        let book = |&count| Book { count_at_start: count, highest_count: count, ..Book::default() };
        Self { books: counts_at_start.iter().map(|count| Mutex::new(book(count))).collect(), events: AtomicU64::new(0) }
    }

    fn next_event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::SeqCst)
    }

    /// A write is about to be sent. Answers its place in the book.
    pub(crate) fn sent(&self, tenant: usize, id: String, length: u64, sha256: String) -> usize {
        let write = Write { id, length, sha256, sent_at: self.next_event(), outcome: Outcome::Unknown };
        let mut book = self.books[tenant].lock();
        book.writes.push(write);
        book.writes.len() - 1
    }

    /// The app acknowledged it.
    pub(crate) fn acknowledged(&self, tenant: usize, place: usize, entry: Entry) {
        let at = self.next_event();
        let mut book = self.books[tenant].lock();
        book.writes[place].outcome = Outcome::Acknowledged { entry, at };
        book.acknowledged.push(place);
    }

    /// The app said that it has it already.
    pub(crate) fn taken_already(&self, tenant: usize, place: usize) {
        self.books[tenant].lock().writes[place].outcome = Outcome::TakenAlready;
    }

    /// One of the writes that were acknowledged last.
    pub(crate) fn recent(&self, tenant: usize, pick: u32) -> Option<Write> {
        let book = self.books[tenant].lock();
        let recent = &book.acknowledged[book.acknowledged.len().saturating_sub(RECENT_MAX)..];
        let place = recent.get((pick as usize).checked_rem(recent.len())?)?;
        Some(book.writes[*place].clone())
    }

    /// The least that a count may answer to whoever asks at this moment.
    pub(crate) fn least_count(&self, tenant: usize) -> i64 {
        let book = self.books[tenant].lock();
        let acknowledged = i64::try_from(book.acknowledged.len()).unwrap_or(i64::MAX);
        book.highest_count.max(book.count_at_start.saturating_add(acknowledged))
    }

    /// A count was answered.
    pub(crate) fn counted(&self, tenant: usize, count: i64) {
        let mut book = self.books[tenant].lock();
        book.highest_count = book.highest_count.max(count);
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn acknowledged_total(&self) -> u64 {
        self.books.iter().map(|book| book.lock().acknowledged.len() as u64).sum()
    }

    /// The writes of a tenant: nothing more is sent to it.
    pub(crate) fn take_writes(&self, tenant: usize) -> Vec<Write> {
        std::mem::take(&mut self.books[tenant].lock().writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_can_be_asked_for_and_raises_the_least_count() {
        let ledger = Ledger::new(&[10, 0]);
        assert!(ledger.recent(0, 3).is_none());
        let place = ledger.sent(0, "w1".into(), 3, "hash".into());
        assert_eq!((ledger.recent(0, 3).is_none(), ledger.least_count(0)), (true, 10));
        let entry =
            Entry { id: "w1".into(), seq: 11, length: 3, sha256: "hash".into(), cell: "a".into(), epoch: Some(1) };
        ledger.acknowledged(0, place, entry);
        assert_eq!(ledger.recent(0, 3).map(|write| write.id), Some("w1".to_owned()));
        assert_eq!((ledger.least_count(0), ledger.least_count(1)), (11, 0));
        ledger.counted(0, 15);
        ledger.counted(0, 12);
        assert_eq!((ledger.least_count(0), ledger.acknowledged_total()), (15, 1));
    }
}

//! What rows share, by number. Reads take no lock; a number that is given back is given again.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

/// The first page; each is as large as all before it.
const FIRST_PAGE: usize = 64;
const FIRST_BITS: u32 = FIRST_PAGE.trailing_zeros();
/// More than 32 bits can count.
const PAGES: usize = 27;

type Page<T> = Box<[ArcSwapOption<T>]>;

#[derive(Debug)]
pub(super) struct Numbered<T> {
    pages: [OnceLock<Page<T>>; PAGES],
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    next: u32,
    given_back: Vec<u32>,
}

impl Default for Numbers {
    fn default() -> Self {
        // 0 is none.
        Self { next: 1, given_back: Vec::new() }
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { pages: std::array::from_fn(|_| OnceLock::new()), numbers: Mutex::default() }
    }
}

impl<T> Numbered<T> {
    /// Its number, from 1.
    pub(super) fn add(&self, value: Arc<T>) -> u32 {
        let mut numbers = self.numbers.lock();
        let number = match numbers.given_back.pop() {
            Some(number) => number,
            None => {
                numbers.next += 1;
                numbers.next - 1
            }
        };
        let (page, at) = place(number);
        let make = || (0..page_size(page)).map(|_| ArcSwapOption::empty()).collect();
        self.pages[page].get_or_init(make)[at].store(Some(value));
        number
    }

    /// What has this number, if anything.
    pub(super) fn get(&self, number: u32) -> Option<Arc<T>> {
        let (page, at) = place(number);
        self.pages[page].get()?[at].load_full()
    }

    /// Gives a number that is taken to another value.
    pub(super) fn replace(&self, number: u32, value: Arc<T>) {
        let (page, at) = place(number);
        if let Some(page) = self.pages[page].get() {
            page[at].store(Some(value));
        }
    }

    /// Gives a number back.
    pub(super) fn remove(&self, number: u32) {
        let (page, at) = place(number);
        if let Some(page) = self.pages[page].get() {
            page[at].store(None);
            self.numbers.lock().given_back.push(number);
        }
    }

    /// Gives all numbers back.
    pub(super) fn clear(&self) {
        let mut numbers = self.numbers.lock();
        self.pages.iter().filter_map(OnceLock::get).flatten().for_each(|value| value.store(None));
        *numbers = Numbers::default();
    }
}

/// The page of a number, and where it is there.
fn place(number: u32) -> (usize, usize) {
    let number = number as usize;
    match number >> FIRST_BITS {
        0 => (0, number),
        above => {
            let page = (above.ilog2() + 1) as usize;
            (page, number - (FIRST_PAGE << (page - 1)))
        }
    }
}

fn page_size(page: usize) -> usize {
    FIRST_PAGE << page.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let mut at = (0, 0);
        for number in 1..10_000 {
            let next = place(number);
            assert!(next.1 < page_size(next.0));
            assert!(next == (at.0, at.1 + 1) || next == (at.0 + 1, 0), "{number}");
            at = next;
        }
        assert!(place(u32::MAX).0 < PAGES);
    }

    #[test]
    fn a_number_that_is_given_back_is_given_again() {
        let numbered = Numbered::default();
        let numbers: Vec<u32> = (0..200).map(|value| numbered.add(Arc::new(value))).collect();
        assert_eq!(*numbered.get(numbers[130]).unwrap(), 130);
        numbered.remove(numbers[130]);
        assert!(numbered.get(numbers[130]).is_none());
        assert_eq!(numbered.add(Arc::new(7)), numbers[130]);
    }
}

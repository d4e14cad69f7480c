//! Where tenants are placed, each place once. One that nobody is at any more is forgotten: cells come and go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use cellway_core::ids::CellName;
use cellway_proxy::Hashes;
use parking_lot::Mutex;

use super::numbered::{Held, Numbered};
use super::{Cell, Place};

#[derive(Debug, Default)]
pub(super) struct Places {
    numbers: Mutex<HashMap<Place, u32, Hashes>>,
    places: Numbered<Taken>,
}

/// A place where somebody is.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) place: Place,
    /// The cell of that name, as the table has it.
    pub(super) cell: ArcSwapOption<Cell>,
    /// How many rows name it; written with the numbers locked.
    rows: AtomicUsize,
}

impl Places {
    /// The number of a place, which one more row names. `cell` finds the cell of its name.
    pub(super) fn take(&self, place: Place, cell: impl FnOnce(&CellName) -> Option<Arc<Cell>>) -> u32 {
        let mut numbers = self.numbers.lock();
        if let Some(number) = numbers.get(&place)
            && let Some(taken) = self.places.get(*number)
        {
            taken.rows.fetch_add(1, Ordering::Relaxed);
            return *number;
        }
        let cell = ArcSwapOption::new(cell(&place.cell));
        let number = self.places.add(Arc::new(Taken { place: place.clone(), cell, rows: 1.into() }));
        numbers.insert(place, number);
        number
    }

    /// One row fewer names it. 0 is no place.
    pub(super) fn give_back(&self, number: u32) {
        if number == 0 {
            return;
        }
        let mut numbers = self.numbers.lock();
        if let Some(taken) = self.places.get(number)
            && taken.rows.fetch_sub(1, Ordering::Relaxed) == 1
        {
            numbers.remove(&taken.place);
            self.places.remove(number);
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<Held<Taken>> {
        self.places.get(number)
    }

    /// The cell of this name is another one now, or none. Told after the table has it.
    pub(super) fn set_cell(&self, name: &CellName, cell: Option<&Arc<Cell>>) {
        for (place, number) in self.numbers.lock().iter() {
            if place.cell == *name
                && let Some(taken) = self.places.get(*number)
            {
                taken.cell.store(cell.cloned());
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.lock().len()
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.numbers.lock().clear();
        self.places.clear();
    }
}

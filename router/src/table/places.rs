//! Where tenants are placed, each place once. One that nobody is at any more is forgotten: cells come and go.

use std::collections::HashMap;
use std::sync::Arc;

use cellway_core::ids::CellName;
use cellway_proxy::Hashes;
use parking_lot::Mutex;

use super::numbered::Numbered;
use super::{Cell, Place};

#[derive(Debug, Default)]
pub(super) struct Places {
    numbers: Mutex<HashMap<Place, Taken, Hashes>>,
    places: Numbered<Placed>,
}

/// The number of a place where somebody is.
#[derive(Debug)]
struct Taken {
    number: u32,
    /// How many rows name it.
    rows: usize,
}

/// A place, and what is there.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) place: Place,
    /// The cell that is meant, if the table has it.
    pub(super) cell: Option<Arc<Cell>>,
}

impl Placed {
    /// `cell` has the place's name. A new cell of an old name is not the one that is meant.
    pub(super) fn new(place: Place, cell: Option<Arc<Cell>>) -> Self {
        let is_meant =
            |cell: &Arc<Cell>| place.uid.is_none() || cell.route.uid.is_none() || cell.route.uid == place.uid;
        Self { cell: cell.filter(is_meant), place }
    }
}

impl Places {
    /// The number of a place, which one more row names. `cell` finds the cell of its name.
    pub(super) fn take(&self, place: Place, cell: impl FnOnce(&CellName) -> Option<Arc<Cell>>) -> u32 {
        let mut numbers = self.numbers.lock();
        if let Some(taken) = numbers.get_mut(&place) {
            taken.rows += 1;
            return taken.number;
        }
        let cell = cell(&place.cell);
        let number = self.places.add(Arc::new(Placed::new(place.clone(), cell)));
        numbers.insert(place, Taken { number, rows: 1 });
        number
    }

    /// One row fewer names it. 0 is no place.
    pub(super) fn give_back(&self, number: u32) {
        if number == 0 {
            return;
        }
        let mut numbers = self.numbers.lock();
        if let Some(placed) = self.places.get(number)
            && let Some(taken) = numbers.get_mut(&placed.place)
        {
            taken.rows -= 1;
            if taken.rows == 0 {
                numbers.remove(&placed.place);
                self.places.remove(number);
            }
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<Arc<Placed>> {
        self.places.get(number)
    }

    /// The cell of this name is another one now, or none. Told after the table has it.
    pub(super) fn set_cell(&self, name: &CellName, cell: Option<&Arc<Cell>>) {
        for (place, taken) in self.numbers.lock().iter().filter(|(place, _)| place.cell == *name) {
            self.places.replace(taken.number, Arc::new(Placed::new(place.clone(), cell.cloned())));
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

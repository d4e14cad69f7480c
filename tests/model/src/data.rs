//! A cell's copies of the tenant's data, by the rules of the drivers.
//!
//! Of all writes one is followed, whichever it is: a copy has it or lacks it. Any write that can be lost can be that
//! one, and copies that differ in other writes only count as equal, which refuses less than the real positions do.

use cellway_core::ids::{Epoch, HomeId};
use cellway_core::tenant_move::Position;
use std::collections::BTreeMap;

/// One copy, with what the ledger says of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Home {
    /// The write that is followed is in it.
    pub(crate) has_write: bool,
    /// Data has been in place.
    pub(crate) made: bool,
    pub(crate) fenced: Option<Epoch>,
    pub(crate) released: Option<Epoch>,
    pub(crate) dropped: bool,
}

impl Home {
    pub(crate) fn is_released(&self) -> bool {
        !self.dropped && self.released.is_some_and(|released| self.fenced.is_none_or(|fenced| fenced < released))
    }
}

/// The driver does not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// All copies in a cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Data {
    pub(crate) homes: BTreeMap<HomeId, Home>,
    /// Whether a data fence stops writes. Where it does not, the gates alone keep every promise.
    pub(crate) fences: bool,
}

impl Data {
    /// The home that the tenant is served from at first.
    pub(crate) fn begin(&mut self, home: HomeId, epoch: Epoch) {
        self.homes.insert(home, Home { made: true, released: Some(epoch), ..Home::default() });
    }

    pub(crate) fn release(&mut self, home: &HomeId, epoch: Epoch) -> Result<(), Refused> {
        let later = |row: &Home| {
            row.fenced.is_some_and(|fenced| fenced >= epoch) || row.released.is_some_and(|released| released > epoch)
        };
        if self.fences && self.homes.values().any(later) {
            return Err(Refused);
        }
        let row = self.homes.get_mut(home).filter(|row| row.made && !row.dropped).ok_or(Refused)?;
        row.released = row.released.max(Some(epoch));
        Ok(())
    }

    /// `by_epoch`: a home that was released above `epoch` is left alone.
    pub(crate) fn fence(&mut self, home: &HomeId, epoch: Epoch, by_epoch: bool) -> Result<(), Refused> {
        let row = self.homes.get_mut(home).filter(|row| !row.dropped).ok_or(Refused)?;
        let later = row.released.is_some_and(|released| released > epoch);
        if later && by_epoch {
            return Err(Refused);
        }
        row.fenced = row.fenced.max(Some(epoch));
        if later {
            row.fenced = row.released;
        }
        Ok(())
    }

    pub(crate) fn is_writable(&self, home: &HomeId) -> bool {
        self.homes.get(home).is_some_and(|row| !row.dropped && (!self.fences || row.is_released()))
    }

    /// Whether the write was taken.
    pub(crate) fn write(&mut self, home: &HomeId) -> bool {
        let taken = self.is_writable(home);
        if let Some(row) = self.homes.get_mut(home).filter(|_| taken) {
            row.has_write = true;
        }
        taken
    }

    pub(crate) fn prepare(&mut self, home: &HomeId) -> Result<(), Refused> {
        if self.homes.entry(home.clone()).or_default().dropped { Err(Refused) } else { Ok(()) }
    }

    /// Puts verified data in place. `above`: where a home was released above this epoch, the order is late.
    pub(crate) fn install(&mut self, home: &HomeId, has_write: bool, above: Option<Epoch>) -> Result<(), Refused> {
        let later = |row: &Home| row.released.is_some_and(|released| above.is_some_and(|above| released > above));
        if self.homes.values().any(later) || self.homes.get(home).is_some_and(|row| row.dropped || row.is_released()) {
            return Err(Refused);
        }
        let row = self.homes.entry(home.clone()).or_default();
        row.has_write = has_write;
        row.made = true;
        Ok(())
    }

    pub(crate) fn drop_home(&mut self, home: &HomeId) -> Result<(), Refused> {
        match self.homes.get_mut(home) {
            Some(row) if row.is_released() => Err(Refused),
            Some(row) => {
                *row = Home { dropped: true, released: row.released, ..Home::default() };
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What no driver does: everything of the tenant goes.
    pub(crate) fn drop_tenant(&mut self) {
        self.homes.values_mut().for_each(|row| *row = Home { dropped: true, ..Home::default() });
    }

    pub(crate) fn position(&self, home: &HomeId) -> Option<Position> {
        let row = self.homes.get(home).filter(|row| row.made && !row.dropped)?;
        Some(position(row.has_write))
    }
}

/// Of a copy that has the write, or lacks it.
pub(crate) fn position(has_write: bool) -> Position {
    Position(if has_write { "with" } else { "without" }.to_owned())
}

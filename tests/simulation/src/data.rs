//! A cell's copies of the tenant's data, by the rules of the driver `sqlite`: a copy is a list of write ids.

use crate::broken::Broken;
use cellway_core::ids::{Epoch, HomeId, MoveId, Revision};
use cellway_core::tenant_move::Position;
use std::collections::BTreeMap;

/// One copy, with what the ledger says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Home {
    pub(crate) content: Vec<u64>,
    /// Data has been in place.
    made: bool,
    fenced: Option<Epoch>,
    released: Option<Epoch>,
    dropped: bool,
    /// Of the newest `reach` that filled it: the move's epoch and list.
    reached: Option<(Epoch, Revision)>,
    /// Rises when another file comes into its place: who had the old one open writes to nothing.
    file: u32,
}

impl Home {
    pub(crate) fn is_released(&self) -> bool {
        !self.dropped && self.released.is_some_and(|released| self.fenced.is_none_or(|fenced| fenced < released))
    }
}

/// Why the driver does not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A later epoch was seen.
    Superseded,
    /// The home serves.
    Served,
    /// The home was dropped.
    Dropped,
    /// The home is not here, or was never completed.
    Lost,
}

/// A file that the app has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenFile {
    pub(crate) home: HomeId,
    file: u32,
}

/// All copies in a cell, and the one that the app is led to.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) homes: BTreeMap<HomeId, Home>,
    pub(crate) live: Option<HomeId>,
    pub(crate) staged: BTreeMap<(MoveId, HomeId), Vec<u64>>,
    /// Whether a data fence stops writes.
    pub(crate) fences: bool,
}

impl Data {
    /// The home that a tenant begins with.
    pub(crate) fn begin(&mut self, home: HomeId) {
        self.homes.insert(home, Home { made: true, ..Home::default() });
    }

    pub(crate) fn release(&mut self, home: &HomeId, epoch: Epoch) -> Result<(), Refusal> {
        let later = |row: &Home| {
            row.fenced.is_some_and(|fenced| fenced >= epoch) || row.released.is_some_and(|released| released > epoch)
        };
        if self.fences && self.homes.values().any(later) {
            return Err(Refusal::Superseded);
        }
        let row = self.homes.get_mut(home).ok_or(Refusal::Lost)?;
        if row.dropped {
            return Err(Refusal::Dropped);
        }
        if !row.made {
            return Err(Refusal::Lost);
        }
        row.released = row.released.max(Some(epoch));
        self.live = Some(home.clone());
        Ok(())
    }

    pub(crate) fn fence(&mut self, home: &HomeId, epoch: Epoch, broken: Option<Broken>) -> Result<(), Refusal> {
        let row = self.homes.get_mut(home).ok_or(Refusal::Lost)?;
        if row.dropped {
            return Err(Refusal::Dropped);
        }
        let later = row.released.is_some_and(|released| released > epoch);
        if later && broken != Some(Broken::DataFenceWithoutEpoch) {
            return Err(Refusal::Superseded);
        }
        row.fenced = row.fenced.max(Some(epoch));
        if later {
            row.fenced = row.released;
        }
        if self.fences && self.live.as_ref() == Some(home) {
            self.live = None;
        }
        Ok(())
    }

    /// What the app opens now.
    pub(crate) fn open_live(&self) -> Option<OpenFile> {
        let home = self.live.clone()?;
        let file = self.homes.get(&home)?.file;
        Some(OpenFile { home, file })
    }

    /// Whether a write through this file would be taken.
    pub(crate) fn is_writable(&self, open: &OpenFile) -> bool {
        let row = self.homes.get(&open.home).filter(|row| !row.dropped && row.file == open.file);
        row.is_some_and(|row| !self.fences || row.is_released())
    }

    pub(crate) fn write(&mut self, open: &OpenFile, id: u64) -> bool {
        if !self.is_writable(open) {
            return false;
        }
        let row = self.homes.get_mut(&open.home);
        row.is_some_and(|row| {
            row.content.push(id);
            true
        })
    }

    /// A home that is known stays as it is.
    pub(crate) fn prepare(&mut self, home: &HomeId) -> Result<(), Refusal> {
        if self.homes.entry(home.clone()).or_default().dropped { Err(Refusal::Dropped) } else { Ok(()) }
    }

    /// Whether data may be fetched for this home.
    pub(crate) fn may_pull(&self, home: &HomeId) -> Result<(), Refusal> {
        match self.homes.get(home) {
            Some(row) if row.dropped => Err(Refusal::Dropped),
            Some(row) if row.is_released() => Err(Refusal::Served),
            _ => Ok(()),
        }
    }

    /// Puts data that was verified in place. `reach` is the epoch that the source serves at when the move begins, and
    /// the list: where a home was released above that epoch, or filled under a newer list, the order is late.
    pub(crate) fn install(
        &mut self,
        home: &HomeId,
        content: Vec<u64>,
        reach: (Epoch, Revision),
        broken: Option<Broken>,
    ) -> Result<(), Refusal> {
        self.may_pull(home)?;
        let later = self.homes.values().any(|row| row.released.is_some_and(|released| released > reach.0));
        if later && broken != Some(Broken::ReachWithoutEpoch) {
            return Err(Refusal::Superseded);
        }
        let row = self.homes.entry(home.clone()).or_default();
        if row.reached > Some(reach) && broken != Some(Broken::ReachUnderOlderList) {
            return Err(Refusal::Superseded);
        }
        row.reached = row.reached.max(Some(reach));
        row.content = content;
        row.made = true;
        row.file += 1;
        Ok(())
    }

    pub(crate) fn drop_home(&mut self, home: &HomeId) -> Result<(), Refusal> {
        match self.homes.get_mut(home) {
            Some(row) if row.is_released() => Err(Refusal::Served),
            Some(row) => {
                row.dropped = true;
                row.content.clear();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What no driver does: everything of the tenant goes.
    pub(crate) fn drop_tenant(&mut self) {
        for row in self.homes.values_mut() {
            row.dropped = true;
            row.content.clear();
        }
    }

    pub(crate) fn position(&self, home: &HomeId) -> Option<Position> {
        self.homes.get(home).filter(|row| row.made && !row.dropped).map(|row| position_of(&row.content))
    }
}

/// Length and hash (FNV-1a over the ids) of a copy.
pub(crate) fn position_of(content: &[u64]) -> Position {
    let step = |hash: u64, id: &u64| (hash ^ id).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    let hash = content.iter().fold(0xcbf2_9ce4_8422_2325, step);
    Position(format!("{}-{hash:016x}", content.len()))
}

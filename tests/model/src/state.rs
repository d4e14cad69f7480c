//! A state of the world: the store, what was said, the instances, the data.

use crate::intern::{Id, NONE};
use cellway_core::ids::{Epoch, Revision};

/// Cells at the most.
pub(crate) const CELLS_MAX: usize = 3;
/// Gate instances at the most.
pub(crate) const INSTANCES_MAX: usize = 4;
/// Moves at the most, attempts and moves back included.
pub(crate) const MOVES_MAX: usize = 3;

/// What became of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    /// Not in this configuration.
    Absent,
    /// It may join, with an empty disk.
    Unborn,
    Up,
    /// Crashed; its disk is there.
    Down,
    /// Closed for good, not yet off the list.
    Leaving,
    Left,
    /// Its machine is lost.
    Destroyed,
}

/// The file that a request writes to: a home by number.
pub(crate) type File = Id;

/// A file that was replaced under a request: what is written to it is lost, and nobody is told that it was taken.
pub(crate) const REPLACED: File = NONE - 1;

/// A gate instance: disk, memory, and what it left in the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub(crate) life: Life,
    /// On disk: the revision of its registration, which nothing it opens on may be older than.
    pub(crate) floor: Revision,
    /// On disk.
    pub(crate) fence: Option<Epoch>,
    /// In memory: the real gate.
    pub(crate) gate: Id,
    /// In memory: the file of the admitted request.
    pub(crate) file: File,
    /// In memory: the newest list under which it was told to reach, and for which move.
    pub(crate) reached: Option<(u8, Revision)>,
    /// A request that the app still runs although the gate that admitted it has crashed.
    pub(crate) orphan: File,
}

/// What may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) exits: u8,
    pub(crate) moves: u8,
    /// Extra steps of a broken rule.
    pub(crate) tricks: u8,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Rises with each change of a placement or a list of gates.
    pub(crate) revision: Revision,
    /// The placements that somebody may still read, oldest first.
    pub(crate) history: Id,
    /// Per cell: its lists, newest last.
    pub(crate) lists: [Id; CELLS_MAX],
    /// The move that has the tenant's lock.
    pub(crate) lock: Option<u8>,
    pub(crate) moves: [Id; MOVES_MAX],
    /// What the second replica believes, if there is one.
    pub(crate) cached: Id,
    /// Every order that was ever given.
    pub(crate) orders: Id,
    /// Every fact that was ever stated.
    pub(crate) facts: Id,
    pub(crate) instances: [Instance; INSTANCES_MAX],
    pub(crate) data: [Id; CELLS_MAX],
    /// The write that is followed was acknowledged.
    pub(crate) written: bool,
    /// A promise that was broken by the step into this state.
    pub(crate) flaw: Option<&'static str>,
    pub(crate) left: Budget,
}

/// What a replica believes of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct View {
    pub(crate) moves: [Id; MOVES_MAX],
    pub(crate) lock: Option<u8>,
    pub(crate) placement: Id,
    pub(crate) lists: [Listed; CELLS_MAX],
}

/// A list of gates: bit n is the n-th instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Listed {
    pub(crate) revision: Revision,
    pub(crate) members: u8,
}

/// A placement and the revisions at which it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stood {
    pub(crate) from: Revision,
    pub(crate) until: Revision,
    pub(crate) placement: Id,
}

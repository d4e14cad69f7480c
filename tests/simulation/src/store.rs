//! The store: one revision per commit, compare-and-swap, and every past revision for those who are behind.

use cellway_core::cell::GateList;
use cellway_core::ids::{CellName, HomeId, MoveId, Revision};
use cellway_core::tenant::Placement;
use cellway_core::tenant_move::MoveRecord;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The keys of one tenant's world.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Cell(CellName),
    Gates(CellName),
    Placement,
    Move(MoveId),
    Moving,
    Leftover(CellName, HomeId),
}

/// What stands under them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// The cell's record; its endpoints change with the list of gates.
    Cell,
    Gates(GateList),
    Placement(Placement),
    Move(Box<MoveRecord>),
    Moving(MoveId),
    Leftover(Leftover),
}

/// A copy to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub(crate) left_by: MoveId,
    pub(crate) due_ms: u64,
}

#[derive(Debug, Clone)]
struct At {
    value: Rc<Value>,
    revision: Revision,
}

/// The store as it was at a revision.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) revision: Revision,
    entries: BTreeMap<Key, At>,
}

impl View {
    fn get(&self, key: &Key) -> Option<(&Value, Revision)> {
        self.entries.get(key).map(|at| (&*at.value, at.revision))
    }

    pub(crate) fn cell_revision(&self, cell: &CellName) -> Option<Revision> {
        self.get(&Key::Cell(cell.clone())).map(|(_, revision)| revision)
    }

    pub(crate) fn gates(&self, cell: &CellName) -> Option<(&GateList, Revision)> {
        match self.get(&Key::Gates(cell.clone()))? {
            (Value::Gates(list), revision) => Some((list, revision)),
            _ => None,
        }
    }

    pub(crate) fn placement(&self) -> Option<(&Placement, Revision)> {
        match self.get(&Key::Placement)? {
            (Value::Placement(placement), revision) => Some((placement, revision)),
            _ => None,
        }
    }

    pub(crate) fn a_move(&self, id: &MoveId) -> Option<(&MoveRecord, Revision)> {
        match self.get(&Key::Move(id.clone()))? {
            (Value::Move(record), revision) => Some((record, revision)),
            _ => None,
        }
    }

    pub(crate) fn moving(&self) -> Option<(&MoveId, Revision)> {
        match self.get(&Key::Moving)? {
            (Value::Moving(id), revision) => Some((id, revision)),
            _ => None,
        }
    }

    pub(crate) fn moves(&self) -> impl Iterator<Item = &MoveRecord> {
        self.entries.values().filter_map(|at| match &*at.value {
            Value::Move(record) => Some(record.as_ref()),
            _ => None,
        })
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &MoveRecord> {
        self.moves().filter(|record| !record.state.is_last())
    }

    pub(crate) fn leftover(&self, cell: &CellName, home: &HomeId) -> Option<(&Leftover, Revision)> {
        match self.get(&Key::Leftover(cell.clone(), home.clone()))? {
            (Value::Leftover(leftover), revision) => Some((leftover, revision)),
            _ => None,
        }
    }

    pub(crate) fn leftovers_of(&self, cell: &CellName) -> impl Iterator<Item = (&HomeId, &Leftover)> {
        self.entries.iter().filter_map(move |(key, at)| match (key, &*at.value) {
            (Key::Leftover(of, home), Value::Leftover(leftover)) if of == cell => Some((home, leftover)),
            _ => None,
        })
    }
}

/// A transaction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Txn {
    compares: Vec<(Key, Option<Revision>)>,
    writes: Vec<(Key, Option<Value>)>,
}

impl Txn {
    pub(crate) fn require(mut self, key: Key, revision: Revision) -> Self {
        self.compares.push((key, Some(revision)));
        self
    }

    pub(crate) fn require_absent(mut self, key: Key) -> Self {
        self.compares.push((key, None));
        self
    }

    pub(crate) fn put(mut self, key: Key, value: Value) -> Self {
        self.writes.push((key, Some(value)));
        self
    }

    pub(crate) fn delete(mut self, key: Key) -> Self {
        self.writes.push((key, None));
        self
    }

    /// The same writes, comparing nothing.
    pub(crate) fn blind(mut self) -> Self {
        self.compares.clear();
        self
    }
}

/// A compare failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict;

/// All revisions.
#[derive(Debug)]
pub(crate) struct Store {
    history: Vec<Rc<View>>,
}

impl Default for Store {
    fn default() -> Self {
        Self { history: vec![Rc::default()] }
    }
}

impl Store {
    pub(crate) fn now(&self) -> Rc<View> {
        self.at(self.revision())
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.history.len() as u64 - 1)
    }

    /// The store as it was at `revision`, or the newest.
    pub(crate) fn at(&self, revision: Revision) -> Rc<View> {
        let newest = self.history.len() - 1;
        let at = usize::try_from(revision.0).unwrap_or(newest).min(newest);
        Rc::clone(&self.history[at])
    }

    pub(crate) fn commit(&mut self, txn: Txn) -> Result<Revision, Conflict> {
        let before = self.now();
        let holds = |(key, wanted): &(Key, Option<Revision>)| before.get(key).map(|(_, at)| at) == *wanted;
        if !txn.compares.iter().all(holds) {
            return Err(Conflict);
        }
        let mut after = View::clone(&before);
        after.revision = Revision(before.revision.0 + 1);
        let revision = after.revision;
        for (key, value) in txn.writes {
            match value {
                Some(value) => after.entries.insert(key, At { value: Rc::new(value), revision }),
                None => after.entries.remove(&key),
            };
        }
        self.history.push(Rc::new(after));
        Ok(revision)
    }
}

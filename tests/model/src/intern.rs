//! Values by number: a state of the world is small, equal values have equal numbers, and what the decisions of `core`
//! make of them is worked out once.

use crate::hashing::Folded;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of a value in its [`Table`].
pub(crate) type Id = u32;

/// No value.
pub(crate) const NONE: Id = Id::MAX;

#[derive(Debug)]
struct Inner<T> {
    numbers: HashMap<Arc<T>, Id, Folded>,
    values: Vec<Arc<T>>,
}

/// All values of a kind that were ever met.
#[derive(Debug)]
pub(crate) struct Table<T>(Mutex<Inner<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Mutex::new(Inner { numbers: HashMap::default(), values: Vec::new() }))
    }
}

impl<T: Eq + Hash> Table<T> {
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of `value`.
    pub(crate) fn id(&self, value: T) -> Id {
        let mut inner = self.inner();
        if let Some(id) = inner.numbers.get(&value) {
            return *id;
        }
        let (id, value) = (inner.values.len() as Id, Arc::new(value));
        inner.values.push(Arc::clone(&value));
        inner.numbers.insert(value, id);
        id
    }

    /// The value of a number that [`Table::id`] gave.
    pub(crate) fn get(&self, id: Id) -> Arc<T> {
        Arc::clone(&self.inner().values[id as usize])
    }
}

/// Sets of numbers, by number.
#[derive(Debug, Default)]
pub(crate) struct Sets(Table<Vec<Id>>);

impl Sets {
    pub(crate) fn empty(&self) -> Id {
        self.0.id(Vec::new())
    }

    pub(crate) fn members(&self, set: Id) -> Arc<Vec<Id>> {
        self.0.get(set)
    }

    pub(crate) fn with(&self, set: Id, member: Id) -> Id {
        let members = self.0.get(set);
        match members.binary_search(&member) {
            Ok(_) => set,
            Err(at) => {
                let mut members = Vec::clone(&members);
                members.insert(at, member);
                self.0.id(members)
            }
        }
    }

    pub(crate) fn only(&self, set: Id, keep: impl Fn(Id) -> bool) -> Id {
        let members = self.0.get(set);
        if members.iter().all(|member| keep(*member)) {
            return set;
        }
        self.0.id(members.iter().copied().filter(|member| keep(*member)).collect())
    }
}

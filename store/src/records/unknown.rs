//! Fields of a record that this version does not know. A newer one wrote them, and they outlive that an older one writes
//! the record: in a rolling upgrade both do.

use super::Record;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What a stored record has beside what this version knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unknown(Option<Box<Fields>>);

/// Those of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fields {
    /// What the object is or whom it names, if it says: what belongs to one is not kept in another.
    about: [Option<Value>; 2],
    parts: BTreeMap<String, Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// A field that is not known.
    Whole(Value),
    /// A known one that has such fields.
    Within(Fields),
}

impl Unknown {
    /// What `bytes` have beside the value that was read from them.
    pub fn of<T: Record>(value: &T, bytes: &[u8]) -> Self {
        let known = value.encode();
        if known == bytes {
            return Self::default();
        }
        match (serde_json::from_slice(bytes), serde_json::from_slice(&known)) {
            (Ok(Value::Object(stored)), Ok(Value::Object(known))) => Self(beside(&stored, &known).map(Box::new)),
            _ => Self::default(),
        }
    }

    /// The bytes to store for the record's next value.
    pub fn kept_in(&self, encoded: Vec<u8>) -> Vec<u8> {
        let Some(fields) = &self.0 else { return encoded };
        let Ok(Value::Object(mut record)) = serde_json::from_slice(&encoded) else { return encoded };
        keep(fields, &mut record);
        serde_json::to_vec(&record).unwrap_or(encoded)
    }
}

fn beside(stored: &Map<String, Value>, known: &Map<String, Value>) -> Option<Fields> {
    let part = |(name, value): (&String, &Value)| {
        let part = match (value, known.get(name)) {
            (_, None) => Part::Whole(value.clone()),
            (Value::Object(stored), Some(Value::Object(known))) => Part::Within(beside(stored, known)?),
            _ => return None,
        };
        Some((name.clone(), part))
    };
    let parts: BTreeMap<String, Part> = stored.iter().filter_map(part).collect();
    (!parts.is_empty()).then(|| Fields { about: about(stored), parts })
}

/// The variant, and the identity, that an object states.
fn about(object: &Map<String, Value>) -> [Option<Value>; 2] {
    ["is", "uid"].map(|name| object.get(name).cloned())
}

fn keep(fields: &Fields, record: &mut Map<String, Value>) {
    if fields.about != about(record) {
        return;
    }
    for (name, part) in &fields.parts {
        match (part, record.get_mut(name)) {
            (Part::Whole(value), None) => drop(record.insert(name.clone(), value.clone())),
            (Part::Within(fields), Some(Value::Object(within))) => keep(fields, within),
            // The record has no such part any more, or knows the field by now.
            _ => {}
        }
    }
}

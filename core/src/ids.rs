//! The names and numbers that everything else is keyed by. Short names lie within their value: a copy is no allocation.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use smol_str::SmolStr;

/// Longest DNS label, in bytes (RFC 1035). Tenant ids and cell names are labels.
pub const LABEL_MAX_BYTES: usize = 63;

/// Longest generated id (move, home, instance, uid), in bytes.
pub const TOKEN_MAX_BYTES: usize = 64;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing was given.
    #[error("an id must not be empty")]
    Empty,
    /// Longer than the kind allows.
    #[error("{text:?} is {length} bytes long, at most {max} are allowed")]
    TooLong {
        /// The text, cut to what is allowed.
        text: String,
        /// Its length in bytes.
        length: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// A character, or its place, is not allowed.
    #[error("{text:?} is not allowed: use a-z, 0-9 and '-', not at an end")]
    Character {
        /// The text.
        text: String,
    },
}

/// What may be in an id.
const LEGAL: [bool; 256] = {
    let mut legal = [false; 256];
    let mut byte = 0;
    while byte < legal.len() {
        let letter = byte as u8;
        legal[byte] = letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        byte += 1;
    }
    legal
};

fn check_label(text: &str, max: usize) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > max {
        return Err(InvalidId::TooLong { text: text.chars().take(max).collect(), length: text.len(), max });
    }
    let bytes = text.as_bytes();
    let is_legal = |byte: &u8| LEGAL[usize::from(*byte)];
    if !bytes.iter().all(is_legal) || bytes.first() == Some(&b'-') || bytes.last() == Some(&b'-') {
        return Err(InvalidId::Character { text: text.to_owned() });
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(SmolStr);

        impl $name {
            /// Checks `text` and makes it an id.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                check_label(text, $max)?;
                Ok(Self(SmolStr::new(text)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// A tenant: its subdomain label. It never changes; a rename is a host claim.
    TenantId, LABEL_MAX_BYTES
);
text_id!(
    /// A cell's name. A name may be used again after the cell was retired; the uid may not.
    CellName, LABEL_MAX_BYTES
);
text_id!(
    /// What tells two cells of the same name apart: made at random when the cell is created.
    CellUid, TOKEN_MAX_BYTES
);
text_id!(
    /// A move of one tenant.
    MoveId, TOKEN_MAX_BYTES
);
text_id!(
    /// A copy of a tenant's data in a cell, named by the move (or creation) that made it.
    HomeId, TOKEN_MAX_BYTES
);
text_id!(
    /// A store, which its revisions belong to: those of another one say nothing.
    ClusterId, TOKEN_MAX_BYTES
);
text_id!(
    /// One agent process with its disk. Made at random at its first start; never used again after it left.
    InstanceId, TOKEN_MAX_BYTES
);

/// How often a placement changed hands. It begins at the store's revision when the tenant is created, so that an
/// id used again never meets its own past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A change number of the store: rises with each commit, over all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_labels() {
        for good in ["a", "acme", "a-1", "0", &"x".repeat(63)] {
            assert_eq!(TenantId::new(good).expect("legal").as_str(), good);
        }
        for bad in ["", "-a", "a-", "Acme", "a.b", "a_b", "a/b", "ä", &"x".repeat(64)] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
    }
}

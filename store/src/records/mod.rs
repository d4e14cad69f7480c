//! The shapes in which things are stored, apart from the types of the decisions: renaming a state in the code never
//! breaks a stored record. Every value is JSON with a `format` number; a higher one than ours is refused, not guessed.
//! Fields that are not known are kept as they are ([`Unknown`]), so that versions can be mixed while the number is the same.

mod cell;
mod certificate;
mod fleet;
mod limits;
mod moves;
mod placement;
mod unknown;

pub use fleet::{Audit, Brake, Finding, Heartbeat, HostClaim, Leader, Leftover, Moving, PlaceGiven};
pub use unknown::Unknown;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The newest format that this version reads, and the one it writes.
pub const FORMAT: u32 = 1;

/// A stored value that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    /// Not JSON, or not of the expected shape.
    #[error("a stored {what} cannot be read")]
    Shape {
        /// What it should be.
        what: &'static str,
        /// Where it fails.
        #[source]
        source: serde_json::Error,
    },
    /// Written by a newer version.
    #[error("a stored {what} has format {format}, this version reads up to {FORMAT}")]
    Format {
        /// What it should be.
        what: &'static str,
        /// Its format number.
        format: u32,
    },
    /// A field has a value that cannot be.
    #[error("a stored {what} has a bad value: {why}")]
    Value {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A thing with a stored shape.
pub trait Record: Sized {
    /// The bytes to store.
    fn encode(&self) -> Vec<u8>;
    /// The thing in stored bytes.
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord>;
}

#[derive(Serialize)]
struct Written<'a, T> {
    format: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A stored shape and the type that it stands for.
trait Shape: Serialize + DeserializeOwned {
    type Of;
    const WHAT: &'static str;
    fn of(value: &Self::Of) -> Self;
    fn into_value(self) -> Result<Self::Of, String>;
}

#[expect(clippy::expect_used, reason = "stored shapes have text keys and no failing serializer")]
fn encode_as<S: Shape>(value: &S::Of) -> Vec<u8> {
    let written = Written { format: FORMAT, body: &S::of(value) };
    serde_json::to_vec(&written).expect("stored shapes have text keys and no failing serializer")
}

fn decode_as<S: Shape>(bytes: &[u8]) -> Result<S::Of, BadRecord> {
    let what = S::WHAT;
    let shape = |source| BadRecord::Shape { what, source };
    let FormatOnly { format } = serde_json::from_slice(bytes).map_err(shape)?;
    if format > FORMAT {
        return Err(BadRecord::Format { what, format });
    }
    let stored: S = serde_json::from_slice(bytes).map_err(shape)?;
    stored.into_value().map_err(|why| BadRecord::Value { what, why })
}

macro_rules! record {
    ($value:ty, $shape:ty) => {
        impl crate::records::Record for $value {
            fn encode(&self) -> Vec<u8> {
                crate::records::encode_as::<$shape>(self)
            }
            fn decode(bytes: &[u8]) -> Result<Self, crate::records::BadRecord> {
                crate::records::decode_as::<$shape>(bytes)
            }
        }
    };
}
use record;

/// For the conversions: an id from stored text.
fn id<T: std::str::FromStr<Err = cellway_core::ids::InvalidId>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: cellway_core::ids::InvalidId| error.to_string())
}

#[cfg(test)]
mod tests;

//! A fast hash whose keys come from the process's own randomness: not of names that clients could choose to meet in a table,
//! but of those that a table has, and that they only ask for.

use std::hash::BuildHasher;
use std::sync::OnceLock;

use foldhash::SharedSeed;
use foldhash::fast::{FoldHasher, SeedableRandomState};

static SHARED: OnceLock<SharedSeed> = OnceLock::new();

/// Hashes the keys of one table.
#[derive(Debug, Clone)]
pub struct Hashes(SeedableRandomState);

impl Default for Hashes {
    fn default() -> Self {
        let shared = SHARED.get_or_init(|| SharedSeed::from_u64(rand::random()));
        Self(SeedableRandomState::with_seed(rand::random(), shared))
    }
}

impl BuildHasher for Hashes {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> FoldHasher<'static> {
        self.0.build_hasher()
    }
}

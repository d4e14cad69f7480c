//! A quick hash of 64 bits: each word is folded in by a wide multiplication. What is hashed here nobody chooses.

use std::hash::{BuildHasherDefault, Hash, Hasher};

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
const OTHER: u64 = 0xe703_7ed1_a0b4_28db;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Fold(u64);

pub(crate) type Folded = BuildHasherDefault<Fold>;

impl Default for Fold {
    fn default() -> Self {
        Self(OTHER)
    }
}

fn fold(one: u64, other: u64) -> u64 {
    let wide = u128::from(one) * u128::from(other);
    (wide >> 64) as u64 ^ wide as u64
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        fold(self.0 ^ OTHER, ODD)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            self.write_u64(rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0.rotate_left(23) ^ word, ODD) ^ self.0.wrapping_mul(OTHER);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }
}

/// 64 bits of a value.
pub(crate) fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = Fold::default();
    value.hash(&mut hasher);
    hasher.finish()
}

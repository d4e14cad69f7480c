//! A tenant's name in four words: six bits are enough for a letter, as there are 37 of them. Few names are longer than 40
//! letters; those have a number.

use std::sync::Arc;

use cellway_core::ids::TenantId;

use super::Map;
use super::numbered::Numbered;

/// The words of a name.
pub(super) const NAME_WORDS: usize = 4;
/// Eight letters take 48 bits.
const PART_LETTERS: usize = 8;
const PART_BITS: u32 = 48;
/// Four parts lie in words of their own; the fifth in what the first three leave free.
const PARTS: usize = 5;
const NAME_LETTERS: usize = PARTS * PART_LETTERS;
const LETTER_BITS: u32 = 6;
/// Marks the last word of a long name as its number.
const NUMBERED: u64 = 1 << 63;

/// A name, equal to another if and only if that is the same. Of texts that are no names, some look like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(pub(super) [u64; NAME_WORDS]);

/// The long names.
#[derive(Debug, Default)]
pub(super) struct LongNames {
    numbers: Map<TenantId, u32>,
    names: Numbered<TenantId>,
}

impl LongNames {
    /// The name of a tenant; `None` if a long one was never met.
    pub(super) fn find(&self, label: &str) -> Option<Name> {
        short(label.as_bytes()).or_else(|| {
            let number = *self.numbers.pin().get(label)?;
            Some(long(label.as_bytes(), number))
        })
    }

    /// The name of a tenant, with a number from now on if it is a long one.
    pub(super) fn name(&self, tenant: &TenantId) -> Name {
        short(tenant.as_str().as_bytes()).unwrap_or_else(|| {
            // Two who ask at once may take two numbers; one of them names nobody.
            let number = || self.names.add(Arc::new(tenant.clone()));
            let number = *self.numbers.pin().get_or_insert_with(tenant.clone(), number);
            long(tenant.as_str().as_bytes(), number)
        })
    }

    /// The tenant of a name.
    pub(super) fn tenant(&self, name: Name) -> Option<TenantId> {
        let last = name.0[NAME_WORDS - 1];
        if last & NUMBERED != 0 {
            return self.names.get(u32::try_from(last & !NUMBERED).ok()?).map(|tenant| (*tenant).clone());
        }
        let mut letters = [0; NAME_LETTERS];
        let mut length = 0;
        for (part, letters) in parts(name).into_iter().zip(letters.chunks_mut(PART_LETTERS)) {
            for (at, letter) in letters.iter_mut().enumerate() {
                let bits = (part >> (at as u32 * LETTER_BITS) & 0x3f) as u8;
                if bits != 0 {
                    *letter = bits & 0x1f | if bits & 0x20 != 0 { 0x60 } else { 0x20 };
                    length += 1;
                }
            }
        }
        TenantId::new(std::str::from_utf8(&letters[..length]).ok()?).ok()
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.numbers.pin().clear();
        self.names.clear();
    }
}

/// Eight letters in 48 bits. A letter keeps its five lowest bits, and one more that tells letters from digits and `-`.
fn part(letters: [u8; PART_LETTERS]) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(letters);
    let six = word & (EACH * 0x1f) | (word & (EACH * 0x40)) >> 1;
    let twelve = six & 0x003f_003f_003f_003f | (six & 0x3f00_3f00_3f00_3f00) >> 2;
    let twenty_four = twelve & 0x0000_0fff_0000_0fff | (twelve & 0x0fff_0000_0fff_0000) >> 4;
    twenty_four & 0x00ff_ffff | (twenty_four & 0x00ff_ffff_0000_0000) >> 8
}

fn words(label: &[u8]) -> [u64; NAME_WORDS] {
    let mut parts = [0; PARTS];
    let mut letters = [[0; PART_LETTERS]; PARTS];
    letters.as_flattened_mut()[..label.len()].copy_from_slice(label);
    for (own, letters) in parts.iter_mut().zip(&letters[..label.len().div_ceil(PART_LETTERS)]) {
        *own = part(*letters);
    }
    let [first, second, third, fourth, fifth] = parts;
    let piece = |at: u32| (fifth >> (16 * at) & 0xffff) << PART_BITS;
    [first | piece(0), second | piece(1), third | piece(2), fourth]
}

fn parts(Name([first, second, third, fourth]): Name) -> [u64; PARTS] {
    let low = |word: u64| word & ((1 << PART_BITS) - 1);
    let fifth = first >> PART_BITS | second >> PART_BITS << 16 | third >> PART_BITS << 32;
    [low(first), low(second), low(third), fourth, fifth]
}

fn short(label: &[u8]) -> Option<Name> {
    (label.len() <= NAME_LETTERS).then(|| Name(words(label)))
}

fn long(label: &[u8], number: u32) -> Name {
    let [first, second, third, _] = words(&label[..(NAME_WORDS - 1) * PART_LETTERS]);
    Name([first, second, third, NUMBERED | u64::from(number)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_found_again_whatever_its_length() {
        let names = LongNames::default();
        for length in 1..=63 {
            for letters in ["a", "z9-0", "-0", "q"] {
                let Ok(tenant) = TenantId::new(&letters.repeat(63)[..length]) else { continue };
                let name = names.name(&tenant);
                assert_eq!(names.find(tenant.as_str()), Some(name));
                assert_eq!(names.tenant(name), Some(tenant));
            }
        }
        assert!(names.find(&"x".repeat(63)).is_none(), "nobody has that name");
    }

    proptest! {
        #[test]
        fn two_names_are_two(one in "[a-c0-]{1,50}", other in "[a-c0-]{1,50}") {
            let names = LongNames::default();
            if let (Ok(one), Ok(other)) = (TenantId::new(&one), TenantId::new(&other)) {
                prop_assert_eq!(names.name(&one) == names.name(&other), one == other);
            }
        }
    }
}

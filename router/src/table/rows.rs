//! The tenants' rows: one line of the processor's cache each, found by a tag of two bytes. Reads take no lock.
//!
//! Rows lie in shards, and none is ever removed. A shard that is full is copied to a larger one, which costs a change what
//! one shard takes and is seldom; who reads meanwhile reads the old one. A row's name never changes. What changes has a
//! version, odd while it is written: who meets that reads again, which lasts as long as four stores.

use std::array;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use arc_swap::ArcSwap;
use cellway_proxy::Hashes;
use parking_lot::Mutex;

use super::name::{NAME_WORDS, Name};

/// A power of two: each holds a small part of the rows, so that no copy of one takes long, and there are few enough for what
/// leads to their rows to stay in the caches.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 6;
/// Tags in a word.
const LANES: usize = 4;
/// A shard grows by this part of itself.
const GROWTH: usize = 6;
/// Of so many rows in a shard one stays free.
const FREE_OF: usize = 16;

/// What is known of a tenant, by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// Of the place, where the kind has one.
    pub(super) place: u32,
    /// Of the limits; 0: none.
    pub(super) limited: u32,
    pub(super) epoch: u64,
    pub(super) revision: u64,
}

/// [`crate::table::TenantRoute`] without what a row has beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Placed = 0,
    Held = 1,
    Gone = 2,
    Unreadable = 3,
}

impl Row {
    /// Whether it is the same word of the feed.
    pub(super) fn is_of(self, other: Self) -> bool {
        Self { limited: other.limited, ..self } == other
    }
}

impl Kind {
    pub(super) fn is_placed(self) -> bool {
        matches!(self, Self::Placed | Self::Held)
    }

    fn of(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Placed,
            1 => Self::Held,
            2 => Self::Gone,
            _ => Self::Unreadable,
        }
    }
}

/// What a listing that names a tenant finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marked {
    /// The tenant is not known.
    Unknown,
    First,
    /// The same listing has named it before.
    Again,
}

/// A row as it lies in memory.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    name: [AtomicU64; NAME_WORDS],
    epoch: AtomicU64,
    revision: AtomicU64,
    /// The place's number, and in the two lowest bits the kind.
    place: AtomicU32,
    limited: AtomicU32,
    version: AtomicU32,
    /// The last listing that named it.
    mark: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == 64, "a row is one line of the cache");

impl Slot {
    fn new(name: Name, row: Row, mark: u32) -> Self {
        Self {
            name: name.0.map(AtomicU64::new),
            epoch: row.epoch.into(),
            revision: row.revision.into(),
            place: (row.place << 2 | row.kind as u32).into(),
            limited: row.limited.into(),
            version: 0.into(),
            mark: mark.into(),
        }
    }

    fn is_of(&self, name: Name) -> bool {
        self.name.iter().zip(name.0).all(|(own, word)| own.load(Ordering::Relaxed) == word)
    }

    fn name(&self) -> Name {
        Name(array::from_fn(|at| self.name[at].load(Ordering::Relaxed)))
    }

    /// What `look` makes of the row, which does not change meanwhile.
    fn read<T>(&self, look: impl Fn(Row) -> T) -> T {
        loop {
            let version = self.version.load(Ordering::Acquire);
            if version.is_multiple_of(2) {
                let seen = look(self.load());
                fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == version {
                    return seen;
                }
            }
            std::hint::spin_loop();
        }
    }

    fn load(&self) -> Row {
        let place = self.place.load(Ordering::Relaxed);
        Row {
            kind: Kind::of(place),
            place: place >> 2,
            limited: self.limited.load(Ordering::Relaxed),
            epoch: self.epoch.load(Ordering::Relaxed),
            revision: self.revision.load(Ordering::Relaxed),
        }
    }

    /// Only one at a time may write.
    fn write(&self, row: Row) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.epoch.store(row.epoch, Ordering::Relaxed);
        self.revision.store(row.revision, Ordering::Relaxed);
        self.place.store(row.place << 2 | row.kind as u32, Ordering::Relaxed);
        self.limited.store(row.limited, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }
}

/// The rows of a shard, and their tags, four to a word; a tag of 0 is a free row.
#[derive(Debug)]
struct Block {
    tags: Box<[AtomicU64]>,
    slots: Box<[Slot]>,
}

impl Block {
    fn with_room_for(rows: usize) -> Self {
        let words = rows.div_ceil(LANES);
        let tags = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { tags, slots: (0..words * LANES).map(|_| Slot::default()).collect() }
    }

    /// The words from the one where a name belongs.
    fn words_from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let words = self.tags.len();
        // The lower half of the hash, as a part of all words.
        let first = (((hash & u64::from(u32::MAX)) as u128 * words as u128) >> 32) as usize;
        (first..words).chain(0..first)
    }

    fn find(&self, name: Name, hash: u64) -> Option<&Slot> {
        let wanted = u64::from(tag(hash)) * LOWEST;
        for at in self.words_from(hash) {
            let tags = self.tags[at].load(Ordering::Acquire);
            let mut equal = zero_lanes(tags ^ wanted);
            while equal != 0 {
                let slot = &self.slots[at * LANES + lane(equal)];
                if slot.is_of(name) {
                    return Some(slot);
                }
                equal &= equal - 1;
            }
            if zero_lanes(tags) != 0 {
                return None;
            }
        }
        None
    }

    /// Places a row whose name is not there yet. There has to be room.
    fn put(&mut self, slot: Slot, hash: u64) {
        let free = self.words_from(hash).find_map(|at| self.free_at(at));
        if let Some((at, lane)) = free {
            self.slots[at * LANES + lane] = slot;
            self.publish(at, lane, hash);
        }
    }

    /// Like [`Self::put`], while others read.
    fn add(&self, name: Name, row: Row, mark: u32, hash: u64) {
        let free = self.words_from(hash).find_map(|at| self.free_at(at));
        if let Some((at, lane)) = free {
            let slot = &self.slots[at * LANES + lane];
            for (own, word) in slot.name.iter().zip(name.0) {
                own.store(word, Ordering::Relaxed);
            }
            slot.mark.store(mark, Ordering::Relaxed);
            slot.write(row);
            self.publish(at, lane, hash);
        }
    }

    fn free_at(&self, at: usize) -> Option<(usize, usize)> {
        let free = zero_lanes(self.tags[at].load(Ordering::Relaxed));
        (free != 0).then(|| (at, lane(free)))
    }

    fn publish(&self, at: usize, lane: usize, hash: u64) {
        self.tags[at].fetch_or(u64::from(tag(hash)) << (lane * 16), Ordering::Release);
    }

    /// Every row.
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let lanes = self.tags.iter().flat_map(|tags| {
            let tags = tags.load(Ordering::Acquire);
            (0..LANES).map(move |lane| tags >> (lane * 16) & 0xffff != 0)
        });
        lanes.zip(&self.slots).filter_map(|(is_taken, slot)| is_taken.then_some(slot))
    }
}

/// One in each lane of 16 bits.
const LOWEST: u64 = 0x0001_0001_0001_0001;

fn tag(hash: u64) -> u16 {
    (hash >> 32) as u16 | 1
}

/// The highest bit of each lane that is 0.
fn zero_lanes(word: u64) -> u64 {
    let low = LOWEST * 0x7fff;
    !(((word & low) + low) | word | low)
}

fn lane(bits: u64) -> usize {
    bits.trailing_zeros() as usize / 16
}

#[derive(Debug)]
struct Shard {
    block: ArcSwap<Block>,
    /// How many rows it has. Held by who writes.
    rows: Mutex<usize>,
}

/// All rows.
#[derive(Debug)]
pub(super) struct Rows {
    shards: Box<[Shard]>,
    hashes: Hashes,
    rows: AtomicUsize,
    placed: AtomicUsize,
    /// The last listing.
    listing: AtomicU32,
}

impl Default for Rows {
    fn default() -> Self {
        let empty = Arc::new(Block::with_room_for(0));
        let shard = || Shard { block: ArcSwap::new(Arc::clone(&empty)), rows: Mutex::default() };
        let shards = (0..SHARDS).map(|_| shard()).collect();
        let (rows, placed, listing) = Default::default();
        Self { shards, hashes: Hashes::default(), rows, placed, listing }
    }
}

impl Rows {
    /// What `look` makes of a tenant's row.
    pub(super) fn read<T>(&self, name: Name, look: impl Fn(Row) -> T) -> Option<T> {
        let hash = self.hash(name);
        let block = self.shard(hash).block.load();
        block.find(name, hash).map(|slot| slot.read(look))
    }

    /// Gives a tenant the row that `change` makes of its row before, if it makes any; says what that was.
    pub(super) fn update<E>(
        &self,
        name: Name,
        change: impl FnOnce(Option<Row>) -> Result<Row, E>,
    ) -> Result<Option<Row>, E> {
        let hash = self.hash(name);
        let shard = self.shard(hash);
        let mut rows = shard.rows.lock();
        let block = shard.block.load();
        let slot = block.find(name, hash);
        let before = slot.map(Slot::load);
        let row = change(before)?;
        match slot {
            Some(slot) => slot.write(row),
            None => {
                let mark = self.listing.load(Ordering::Relaxed);
                if *rows + 1 + block.slots.len() / FREE_OF <= block.slots.len() {
                    block.add(name, row, mark, hash);
                } else {
                    let mut larger = self.copy(&block, block.slots.len() + block.slots.len() / GROWTH + 1);
                    larger.put(Slot::new(name, row, mark), hash);
                    shard.block.store(Arc::new(larger));
                }
                *rows += 1;
                self.rows.fetch_add(1, Ordering::Relaxed);
            }
        }
        let was_placed = before.is_some_and(|before| before.kind.is_placed());
        if row.kind.is_placed() && !was_placed {
            self.placed.fetch_add(1, Ordering::Relaxed);
        } else if was_placed && !row.kind.is_placed() {
            self.placed.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(before)
    }

    /// Makes room for so many rows in one go, if there are none yet.
    pub(super) fn expect(&self, rows: usize) {
        for shard in &self.shards {
            let taken = shard.rows.lock();
            let each = rows / SHARDS;
            // Four standard deviations: nearly no shard will have more.
            let each = each + 4 * each.isqrt() + 1;
            if *taken == 0 && each > shard.block.load().slots.len() {
                shard.block.store(Arc::new(Block::with_room_for(each + each / (FREE_OF - 1) + 1)));
            }
        }
    }

    fn copy(&self, block: &Block, room: usize) -> Block {
        let mut larger = Block::with_room_for(room);
        for slot in block.slots() {
            let (name, mark) = (slot.name(), slot.mark.load(Ordering::Relaxed));
            larger.put(Slot::new(name, slot.load(), mark), self.hash(name));
        }
        larger
    }

    /// A new listing begins.
    pub(super) fn begin_listing(&self) {
        self.listing.fetch_add(1, Ordering::Relaxed);
    }

    /// The listing names a tenant. Not while another one is read.
    pub(super) fn mark(&self, name: Name) -> Marked {
        let hash = self.hash(name);
        let shard = self.shard(hash);
        // A block that is being copied would lose the mark.
        let _writing = shard.rows.lock();
        let listing = self.listing.load(Ordering::Relaxed);
        match shard.block.load().find(name, hash) {
            None => Marked::Unknown,
            Some(slot) if slot.mark.swap(listing, Ordering::Relaxed) == listing => Marked::Again,
            Some(_) => Marked::First,
        }
    }

    /// Every row, and whether the last listing has named it or it came since.
    pub(super) fn each(&self, mut each: impl FnMut(Name, Row, bool)) {
        let listing = self.listing.load(Ordering::Relaxed);
        for shard in &self.shards {
            let block = shard.block.load_full();
            for slot in block.slots() {
                each(slot.name(), slot.read(|row| row), slot.mark.load(Ordering::Relaxed) == listing);
            }
        }
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut rows = shard.rows.lock();
            shard.block.store(Arc::new(Block::with_room_for(0)));
            *rows = 0;
        }
        self.rows.store(0, Ordering::Relaxed);
        self.placed.store(0, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    pub(super) fn placed(&self) -> usize {
        self.placed.load(Ordering::Relaxed)
    }

    fn hash(&self, Name([first, second, third, fourth]): Name) -> u64 {
        self.hashes.hash_one((first, second, third, fourth))
    }

    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[(hash >> (64 - SHARD_BITS)) as usize]
    }
}

#[cfg(test)]
mod tests;

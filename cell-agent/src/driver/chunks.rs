//! A file as a list of chunk hashes: what two copies of it are compared by.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A file is compared and fetched in chunks of this size.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;

/// The length of one hash.
pub(crate) const HASH_BYTES: usize = blake3::OUT_LEN;

/// How much is read at once: a multiple of [`CHUNK_BYTES`].
const READ_BYTES: usize = 64 * CHUNK_BYTES;

/// One chunk's hash.
pub(crate) type ChunkHash = [u8; HASH_BYTES];

/// The size of a file and the hash of each of its chunks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ChunkMap {
    pub(crate) size: u64,
    pub(crate) hashes: Vec<ChunkHash>,
}

impl ChunkMap {
    /// Reads a whole file.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut map = Self::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let filled = read_full(&mut file, &mut buffer)?;
            map.size += filled as u64;
            map.hashes.extend(buffer[..filled].chunks(CHUNK_BYTES).map(hash));
            if filled < buffer.len() {
                return Ok(map);
            }
        }
    }

    /// One short text that stands for the whole file.
    pub(crate) fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.size.to_le_bytes());
        for hash in &self.hashes {
            hasher.update(hash);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// How many chunks a file of `size` bytes has.
    pub(crate) fn count(size: u64) -> u64 {
        size.div_ceil(CHUNK_BYTES as u64)
    }

    /// How many bytes chunk `index` has.
    pub(crate) fn chunk_bytes(&self, index: usize) -> u64 {
        let start = index as u64 * CHUNK_BYTES as u64;
        self.size.saturating_sub(start).min(CHUNK_BYTES as u64)
    }

    /// The chunks of `wanted` that this file does not have in the same place.
    pub(crate) fn missing(&self, wanted: &Self) -> Vec<u32> {
        let differs = |&index: &usize| self.hashes.get(index) != wanted.hashes.get(index);
        (0..wanted.hashes.len()).filter(differs).filter_map(|index| u32::try_from(index).ok()).collect()
    }
}

/// The hash of one chunk.
pub(crate) fn hash(chunk: &[u8]) -> ChunkHash {
    *blake3::hash(chunk).as_bytes()
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_digest_tells_any_two_files_apart() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("f");
        let mut digests = std::collections::BTreeSet::new();
        let sizes = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, READ_BYTES, READ_BYTES + 1];
        for size in sizes {
            std::fs::write(&path, vec![0; size]).unwrap();
            let map = ChunkMap::of_file(&path).unwrap();
            assert_eq!(map.hashes.len() as u64, ChunkMap::count(size as u64));
            assert_eq!((0..map.hashes.len()).map(|i| map.chunk_bytes(i)).sum::<u64>(), size as u64);
            digests.insert(map.digest());
        }
        assert_eq!(digests.len(), sizes.len());
    }

    #[test]
    fn only_what_differs_is_missing() {
        let map = |bytes: &[u8]| ChunkMap { size: bytes.len() as u64, hashes: bytes.chunks(1).map(hash).collect() };
        assert_eq!(map(b"abc").missing(&map(b"abc")), Vec::<u32>::new());
        assert_eq!(map(b"abc").missing(&map(b"axcd")), vec![1, 3]);
        assert_eq!(map(b"abc").missing(&map(b"a")), Vec::<u32>::new());
    }
}

//! A listing that lies in a file, and is never in memory as a whole. It is read twice: first checked, line by line and
//! for what it drops, then applied. Of each piece the first reading keeps a hash, and the second applies none that has
//! another: nothing is applied that was not checked, also if somebody writes into the file meanwhile.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Seek, SeekFrom};
use std::sync::OnceLock;

use cellway_core::ids::ClusterId;
use cellway_proxy::Hashes;
use tokio_util::sync::CancellationToken;

use super::lines::{self, BadLine};
use super::pieces::{self, Pieces};
use crate::table::{Change, Listing, Table};

/// A file that tells everything there is, opened.
#[derive(Debug)]
pub struct FileListing {
    file: File,
    hashes: Hashes,
    /// What its source found in it.
    content: u64,
    outcome: OnceLock<bool>,
}

/// Why a file is not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Line(#[from] BadLine),
    #[error("cannot read it")]
    Read(#[from] io::Error),
    #[error("it was changed while it was read")]
    Changed,
    #[error("the router stops")]
    Stopped,
}

/// What the first reading found.
pub(crate) struct Checked {
    pub(crate) cluster: Option<ClusterId>,
    /// What it names. Closed.
    pub(crate) listing: Listing,
    pieces: Vec<u64>,
}

impl FileListing {
    /// Reads the file once, to know it again.
    pub(crate) fn open(file: File, hashes: Hashes) -> io::Result<Self> {
        let mut content = hashes.build_hasher();
        let mut pieces = from_start(&file)?;
        while let Some(piece) = pieces.next()? {
            content.write(piece);
        }
        Ok(Self { content: content.finish(), file, hashes, outcome: OnceLock::new() })
    }

    /// Differs where its content does.
    pub(crate) fn content(&self) -> u64 {
        self.content
    }

    /// Whether it was dealt with, once that is known. Otherwise it has to be told again.
    pub(crate) fn outcome(&self) -> Option<bool> {
        self.outcome.get().copied()
    }

    pub(crate) fn set_outcome(&self, is_dealt_with: bool) {
        let _ = self.outcome.set(is_dealt_with);
    }

    /// The first reading: every line is good, and nothing is named twice.
    pub(crate) fn check(&self, table: &Table, stop: &CancellationToken) -> Result<Checked, Unusable> {
        let mut listing = table.begin_listing();
        let (mut cluster, mut bad) = (None, None);
        let mut hashes = Vec::new();
        let mut content = self.hashes.build_hasher();
        let mut source = from_start(&self.file)?;
        let mut line = 0;
        'reading: while let Some(piece) = source.next()? {
            if stop.is_cancelled() {
                return Err(Unusable::Stopped);
            }
            content.write(piece);
            hashes.push(self.hashes.hash_one(piece));
            for text in pieces::lines(piece) {
                line += 1;
                match read_line(line, text, &mut cluster) {
                    Ok(Some(change)) => table.name(&mut listing, &change.subject()),
                    Ok(None) => {}
                    Err(reason) => {
                        bad = Some(BadLine { line, reason });
                        break 'reading;
                    }
                }
            }
        }
        if bad.is_none() && content.finish() != self.content {
            return Err(Unusable::Changed);
        }
        let repeated = listing.close().to_vec();
        if !repeated.is_empty() {
            return Err(self.first_repeated(&listing, &repeated)?.map_or(Unusable::Changed, Unusable::Line));
        }
        bad.map_or(Ok(Checked { cluster, listing, pieces: hashes }), |bad| Err(bad.into()))
    }

    /// The second reading.
    pub(crate) fn apply(
        &self,
        checked: &Checked,
        stop: &CancellationToken,
        mut each: impl FnMut(Change),
    ) -> Result<(), Unusable> {
        let mut source = from_start(&self.file)?;
        let mut line = 0;
        let mut expected = checked.pieces.iter();
        while let Some(piece) = source.next()? {
            if stop.is_cancelled() {
                return Err(Unusable::Stopped);
            }
            if expected.next() != Some(&self.hashes.hash_one(piece)) {
                return Err(Unusable::Changed);
            }
            for text in pieces::lines(piece) {
                line += 1;
                let change = read_line(line, text, &mut None).map_err(|reason| BadLine { line, reason })?;
                change.into_iter().for_each(&mut each);
            }
        }
        if expected.next().is_some() { Err(Unusable::Changed) } else { Ok(()) }
    }

    /// The first line that is about the same as an earlier one, of all whose hashes were found more than once.
    fn first_repeated(&self, listing: &Listing, repeated: &[u128]) -> io::Result<Option<BadLine>> {
        let mut is_seen = vec![false; repeated.len()];
        let second = self.find(|change| {
            let hash = listing.hash(&change.subject());
            let at = repeated.binary_search(&hash).ok()?;
            std::mem::replace(&mut is_seen[at], true).then_some(hash)
        })?;
        let Some((line, hash)) = second else { return Ok(None) };
        let first = self.find(|change| (listing.hash(&change.subject()) == hash).then_some(()))?;
        Ok(first.map(|(first, ())| BadLine::repeated(line, first)))
    }

    /// The first line for which `wanted` has something, and that.
    fn find<T>(&self, mut wanted: impl FnMut(&Change) -> Option<T>) -> io::Result<Option<(usize, T)>> {
        let mut source = from_start(&self.file)?;
        let mut line = 0;
        while let Some(piece) = source.next()? {
            for text in pieces::lines(piece) {
                line += 1;
                let Ok(Some(change)) = read_line(line, text, &mut None) else { continue };
                if let Some(found) = wanted(&change) {
                    return Ok(Some((line, found)));
                }
            }
        }
        Ok(None)
    }
}

fn from_start(mut file: &File) -> io::Result<Pieces<&File>> {
    file.seek(SeekFrom::Start(0))?;
    Ok(Pieces::new(file))
}

/// The first line may name the cluster, and empty ones say nothing.
pub(crate) fn read_line(number: usize, text: &[u8], cluster: &mut Option<ClusterId>) -> Result<Option<Change>, String> {
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    if number == 1
        && let Some(named) = lines::parse_cluster(text)?
    {
        *cluster = Some(named);
        return Ok(None);
    }
    lines::parse_line(text).map(Some)
}

#[cfg(test)]
mod tests;

//! The store's certificates on the router's own disk: read one by one, as clients ask for them, so that neither the
//! start nor its memory depends on how many there are.
//!
//! A first line `cellway-certificates 1`, then one record a line, in the order of their names:
//! `<crc32> <number> <name> <the line of the listing>`, where the checksum covers what follows it. Then for each record
//! where it begins (8 bytes, little-endian), and at the very end how many there are, where that index begins, and a
//! checksum of both. A torn file is refused as it is opened; what was edited is found as it is read, and the file
//! before it is asked instead.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cellway_core::certificate::{CertificateName, SealedCertificate};

use super::{BadSnapshot, KEPT, aged, replace};
use crate::feed::lines;
use crate::table::Change;

/// The largest record: the longest chain and the largest key in Base64, and what stands around them.
const RECORD_MAX_BYTES: u64 = 128 * 1024;

const MAGIC: &str = "cellway-certificates ";
const FORMAT: &str = "1";

/// The size of the last line.
const END_BYTES: u64 = 43;

/// The size of a place in the index.
const PLACE_BYTES: u64 = 8;

/// A certificate and what it is kept under.
pub type Named = (CertificateName, Arc<SealedCertificate>);

/// Writes certificates in place of the newest file, which becomes the older one.
pub fn save(path: &Path, mut certificates: Vec<Named>) -> io::Result<()> {
    certificates.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    replace(path, |file| write(file, certificates))
}

fn write(file: &mut impl Write, certificates: Vec<Named>) -> io::Result<()> {
    let first = format!("{MAGIC}{FORMAT}\n");
    file.write_all(first.as_bytes())?;
    let mut at = first.len();
    let mut places = Vec::with_capacity(certificates.len());
    for (number, (name, sealed)) in certificates.into_iter().enumerate() {
        let mut record = format!("{number} {} ", name.as_key()).into_bytes();
        lines::write(&Change::Certificate { name, sealed }, &mut record);
        let checksum = format!("{:08x} ", crc32fast::hash(&record));
        file.write_all(checksum.as_bytes())?;
        file.write_all(&record)?;
        places.push(at as u64);
        at += checksum.len() + record.len();
    }
    for place in &places {
        file.write_all(&place.to_le_bytes())?;
    }
    file.write_all(end_line(places.len() as u64, at as u64).as_bytes())
}

fn end_line(count: u64, index_at: u64) -> String {
    let end = format!("{count:016x} {index_at:016x}");
    format!("{end} {:08x}\n", crc32fast::hash(end.as_bytes()))
}

/// The files of certificates at a path.
#[derive(Debug)]
pub struct SavedCertificates {
    /// The newest first.
    files: Vec<CertificateFile>,
}

impl SavedCertificates {
    /// Opens those that are whole, and says why others are not used. Reads none of their records.
    pub fn open(path: &Path) -> (Self, Vec<(PathBuf, BadSnapshot)>) {
        let (mut files, mut refused) = (Vec::new(), Vec::new());
        for age in 0..KEPT {
            let path = aged(path, age);
            match CertificateFile::open(&path) {
                Ok(file) => files.extend(file),
                Err(reason) => refused.push((path, reason)),
            }
        }
        (Self { files }, refused)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.files.first().map_or(0, |file| usize::try_from(file.count).unwrap_or(usize::MAX))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is kept under `key`, from the newest file that can say.
    pub fn find(&self, key: &str) -> Option<Named> {
        for file in &self.files {
            match file.find(key) {
                Ok(found) => return found,
                Err(error) => file.complain(&error),
            }
        }
        None
    }

    /// All of them. What of a file is damaged is taken from the one before it.
    pub fn all(&self) -> Vec<Named> {
        let mut all = std::collections::BTreeMap::new();
        for file in &self.files {
            let mut is_whole = true;
            for number in 0..file.count {
                match file.record(number).and_then(|record| record.certificate()) {
                    Ok((name, sealed)) => {
                        all.entry(name).or_insert(sealed);
                    }
                    Err(error) => {
                        file.complain(&error);
                        is_whole = false;
                    }
                }
            }
            if is_whole {
                break;
            }
        }
        all.into_iter().collect()
    }
}

/// One file.
#[derive(Debug)]
struct CertificateFile {
    path: PathBuf,
    file: File,
    count: u64,
    index_at: u64,
}

/// One record, whose checksum is right.
struct Record {
    text: String,
    name: std::ops::Range<usize>,
}

impl Record {
    fn name(&self) -> &str {
        &self.text[self.name.clone()]
    }

    fn certificate(&self) -> Result<Named, BadSnapshot> {
        match lines::parse_line(&self.text.as_bytes()[self.name.end + 1..]).map_err(BadSnapshot::Content)? {
            Change::Certificate { name, sealed } if name.as_key() == self.name() => Ok((name, sealed)),
            _ => Err(BadSnapshot::Content("a record is about something else than its name says".into())),
        }
    }
}

impl CertificateFile {
    fn open(path: &Path) -> Result<Option<Self>, BadSnapshot> {
        let failed = |source| BadSnapshot::Read { path: path.to_owned(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let bytes = file.metadata().map_err(failed)?.len();
        let mut first = [0; MAGIC.len() + FORMAT.len() + 1];
        let end_at = bytes.checked_sub(END_BYTES + first.len() as u64).ok_or(BadSnapshot::Magic)? + first.len() as u64;
        file.read_exact_at(&mut first, 0).map_err(failed)?;
        let format = first.strip_prefix(MAGIC.as_bytes()).ok_or(BadSnapshot::Magic)?;
        if format != format!("{FORMAT}\n").as_bytes() {
            return Err(BadSnapshot::Format(String::from_utf8_lossy(format).trim().to_owned()));
        }
        let mut end = [0; END_BYTES as usize];
        file.read_exact_at(&mut end, end_at).map_err(failed)?;
        let (count, index_at) = parse_end(&end).ok_or(BadSnapshot::Checksum)?;
        let index_end = count.checked_mul(PLACE_BYTES).and_then(|index_bytes| index_bytes.checked_add(index_at));
        if index_end != Some(end_at) {
            return Err(BadSnapshot::Checksum);
        }
        Ok(Some(Self { path: path.to_owned(), file, count, index_at }))
    }

    fn find(&self, key: &str) -> Result<Option<Named>, BadSnapshot> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let record = self.record(middle)?;
            match record.name().cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return record.certificate().map(Some),
            }
        }
        Ok(None)
    }

    /// A record carries its own number, so that a place that was edited cannot lead to another one.
    fn record(&self, number: u64) -> Result<Record, BadSnapshot> {
        let begin = self.place(number)?;
        let end = if number + 1 < self.count { self.place(number + 1)? } else { self.index_at };
        let bytes = end.checked_sub(begin).filter(|bytes| *bytes <= RECORD_MAX_BYTES).ok_or(BadSnapshot::Checksum)?;
        // Not above RECORD_MAX_BYTES.
        let mut text = vec![0; usize::try_from(bytes).map_err(|_| BadSnapshot::Checksum)?];
        self.read(&mut text, begin)?;
        let text = String::from_utf8(text).map_err(|_| BadSnapshot::Checksum)?;
        let (checksum, covered) = text.split_once(' ').ok_or(BadSnapshot::Checksum)?;
        if checksum != format!("{:08x}", crc32fast::hash(covered.as_bytes())) {
            return Err(BadSnapshot::Checksum);
        }
        let mut words = covered.splitn(3, ' ');
        let (Some(own_number), Some(name), Some(_)) = (words.next(), words.next(), words.next()) else {
            return Err(BadSnapshot::Content("a record has a number, a name and a line".into()));
        };
        if own_number != number.to_string() {
            return Err(BadSnapshot::Checksum);
        }
        let begin = checksum.len() + 1 + own_number.len() + 1;
        let name = begin..begin + name.len();
        Ok(Record { text, name })
    }

    fn place(&self, number: u64) -> Result<u64, BadSnapshot> {
        let mut place = [0; PLACE_BYTES as usize];
        self.read(&mut place, self.index_at + number * PLACE_BYTES)?;
        Ok(u64::from_le_bytes(place))
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), BadSnapshot> {
        let failed = |source| BadSnapshot::Read { path: self.path.clone(), source };
        self.file.read_exact_at(bytes, at).map_err(failed)
    }

    fn complain(&self, reason: &BadSnapshot) {
        tracing::error!(path = %self.path.display(), %reason, "a saved certificate is not used");
    }
}

fn parse_end(line: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(line).ok()?;
    let number = |range: std::ops::Range<usize>| u64::from_str_radix(text.get(range)?, 16).ok();
    let (count, index_at) = (number(0..16)?, number(17..33)?);
    (text == end_line(count, index_at)).then_some((count, index_at))
}

#[cfg(test)]
mod tests;

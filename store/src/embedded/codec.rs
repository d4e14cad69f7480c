//! The bytes of records and commits in the embedded store's file. Numbers are big-endian.

use std::sync::Arc;

use cellway_core::ids::Revision;

use crate::contract::LeaseId;
use crate::embedded::state::{Change, Commit, Record};

/// The layout below; raised when it changes.
pub(crate) const FORMAT: u64 = 1;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Bytes that end too early or hold an unknown mark.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(&'static str);

const TOO_SHORT: Malformed = Malformed("it ends too early");

/// `mod_revision, create_revision, lease (0: none), value`.
pub(crate) fn encode_record(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24 + record.value.len());
    bytes.extend_from_slice(&record.mod_revision.0.to_be_bytes());
    bytes.extend_from_slice(&record.create_revision.0.to_be_bytes());
    bytes.extend_from_slice(&record.lease.map_or(0, |lease| lease.0).to_be_bytes());
    bytes.extend_from_slice(&record.value);
    bytes
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<Record, Malformed> {
    let mut reader = Reader(bytes);
    let mod_revision = Revision(reader.u64()?);
    let create_revision = Revision(reader.u64()?);
    let lease = Some(reader.u64()?).filter(|id| *id != 0).map(LeaseId);
    Ok(Record { value: Arc::from(reader.0), mod_revision, create_revision, lease })
}

/// Per change: `PUT, key, create_revision, value` or `DELETE, key`. What a watcher needs and no
/// more: neither leases nor earlier values.
pub(crate) fn encode_commit(commit: &Commit) -> Vec<u8> {
    let mut bytes = Vec::new();
    for change in &commit.changes {
        bytes.push(if change.after.is_some() { PUT } else { DELETE });
        put_sized(&mut bytes, change.key.as_bytes());
        if let Some(record) = &change.after {
            bytes.extend_from_slice(&record.create_revision.0.to_be_bytes());
            put_sized(&mut bytes, &record.value);
        }
    }
    bytes
}

pub(crate) fn decode_commit(revision: Revision, bytes: &[u8]) -> Result<Commit, Malformed> {
    let mut reader = Reader(bytes);
    let mut changes = Vec::new();
    while !reader.0.is_empty() {
        let mark = reader.u8()?;
        let key = std::str::from_utf8(reader.sized()?).map_err(|_| Malformed("a key is not UTF-8"))?.to_owned();
        let after = match mark {
            PUT => {
                let create_revision = Revision(reader.u64()?);
                let value = Arc::from(reader.sized()?);
                Some(Record { value, mod_revision: revision, create_revision, lease: None })
            }
            DELETE => None,
            _ => return Err(Malformed("an unknown kind of change")),
        };
        changes.push(Change { key, before: None, after });
    }
    Ok(Commit { revision, changes })
}

fn put_sized(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
    bytes.extend_from_slice(part);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u8(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let (number, rest) = self.0.split_first_chunk().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*number))
    }

    fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u64()?).map_err(|_| TOO_SHORT)?;
        let (part, rest) = self.0.split_at_checked(length).ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(lease: Option<LeaseId>) -> Record {
        Record { value: Arc::from(&b"value"[..]), mod_revision: Revision(9), create_revision: Revision(7), lease }
    }

    #[test]
    fn records_and_commits_come_back_as_they_were_written() {
        for record in [record(None), record(Some(LeaseId(3)))] {
            assert_eq!(decode_record(&encode_record(&record)).unwrap(), record);
        }
        let changes = vec![
            Change { key: "a/ä".to_owned(), before: None, after: Some(record(None)) },
            Change { key: "b".to_owned(), before: None, after: None },
        ];
        let commit = Commit { revision: Revision(9), changes };
        assert_eq!(decode_commit(Revision(9), &encode_commit(&commit)).unwrap(), commit);
    }

    #[test]
    fn cut_bytes_are_refused_and_never_misread() {
        let changes = vec![Change { key: "key".to_owned(), before: None, after: Some(record(None)) }];
        let bytes = encode_commit(&Commit { revision: Revision(9), changes });
        for length in 1..bytes.len() {
            assert!(decode_commit(Revision(9), &bytes[..length]).is_err(), "cut at {length}");
        }
        assert!(decode_record(&[0; 23]).is_err());
    }
}

//! One tenant's SQLite file: opened but never created, and known by device and inode.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, TransactionBehavior};
use serde::Serialize;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS entries (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT    NOT NULL UNIQUE,
    length  INTEGER NOT NULL,
    sha256  TEXT    NOT NULL,
    preview TEXT    NOT NULL,
    cell    TEXT    NOT NULL,
    epoch   INTEGER,
    at_ms   INTEGER NOT NULL
)";
const COLUMNS: &str = "seq, id, length, sha256, cell, epoch, at_ms, preview";

/// Why the tenant's data was not read or written. In every case but a failed commit, nothing was
/// written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("no data for this tenant here")]
    NoData,
    #[error("this tenant's data was replaced meanwhile")]
    Replaced,
    #[error("this tenant's data cannot be used at the moment")]
    Unavailable(#[source] Option<rusqlite::Error>),
    #[error("out of time")]
    Late,
    #[error("the app is stopping")]
    Stopping,
    #[error("cannot look at this tenant's file")]
    Look(#[source] io::Error),
    #[error("this tenant's data cannot be used")]
    Broken(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::SystemIoFailure
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::DiskFull,
            ) => Self::Unavailable(Some(error)),
            _ => Self::Broken(error),
        }
    }
}

/// Which file a path leads to, symlinks followed.
///
/// An open connection keeps its inode from being used again, so equal means: the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn at(path: &Path) -> Result<Self, StoreError> {
        match fs::metadata(path) {
            Ok(file) if file.is_file() => Ok(Self { device: file.dev(), inode: file.ino() }),
            Ok(_) => Err(StoreError::NoData),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NoData),
            Err(error) => Err(StoreError::Look(error)),
        }
    }
}

/// What one request sent, ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry {
    pub(crate) id: String,
    pub(crate) length: u64,
    pub(crate) sha256: String,
    pub(crate) preview: String,
    pub(crate) cell: String,
    pub(crate) epoch: Option<i64>,
    pub(crate) at_ms: i64,
}

/// A stored entry.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) seq: i64,
    pub(crate) length: i64,
    pub(crate) sha256: String,
    pub(crate) cell: String,
    pub(crate) epoch: Option<i64>,
    pub(crate) at_ms: i64,
    #[serde(skip)]
    pub(crate) preview: String,
}

impl Entry {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            id: row.get(1)?,
            length: row.get(2)?,
            sha256: row.get(3)?,
            cell: row.get(4)?,
            epoch: row.get(5)?,
            at_ms: row.get(6)?,
            preview: row.get(7)?,
        })
    }
}

/// How an insert ended.
#[derive(Debug)]
pub(crate) enum Inserted {
    New(Entry),
    /// The id was taken already, by this entry.
    Taken(Entry),
}

/// An open connection to the file that a tenant's path led to.
#[derive(Debug)]
pub(crate) struct TenantFile {
    path: PathBuf,
    id: FileId,
    connection: Connection,
}

impl TenantFile {
    pub(crate) fn open(path: &Path, lock_by: Instant) -> Result<Self, StoreError> {
        let id = FileId::at(path)?;
        // Without CREATE: only the operator decides where a tenant's data is.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        if FileId::at(path)? != id {
            return Err(StoreError::Replaced);
        }
        let file = Self { path: path.to_owned(), id, connection };
        file.wait_for_locks_until(lock_by)?;
        // Closing a file that was moved away must not change it.
        let passive = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        file.connection.set_db_config(passive, true)?;
        let mode: String = file.connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::Unavailable(None));
        }
        file.connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF")?;
        file.connection.execute(SCHEMA, [])?;
        Ok(file)
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// From here on, waits for other users of the file, but never past `lock_by`.
    pub(crate) fn wait_for_locks_until(&self, lock_by: Instant) -> Result<(), StoreError> {
        let left = lock_by.saturating_duration_since(Instant::now());
        Ok(self.connection.busy_timeout(left)?)
    }

    /// Writes `entry`, unless its id is taken. The answer is durable once this returns.
    ///
    /// `may_write` is asked once the write lock is held, as is whether the path still leads here:
    /// an operator who holds the lock while changing the path sees no write to the old file after.
    pub(crate) fn insert(
        &mut self,
        entry: &NewEntry,
        may_write: impl Fn() -> Result<(), StoreError>,
    ) -> Result<Inserted, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if FileId::at(&self.path)? != self.id {
            return Err(StoreError::Replaced);
        }
        may_write()?;
        let rows = transaction
            .prepare_cached(
                "INSERT INTO entries (id, length, sha256, preview, cell, epoch, at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
            )?
            .execute((
                &entry.id,
                i64::try_from(entry.length).unwrap_or(i64::MAX),
                &entry.sha256,
                &entry.preview,
                &entry.cell,
                entry.epoch,
                entry.at_ms,
            ))?;
        let stored = transaction
            .prepare_cached(&format!("SELECT {COLUMNS} FROM entries WHERE id = ?1"))?
            .query_row([&entry.id], Entry::from_row)?;
        transaction.commit()?;
        Ok(match rows {
            0 => Inserted::Taken(stored),
            _ => Inserted::New(stored),
        })
    }

    pub(crate) fn find(&self, id: &str) -> Result<Option<Entry>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM entries WHERE id = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_row([id], Entry::from_row).optional()?)
    }

    /// At most `limit` entries after `seq`, oldest first.
    pub(crate) fn list_after(&self, seq: i64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM entries WHERE seq > ?1 ORDER BY seq LIMIT ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map((seq, limit), Entry::from_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The newest `limit` entries, newest first.
    pub(crate) fn newest(&self, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM entries ORDER BY seq DESC LIMIT ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map([limit], Entry::from_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn count(&self) -> Result<i64, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT count(*) FROM entries")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    pub(crate) fn last_seq(&self) -> Result<i64, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM entries")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_that_may_not_write_any_more_leaves_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("acme.db");
        fs::File::create_new(&path).unwrap();
        let mut file = TenantFile::open(&path, Instant::now()).unwrap();
        let entry = NewEntry {
            id: "a".into(),
            length: 0,
            sha256: String::new(),
            preview: String::new(),
            cell: "one".into(),
            epoch: None,
            at_ms: 0,
        };
        let late = file.insert(&entry, || Err(StoreError::Late));
        assert!(matches!(late, Err(StoreError::Late)));
        assert_eq!(file.count().unwrap(), 0);
        assert!(matches!(file.insert(&entry, || Ok(())), Ok(Inserted::New(_))));
    }
}

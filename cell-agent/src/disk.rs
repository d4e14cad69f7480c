//! The agent's disk: who it is, what it fenced, which homes it has, which placements it last knew.
//!
//! One SQLite database in the data directory, under a lock that keeps a second process out. What is written here is on
//! the medium when the call returns (`synchronous = FULL`). All calls block.

mod homes;

pub(crate) use homes::HomeRow;

use crate::words::TenantPlacement;
use cellway_core::ids::{CellName, CellUid, Epoch, InstanceId, InvalidId, Revision, TenantId};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    cell TEXT NOT NULL,
    uid TEXT,
    instance TEXT NOT NULL,
    run INTEGER NOT NULL,
    first_registration INTEGER,
    last_registration INTEGER,
    clean_stop INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS leaving (instance TEXT PRIMARY KEY, cell TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fences (tenant TEXT PRIMARY KEY, epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS homes (
    tenant TEXT NOT NULL,
    home TEXT NOT NULL,
    made_at INTEGER,
    fenced_epoch INTEGER,
    released_epoch INTEGER,
    dropped INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, home)
);
CREATE TABLE IF NOT EXISTS placements (
    tenant TEXT PRIMARY KEY,
    record TEXT NOT NULL,
    read_at INTEGER NOT NULL
);
";

/// Placements of tenants that left are kept, so that stale routers are led on after a restart: the newest ones.
pub(crate) const DEPARTED_KEPT_MAX: usize = 10_000;

/// Strikes the oldest placements that name another cell, or none.
const STRIKE_DEPARTED: &str = "
DELETE FROM placements WHERE tenant IN (
    SELECT tenant FROM placements
    WHERE json_extract(record, '$.uid') IS NOT (SELECT uid FROM identity)
    ORDER BY read_at DESC, tenant LIMIT -1 OFFSET ?1
)";

/// Why the disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// The directory cannot be made or opened.
    #[error("{path} cannot be used")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("{0} is in use by another agent process: an agent's data directory belongs to one process at a time")]
    InUse(PathBuf),
    /// It was set up for another cell.
    #[error("{path} belongs to an agent of cell {found}, not of cell {wanted}: use a fresh data directory")]
    OtherCell {
        /// The directory.
        path: PathBuf,
        /// The cell it belongs to.
        found: String,
        /// The cell asked for.
        wanted: CellName,
    },
    /// No agent has used this directory, or it has left.
    #[error("{0} holds no registered agent")]
    Nobody(PathBuf),
    /// SQLite failed.
    #[error("the agent's database failed")]
    Database(#[from] rusqlite::Error),
    /// What stands there is not what an agent writes.
    #[error("the agent's database holds an illegal id")]
    Id(#[from] InvalidId),
    /// What stands there is not what an agent writes.
    #[error("the agent's database holds a broken placement")]
    Placement(#[from] serde_json::Error),
}

/// Who this agent is, as found at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cell's uid, once registered.
    pub(crate) uid: Option<CellUid>,
    /// The instance, made at random at the first start.
    pub(crate) instance: InstanceId,
    /// How often it was started, this time included.
    pub(crate) run: u64,
    /// The revision of the very first registration.
    pub(crate) first_registration: Option<Revision>,
    /// The revision of the newest one.
    pub(crate) last_registration: Option<Revision>,
    /// The run before this one stopped drained, or there was none: nothing of it can still run in the app.
    pub(crate) stopped_clean: bool,
}

/// The agent's disk, held by this process alone.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    connection: Mutex<Connection>,
    /// Held until the process ends or the disk is dropped.
    _lock: File,
}

impl Disk {
    /// Opens the disk and takes its lock.
    pub(crate) fn open(dir: &Path) -> Result<Self, DiskError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| DiskError::Directory { path, source }
        };
        std::fs::create_dir_all(dir).map_err(unusable(dir))?;
        let lock_path = dir.join("agent.lock");
        let lock =
            File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(unusable(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskError::InUse(dir.to_owned())),
            Err(TryLockError::Error(source)) => return Err(unusable(&lock_path)(source)),
        }
        let connection = Connection::open(dir.join("agent.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        sync_dir(dir).map_err(unusable(dir))?;
        Ok(Self { dir: dir.to_owned(), connection: Mutex::new(connection), _lock: lock })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Counts a new run, on disk, before anything else is done; makes the identity at the first start.
    pub(crate) fn start(&self, cell: &CellName) -> Result<Identity, DiskError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = read_identity(&transaction)?;
        let identity = match found {
            None => {
                let instance = new_instance_id()?;
                transaction.execute(
                    "INSERT INTO identity (one, cell, instance, run, clean_stop) VALUES (1, ?1, ?2, 1, 0)",
                    (cell.as_str(), instance.as_str()),
                )?;
                Identity {
                    uid: None,
                    instance,
                    run: 1,
                    first_registration: None,
                    last_registration: None,
                    stopped_clean: true,
                }
            }
            Some((found, identity)) => {
                if found != cell.as_str() {
                    return Err(DiskError::OtherCell { path: self.dir.clone(), found, wanted: cell.clone() });
                }
                let run = identity.run + 1;
                transaction.execute("UPDATE identity SET run = ?1, clean_stop = 0", [run.cast_signed()])?;
                Identity { run, ..identity }
            }
        };
        transaction.commit()?;
        Ok(identity)
    }

    /// Counts another run: the word about this one may have been heard without an answer.
    pub(crate) fn raise_run(&self) -> Result<u64, DiskError> {
        let run: i64 =
            self.connection
                .lock()
                .query_row("UPDATE identity SET run = run + 1 RETURNING run", (), |row| row.get(0))?;
        Ok(run.cast_unsigned())
    }

    /// Remembers a registration.
    pub(crate) fn registered(&self, uid: &CellUid, revision: Revision) -> Result<(), DiskError> {
        self.connection.lock().execute(
            "UPDATE identity SET uid = ?1, first_registration = coalesce(first_registration, ?2),
             last_registration = ?2",
            (uid.as_str(), revision.0.cast_signed()),
        )?;
        Ok(())
    }

    /// The run ends drained: the next one need not fear what this one left in the app.
    pub(crate) fn stopped_clean(&self) -> Result<(), DiskError> {
        self.connection.lock().execute("UPDATE identity SET clean_stop = 1", ())?;
        Ok(())
    }

    /// Erases the identity and the snapshot; returns who has to be taken off the list. It is remembered until
    /// [`Disk::left`], so that leaving can be repeated.
    pub(crate) fn leave(&self) -> Result<Vec<(CellName, InstanceId)>, DiskError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("INSERT OR IGNORE INTO leaving SELECT instance, cell FROM identity", ())?;
        transaction.execute("DELETE FROM identity", ())?;
        transaction.execute("DELETE FROM placements", ())?;
        let leaving = transaction
            .prepare("SELECT cell, instance FROM leaving")?
            .query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        transaction.commit()?;
        if leaving.is_empty() {
            return Err(DiskError::Nobody(self.dir.clone()));
        }
        leaving.into_iter().map(|(cell, instance)| Ok((cell.parse()?, instance.parse()?))).collect()
    }

    /// The instance is off the list.
    pub(crate) fn left(&self, instance: &InstanceId) -> Result<(), DiskError> {
        self.connection.lock().execute("DELETE FROM leaving WHERE instance = ?1", [instance.as_str()])?;
        Ok(())
    }

    /// Who this agent is, without counting a run; `None` before the first start.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, DiskError> {
        Ok(read_identity(&self.connection.lock())?.map(|(_, identity)| identity))
    }

    /// Raises the tenant's fence. It is on disk when this returns.
    pub(crate) fn write_fence(&self, tenant: &TenantId, epoch: Epoch) -> Result<(), DiskError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let known: Option<i64> = transaction
            .query_row("SELECT epoch FROM fences WHERE tenant = ?1", [tenant.as_str()], |row| row.get(0))
            .optional()?;
        if known.is_none_or(|known| known.cast_unsigned() < epoch.0) {
            transaction.execute(
                "INSERT OR REPLACE INTO fences (tenant, epoch) VALUES (?1, ?2)",
                (tenant.as_str(), epoch.0.cast_signed()),
            )?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The highest fence of every tenant that has one.
    pub(crate) fn fences(&self) -> Result<Vec<(TenantId, Epoch)>, DiskError> {
        let connection = self.connection.lock();
        let rows = connection
            .prepare("SELECT tenant, epoch FROM fences")?
            .query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().map(|(tenant, epoch)| Ok((tenant.parse()?, Epoch(epoch.cast_unsigned())))).collect()
    }

    /// Keeps placements for the next start; of tenants that left, the newest [`DEPARTED_KEPT_MAX`].
    pub(crate) fn save_placements(&self, placements: &[TenantPlacement]) -> Result<(), DiskError> {
        self.save_placements_of(placements, DEPARTED_KEPT_MAX)
    }

    fn save_placements_of(&self, placements: &[TenantPlacement], departed_max: usize) -> Result<(), DiskError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO placements (tenant, record, read_at) VALUES (?1, ?2, ?3)")?;
            for placement in placements {
                let record = cellway_api::agent::PlacementDown::from(&placement.record);
                insert.execute((
                    placement.tenant.as_str(),
                    serde_json::to_string(&record)?,
                    placement.read_at.0.cast_signed(),
                ))?;
            }
        }
        let uid = read_identity(&transaction)?.and_then(|(_, identity)| identity.uid);
        if placements.iter().any(|placement| uid.as_ref().is_none_or(|uid| placement.is_away_from(uid))) {
            transaction.execute(STRIKE_DEPARTED, [i64::try_from(departed_max).unwrap_or(i64::MAX)])?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The placements last known.
    pub(crate) fn placements(&self) -> Result<Vec<TenantPlacement>, DiskError> {
        let connection = self.connection.lock();
        let rows = connection
            .prepare("SELECT tenant, record, read_at FROM placements")?
            .query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        let decode = |(tenant, record, read_at): (String, String, i64)| {
            Ok(TenantPlacement {
                tenant: tenant.parse()?,
                record: serde_json::from_str::<cellway_api::agent::PlacementDown>(&record)?.try_into()?,
                read_at: Revision(read_at.cast_unsigned()),
            })
        };
        rows.into_iter().map(decode).collect()
    }

    /// Forgets the placements: the instance is no longer listed, so they must open nothing.
    pub(crate) fn forget_placements(&self) -> Result<(), DiskError> {
        self.connection.lock().execute("DELETE FROM placements", ())?;
        Ok(())
    }
}

fn read_identity(connection: &Connection) -> Result<Option<(String, Identity)>, DiskError> {
    type Row = (String, Option<String>, String, i64, Option<i64>, Option<i64>, bool);
    let row: Option<Row> = connection
        .query_row(
            "SELECT cell, uid, instance, run, first_registration, last_registration, clean_stop FROM identity",
            (),
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?)),
        )
        .optional()?;
    let Some((cell, uid, instance, run, first, last, stopped_clean)) = row else {
        return Ok(None);
    };
    let revision = |value: i64| Revision(value.cast_unsigned());
    let identity = Identity {
        uid: uid.map(|uid| uid.parse()).transpose()?,
        instance: instance.parse()?,
        run: run.cast_unsigned(),
        first_registration: first.map(revision),
        last_registration: last.map(revision),
        stopped_clean,
    };
    Ok(Some((cell, identity)))
}

fn new_instance_id() -> Result<InstanceId, InvalidId> {
    InstanceId::new(&format!("i-{:024x}", rand::random::<u128>() >> 32))
}

/// Makes names made, renamed or removed in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;

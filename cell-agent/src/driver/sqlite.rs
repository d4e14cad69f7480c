//! The driver `sqlite`: one file per tenant, `homes/{tenant}/{home}.db`, which the app finds as `{tenant}.db` in its
//! own directory: a symlink to the home that is released.
//!
//! A file that the app may have open is read through SQLite only. Opening and closing it by plain file I/O would drop
//! the locks of every SQLite connection to it in this process, and the app may run in this process.

mod homes;
mod incoming;
mod install;
mod outgoing;
mod seal;

pub(crate) use outgoing::{Pass, Passes};

use crate::config::Faults;
use crate::disk::Disk;
use crate::driver::{DriverError, Turns};
use crate::transfer::TransferClient;
use cellway_core::ids::{HomeId, MoveId, TenantId};
use incoming::Slot;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long one attempt to lock a home waits for a running write transaction.
const LOCK_ATTEMPT_MS: u64 = 250;

/// How many attempts are made to lock a home before the order is tried anew.
const LOCK_ATTEMPTS: u32 = 20;

/// Staged files of moves that are no longer heard of are kept this long.
const STAGING_KEEP_MS: u64 = 24 * 3_600_000;

/// The homes of this disk.
#[derive(Debug)]
pub(crate) struct SqliteDriver {
    disk: Arc<Disk>,
    homes_dir: PathBuf,
    staging_dir: PathBuf,
    live_dir: PathBuf,
    faults: Faults,
    turns: Turns,
    /// The write locks that keep fenced homes fenced until they are sealed.
    locks: Mutex<HashMap<(TenantId, HomeId), Connection>>,
    incoming: Mutex<HashMap<(MoveId, HomeId), Slot>>,
    passes: Arc<Passes>,
    client: TransferClient,
}

impl SqliteDriver {
    pub(crate) fn open(
        disk: Arc<Disk>,
        live_dir: &Path,
        client: TransferClient,
        faults: Faults,
    ) -> Result<Arc<Self>, DriverError> {
        let make = |dir: &Path| std::fs::create_dir_all(dir).map_err(DriverError::file(dir));
        let absolute = |dir: &Path| std::fs::canonicalize(dir).map_err(DriverError::file(dir));
        let (homes_dir, staging_dir) = (disk.dir().join("homes"), disk.dir().join("staging"));
        for dir in [homes_dir.as_path(), staging_dir.as_path(), live_dir] {
            make(dir)?;
        }
        // The symlinks in the app's directory name homes by an absolute path.
        let (homes_dir, staging_dir, live_dir) = (absolute(&homes_dir)?, absolute(&staging_dir)?, absolute(live_dir)?);
        sweep_staging(&staging_dir);
        let passes = Passes::new(&homes_dir, &staging_dir);
        Ok(Arc::new(Self {
            disk,
            homes_dir,
            staging_dir,
            live_dir,
            faults,
            turns: Turns::default(),
            locks: Mutex::default(),
            incoming: Mutex::default(),
            passes,
            client,
        }))
    }

    /// What other agents may fetch.
    pub(crate) fn passes(&self) -> &Arc<Passes> {
        &self.passes
    }

    /// Runs `step` on a thread that may block, alone among the steps of `tenant`. It runs to its end even when the
    /// caller goes away.
    async fn in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        tenant: &TenantId,
        step: impl FnOnce(&Self) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let turn = self.turns.take(tenant).await;
        let driver = Arc::clone(self);
        blocking(move || {
            let _turn = turn;
            step(&driver)
        })
        .await
    }

    /// The database and what its log has not given it yet. Asking the file system for a size opens nothing.
    pub(crate) async fn size_bytes(self: &Arc<Self>, tenant: &TenantId, home: &HomeId) -> Result<u64, DriverError> {
        let path = self.home_path(tenant, home);
        blocking(move || {
            let log_bytes = std::fs::metadata(beside(&path, "-wal")).map_or(0, |log| log.len());
            let file = std::fs::metadata(&path).map_err(DriverError::file(&path))?;
            Ok(file.len().saturating_add(log_bytes))
        })
        .await
    }

    fn home_path(&self, tenant: &TenantId, home: &HomeId) -> PathBuf {
        home_path(&self.homes_dir, tenant, home)
    }

    fn live_path(&self, tenant: &TenantId) -> PathBuf {
        self.live_dir.join(format!("{tenant}.db"))
    }
}

fn home_path(homes_dir: &Path, tenant: &TenantId, home: &HomeId) -> PathBuf {
    homes_dir.join(tenant.as_str()).join(format!("{home}.db"))
}

/// The file that SQLite keeps beside a database.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a database that exists; never makes one.
fn open_existing(path: &Path) -> Result<Connection, DriverError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_millis(LOCK_ATTEMPT_MS))?;
    // Whether and when the app's log is folded into its file is the app's business.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// Removes a file; one that is not there is removed already.
fn remove(path: &Path) -> Result<(), DriverError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DriverError::file(path)(error)),
    }
}

fn sync_dir(dir: &Path) -> Result<(), DriverError> {
    crate::disk::sync_dir(dir).map_err(DriverError::file(dir))
}

/// Runs `work` on a thread that may block. It runs to its end even when the caller goes away.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    match cellway_machine::off_thread(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(DriverError::Superseded),
        },
    }
}

/// Removes what moves of long ago have left: their orders are gone, so nobody else would.
fn sweep_staging(staging_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(staging_dir) else {
        return;
    };
    let keep = Duration::from_millis(STAGING_KEEP_MS);
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_some_and(|age| age > keep)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "an old staging directory stays");
        }
    }
}

#[cfg(test)]
mod tests;

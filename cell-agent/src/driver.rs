//! The mover drivers: how a tenant's data is released, fenced, copied and dropped in this cell.

pub(crate) mod chunks;
mod command;
mod guards;
mod postgres;
pub(crate) mod sqlite;

use crate::config::{DriverConfig, Faults};
use crate::disk::{Disk, DiskError};
use crate::transfer::{TransferClient, TransferError};
use cellway_core::ids::{CellName, Epoch, HomeId, MoveId, TenantId};
use cellway_core::tenant_move::Position;
use command::{CallError, CommandDriver};
use parking_lot::Mutex;
use postgres::{PostgresDriver, PostgresError};
use sqlite::SqliteDriver;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::OwnedMutexGuard;

/// The position of data that there is not.
const NO_POSITION: &str = "none";

/// What can go wrong with a tenant's data.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    /// The agent's own disk failed.
    #[error("the agent's disk failed")]
    Disk(#[from] DiskError),
    /// A home's database failed.
    #[error("the database of a home failed")]
    Database(#[from] rusqlite::Error),
    /// A file could not be handled.
    #[error("{path} cannot be handled")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data should be here, and is not: it is never replaced by an empty home.
    #[error("home {home} of {tenant} is not on this disk ({why}): it was lost, or never arrived; nothing is served")]
    Lost {
        /// The tenant.
        tenant: TenantId,
        /// The home.
        home: HomeId,
        /// What was looked at.
        why: &'static str,
    },
    /// The home was dropped.
    #[error("home {0} was dropped, and a dropped home never comes back")]
    Dropped(HomeId),
    /// The home is served.
    #[error("home {0} is served here")]
    Served(HomeId),
    /// Somebody kept writing.
    #[error("home {0} could not be locked: somebody is writing to it")]
    Busy(HomeId),
    /// What arrived is damaged at its source.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// A later epoch was seen: the order is stale.
    #[error("a later epoch was seen for this home")]
    Superseded,
    /// Data could not be fetched.
    #[error("the data could not be fetched")]
    Transfer(#[from] TransferError),
    /// The user's program did not do its step.
    #[error(transparent)]
    Call(CallError),
    /// Postgres did not do its part.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl From<CallError> for DriverError {
    fn from(error: CallError) -> Self {
        if error.is_late() { Self::Superseded } else { Self::Call(error) }
    }
}

impl DriverError {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether trying again cannot help, so that the move should hear of it.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Dropped(_) | Self::Served(_) | Self::Damaged(_) => true,
            Self::Database(error) | Self::Disk(DiskError::Database(error)) => is_final_code(error),
            Self::File { source, .. } | Self::Disk(DiskError::Directory { source, .. }) => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Transfer(error) => error.is_final(),
            Self::Call(error) => error.is_final(),
            Self::Postgres(error) => error.is_final(),
            Self::Disk(_) | Self::Busy(_) | Self::Superseded => false,
        }
    }
}

fn is_final_code(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | DiskFull | NotADatabase))
}

/// Bytes of a copy that are there, and bytes to copy.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    copied: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    pub(crate) fn set(&self, copied: u64, total: u64) {
        self.copied.store(copied, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// Copied and total.
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.copied.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// What a pass over the source's data came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pulled {
    /// Bytes that are there now.
    pub(crate) bytes: u64,
    /// How long the data would be frozen, where the driver knows better than by how long the pass took.
    pub(crate) freeze_ms: Option<u64>,
    /// The part of that which takes longest, where the driver can tell: what it is for, and its time in ms.
    pub(crate) longest: Option<(&'static str, u64)>,
}

/// One step at a time per tenant.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the tenant's turn; it is over when what comes back is dropped.
    pub(crate) async fn take(&self, tenant: &TenantId) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(self.0.lock().entry(tenant.clone()).or_default());
        turn.lock_owned().await
    }
}

/// Where a home is fetched from, for a move.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    pub(crate) move_id: MoveId,
    pub(crate) tenant: TenantId,
    /// The home to fill.
    pub(crate) home: HomeId,
    /// The home to fetch.
    pub(crate) from: HomeId,
    /// The cell that has it.
    pub(crate) from_cell: Option<String>,
    /// The agents that may have it.
    pub(crate) endpoints: Vec<String>,
}

/// The driver of this cell.
#[derive(Debug, Clone)]
pub(crate) enum Driver {
    /// No data: every step succeeds at once.
    None,
    /// A SQLite file per tenant.
    Sqlite(Arc<SqliteDriver>),
    /// Whatever the user's program moves.
    Command(Arc<CommandDriver>),
    /// A Postgres schema per tenant.
    Postgres(Arc<PostgresDriver>),
}

impl Driver {
    /// The driver as configured, with every data fence of earlier runs in force again.
    pub(crate) async fn open(
        config: &DriverConfig,
        cell: &CellName,
        disk: Arc<Disk>,
        client: TransferClient,
        faults: Faults,
    ) -> Result<Self, DriverError> {
        match config {
            DriverConfig::None => Ok(Self::None),
            DriverConfig::Sqlite { live_dir } => {
                let driver = SqliteDriver::open(disk, live_dir, client, faults)?;
                driver.retake_fences().await?;
                Ok(Self::Sqlite(driver))
            }
            DriverConfig::Command(config) => Ok(Self::Command(CommandDriver::new(disk, cell, config))),
            DriverConfig::Postgres(config) => Ok(Self::Postgres(PostgresDriver::start(disk, cell, config))),
        }
    }

    /// Lets the app write to `home`, unless a later epoch was seen ([`DriverError::Superseded`]).
    pub(crate) async fn release(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DriverError> {
        match self {
            Self::None => Ok(()),
            Self::Sqlite(driver) => driver.release(tenant, home, epoch).await,
            Self::Command(driver) => driver.release(tenant, home, epoch).await,
            Self::Postgres(driver) => driver.release(tenant, home, epoch).await,
        }
    }

    /// From now on nobody writes to `home`, unless a later epoch was seen ([`DriverError::Superseded`]).
    pub(crate) async fn fence(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DriverError> {
        match self {
            Self::None => Ok(()),
            Self::Sqlite(driver) => driver.fence(tenant, home, epoch).await,
            Self::Command(driver) => driver.fence(tenant, home, epoch).await,
            Self::Postgres(driver) => driver.fence(tenant, home, epoch).await,
        }
    }

    /// How much data a home has; `None` where only the user's program could tell.
    pub(crate) async fn size_bytes(&self, tenant: &TenantId, home: &HomeId) -> Result<Option<u64>, DriverError> {
        match self {
            Self::None => Ok(Some(0)),
            Self::Command(_) => Ok(None),
            Self::Sqlite(driver) => driver.size_bytes(tenant, home).await.map(Some),
            Self::Postgres(driver) => driver.size_bytes(tenant).await.map(Some),
        }
    }

    /// Whether a home of the tenant is kept fenced by a lock.
    pub(crate) fn holds_lock(&self, tenant: &TenantId) -> bool {
        match self {
            Self::None | Self::Command(_) | Self::Postgres(_) => false,
            Self::Sqlite(driver) => driver.holds_lock(tenant),
        }
    }

    /// Another cell owns the tenant since `epoch`: its fenced homes are sealed, and their locks let go.
    pub(crate) async fn departed(&self, tenant: &TenantId, epoch: Epoch) -> Result<(), DriverError> {
        match self {
            Self::None | Self::Command(_) | Self::Postgres(_) => Ok(()),
            Self::Sqlite(driver) => driver.departed(tenant, epoch).await,
        }
    }

    /// The last position of a fenced home that is offered.
    pub(crate) async fn position(&self, move_id: &MoveId, home: &HomeId) -> Result<Position, DriverError> {
        match self {
            Self::None => Ok(Position(NO_POSITION.to_owned())),
            Self::Sqlite(driver) => Ok(Position(driver.passes().make(move_id, home).await?.digest.clone())),
            Self::Command(driver) => driver.position(home),
            Self::Postgres(driver) => driver.position(move_id, home).await,
        }
    }

    /// Makes room for a home that is going to arrive from `from_cell`. Never empties one.
    pub(crate) async fn prepare(
        &self,
        move_id: &MoveId,
        tenant: &TenantId,
        home: &HomeId,
        from_cell: Option<&str>,
    ) -> Result<(), DriverError> {
        match self {
            Self::None => Ok(()),
            Self::Sqlite(driver) => driver.prepare(tenant, home).await,
            Self::Command(driver) => driver.prepare(tenant, home).await,
            Self::Postgres(driver) => driver.prepare(move_id, tenant, home, from_cell).await,
        }
    }

    /// Takes note of which moves have orders in this cell, of those that know what dead moves leave behind.
    pub(crate) fn note_orders<'a>(&self, moves: impl Iterator<Item = &'a str>) {
        if let Self::Postgres(driver) = self {
            driver.note_orders(moves);
        }
    }

    /// Lets the agents of `to` fetch `home` for this move.
    pub(crate) fn offer(&self, move_id: &MoveId, tenant: &TenantId, home: &HomeId, to: &CellName) {
        match self {
            Self::None | Self::Command(_) => {}
            Self::Sqlite(driver) => driver.passes().offer(move_id, tenant, home, to),
            Self::Postgres(driver) => driver.offer(tenant),
        }
    }

    /// Ends [`Driver::offer`].
    pub(crate) fn withdraw_offer(&self, move_id: &MoveId, home: &HomeId) {
        if let Self::Sqlite(driver) = self {
            driver.passes().withdraw(move_id, home);
        }
    }

    /// One pass over the source's data, the first of this order or a later one: what differs is fetched.
    pub(crate) async fn pull(
        &self,
        fetch: &Fetch,
        is_first: bool,
        progress: Arc<Progress>,
    ) -> Result<Pulled, DriverError> {
        match self {
            Self::None => Ok(Pulled::default()),
            Self::Sqlite(driver) => Ok(Pulled { bytes: driver.pull(fetch, progress).await?, ..Pulled::default() }),
            Self::Command(driver) => driver.pull(fetch, is_first, &progress).await,
            Self::Postgres(driver) => driver.pull(fetch, &progress).await,
        }
    }

    /// One pass of the way back: the old home gets what has changed at the new one. Drivers that find what differs
    /// when a move back begins need none.
    pub(crate) async fn reverse(&self, fetch: &Fetch, epoch: Epoch) -> Result<(), DriverError> {
        match self {
            Self::None | Self::Sqlite(_) => Ok(()),
            Self::Command(driver) => driver.reverse(fetch, epoch).await,
            Self::Postgres(driver) => driver.reverse(fetch, epoch).await,
        }
    }

    /// Brings the home to `position`, verifies it and puts it in place.
    pub(crate) async fn reach(&self, fetch: &Fetch, epoch: Epoch, position: &Position) -> Result<(), DriverError> {
        match self {
            Self::None => Ok(()),
            Self::Sqlite(driver) => driver.reach(fetch, epoch, position).await,
            Self::Command(driver) => driver.reach(fetch, epoch, position).await,
            Self::Postgres(driver) => driver.reach(fetch, epoch, position).await,
        }
    }

    /// Drops a home, unless it is served. Whoever is unknown or gone already counts as dropped.
    pub(crate) async fn drop_home(
        &self,
        move_id: &MoveId,
        tenant: &TenantId,
        home: &HomeId,
    ) -> Result<(), DriverError> {
        match self {
            Self::None => Ok(()),
            Self::Sqlite(driver) => driver.drop_home(move_id, tenant, home).await,
            Self::Command(driver) => driver.drop_home(move_id, tenant, home).await,
            Self::Postgres(driver) => driver.drop_home(move_id, tenant, home).await,
        }
    }

    /// Whether a data fence proves that nothing of an earlier run can still write.
    pub(crate) fn fences_data(&self) -> bool {
        matches!(self, Self::Sqlite(_) | Self::Command(_) | Self::Postgres(_))
    }
}

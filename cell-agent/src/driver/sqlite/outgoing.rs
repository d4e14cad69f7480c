//! Passes over a home that is offered to another cell: each is a consistent copy in the staging directory, known by
//! its digest.

use super::{Connection, DriverError, blocking, home_path, open_existing, remove, seal};
use crate::driver::chunks::ChunkMap;
use cellway_core::ids::{CellName, HomeId, MoveId, TenantId};
use parking_lot::Mutex;
use rusqlite::backup::{Backup, StepResult};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many passes over one home are kept: the newest, and those that a fetch may still be at.
const PASSES_KEPT: usize = 3;

/// How often a pass that finds the database busy begins anew.
const BACKUP_ATTEMPTS: u32 = 200;

/// The pause before it does.
const BACKUP_PAUSE_MS: u64 = 10;

/// A consistent copy of a home. Its file is removed with it.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) path: PathBuf,
    pub(crate) map: ChunkMap,
    pub(crate) digest: String,
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "a staged pass stays");
        }
    }
}

#[derive(Debug)]
struct Offered {
    tenant: TenantId,
    to: CellName,
    /// One pass at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    passes: Mutex<VecDeque<Arc<Pass>>>,
}

/// What is offered, and the passes made over it.
#[derive(Debug)]
pub(crate) struct Passes {
    homes_dir: PathBuf,
    staging_dir: PathBuf,
    offered: Mutex<BTreeMap<(MoveId, HomeId), Arc<Offered>>>,
    counter: AtomicU64,
}

impl Passes {
    pub(super) fn new(homes_dir: &Path, staging_dir: &Path) -> Arc<Self> {
        Arc::new(Self {
            homes_dir: homes_dir.to_owned(),
            staging_dir: staging_dir.to_owned(),
            offered: Mutex::default(),
            counter: AtomicU64::new(0),
        })
    }

    pub(crate) fn offer(&self, move_id: &MoveId, tenant: &TenantId, home: &HomeId, to: &CellName) {
        self.offered.lock().entry((move_id.clone(), home.clone())).or_insert_with(|| {
            let (tenant, to) = (tenant.clone(), to.clone());
            Arc::new(Offered { tenant, to, turn: Arc::default(), passes: Mutex::default() })
        });
    }

    pub(crate) fn withdraw(&self, move_id: &MoveId, home: &HomeId) {
        let withdrawn = self.offered.lock().remove(&(move_id.clone(), home.clone()));
        drop(withdrawn);
        // Fails while another home of this move is staged here, or a pass is still being read.
        let _ = std::fs::remove_dir(self.staging_dir.join(move_id.as_str()));
    }

    /// The cell that the home is offered to for the move.
    pub(crate) fn offered_to(&self, move_id: &MoveId, home: &HomeId) -> Option<CellName> {
        self.find_offer(move_id, home).map(|offered| offered.to.clone())
    }

    /// A pass that was made already.
    pub(crate) fn find(&self, move_id: &MoveId, home: &HomeId, digest: &str) -> Option<Arc<Pass>> {
        let offered = self.find_offer(move_id, home)?;
        let passes = offered.passes.lock();
        passes.iter().rev().find(|pass| pass.digest == digest).map(Arc::clone)
    }

    /// Makes a pass over an offered home.
    pub(crate) async fn make(&self, move_id: &MoveId, home: &HomeId) -> Result<Arc<Pass>, DriverError> {
        let offered = self.find_offer(move_id, home).ok_or(DriverError::Superseded)?;
        let turn = Arc::clone(&offered.turn).lock_owned().await;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let source = home_path(&self.homes_dir, &offered.tenant, home);
        let staged = self.staging_dir.join(move_id.as_str()).join(format!("out-{number}.db"));
        blocking(move || {
            let _turn = turn;
            let pass = Arc::new(make_pass(&source, &staged)?);
            let mut passes = offered.passes.lock();
            passes.push_back(Arc::clone(&pass));
            let surplus = passes.len().saturating_sub(PASSES_KEPT);
            passes.drain(..surplus);
            Ok(pass)
        })
        .await
    }

    fn find_offer(&self, move_id: &MoveId, home: &HomeId) -> Option<Arc<Offered>> {
        self.offered.lock().get(&(move_id.clone(), home.clone())).map(Arc::clone)
    }
}

fn make_pass(source: &Path, staged: &Path) -> Result<Pass, DriverError> {
    if seal::is_sealed(&open_existing(source)?)? {
        return Err(DriverError::Superseded);
    }
    // Made first, so that a copy that fails half-way is removed as well.
    let mut pass = Pass { path: staged.to_owned(), map: ChunkMap::default(), digest: String::new() };
    back_up(source, staged)?;
    pass.map = ChunkMap::of_file(staged).map_err(DriverError::file(staged))?;
    pass.digest = pass.map.digest();
    Ok(pass)
}

/// Copies a database that may be in use, in one step and so at one point of its history, into a fresh file.
pub(super) fn back_up(source: &Path, staged: &Path) -> Result<(), DriverError> {
    if let Some(dir) = staged.parent() {
        std::fs::create_dir_all(dir).map_err(DriverError::file(dir))?;
    }
    remove(staged)?;
    let from = open_existing(source)?;
    let mut to = Connection::open(staged)?;
    // The copy counts only once it was verified and synced as a whole.
    to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
    let backup = Backup::new(&from, &mut to)?;
    for _ in 0..BACKUP_ATTEMPTS {
        match backup.step(-1)? {
            StepResult::Done => return Ok(()),
            _ => std::thread::sleep(Duration::from_millis(BACKUP_PAUSE_MS)),
        }
    }
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None).into())
}

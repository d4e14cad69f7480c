//! The last step of a copy: verified as a whole, synced, and renamed into its place.

use super::homes::SIDE_FILES;
use super::{SqliteDriver, beside, open_existing, remove, seal, sync_dir};
use crate::driver::chunks::ChunkMap;
use crate::driver::{DriverError, Fetch, Progress};
use cellway_core::ids::{Epoch, HomeId, TenantId};
use cellway_core::tenant_move::Position;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

impl SqliteDriver {
    pub(crate) async fn reach(
        self: &Arc<Self>,
        fetch: &Fetch,
        epoch: Epoch,
        position: &Position,
    ) -> Result<(), DriverError> {
        let staged = self.pull_pass(fetch, Some(&position.0), &Progress::default()).await?;
        let (fetch_moved, position) = (fetch.clone(), position.clone());
        self.in_turn(&fetch.tenant, move |driver| {
            verify(&staged.path, &position)?;
            driver.install(&fetch_moved.tenant, &fetch_moved.home, epoch, &staged.path)?;
            // Only now: whoever waits for this file has to find that it is gone.
            drop(staged);
            driver.forget_incoming(&fetch_moved.move_id, &fetch_moved.home);
            // Fails while the directory holds another home's file.
            let _ = std::fs::remove_dir(driver.staging_dir.join(fetch_moved.move_id.as_str()));
            Ok(())
        })
        .await
    }

    /// A home that was released above `epoch` has been served since: what the order brings is older than it.
    fn install(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch, staged: &Path) -> Result<(), DriverError> {
        self.disk.check_not_released_above(tenant, epoch)?;
        // Looked at again, now that it is this step's turn: the move may have been undone meanwhile.
        self.disk.check_unserved(tenant, home)?;
        let path = self.home_path(tenant, home);
        let dir = self.tenant_dir(tenant)?;
        self.disk.enter_home(tenant, home)?;
        self.clear_the_way(tenant, home, &path)?;
        std::fs::rename(staged, &path).map_err(DriverError::file(&path))?;
        sync_dir(&dir)?;
        self.disk.home_made(tenant, home)?;
        tracing::info!(%tenant, %home, "home complete");
        Ok(())
    }

    /// An older copy of the home may be in the place. Its log must not be taken for the new file's.
    fn clear_the_way(&self, tenant: &TenantId, home: &HomeId, path: &Path) -> Result<(), DriverError> {
        // An app that still has the old copy open must not go on writing to it.
        self.seal_locked(tenant, home)?;
        if path.try_exists().map_err(DriverError::file(path))? {
            let old = open_existing(path)?;
            seal::see_seals(&old)?;
            // Folded in first: should this stop half-way, the old copy is still whole.
            old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
        }
        for suffix in SIDE_FILES {
            remove(&beside(path, suffix))?;
        }
        Ok(())
    }
}

/// The whole file is what the source said, sound as a database, and on the medium.
fn verify(staged: &Path, position: &Position) -> Result<(), DriverError> {
    let found = ChunkMap::of_file(staged).map_err(DriverError::file(staged))?.digest();
    if found != position.0 {
        return Err(crate::transfer::TransferError::Damaged.into());
    }
    // Immutable: nothing is written, and no log is made beside the file.
    let uri = format!("file:{}?immutable=1", escape(staged));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    let word: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    drop(connection);
    if word != "ok" {
        return Err(DriverError::Damaged(word));
    }
    File::open(staged).and_then(|file| file.sync_all()).map_err(DriverError::file(staged))
}

/// A path as it stands in a `file:` URI.
fn escape(path: &Path) -> String {
    let mut escaped = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                escaped.push(char::from(*byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

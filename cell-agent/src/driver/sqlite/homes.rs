//! Homes in place: released, fenced, dropped.

use super::{LOCK_ATTEMPTS, SqliteDriver, beside, open_existing, remove, seal, sync_dir};
use crate::disk::HomeRow;
use crate::driver::DriverError;
use cellway_core::ids::{Epoch, HomeId, MoveId, TenantId};
use rusqlite::Connection;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The files that SQLite may keep beside a database.
pub(super) const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

impl SqliteDriver {
    pub(crate) async fn release(
        self: &Arc<Self>,
        tenant: &TenantId,
        home: &HomeId,
        epoch: Epoch,
    ) -> Result<(), DriverError> {
        let (at, home) = (tenant.clone(), home.clone());
        self.in_turn(tenant, move |driver| driver.release_now(&at, &home, epoch)).await
    }

    pub(crate) async fn fence(
        self: &Arc<Self>,
        tenant: &TenantId,
        home: &HomeId,
        epoch: Epoch,
    ) -> Result<(), DriverError> {
        let (at, home) = (tenant.clone(), home.clone());
        self.in_turn(tenant, move |driver| driver.fence_now(&at, &home, epoch)).await
    }

    pub(crate) async fn prepare(self: &Arc<Self>, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        let (at, home) = (tenant.clone(), home.clone());
        self.in_turn(tenant, move |driver| driver.prepare_now(&at, &home)).await
    }

    pub(crate) async fn drop_home(
        self: &Arc<Self>,
        move_id: &MoveId,
        tenant: &TenantId,
        home: &HomeId,
    ) -> Result<(), DriverError> {
        let (move_id, at, home) = (move_id.clone(), tenant.clone(), home.clone());
        self.in_turn(tenant, move |driver| driver.drop_now(&move_id, &at, &home)).await
    }

    /// Takes again the locks that earlier runs held. A home that cannot be locked blocks no other.
    pub(crate) async fn retake_fences(self: &Arc<Self>) -> Result<(), DriverError> {
        for row in self.disk.all_homes()? {
            let Some(epoch) = row.fenced.filter(|_| !row.dropped && !row.is_released()) else {
                continue;
            };
            if let Err(error) = self.fence(&row.tenant, &row.home, epoch).await {
                tracing::error!(tenant = %row.tenant, home = %row.home, epoch = epoch.0, %error, "a fence of the run before could not be taken again");
            }
        }
        Ok(())
    }

    fn release_now(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DriverError> {
        self.disk.check_may_release(tenant, epoch)?;
        let known = self.find_or_begin(tenant, home)?;
        if known.as_ref().is_none_or(|row| row.released != Some(epoch)) {
            if known.is_some_and(|row| row.fenced.is_some()) {
                // Before the release is on disk: a home that counts as released is never sealed.
                seal::unseal(&self.home_path(tenant, home))?;
            }
            self.disk.home_released(tenant, home, epoch)?;
        }
        self.lead_app_to(tenant, home)?;
        self.locks.lock().remove(&(tenant.clone(), home.clone()));
        tracing::info!(%tenant, %home, epoch = epoch.0, "data released");
        Ok(())
    }

    /// Finds the home's file. An empty one is made only for a tenant that began in this cell while this disk was
    /// registered, and only if this disk never knew the home: a lost disk must never show as an empty tenant.
    fn find_or_begin(&self, tenant: &TenantId, home: &HomeId) -> Result<Option<HomeRow>, DriverError> {
        let path = self.home_path(tenant, home);
        let lost = |why| DriverError::Lost { tenant: tenant.clone(), home: home.clone(), why };
        let row = self.disk.home(tenant, home)?;
        let exists = path.try_exists().map_err(DriverError::file(&path))?;
        match (&row, exists) {
            (Some(row), _) if row.dropped => return Err(DriverError::Dropped(home.clone())),
            // A file comes into place by renaming a verified one, so that it is whole if it is there at all.
            (Some(_), true) => {}
            (Some(row), false) if row.made => return Err(lost("it was here before")),
            (Some(_), false) => return Err(lost("it was never completed")),
            (None, _) if !self.began_here(home)? => return Err(lost("this disk never had it")),
            (None, true) => {}
            (None, false) => {
                let dir = self.tenant_dir(tenant)?;
                let file = File::create_new(&path).map_err(DriverError::file(&path))?;
                file.sync_all().map_err(DriverError::file(&path))?;
                sync_dir(&dir)?;
            }
        }
        if !row.as_ref().is_some_and(|row| row.made) {
            self.disk.home_made(tenant, home)?;
        }
        Ok(row)
    }

    /// `new-<R>` was made by creating the tenant at revision R.
    fn began_here(&self, home: &HomeId) -> Result<bool, DriverError> {
        let created = home.as_str().strip_prefix("new-").and_then(|revision| revision.parse::<u64>().ok());
        let registered = self.disk.identity()?.and_then(|identity| identity.first_registration);
        Ok(created.zip(registered).is_some_and(|(created, registered)| registered.0 <= created))
    }

    pub(super) fn tenant_dir(&self, tenant: &TenantId) -> Result<std::path::PathBuf, DriverError> {
        let dir = self.homes_dir.join(tenant.as_str());
        if !dir.try_exists().map_err(DriverError::file(&dir))? {
            std::fs::create_dir_all(&dir).map_err(DriverError::file(&dir))?;
            sync_dir(&self.homes_dir)?;
        }
        Ok(dir)
    }

    /// Points the app's name for the tenant at the home, in one step.
    fn lead_app_to(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        let (path, live) = (self.home_path(tenant, home), self.live_path(tenant));
        if self.leads_to(tenant, &path) {
            return Ok(());
        }
        let draft = self.live_dir.join(format!(".{tenant}.link"));
        remove(&draft)?;
        std::os::unix::fs::symlink(&path, &draft).map_err(DriverError::file(&draft))?;
        std::fs::rename(&draft, &live).map_err(DriverError::file(&live))?;
        sync_dir(&self.live_dir)
    }

    fn leads_to(&self, tenant: &TenantId, path: &Path) -> bool {
        std::fs::read_link(self.live_path(tenant)).is_ok_and(|found| found == path)
    }

    fn fence_now(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DriverError> {
        let Some(row) = self.disk.kept_home(tenant, home)? else {
            let why = "this disk never had it";
            return Err(DriverError::Lost { tenant: tenant.clone(), home: home.clone(), why });
        };
        if row.released.is_some_and(|released| released > epoch) {
            return Err(DriverError::Superseded);
        }
        if self.faults.ignore_fences || self.faults.open_at_once {
            return Ok(());
        }
        let path = self.home_path(tenant, home);
        if row.fenced.is_none_or(|fenced| fenced < epoch) {
            self.disk.home_fenced(tenant, home, epoch)?;
        }
        let key = (tenant.clone(), home.clone());
        let held = self.locks.lock().contains_key(&key);
        if !held {
            // The lock comes before the name goes: an app that checks the name inside a write transaction then sees
            // no write of its own to a home that is no longer its own.
            let lock = lock(&path, home)?;
            if !seal::is_sealed(&lock)? {
                self.locks.lock().insert(key, lock);
            }
        }
        if self.leads_to(tenant, &path) {
            remove(&self.live_path(tenant))?;
            sync_dir(&self.live_dir)?;
        }
        tracing::info!(%tenant, %home, epoch = epoch.0, "data fenced");
        Ok(())
    }

    fn prepare_now(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        self.disk.kept_home(tenant, home)?;
        self.tenant_dir(tenant)?;
        Ok(self.disk.enter_home(tenant, home)?)
    }

    fn drop_now(&self, move_id: &MoveId, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        self.disk.check_droppable(tenant, home)?;
        self.disk.home_dropped(tenant, home)?;
        // An app that still has the file open must not go on writing to it unseen.
        if let Err(error) = self.seal_locked(tenant, home) {
            tracing::warn!(%tenant, %home, %error, "a home is dropped unsealed");
            self.locks.lock().remove(&(tenant.clone(), home.clone()));
        }
        self.forget_incoming(move_id, home);
        let path = self.home_path(tenant, home);
        remove(&path)?;
        for suffix in SIDE_FILES {
            remove(&beside(&path, suffix))?;
        }
        if let Some(dir) = path.parent().filter(|dir| dir.exists()) {
            sync_dir(dir)?;
        }
        let staging = self.staging_dir.join(move_id.as_str());
        match std::fs::remove_dir_all(&staging) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(DriverError::file(&staging)(error)),
        }
        tracing::info!(%tenant, %home, move_id = %move_id, "home dropped");
        Ok(())
    }
}

/// Takes the write lock: proof that no write transaction runs, and that none can begin while it is held.
pub(super) fn lock(path: &Path, home: &HomeId) -> Result<Connection, DriverError> {
    let connection = open_existing(path)?;
    for _ in 0..LOCK_ATTEMPTS {
        match connection.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => return Ok(connection),
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(DriverError::Busy(home.clone()))
}

//! Seals: what keeps a home fenced without a lock, and so without open files, once its tenant is another cell's.
//!
//! A seal is a row in the schema that SQLite cannot make sense of. A connection that was open long before sees at its
//! next statement that the schema has changed, reads it again, and fails; so does one that is opened later. The seal is
//! committed by the very transaction that is the fence's lock, so that no write comes between the two.

use super::{SqliteDriver, open_existing};
use crate::driver::DriverError;
use cellway_core::ids::{Epoch, HomeId, TenantId};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;

/// What an app reads in the error that it gets.
const SEAL: &str = "fenced by cellway: the tenant has moved";

impl SqliteDriver {
    /// Whether a home of the tenant is kept fenced by a lock.
    pub(crate) fn holds_lock(&self, tenant: &TenantId) -> bool {
        self.locks.lock().keys().any(|(holder, _)| holder == tenant)
    }

    /// Another cell owns the tenant since `epoch`: seals its homes that were fenced before, and lets go of their locks.
    pub(crate) async fn departed(self: &Arc<Self>, tenant: &TenantId, epoch: Epoch) -> Result<(), DriverError> {
        let at = tenant.clone();
        self.in_turn(tenant, move |driver| driver.departed_now(&at, epoch)).await
    }

    fn departed_now(&self, tenant: &TenantId, epoch: Epoch) -> Result<(), DriverError> {
        for row in self.disk.homes_of(tenant)? {
            let fenced_before = row.fenced.is_some_and(|fenced| fenced < epoch);
            if fenced_before && !row.dropped && !row.is_released() {
                self.seal_locked(tenant, &row.home)?;
            }
        }
        Ok(())
    }

    /// Seals a home whose lock is held here, and lets go of the lock; if it cannot be sealed, the lock stays.
    pub(super) fn seal_locked(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        let key = (tenant.clone(), home.clone());
        let Some(lock) = self.locks.lock().remove(&key) else {
            return Ok(());
        };
        if let Err(error) = seal(&lock) {
            self.locks.lock().insert(key, lock);
            return Err(error);
        }
        tracing::info!(%tenant, %home, "home sealed");
        Ok(())
    }
}

/// Lets SQLite read a schema with a seal in it, and write to it.
pub(super) fn see_seals(connection: &Connection) -> Result<(), DriverError> {
    Ok(connection.execute_batch("PRAGMA writable_schema = ON")?)
}

/// Seals the home that `lock` has locked, and ends its transaction. If this fails, the lock is still held.
pub(super) fn seal(lock: &Connection) -> Result<(), DriverError> {
    see_seals(lock)?;
    lock.execute_batch("SAVEPOINT seal")?;
    let sealed = write_seal(lock).and_then(|()| Ok(lock.execute_batch("COMMIT")?));
    if sealed.is_err() {
        // To the savepoint only: the transaction around it is the lock.
        lock.execute_batch("ROLLBACK TO seal; RELEASE seal")?;
    }
    sealed
}

fn write_seal(lock: &Connection) -> Result<(), DriverError> {
    let sql = "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES ('table', ?1, ?1, NULL, ?1)";
    lock.execute(sql, [SEAL])?;
    change_schema_version(lock)
}

/// Whether the home is sealed. `connection` can read it from then on.
pub(super) fn is_sealed(connection: &Connection) -> Result<bool, DriverError> {
    see_seals(connection)?;
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
    Ok(connection.query_row(sql, [SEAL], |row| row.get(0))?)
}

/// Takes the seal away, if there is one.
pub(super) fn unseal(path: &Path) -> Result<(), DriverError> {
    let connection = open_existing(path)?;
    if !is_sealed(&connection)? {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    connection.execute("DELETE FROM sqlite_schema WHERE name = ?1", [SEAL])?;
    change_schema_version(&connection)?;
    Ok(connection.execute_batch("COMMIT")?)
}

/// Makes every other connection read the schema again.
fn change_schema_version(connection: &Connection) -> Result<(), DriverError> {
    let version: i32 = connection.query_row("PRAGMA schema_version", (), |row| row.get(0))?;
    Ok(connection.execute_batch(&format!("PRAGMA schema_version = {}", version.wrapping_add(1)))?)
}

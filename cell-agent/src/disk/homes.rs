//! The ledger of homes: which copies of which tenants' data this disk has had, and who may write to them.

use super::{Disk, DiskError};
use cellway_core::ids::{Epoch, HomeId, TenantId};
use rusqlite::{OptionalExtension, Row};
use std::time::{SystemTime, UNIX_EPOCH};

/// One home in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HomeRow {
    /// The tenant.
    pub(crate) tenant: TenantId,
    /// The home.
    pub(crate) home: HomeId,
    /// Its data has been in place.
    pub(crate) made: bool,
    /// The highest epoch it was fenced at.
    pub(crate) fenced: Option<Epoch>,
    /// The highest epoch it was released at.
    pub(crate) released: Option<Epoch>,
    /// It was dropped, and never comes back.
    pub(crate) dropped: bool,
}

impl HomeRow {
    /// Whether the app may write to it.
    pub(crate) fn is_released(&self) -> bool {
        !self.dropped && self.released.is_some_and(|released| self.fenced.is_none_or(|fenced| fenced < released))
    }
}

const COLUMNS: &str = "tenant, home, made_at IS NOT NULL, fenced_epoch, released_epoch, dropped";

type Raw = (String, String, bool, Option<i64>, Option<i64>, bool);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
}

fn decode((tenant, home, made, fenced, released, dropped): Raw) -> Result<HomeRow, DiskError> {
    let epoch = |value: i64| Epoch(value.cast_unsigned());
    Ok(HomeRow {
        tenant: tenant.parse()?,
        home: home.parse()?,
        made,
        fenced: fenced.map(epoch),
        released: released.map(epoch),
        dropped,
    })
}

impl Disk {
    /// Every home this disk ever knew.
    pub(crate) fn all_homes(&self) -> Result<Vec<HomeRow>, DiskError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM homes"))?;
        let rows = statement.query_map((), raw)?.collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().map(decode).collect()
    }

    /// The homes of one tenant.
    pub(crate) fn homes_of(&self, tenant: &TenantId) -> Result<Vec<HomeRow>, DiskError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM homes WHERE tenant = ?1"))?;
        let rows = statement.query_map([tenant.as_str()], raw)?.collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().map(decode).collect()
    }

    /// One home; `None` if this disk never knew it.
    pub(crate) fn home(&self, tenant: &TenantId, home: &HomeId) -> Result<Option<HomeRow>, DiskError> {
        let connection = self.connection.lock();
        let sql = format!("SELECT {COLUMNS} FROM homes WHERE tenant = ?1 AND home = ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        let row = statement.query_row((tenant.as_str(), home.as_str()), raw).optional()?;
        row.map(decode).transpose()
    }

    /// Enters a home, its data not yet in place. A home that is known stays as it is.
    pub(crate) fn enter_home(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DiskError> {
        self.write_home("INSERT OR IGNORE INTO homes (tenant, home) VALUES (?1, ?2)", tenant, home)
    }

    /// The home's data is in place.
    pub(crate) fn home_made(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DiskError> {
        self.enter_home(tenant, home)?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let sql = format!("UPDATE homes SET made_at = coalesce(made_at, {now_ms}) WHERE tenant = ?1 AND home = ?2");
        self.write_home(&sql, tenant, home)
    }

    /// The home is gone for good.
    pub(crate) fn home_dropped(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DiskError> {
        self.write_home("UPDATE homes SET dropped = 1 WHERE tenant = ?1 AND home = ?2", tenant, home)
    }

    /// Marks the home fenced at `epoch`; the caller has compared it with what stands there.
    pub(crate) fn home_fenced(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DiskError> {
        let sql = format!("UPDATE homes SET fenced_epoch = {} WHERE tenant = ?1 AND home = ?2", epoch.0.cast_signed());
        self.write_home(&sql, tenant, home)
    }

    /// Marks the home released at `epoch`; the caller has compared it with what stands there.
    pub(crate) fn home_released(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DiskError> {
        let sql =
            format!("UPDATE homes SET released_epoch = {} WHERE tenant = ?1 AND home = ?2", epoch.0.cast_signed());
        self.write_home(&sql, tenant, home)
    }

    fn write_home(&self, sql: &str, tenant: &TenantId, home: &HomeId) -> Result<(), DiskError> {
        self.connection.lock().execute(sql, (tenant.as_str(), home.as_str()))?;
        Ok(())
    }
}

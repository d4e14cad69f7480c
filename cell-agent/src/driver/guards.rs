//! What this disk's rows of a tenant's homes forbid: every driver asks here before it changes anything of a home.

use super::DriverError;
use crate::disk::{Disk, HomeRow};
use cellway_core::ids::{Epoch, HomeId, TenantId};

impl Disk {
    /// The home's row, if there is one; a dropped home is an error.
    pub(super) fn kept_home(&self, tenant: &TenantId, home: &HomeId) -> Result<Option<HomeRow>, DriverError> {
        match self.home(tenant, home)? {
            Some(row) if row.dropped => Err(DriverError::Dropped(home.clone())),
            row => Ok(row),
        }
    }

    /// What is written to a home that the app may write to would be mixed with what the app writes.
    pub(super) fn check_unserved(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        check_not_served(self.kept_home(tenant, home)?.as_ref(), home)
    }

    /// A home in service is never dropped. A second order to drop is no error.
    pub(super) fn check_droppable(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        check_not_served(self.home(tenant, home)?.as_ref(), home)
    }

    /// What was released above `epoch` has been served since: what the order brings is older than it.
    pub(super) fn check_not_released_above(&self, tenant: &TenantId, epoch: Epoch) -> Result<(), DriverError> {
        let later = |row: &HomeRow| row.released.is_some_and(|released| released > epoch);
        if self.homes_of(tenant)?.iter().any(later) { Err(DriverError::Superseded) } else { Ok(()) }
    }

    /// An order to release is late once any home of the tenant was fenced at its epoch, or released above it.
    pub(super) fn check_may_release(&self, tenant: &TenantId, epoch: Epoch) -> Result<(), DriverError> {
        let fenced = |row: &HomeRow| row.fenced.is_some_and(|fenced| fenced >= epoch);
        if self.homes_of(tenant)?.iter().any(fenced) {
            return Err(DriverError::Superseded);
        }
        self.check_not_released_above(tenant, epoch)
    }
}

fn check_not_served(row: Option<&HomeRow>, home: &HomeId) -> Result<(), DriverError> {
    if row.is_some_and(HomeRow::is_released) { Err(DriverError::Served(home.clone())) } else { Ok(()) }
}

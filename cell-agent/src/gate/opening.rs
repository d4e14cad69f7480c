//! What happens when a placement is seen: the data is released, then the gate opens.

use crate::driver::{Driver, DriverError};
use crate::gate::table::{Gate, GateTable};
use crate::words::TenantPlacement;
use cellway_core::ids::{Epoch, HomeId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The first pause after a release that failed.
const RELEASE_RETRY_MIN_MS: u64 = 50;

/// The longest one.
const RELEASE_RETRY_MAX_MS: u64 = 5_000;

/// Opens gates.
#[derive(Debug, Clone)]
pub(crate) struct Opener {
    table: Arc<GateTable>,
    driver: Driver,
}

impl Opener {
    pub(crate) fn new(table: Arc<GateTable>, driver: Driver) -> Self {
        Self { table, driver }
    }

    /// Takes a placement, and opens if it says so.
    pub(crate) fn observe(&self, placement: TenantPlacement) {
        self.see_to_departure(&placement);
        let gate = self.table.entry(&placement.tenant);
        gate.observe(placement);
        self.see_to(&gate);
    }

    /// A tenant that another cell owns leaves homes here that nothing but a later release may open again.
    fn see_to_departure(&self, placement: &TenantPlacement) {
        let away = self.table.own().is_some_and(|own| placement.is_away_from(&own.uid));
        if !away || !self.driver.holds_lock(&placement.tenant) {
            return;
        }
        let (driver, tenant, epoch) = (self.driver.clone(), placement.tenant.clone(), placement.record.epoch());
        tokio::spawn(async move {
            if let Err(error) = driver.departed(&tenant, epoch).await {
                // The lock stays, so the home is no less fenced.
                tracing::warn!(%tenant, %error, "the home of a tenant that left could not be sealed");
            }
        });
    }

    fn see_to(&self, gate: &Arc<Gate>) {
        let Some(registration) = self.table.registration() else {
            return;
        };
        if let Some((home, epoch)) = gate.begin_opening(&registration) {
            let (opener, gate) = (self.clone(), Arc::clone(gate));
            tokio::spawn(async move { opener.open(gate, home, epoch).await });
        }
    }

    async fn open(&self, gate: Arc<Gate>, mut home: HomeId, mut epoch: Epoch) {
        let mut pause_ms = RELEASE_RETRY_MIN_MS;
        loop {
            match self.driver.release(gate.tenant(), &home, epoch).await {
                Ok(()) => gate.released(home, epoch),
                Err(DriverError::Superseded) => {
                    match gate.go_on_above(self.table.registration().as_ref(), &(home, epoch)) {
                        Some(next) => (home, epoch) = next,
                        None => return,
                    }
                    continue;
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::error!(tenant = %gate.tenant(), %home, epoch = epoch.0, error, "the gate stays closed");
                    // Whatever changes is looked at at once: another placement, or the end of the process.
                    let _ = timeout(Duration::from_millis(pause_ms), gate.changed().notified()).await;
                    pause_ms = (pause_ms * 2).min(RELEASE_RETRY_MAX_MS);
                }
            }
            match gate.go_on_opening(self.table.registration().as_ref()) {
                Some(next) => (home, epoch) = next,
                None => return,
            }
        }
    }
}

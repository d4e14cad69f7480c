//! The driver `command`: a program of the user does each step, whatever keeps the data. This module keeps the rules that
//! are the agent's: which order is late, which home is dropped or served, one step at a time per tenant.
//!
//! What the program is told and what it may answer is documented in `docs/operate/command-driver.md`.

mod call;

use super::{DriverError, Fetch, Progress, Pulled, Turns};
use crate::config::CommandConfig;
use crate::disk::Disk;
pub(crate) use call::CallError;
use call::{Answer, Call, Program, Step};
use cellway_core::ids::{CellName, Epoch, HomeId, MoveId, TenantId};
use cellway_core::tenant_move::Position;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Homes whose last position is remembered between the fence and the fact; the oldest need not be known.
const POSITIONS_MAX: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct CommandDriver {
    disk: Arc<Disk>,
    program: Program,
    turns: Turns,
    positions: Mutex<HashMap<HomeId, Position>>,
}

impl CommandDriver {
    pub(crate) fn new(disk: Arc<Disk>, cell: &CellName, config: &CommandConfig) -> Arc<Self> {
        let program = Program::new(cell, config);
        Arc::new(Self { disk, program, turns: Turns::default(), positions: Mutex::default() })
    }

    /// Runs the program; the answer is what its last lines said.
    async fn call(&self, call: Call<'_>, progress: Option<&Progress>) -> Result<Answer, DriverError> {
        Ok(self.program.run(call, progress).await?)
    }

    pub(crate) async fn release(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DriverError> {
        let _turn = self.turns.take(tenant).await;
        self.disk.check_may_release(tenant, epoch)?;
        self.disk.kept_home(tenant, home)?;
        self.disk.home_made(tenant, home)?;
        self.disk.home_released(tenant, home, epoch)?;
        self.call(Call { epoch: Some(epoch), ..Call::new(Step::Open, tenant, home) }, None).await?;
        tracing::info!(%tenant, %home, epoch = epoch.0, "data released");
        Ok(())
    }

    pub(crate) async fn fence(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DriverError> {
        let _turn = self.turns.take(tenant).await;
        let row = self.disk.kept_home(tenant, home)?;
        if row.as_ref().and_then(|row| row.released).is_some_and(|released| released > epoch) {
            return Err(DriverError::Superseded);
        }
        if row.is_none_or(|row| row.fenced.is_none_or(|fenced| fenced < epoch)) {
            self.disk.enter_home(tenant, home)?;
            self.disk.home_fenced(tenant, home, epoch)?;
        }
        let answer = self.call(Call { epoch: Some(epoch), ..Call::new(Step::Fence, tenant, home) }, None).await?;
        let position = answer.position.ok_or(CallError::NoPosition)?;
        let mut positions = self.positions.lock();
        if positions.len() >= POSITIONS_MAX {
            positions.clear();
        }
        positions.insert(home.clone(), Position(position));
        tracing::info!(%tenant, %home, epoch = epoch.0, "data fenced");
        Ok(())
    }

    /// As the fence said it.
    pub(crate) fn position(&self, home: &HomeId) -> Result<Position, DriverError> {
        Ok(self.positions.lock().get(home).cloned().ok_or(CallError::NoPosition)?)
    }

    pub(crate) async fn prepare(&self, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        let _turn = self.turns.take(tenant).await;
        self.disk.kept_home(tenant, home)?;
        self.disk.enter_home(tenant, home)?;
        self.call(Call::new(Step::Prepare, tenant, home), None).await.map(drop)
    }

    /// The whole copy at first, then one pass over what has changed since.
    pub(crate) async fn pull(&self, fetch: &Fetch, is_first: bool, progress: &Progress) -> Result<Pulled, DriverError> {
        let step = if is_first { Step::Copy } else { Step::Sync };
        let _turn = self.turns.take(&fetch.tenant).await;
        self.disk.check_unserved(&fetch.tenant, &fetch.home)?;
        let answer = self.call(Call::of_fetch(step, fetch), Some(progress)).await?;
        let longest = answer.freeze_ms.map(|ms| ("from fence to verify, as the program says", ms));
        let bytes = answer.copied_bytes.unwrap_or_else(|| progress.get().0);
        Ok(Pulled { bytes, freeze_ms: answer.freeze_ms, longest })
    }

    pub(crate) async fn reach(&self, fetch: &Fetch, epoch: Epoch, position: &Position) -> Result<(), DriverError> {
        let Fetch { tenant, home, .. } = fetch;
        let _turn = self.turns.take(tenant).await;
        self.disk.check_not_released_above(tenant, epoch)?;
        self.disk.check_unserved(tenant, home)?;
        for step in [Step::Finish, Step::Migrate, Step::Verify] {
            let call = Call::of_fetch(step, fetch);
            self.call(Call { epoch: Some(epoch), position: Some(&position.0), ..call }, None).await?;
        }
        self.disk.home_made(tenant, home)?;
        tracing::info!(%tenant, %home, "home complete");
        Ok(())
    }

    /// One pass of the way back: the old home gets what has changed at the new one.
    pub(crate) async fn reverse(&self, fetch: &Fetch, epoch: Epoch) -> Result<(), DriverError> {
        let _turn = self.turns.take(&fetch.tenant).await;
        self.disk.check_not_released_above(&fetch.tenant, epoch)?;
        self.disk.check_unserved(&fetch.tenant, &fetch.home)?;
        self.call(Call { epoch: Some(epoch), ..Call::of_fetch(Step::Reverse, fetch) }, None).await.map(drop)
    }

    pub(crate) async fn drop_home(&self, id: &MoveId, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        let _turn = self.turns.take(tenant).await;
        self.disk.check_droppable(tenant, home)?;
        self.disk.enter_home(tenant, home)?;
        self.disk.home_dropped(tenant, home)?;
        self.positions.lock().remove(home);
        self.call(Call { move_id: Some(id), ..Call::new(Step::Drop, tenant, home) }, None).await?;
        tracing::info!(%tenant, %home, move_id = %id, "home dropped");
        Ok(())
    }
}

#[cfg(test)]
mod tests;

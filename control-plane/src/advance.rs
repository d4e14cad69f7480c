//! Writes a move's next record, with its placement, in one transaction. Any replica may, on a fact it was told.

use crate::clock;
use crate::metrics::Metrics;
use crate::view::{SharedView, View};
use cellway_core::ids::{MoveId, Revision};
use cellway_core::tenant::PlacementRecord;
use cellway_core::tenant_move::{Fact, MoveRecord, MoveState, Refused, begins_to_freeze, next, placement_of};
use cellway_store::records::{Leftover, Moving, Record};
use cellway_store::{Store, StoreError, Txn, keys};

/// How often a lost compare-and-swap is tried again before the caller hears of it.
const ATTEMPTS_MAX: u32 = 8;

/// Why a move was not advanced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdvanced {
    /// There is no such move.
    #[error("there is no move {0}")]
    Unknown(MoveId),
    /// The fact changes nothing.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The lock or the placement is not this move's: nothing may be written.
    #[error("the tenant's placement or lock is not this move's")]
    NotOurs,
    /// A record of the tenant cannot be read: what is decided without it may be wrong.
    #[error("{0}")]
    Unreadable(String),
    /// The fact would let the move freeze its tenant.
    #[error("the emergency brake is on: no tenant is frozen now")]
    Braked,
    /// Others write the same records all the time.
    #[error("the records changed too often meanwhile")]
    Contended,
    /// The store.
    #[error(transparent)]
    Store(StoreError),
}

/// What advancing needs.
pub(crate) struct Mover<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) view: &'a SharedView,
    pub(crate) metrics: &'a Metrics,
    #[cfg(feature = "test-faults")]
    pub(crate) config: &'a crate::ControlPlaneConfig,
}

/// A step that can be committed: it compares everything that it was decided on.
struct Step {
    after: MoveRecord,
    txn: Txn,
}

impl Mover<'_> {
    /// Brings `fact` into the record of move `id`.
    pub(crate) async fn advance(&self, id: &MoveId, fact: Fact) -> Result<MoveRecord, NotAdvanced> {
        for _ in 0..ATTEMPTS_MAX {
            let (step, seen) = {
                let view = self.view.read();
                (self.step(&view, id, fact.clone())?, view.revision)
            };
            match self.store.commit(step.txn).await {
                Ok(revision) => {
                    self.count(&step.after);
                    self.view.seen(revision).await;
                    return Ok(step.after);
                }
                Err(StoreError::Conflict) => self.catch_up(seen).await,
                Err(error) => return Err(NotAdvanced::Store(error)),
            }
        }
        Err(NotAdvanced::Contended)
    }

    /// A compare failed, so the view is behind: waits until it moves.
    async fn catch_up(&self, seen: Revision) {
        self.view.seen(Revision(seen.0 + 1)).await;
    }

    fn step(&self, view: &View, id: &MoveId, fact: Fact) -> Result<Step, NotAdvanced> {
        let at = view.moves.get(id).ok_or_else(|| NotAdvanced::Unknown(id.clone()))?;
        let before = &at.value;
        #[cfg(feature = "test-faults")]
        if self.config.is_stalled(&before.state) {
            return Err(NotAdvanced::Contended);
        }
        let after = next(before, fact, clock::now_ms())?;
        if view.brake.is_some() && begins_to_freeze(before, &after) {
            return Err(NotAdvanced::Braked);
        }
        if let Some(why) = view.unreadable(&before.tenant) {
            return Err(NotAdvanced::Unreadable(why));
        }
        let moving = view.moving.get(&before.tenant).filter(|moving| moving.value.id == *id);
        let (placement, placed_at) = view.placed(&before.tenant).ok_or(NotAdvanced::NotOurs)?;
        let moving = moving.ok_or(NotAdvanced::NotOurs)?;
        if *placement != placement_of(before) {
            return Err(NotAdvanced::NotOurs);
        }
        let moving_key = keys::moving(&before.tenant);
        let mut txn = Txn::new()
            .require_revision(keys::a_move(id), at.revision)
            .require_revision(moving_key.clone(), moving.revision)
            .put(keys::a_move(id), at.replaced_by(&after));
        let placed = placement_of(&after);
        if placed != *placement {
            let key = keys::placement(&before.tenant);
            let record = PlacementRecord::Placed(placed);
            let kept = view.placements.get(&before.tenant).ok_or(NotAdvanced::NotOurs)?;
            txn = txn.require_revision(key.clone(), placed_at).put(key, kept.replaced_by(&record));
        }
        if let (MoveState::Holding(holding), MoveState::Switched) = (&before.state, &after.state)
            && let Some(list) = &holding.list
        {
            txn = txn.require_revision(keys::gates(&before.source.name), list.revision);
        }
        if after.state.is_last() {
            txn = match after.retry(clock::now_ms()) {
                // The next attempt takes the lock over.
                Some(again) => txn
                    .require_absent(keys::a_move(&again.id))
                    .put(keys::a_move(&again.id), again.encode())
                    .put(moving_key, lock(&again.id)),
                None => txn.delete(moving_key),
            };
            txn = with_leftover(txn, &after);
        }
        Ok(Step { after, txn })
    }

    fn count(&self, after: &MoveRecord) {
        match &after.state {
            MoveState::Done(_) => self.metrics.moves_done.inc(),
            MoveState::Undone(_) => self.metrics.moves_undone.inc(),
            MoveState::Settling => {
                if let Some(freeze_ms) = after.freeze_ms() {
                    self.metrics.freeze_seconds.observe(freeze_ms as f64 / 1_000.0);
                }
            }
            _ => {}
        }
        let state = after.state.as_str();
        tracing::info!(r#move = %after.id, tenant = %after.tenant, state, "move advanced");
    }
}

/// Adds the home that an ended move leaves behind, so that the janitor has it dropped.
pub(crate) fn with_leftover(txn: Txn, ended: &MoveRecord) -> Txn {
    let (home, cell, due_ms) = match &ended.state {
        MoveState::Done(done) => (&done.leftover, &ended.source.name, ended.entered_ms + ended.limits.retention_ms),
        MoveState::Undone(undone) => {
            // A home that was there before the move is somebody's way back: it is kept as long as any other.
            let kept_ms = if ended.keeps_target_home { ended.limits.retention_ms } else { 0 };
            (&undone.leftover, &ended.target.name, ended.entered_ms + kept_ms)
        }
        _ => return txn,
    };
    let Some(home) = home else { return txn };
    let leftover = Leftover { tenant: ended.tenant.clone(), home: home.clone(), left_by: ended.id.clone(), due_ms };
    txn.put(keys::leftover(cell, &ended.tenant, home), leftover.encode())
}

/// The lock that names a move.
pub(crate) fn lock(id: &MoveId) -> Vec<u8> {
    Moving { id: id.clone() }.encode()
}

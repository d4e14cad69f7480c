//! Moves: starting, undoing, taking back.

use super::places::{with_place, with_place_anyway};
use super::tenants::refuse_unreadable;
use super::{Attempt, NotDone, audited};
use crate::advance::{lock, with_leftover};
use crate::view::View;
use crate::{Replica, clock};
use cellway_api::fleet::{CreateMove, MoveView};
use cellway_core::cell::{CellKind, CellRef, MoverDriver};
use cellway_core::fleet::InFlight;
use cellway_core::freeze_window::weekday_time;
use cellway_core::ids::{CellName, HomeId, InstanceId, MoveId, Revision, TenantId};
use cellway_core::placement::{NotYet, check_room, may_start};
use cellway_core::tenant::Tenant;
use cellway_core::tenant_move::{Fact, MoveLimits, MoveRecord, MoveState, Priority, Refused, next};
use cellway_store::records::Record;
use cellway_store::{Txn, keys};
use std::collections::BTreeSet;

/// A move that is asked for, with the id that it will have.
pub(super) struct WantedMove {
    id: MoveId,
    pub(super) tenant: TenantId,
    pub(super) target: CellName,
    cause: String,
    priority: Priority,
    now: bool,
}

impl WantedMove {
    pub(super) fn of(wanted: CreateMove) -> Result<Self, NotDone> {
        Ok(Self {
            id: MoveId::new(&clock::token())?,
            tenant: TenantId::new(&wanted.tenant)?,
            target: CellName::new(&wanted.to)?,
            cause: wanted.cause.unwrap_or_else(|| "asked for by an operator".to_owned()),
            priority: wanted.priority.into(),
            now: wanted.now,
        })
    }
}

impl Replica {
    /// Plans a move: its record and the tenant's lock, together.
    pub(crate) async fn create_move(&self, wanted: CreateMove) -> Result<MoveView, NotDone> {
        let wanted = WantedMove::of(wanted)?;
        let _turn = self.turn_at(Some(&wanted.target)).await;
        let (record, _) = self.act(|view| self.attempt_move(view, &wanted)).await?;
        Ok(self.move_view(&self.view.read(), &record))
    }

    /// What would be committed to plan a move, or why nothing would.
    pub(super) fn attempt_move(&self, view: &View, wanted: &WantedMove) -> Result<Attempt<MoveRecord>, NotDone> {
        let WantedMove { id, tenant, target, cause, priority, now } = wanted;
        refuse_unreadable(view, tenant)?;
        let no_tenant = || NotDone::NotFound(format!("there is no tenant {tenant}"));
        let known = &view.tenants.get(tenant).ok_or_else(no_tenant)?.value;
        let (placement, placed_at) = view.placed(tenant).ok_or_else(no_tenant)?;
        if placement.cell.name == *target {
            return Err(NotDone::Conflict(format!("tenant {tenant} is in cell {target} already")));
        }
        let fleet = view.fleet(|cell, instance| self.heard.is_reachable(cell, instance));
        let target = check_room(&fleet, target)?;
        let driver = common_driver(view, &placement.cell, &target)?;
        let now_ms = clock::now_ms();
        let record = MoveRecord {
            id: id.clone(),
            tenant: tenant.clone(),
            source: placement.cell.clone(),
            target: target.clone(),
            epoch: placement.epoch,
            source_home: placement.home.clone(),
            target_home: HomeId::new(id.as_str())?,
            keeps_target_home: false,
            source_gates: gates_of(view, &placement.cell.name),
            driver,
            cause: cause.clone(),
            limits: self.limits_of(known),
            priority: *priority,
            freeze_now_ms: now.then_some(now_ms),
            attempt: 1,
            not_before_ms: now_ms,
            created_ms: now_ms,
            entered_ms: now_ms,
            predicted_freeze_ms: 0,
            copied: None,
            held_ms: None,
            cut_requests: 0,
            released_ms: None,
            state: MoveState::Planned,
        };
        let mut txn = with_place(Txn::new(), view, &target.name, tenant)
            .require_revision(keys::placement(tenant), placed_at)
            .require_absent(keys::a_move(id))
            .put(keys::a_move(id), record.encode());
        txn = match view.moving.get(tenant) {
            None => txn.require_absent(keys::moving(tenant)).put(keys::moving(tenant), lock(id)),
            Some(moving) => {
                let running = MoveId::clone(&moving.value.id);
                self.hand_over(view, txn, &running, moving.revision, id)?
            }
        };
        let action = if *now { "move tenant, whatever its freeze windows" } else { "move tenant" };
        Ok(Attempt { txn: audited(txn, "api", action, tenant.as_str(), cause), answer: record })
    }

    pub(super) fn limits_of(&self, tenant: &Tenant) -> MoveLimits {
        let fleet = &self.config.move_limits;
        let windows = Some(&tenant.freeze_windows).filter(|own| !own.is_none()).unwrap_or(&fleet.freeze_windows);
        MoveLimits {
            freeze_budget_ms: tenant.freeze_budget_ms,
            long_requests: tenant.long_requests,
            freeze_windows: windows.clone(),
            ..fleet.clone()
        }
    }

    /// From `cleaning` an ordinary move may begin: the old one ends and gives it the lock. Any other running move is
    /// in the way.
    fn hand_over(
        &self,
        view: &View,
        txn: Txn,
        running: &MoveId,
        locked_at: Revision,
        to: &MoveId,
    ) -> Result<Txn, NotDone> {
        let in_the_way = |state: &str| {
            NotDone::Conflict(format!(
                "the tenant is in move {running} already ({state}): wait for it, or `cellway move undo {running}`"
            ))
        };
        let at = view.moves.get(running).ok_or_else(|| in_the_way("unknown"))?;
        if !matches!(at.value.state, MoveState::Cleaning(_)) {
            return Err(in_the_way(at.value.state.as_str()));
        }
        let ended = next(&at.value, Fact::TakenOver(to.clone()), clock::now_ms())
            .map_err(|error| NotDone::Conflict(error.to_string()))?;
        let moving = keys::moving(&ended.tenant);
        let txn = txn
            .require_revision(keys::a_move(running), at.revision)
            .require_revision(moving.clone(), locked_at)
            .put(keys::a_move(running), at.replaced_by(&ended))
            .put(moving, lock(to));
        Ok(with_leftover(txn, &ended))
    }

    /// Puts a move's freeze windows aside: its tenant may be frozen as soon as that is within its budget.
    pub(crate) async fn freeze_now(&self, id: &str, cause: Option<String>) -> Result<MoveView, NotDone> {
        let id = MoveId::new(id)?;
        let cause = cause.unwrap_or_else(|| "asked for by an operator".to_owned());
        let (record, _) = self
            .act(|view| {
                let at = view.moves.get(&id).ok_or_else(|| NotDone::NotFound(format!("there is no move {id}")))?;
                let in_vain = |refused: Refused| match refused {
                    Refused::NothingNew => NotDone::Conflict(format!("move {id} heeds no freeze windows already")),
                    _ => {
                        NotDone::Conflict(format!("move {id} is {}: no window is in its way", at.value.state.as_str()))
                    }
                };
                let record = at.value.freeing_the_freeze(clock::now_ms()).map_err(in_vain)?;
                let key = keys::a_move(&id);
                let txn = Txn::new().require_revision(key.clone(), at.revision).put(key, at.replaced_by(&record));
                Ok(Attempt { txn: audited(txn, "api", "freeze now", id.as_str(), &cause), answer: record })
            })
            .await?;
        Ok(self.move_view(&self.view.read(), &record))
    }

    /// Undoes a move; where its target owns the tenant already, starts the move back instead and answers with that.
    pub(crate) async fn undo_move(&self, id: &str, cause: Option<String>) -> Result<MoveView, NotDone> {
        let id = MoveId::new(id)?;
        let cause = cause.unwrap_or_else(|| "undone by an operator".to_owned());
        let known = self.view.read().moves.get(&id).map(|at| at.value.state.clone());
        let record = match known {
            None => return Err(NotDone::NotFound(format!("there is no move {id}"))),
            Some(MoveState::Switched | MoveState::Settling) => self.take_back(&id, cause).await?,
            Some(state) if state.is_past_commit() => {
                return Err(NotDone::Conflict(format!(
                    "move {id} is {}: its tenant stays where it is; to bring it back, start an ordinary move",
                    state.as_str()
                )));
            }
            Some(_) => self.mover().advance(&id, Fact::UndoAsked(cause)).await?,
        };
        Ok(self.move_view(&self.view.read(), &record))
    }

    /// The move back takes over: the old move ends, the lock changes hands and the new one begins, all at once.
    async fn take_back(&self, id: &MoveId, cause: String) -> Result<MoveRecord, NotDone> {
        let back_id = MoveId::new(&clock::token())?;
        let (record, _) = self
            .act(|view| {
                let now_ms = clock::now_ms();
                let at = view.moves.get(id).ok_or_else(|| NotDone::NotFound(format!("there is no move {id}")))?;
                let too_late = || NotDone::Conflict(format!("move {id} is {} meanwhile", at.value.state.as_str()));
                refuse_unreadable(view, &at.value.tenant)?;
                let gates = gates_of(view, &at.value.target.name);
                let back = at.value.back(back_id.clone(), cause.clone(), gates, now_ms).ok_or_else(too_late)?;
                let ended = next(&at.value, Fact::TakenOver(back_id.clone()), now_ms).map_err(|_| too_late())?;
                let moving = view.moving.get(&ended.tenant).filter(|moving| moving.value.id == *id);
                let locked_at = moving.ok_or_else(too_late)?.revision;
                let (_, placed_at) = view.placed(&ended.tenant).ok_or_else(too_late)?;
                let moving_key = keys::moving(&ended.tenant);
                let txn = Txn::new()
                    .require_revision(keys::a_move(id), at.revision)
                    .require_revision(moving_key.clone(), locked_at)
                    .require_revision(keys::placement(&ended.tenant), placed_at)
                    .require_absent(keys::a_move(&back_id))
                    .put(keys::a_move(id), at.replaced_by(&ended))
                    .put(keys::a_move(&back_id), back.encode())
                    .put(moving_key, lock(&back_id));
                let txn = with_place_anyway(txn, view, &back);
                Ok(Attempt { txn: audited(txn, "api", "take move back", id.as_str(), &cause), answer: back })
            })
            .await?;
        Ok(record)
    }

    /// A move as the API shows it, with what a planned one waits for.
    pub(crate) fn move_view(&self, view: &View, record: &MoveRecord) -> MoveView {
        let (waits_for, freeze_from_ms) = (self.waits_for(view, record), freeze_from_ms(record));
        MoveView { waits_for, freeze_from_ms, ..MoveView::of(record) }
    }

    /// What a planned move waits for, or one that follows changes, if it does.
    pub(super) fn waits_for(&self, view: &View, record: &MoveRecord) -> Option<String> {
        if let Some(why) = view.unreadable(&record.tenant).filter(|_| !record.state.is_last()) {
            return Some(why);
        }
        match record.state {
            MoveState::Planned => {}
            MoveState::Syncing(_) if view.brake.is_some() => return Some(NotYet::Brake.to_string()),
            MoveState::Syncing(_) => {
                let opens_ms = freeze_from_ms(record)?;
                return Some(format!("its freeze window: it opens {}", weekday_time(opens_ms)));
            }
            _ => return None,
        }
        let fleet = view.fleet(|cell, instance| self.heard.is_reachable(cell, instance));
        let waits = may_start(&fleet, &self.config.move_budgets, view.brake.is_some(), record, clock::now_ms());
        waits.err().map(|reason| reason.to_string())
    }
}

/// When the freeze window opens that keeps a move's tenant from being frozen now.
pub(super) fn freeze_from_ms(record: &MoveRecord) -> Option<u64> {
    let now_ms = clock::now_ms();
    InFlight::of(record, now_ms).waits_for_window.then(|| record.freeze_from_ms(now_ms))
}

/// The registered gates of a cell.
fn gates_of(view: &View, cell: &CellName) -> BTreeSet<InstanceId> {
    view.gates.get(cell).map(|gates| gates.value.instances.keys().cloned().collect()).unwrap_or_default()
}

/// The driver that both cells' agents have.
fn common_driver(view: &View, source: &CellRef, target: &CellRef) -> Result<MoverDriver, NotDone> {
    let driver = |cell: &CellRef| {
        let known = view.cell(cell).ok_or_else(|| super::cells::no_cell(&cell.name))?;
        if known.kind == CellKind::Origin {
            return Err(NotDone::Conflict(format!(
                "cell {} is a plain origin without an agent: its tenants are routed, but nothing there can fence \
                 them or move their data. Put an agent in front of the app to move tenants",
                cell.name
            )));
        }
        let gates = view.gates.get(&cell.name);
        let first = gates.and_then(|gates| gates.value.instances.values().next());
        first.map(|instance| instance.driver).ok_or_else(|| {
            NotDone::Conflict(format!("no agent of cell {} is registered, so nothing can be moved there", cell.name))
        })
    };
    let (of_source, of_target) = (driver(source)?, driver(target)?);
    if of_source != of_target {
        return Err(NotDone::Conflict(format!(
            "cell {} keeps data by driver {}, cell {} by {}: there is no way between them",
            source.name,
            of_source.as_str(),
            target.name,
            of_target.as_str()
        )));
    }
    Ok(of_source)
}

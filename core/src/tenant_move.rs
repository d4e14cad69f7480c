//! The tenant move: one tenant changes cells while its users keep working.
//!
//! ```text
//!  planned ▶ preparing ▶ copying ▶ syncing ▶ closing ▶ holding ▶ switched ▶ settling ▶ cleaning ▶ done
//!     └──────────┴───────────┴─────────┴─────────┴─────────┴▶ undoing ▶ undone
//!                                                             ▲ point of no return: the commit into `switched`
//! ```
//!
//! Who may serve the tenant:
//! - *planned*, *preparing*, *copying*, *syncing*, *closing*: the source, at epoch e (in *closing* no new stream).
//! - *holding*: nobody new. Stage *gates*: admitted requests finish; *data* and *last*: nobody at all.
//! - *switched*, *settling*, *cleaning*, *done*: the target, at epoch e+1.
//! - *undoing*, *undone*: the source, at e if traffic was never held, else at e+1.
//!
//! The record alone says what is ordered ([`orders_for`]) and what the placement is ([`placement_of`]); [`next`] says
//! what a fact changes. The shell writes each new record, together with its placement, by compare-and-swap and only
//! then acts, so that a stale leader, a late fact or a repeated order can change nothing.

mod forecast;
mod invariants;
mod limits;
mod message;
mod record;
mod syncing;
mod timing;

pub use forecast::{Forecast, PAST_MOVES_MAX, forecast};
pub use invariants::check_step;
pub use limits::{HEAD_START_MS, MoveLimits, Priority, QUIET_MS, QUIET_WAIT_MS};
pub use message::*;
pub use record::*;
pub use syncing::Syncing;

use crate::cell::ListedGates;
use crate::ids::MoveId;
use crate::tenant::AfterWait;
use Fact::*;
use syncing::Readiness;

/// What the record becomes on `fact`, or why it stays as it is.
pub fn next(record: &MoveRecord, fact: Fact, now_ms: u64) -> Result<MoveRecord, Refused> {
    check_witness(record, &fact)?;
    let mut predicted_freeze_ms = record.predicted_freeze_ms;
    let (copied, cut_requests) = (record.copied_with(&fact, now_ms), record.cut_with(&fact));
    let state = match &record.state {
        MoveState::Planned => from_planned(record, fact, now_ms),
        MoveState::Preparing => from_preparing(record, fact, now_ms),
        MoveState::Copying(copying) => from_copying(record, copying, fact, now_ms),
        MoveState::Syncing(syncing) => {
            let syncing = syncing.with_report(&fact, now_ms);
            predicted_freeze_ms = syncing.predicted_freeze_ms().unwrap_or(predicted_freeze_ms);
            let state = from_syncing(record, syncing, fact, now_ms);
            if matches!(state, Ok(MoveState::Closing(_) | MoveState::Holding(_))) {
                // Whatever would take longer is cut.
                predicted_freeze_ms = predicted_freeze_ms.min(record.limits.freeze_budget_ms);
            }
            state
        }
        MoveState::Closing(closing) => from_closing(record, closing, fact, now_ms),
        MoveState::Holding(holding) => from_holding(record, holding, fact, now_ms),
        MoveState::Switched => from_switched(record, fact),
        MoveState::Settling => from_settling(record, fact, now_ms),
        MoveState::Cleaning(cleaning) => from_cleaning(record, cleaning, fact, now_ms),
        MoveState::Undoing(undoing) => from_undoing(record, undoing, fact, now_ms),
        MoveState::Done(_) => from_done(fact),
        MoveState::Undone(_) => from_undone(fact),
    }?;
    let after = MoveRecord { predicted_freeze_ms, copied, cut_requests, ..record.entering(state, now_ms) };
    debug_assert_eq!(check_step(record, &after), Ok(()));
    Ok(after)
}

/// Whether the step is the first that a tenant can feel: streams end, or requests are held. A brake stops before it.
pub fn begins_to_freeze(before: &MoveRecord, after: &MoveRecord) -> bool {
    matches!(before.state, MoveState::Syncing(_))
        && matches!(after.state, MoveState::Closing(_) | MoveState::Holding(_))
}

/// A fact must quote this move and come from the side of it that can know.
fn check_witness(record: &MoveRecord, fact: &Fact) -> Result<(), Refused> {
    let Some(by) = fact.witness() else { return Ok(()) };
    if by.move_id != record.id {
        return Err(Refused::OtherMove);
    }
    let (at_source, at_target) = (by.cell == record.source.uid, by.cell == record.target.uid);
    let can_know = match fact {
        Watched(_) | Fenced(_) | Positioned(_) => at_source,
        Ready(_) | Copied(_) | Followed(_) | Reached(_) | Opened(_) => at_target,
        Dropped(_) | Failed(_) => at_source || at_target,
        Start | Listed(_) | Elapsed | UndoAsked(_) | TakenOver(_) => true,
    };
    if can_know { Ok(()) } else { Err(Refused::OtherCell) }
}

fn from_planned(record: &MoveRecord, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    match fact {
        Start => Ok(MoveState::Preparing),
        Elapsed => overdue(record, now_ms, "it got no place among the moves in flight in time"),
        UndoAsked(reason) => undo(record, reason),
        Listed(_) | TakenOver(_) | Ready(_) | Copied(_) | Followed(_) | Watched(_) | Fenced(_) | Positioned(_)
        | Reached(_) | Opened(_) | Dropped(_) | Failed(_) => Err(Refused::NotNow),
    }
}

fn from_preparing(record: &MoveRecord, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    match fact {
        Ready(_) => Ok(MoveState::Copying(Copying { advanced_ms: now_ms, ..Copying::default() })),
        Elapsed => overdue(record, now_ms, "the target made no home in time"),
        UndoAsked(reason) => undo(record, reason),
        Failed(report) => undo(record, report.reason),
        Start | Listed(_) | TakenOver(_) | Copied(_) | Followed(_) | Watched(_) | Fenced(_) | Positioned(_)
        | Reached(_) | Opened(_) | Dropped(_) => Err(Refused::NotNow),
    }
}

/// The copy has no deadline while bytes advance.
fn from_copying(record: &MoveRecord, copying: &Copying, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    match fact {
        Copied(report) if report.complete => Ok(MoveState::Syncing(Syncing::default())),
        Copied(report) if report.copied_bytes > copying.copied_bytes => Ok(MoveState::Copying(Copying {
            copied_bytes: report.copied_bytes,
            total_bytes: report.total_bytes,
            advanced_ms: now_ms,
        })),
        Copied(_) => Err(Refused::NothingNew),
        Elapsed => overdue(record, now_ms, "the copy stalled"),
        UndoAsked(reason) => undo(record, reason),
        Failed(report) => undo(record, report.reason),
        Start | Listed(_) | TakenOver(_) | Ready(_) | Followed(_) | Watched(_) | Fenced(_) | Positioned(_)
        | Reached(_) | Opened(_) | Dropped(_) => Err(Refused::NotNow),
    }
}

/// `syncing` has the report in it already.
fn from_syncing(record: &MoveRecord, syncing: Syncing, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    match fact {
        Followed(_) | Watched(_) => freeze_or_wait(record, syncing, now_ms),
        Elapsed if now_ms < deadline(record) => Err(Refused::Early),
        Elapsed => match freeze_or_wait(record, syncing, now_ms)? {
            MoveState::Syncing(syncing) => {
                undo(record, syncing.why_not_frozen(&record.source_gates, record.limits.freeze_budget_ms))
            }
            decided => Ok(decided),
        },
        UndoAsked(reason) => undo(record, reason),
        Failed(report) => undo(record, report.reason),
        Copied(_) => Err(Refused::NothingNew),
        Start | Listed(_) | TakenOver(_) | Ready(_) | Fenced(_) | Positioned(_) | Reached(_) | Opened(_)
        | Dropped(_) => Err(Refused::NotNow),
    }
}

/// Freezes as soon as that is within the budget and in a window for it, and best while no request runs that everybody
/// would wait for. Long requests are waited for; then the tenant's word for them counts.
fn freeze_or_wait(record: &MoveRecord, syncing: Syncing, now_ms: u64) -> Result<MoveState, Refused> {
    let limits = &record.limits;
    let waited = now_ms >= record.after_open(limits.long_requests.wait_ms.min(limits.syncing_ms));
    let may_get_quieter = now_ms < record.after_open(QUIET_WAIT_MS.min(limits.syncing_ms));
    let admitted = match syncing.readiness(&record.source_gates, limits.freeze_budget_ms, now_ms) {
        Some(Readiness::Within(admitted)) if admitted.oldest_request_ms > QUIET_MS && may_get_quieter => {
            return Ok(MoveState::Syncing(syncing));
        }
        Some(Readiness::Within(admitted)) => admitted,
        Some(Readiness::ButForRequests(admitted)) if waited => match limits.long_requests.then {
            AfterWait::Cut => admitted,
            AfterWait::Undo => return undo(record, still_running(record, admitted.requests)),
        },
        Some(Readiness::ButForRequests(_)) | None => return Ok(MoveState::Syncing(syncing)),
    };
    if record.freeze_from_ms(now_ms) > now_ms {
        return Ok(MoveState::Syncing(syncing));
    }
    Ok(match admitted.open_streams {
        0 => MoveState::Holding(Holding::default()),
        _ => MoveState::Closing(Closing::default()),
    })
}

/// Why a move is undone for which requests ran for too long, and what can be done about it.
fn still_running(record: &MoveRecord, requests: u32) -> String {
    let tenant = &record.tenant;
    match record.limits.long_requests.then {
        AfterWait::Undo => format!(
            "{requests} requests were still running: to have long uploads and downloads cut instead, \
             `cellway tenant change {tenant} --long-requests cut`"
        ),
        AfterWait::Cut => {
            format!("{requests} requests were still running in the app, which has not ended them")
        }
    }
}

/// Streams that are left when the window is over are cut by the fence.
fn from_closing(record: &MoveRecord, closing: &Closing, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    match fact {
        Watched(report) if report.admitted.open_streams == 0 => {
            let mut closing = closing.clone();
            if !closing.ended.insert(report.by.instance) {
                return Err(Refused::NothingNew);
            }
            let all_ended = record.source_gates.is_subset(&closing.ended);
            Ok(if all_ended { MoveState::Holding(Holding::default()) } else { MoveState::Closing(closing) })
        }
        Watched(_) | Followed(_) => Err(Refused::NothingNew),
        Elapsed if now_ms >= deadline(record) => Ok(MoveState::Holding(Holding::default())),
        Elapsed => Err(Refused::Early),
        UndoAsked(reason) => undo(record, reason),
        Failed(report) => undo(record, report.reason),
        Start | Listed(_) | TakenOver(_) | Ready(_) | Copied(_) | Fenced(_) | Positioned(_) | Reached(_)
        | Opened(_) | Dropped(_) => Err(Refused::NotNow),
    }
}

/// The three stages: every listed gate fenced and drained, then the data's last position, then the target there.
fn from_holding(record: &MoveRecord, holding: &Holding, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    let mut holding = holding.clone();
    match fact {
        Listed(list) => return relisted(holding, list),
        Fenced(report) => {
            if report.epoch != record.epoch {
                return Err(Refused::OtherEpoch);
            }
            holding.running.remove(&report.by.instance);
            if !holding.fenced.insert(report.by.instance) {
                return Err(Refused::NothingNew);
            }
        }
        Positioned(report) => {
            if report.epoch != record.epoch {
                return Err(Refused::OtherEpoch);
            }
            if holding.stage != HoldingStage::Data || !holding.is_at(report.list) {
                return Err(Refused::OtherList);
            }
            holding.position = Some(report.position);
            holding.stage = HoldingStage::Last;
        }
        Reached(report) => {
            if holding.stage != HoldingStage::Last || !holding.is_at(report.list) {
                return Err(Refused::OtherList);
            }
            if holding.position.as_ref() != Some(&report.position) {
                return Err(Refused::OtherPosition);
            }
            return Ok(MoveState::Switched);
        }
        Watched(_) if holding.stage != HoldingStage::Gates => return Err(Refused::NothingNew),
        Watched(report) => {
            let known = holding.running.remove(&report.by.instance).unwrap_or_default();
            if report.admitted.requests == known {
                return Err(Refused::NothingNew);
            }
            holding.running.insert(report.by.instance, report.admitted.requests);
        }
        Elapsed if now_ms < deadline(record) => return Err(Refused::Early),
        Elapsed if record.may_cut() => holding.cut = true,
        Elapsed => return Ok(undo_and_retry(record, &holding)),
        UndoAsked(reason) => return undo(record, reason),
        Failed(report) => return undo(record, report.reason),
        Followed(_) => return Err(Refused::NothingNew),
        Start | TakenOver(_) | Ready(_) | Copied(_) | Opened(_) | Dropped(_) => return Err(Refused::NotNow),
    }
    Ok(MoveState::Holding(holding.advanced()))
}

/// A list at another revision than L means that a gate came or went: its fence counts, the position no longer does.
fn relisted(mut holding: Holding, list: ListedGates) -> Result<MoveState, Refused> {
    if holding.list.as_ref().is_some_and(|known| list.revision <= known.revision) {
        return Err(Refused::NothingNew);
    }
    holding.list = Some(list);
    holding.stage = HoldingStage::Gates;
    holding.position = None;
    Ok(MoveState::Holding(holding.advanced()))
}

/// One open gate is enough: a dead one must not keep the move from going on.
fn from_switched(record: &MoveRecord, fact: Fact) -> Result<MoveState, Refused> {
    match fact {
        Opened(report) if report.epoch == record.epoch.next() => Ok(MoveState::Settling),
        Opened(_) => Err(Refused::OtherEpoch),
        TakenOver(by) => Ok(reversed(by)),
        UndoAsked(_) => Err(Refused::PastTheCommit),
        Elapsed | Listed(_) | Fenced(_) | Positioned(_) | Reached(_) | Watched(_) | Followed(_) => {
            Err(Refused::NothingNew)
        }
        Start | Ready(_) | Copied(_) | Dropped(_) | Failed(_) => Err(Refused::NotNow),
    }
}

fn from_settling(record: &MoveRecord, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    match fact {
        Elapsed if now_ms >= deadline(record) => Ok(MoveState::Cleaning(Cleaning { due: false })),
        Elapsed => Err(Refused::Early),
        TakenOver(by) => Ok(reversed(by)),
        UndoAsked(_) => Err(Refused::PastTheCommit),
        Opened(_) | Listed(_) | Fenced(_) | Positioned(_) | Reached(_) => Err(Refused::NothingNew),
        Start | Ready(_) | Copied(_) | Followed(_) | Watched(_) | Dropped(_) | Failed(_) => Err(Refused::NotNow),
    }
}

/// The old home is kept for the retention, then dropped; nobody waits for a cell that may never answer.
fn from_cleaning(record: &MoveRecord, cleaning: &Cleaning, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    let left = |leftover| Ok(MoveState::Done(Done { leftover, reversed_by: None }));
    match fact {
        Elapsed if now_ms < deadline(record) => Err(Refused::Early),
        Elapsed if !cleaning.due => Ok(MoveState::Cleaning(Cleaning { due: true })),
        Elapsed => left(Some(record.source_home.clone())),
        Dropped(report) if report.home == record.source_home && cleaning.due => left(None),
        Dropped(_) => Err(Refused::OtherHome),
        // An ordinary move may begin before the retention is over: the old home is left to the janitor.
        TakenOver(_) => left(Some(record.source_home.clone())),
        UndoAsked(_) => Err(Refused::PastTheCommit),
        Start | Listed(_) | Ready(_) | Copied(_) | Followed(_) | Watched(_) | Fenced(_) | Positioned(_)
        | Reached(_) | Opened(_) | Failed(_) => Err(Refused::NotNow),
    }
}

fn from_undoing(record: &MoveRecord, undoing: &Undoing, fact: Fact, now_ms: u64) -> Result<MoveState, Refused> {
    let undone = |leftover| {
        let retried_by = if undoing.retry { record.retry_id() } else { None };
        Ok(MoveState::Undone(Undone { reason: undoing.reason.clone(), held: undoing.held, leftover, retried_by }))
    };
    match fact {
        Dropped(report) if report.home == record.target_home => undone(None),
        Dropped(_) => Err(Refused::OtherHome),
        Elapsed if now_ms >= deadline(record) => undone(Some(record.target_home.clone())),
        Elapsed => Err(Refused::Early),
        UndoAsked(reason) if undoing.retry => {
            Ok(MoveState::Undoing(Undoing { reason, held: undoing.held, retry: false }))
        }
        UndoAsked(_) => Err(Refused::NothingNew),
        Start | Listed(_) | TakenOver(_) | Ready(_) | Copied(_) | Followed(_) | Watched(_) | Fenced(_)
        | Positioned(_) | Reached(_) | Opened(_) | Failed(_) => Err(Refused::NotNow),
    }
}

fn from_done(fact: Fact) -> Result<MoveState, Refused> {
    match fact {
        UndoAsked(_) => Err(Refused::PastTheCommit),
        Start | Listed(_) | Elapsed | TakenOver(_) | Ready(_) | Copied(_) | Followed(_) | Watched(_) | Fenced(_)
        | Positioned(_) | Reached(_) | Opened(_) | Dropped(_) | Failed(_) => Err(Refused::Ended),
    }
}

fn from_undone(fact: Fact) -> Result<MoveState, Refused> {
    match fact {
        UndoAsked(_) => Err(Refused::NothingNew),
        Start | Listed(_) | Elapsed | TakenOver(_) | Ready(_) | Copied(_) | Followed(_) | Watched(_) | Fenced(_)
        | Positioned(_) | Reached(_) | Opened(_) | Dropped(_) | Failed(_) => Err(Refused::Ended),
    }
}

fn undo(record: &MoveRecord, reason: String) -> Result<MoveState, Refused> {
    let held = matches!(record.state, MoveState::Holding(_));
    Ok(undoing(record, Undoing { reason, held, retry: false }))
}

/// The target drops what it has. A home that was there before is left alone instead, and there is nothing to wait for.
fn undoing(record: &MoveRecord, undoing: Undoing) -> MoveState {
    if !record.keeps_target_home {
        return MoveState::Undoing(undoing);
    }
    let Undoing { reason, held, retry } = undoing;
    let retried_by = if retry { record.retry_id() } else { None };
    let leftover = retried_by.is_none().then(|| record.target_home.clone());
    MoveState::Undone(Undone { reason, held, leftover, retried_by })
}

/// A hold that took too long is let go, and the move is made again when requests are quicker.
fn undo_and_retry(record: &MoveRecord, holding: &Holding) -> MoveState {
    let running = holding.running.values().fold(0_u32, |all, one| all.saturating_add(*one));
    let reason = match (holding.stage, running) {
        (HoldingStage::Gates, 0) => "admitted requests did not finish in time".to_owned(),
        (HoldingStage::Gates, requests) => still_running(record, requests),
        (HoldingStage::Data | HoldingStage::Last, _) => "the last changes did not arrive in time".to_owned(),
    };
    undoing(record, Undoing { reason, held: true, retry: true })
}

fn overdue(record: &MoveRecord, now_ms: u64, reason: &str) -> Result<MoveState, Refused> {
    if now_ms < deadline(record) {
        return Err(Refused::Early);
    }
    undo(record, reason.to_owned())
}

fn reversed(by: MoveId) -> MoveState {
    MoveState::Done(Done { leftover: None, reversed_by: Some(by) })
}

/// When, in ms, [`Fact::Elapsed`] will change the record; for `switched`, when an operator should hear of it. The last
/// states have none.
pub fn deadline(record: &MoveRecord) -> u64 {
    let limits = &record.limits;
    let after_entry = |ms: u64| record.entered_ms.saturating_add(ms);
    match &record.state {
        MoveState::Planned => record.after_open(limits.planned_ms),
        MoveState::Preparing => after_entry(limits.preparing_ms),
        MoveState::Copying(copying) => copying.advanced_ms.saturating_add(limits.copy_stall_ms),
        MoveState::Syncing(_) => record.after_open(limits.syncing_ms),
        MoveState::Closing(_) => after_entry(limits.closing_ms),
        MoveState::Holding(_) if record.may_cut() => after_entry(drain_ms(record) / 2),
        // What was cut is the app's to end: letting the hold go now would have cut it for nothing.
        MoveState::Holding(holding) if holding.stage == HoldingStage::Gates && !holding.cut => {
            after_entry(drain_ms(record))
        }
        MoveState::Holding(_) => after_entry(limits.holding_ms),
        MoveState::Switched => after_entry(limits.switched_ms),
        MoveState::Settling => after_entry(limits.bake_ms),
        MoveState::Cleaning(cleaning) if !cleaning.due => after_entry(limits.retention_ms),
        MoveState::Cleaning(_) => after_entry(limits.retention_ms.saturating_add(limits.drop_ms)),
        MoveState::Undoing(_) => after_entry(limits.drop_ms),
        MoveState::Done(_) | MoveState::Undone(_) => u64::MAX,
    }
}

/// How long admitted requests are given to finish: somewhat beyond the prediction, but not so long that the tenant's
/// freeze budget would be over before the hold is let go again.
fn drain_ms(record: &MoveRecord) -> u64 {
    let limits = &record.limits;
    let predicted_ms = record.predicted_freeze_ms;
    let within_budget_ms = predicted_ms.max(limits.freeze_budget_ms * 4 / 5);
    (predicted_ms + limits.drain_ms).min(within_budget_ms).min(limits.holding_ms)
}

/// What the two cells are told to do while the move is as recorded. Repeating an order changes nothing.
pub fn orders_for(record: &MoveRecord) -> Vec<Order> {
    let to = |cell: &crate::cell::CellRef, task| Order {
        move_id: record.id.clone(),
        tenant: record.tenant.clone(),
        cell: cell.clone(),
        task,
    };
    let source = |task| to(&record.source, task);
    let target = |task| to(&record.target, task);
    let offer = || source(Task::Offer { home: record.source_home.clone(), to: record.target.name.clone() });
    let follow = || target(Task::Follow { home: record.target_home.clone(), from: record.source_home.clone() });
    let epoch = record.epoch;
    match &record.state {
        MoveState::Settling if record.driver.keeps_way_back() => {
            let (home, from) = (record.source_home.clone(), record.target_home.clone());
            vec![source(Task::Reverse { home, from, epoch })]
        }
        MoveState::Planned | MoveState::Settling | MoveState::Done(_) | MoveState::Undone(_) => vec![],
        MoveState::Preparing => vec![target(Task::Prepare { home: record.target_home.clone() })],
        MoveState::Copying(_) => {
            let (home, from) = (record.target_home.clone(), record.source_home.clone());
            vec![offer(), target(Task::Copy { home, from })]
        }
        MoveState::Syncing(_) => vec![offer(), follow(), source(Task::Watch { epoch })],
        MoveState::Closing(_) => vec![offer(), follow(), source(Task::CloseStreams { epoch })],
        MoveState::Holding(holding) => {
            let mut orders = vec![offer(), source(Task::Fence { epoch, cut: holding.cut })];
            match (holding.stage, &holding.list, &holding.position) {
                (HoldingStage::Data, Some(list), _) => {
                    let home = record.source_home.clone();
                    orders.push(source(Task::FenceData { home, epoch, list: list.revision }));
                }
                (HoldingStage::Last, Some(list), Some(position)) => orders.push(target(Task::Reach {
                    home: record.target_home.clone(),
                    from: record.source_home.clone(),
                    epoch,
                    list: list.revision,
                    position: position.clone(),
                })),
                (HoldingStage::Gates | HoldingStage::Data | HoldingStage::Last, _, _) => {}
            }
            orders
        }
        MoveState::Switched => vec![target(Task::Open { home: record.target_home.clone(), epoch: epoch.next() })],
        MoveState::Cleaning(cleaning) if !cleaning.due => vec![],
        MoveState::Cleaning(_) => vec![source(Task::Drop { home: record.source_home.clone() })],
        MoveState::Undoing(_) => vec![target(Task::Drop { home: record.target_home.clone() })],
    }
}

#[cfg(test)]
mod tests;

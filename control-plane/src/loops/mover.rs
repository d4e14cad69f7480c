//! The leader's part in moves: starts the planned ones, reads the list of gates for the held ones, and looks at the
//! clock. All else is done by the replica that hears a fact.
//!
//! One pass looks at every running move in the view and brings at most one fact into each. The loop has no memory: a
//! new leader, or a restarted one, goes on from the records.

use crate::advance::NotAdvanced;
use crate::operate::stuck_switch_id;
use crate::view::View;
use crate::{Replica, clock};
use cellway_core::cell::ListedGates;
use cellway_core::fleet::InFlight;
use cellway_core::ids::MoveId;
use cellway_core::placement::may_start;
use cellway_core::tenant_move::{Fact, MoveRecord, MoveState, Refused, deadline};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The longest pause between two passes.
const PAUSE_MAX_MS: u64 = 200;

/// The shortest pause: a refused fact must not be stated without a break.
const PAUSE_MIN_MS: u64 = 5;

/// Why a move is undone that a brake has kept waiting.
const BRAKED_TOO_LONG: &str = "the emergency brake stayed on for longer than a move may follow (moves.syncing_ms)";

/// Runs until `shutdown`.
pub(crate) async fn run(replica: Arc<Replica>, shutdown: CancellationToken) {
    let mut revisions = replica.view.revisions();
    loop {
        let mut pause_ms = PAUSE_MAX_MS;
        if replica.leading.is() {
            pass(&replica).await;
            pause_ms = until_next_deadline_ms(&replica.view.read());
        }
        tokio::select! {
            _ = revisions.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn pass(replica: &Arc<Replica>) {
    let (due, stuck) = {
        let view = replica.view.read();
        (due_facts(replica, &view), stuck_switches(&view))
    };
    let mut advancing = JoinSet::new();
    for (id, fact) in due {
        let replica = replica.clone();
        advancing.spawn(async move {
            match replica.mover().advance(&id, fact).await {
                // The view was behind: the next pass looks again.
                Ok(_) | Err(NotAdvanced::Refused(Refused::Early | Refused::NothingNew | Refused::NotNow)) => {}
                Err(error) => tracing::warn!(r#move = %id, %error, "a move could not be advanced"),
            }
        });
    }
    while advancing.join_next().await.is_some() {}
    for id in stuck {
        if let Err(error) = replica.find_stuck_switch(&id).await {
            tracing::warn!(r#move = %id, %error, "a finding could not be recorded");
        }
    }
}

/// How long nothing will come due.
fn until_next_deadline_ms(view: &View) -> u64 {
    let now_ms = clock::now_ms();
    let running = advancing(view);
    // What is due already waits for something else than time: a change of the view wakes the loop for it.
    let until = |at_ms: u64| if at_ms > now_ms { at_ms - now_ms } else { PAUSE_MAX_MS };
    let waits = running.map(|record| match record.state {
        MoveState::Planned => until(record.not_before_ms),
        MoveState::Switched => until(deadline(record)),
        _ => deadline(record).saturating_sub(now_ms),
    });
    waits.min().unwrap_or(PAUSE_MAX_MS).clamp(PAUSE_MIN_MS, PAUSE_MAX_MS)
}

/// The fact that each running move waits for from the leader, if any.
fn due_facts(replica: &Replica, view: &View) -> Vec<(MoveId, Fact)> {
    let now_ms = clock::now_ms();
    let mut fleet = None;
    let mut due = Vec::new();
    // Whose turn it is gets the next place.
    let mut running: Vec<&MoveRecord> = advancing(view).collect();
    running.sort_by(|one, other| one.turn().cmp(&other.turn()));
    for record in running {
        if record.state == MoveState::Planned && now_ms < deadline(record) {
            let fleet = fleet.get_or_insert_with(|| view.fleet(|cell, id| replica.heard.is_reachable(cell, id)));
            if may_start(fleet, &replica.config.move_budgets, view.brake.is_some(), record, now_ms).is_ok() {
                fleet.moves_in_flight.push(InFlight::of(record, now_ms));
                due.push((record.id.clone(), Fact::Start));
            }
        } else if let Some(list) = new_list(view, record) {
            due.push((record.id.clone(), Fact::Listed(list)));
        } else if now_ms >= deadline(record) && record.state != MoveState::Switched {
            due.push((record.id.clone(), overdue(view, record)));
        }
    }
    due
}

/// The running moves, but for those that nothing can be decided about: a record of their tenants cannot be read.
fn advancing(view: &View) -> impl Iterator<Item = &MoveRecord> {
    let running = view.running.iter().filter_map(|id| view.moves.get(id)).map(|at| &at.value);
    running.filter(|record| view.unreadable(&record.tenant).is_none())
}

/// What a move hears whose time is over. A brake that kept it from freezing its tenant is named as the reason.
fn overdue(view: &View, record: &MoveRecord) -> Fact {
    match (&record.state, &view.brake) {
        (MoveState::Syncing(_), Some(_)) => Fact::UndoAsked(BRAKED_TOO_LONG.to_owned()),
        _ => Fact::Elapsed,
    }
}

/// The source's list of gates, if a held move does not know it at this revision.
///
/// The view that shows the hold is at or after the hold's revision, so this list was read after the hold.
fn new_list(view: &View, record: &MoveRecord) -> Option<ListedGates> {
    let MoveState::Holding(holding) = &record.state else { return None };
    let gates = view.gates.get(&record.source.name).filter(|gates| gates.value.uid == record.source.uid)?;
    if holding.list.as_ref().is_some_and(|list| list.revision == gates.revision) {
        return None;
    }
    Some(ListedGates { revision: gates.revision, instances: gates.value.instances.keys().cloned().collect() })
}

/// Moves whose target has owned the tenant for too long without an open gate.
fn stuck_switches(view: &View) -> Vec<MoveId> {
    let now_ms = clock::now_ms();
    let running = view.running.iter().filter_map(|id| view.moves.get(id)).map(|at| &at.value);
    running
        .filter(|record| record.state == MoveState::Switched && now_ms >= deadline(record))
        .filter(|record| !view.findings.contains_key(&stuck_switch_id(&record.id)))
        .map(|record| record.id.clone())
        .collect()
}

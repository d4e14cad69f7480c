//! The move's rules: every state × fact pair in one table, the counterexamples that each rule answers, and random
//! histories that must keep the invariants.

use super::*;
use crate::cell::{CellRef, MoverDriver};
use crate::ids::{Epoch, HomeId, InstanceId, Revision};
use proptest::prelude::*;

mod long_requests;
mod windows;

pub(super) const NOW_MS: u64 = 1_000_000;

fn cell(name: &str) -> CellRef {
    CellRef { name: name.parse().expect("legal"), uid: format!("uid-{name}").parse().expect("legal") }
}

fn move_id(text: &str) -> MoveId {
    text.parse().expect("legal")
}

fn home(text: &str) -> HomeId {
    text.parse().expect("legal")
}

fn instance(text: &str) -> InstanceId {
    text.parse().expect("legal")
}

fn list(revision: u64, names: &[&str]) -> ListedGates {
    ListedGates { revision: Revision(revision), instances: names.iter().map(|name| instance(name)).collect() }
}

pub(super) fn record(state: MoveState) -> MoveRecord {
    MoveRecord {
        id: move_id("m1"),
        tenant: "acme".parse().expect("legal"),
        source: cell("a"),
        target: cell("b"),
        epoch: Epoch(7),
        source_home: home("h0"),
        target_home: home("m1"),
        keeps_target_home: false,
        source_gates: [instance("a1")].into(),
        driver: MoverDriver::Sqlite,
        cause: "asked".into(),
        limits: MoveLimits::default(),
        priority: Priority::Normal,
        freeze_now_ms: None,
        attempt: 1,
        not_before_ms: NOW_MS,
        created_ms: NOW_MS,
        entered_ms: NOW_MS,
        predicted_freeze_ms: 0,
        copied: None,
        held_ms: None,
        cut_requests: 0,
        released_ms: None,
        state,
    }
}

fn by(move_name: &str, at: &str, who: &str) -> Witness {
    Witness { move_id: move_id(move_name), cell: cell(at).uid, instance: instance(who) }
}

fn source() -> Witness {
    by("m1", "a", "a1")
}

fn target() -> Witness {
    by("m1", "b", "b1")
}

fn watched(oldest_request_ms: u64, open_streams: u32) -> Fact {
    Watched(WatchReport {
        by: source(),
        admitted: Admitted { oldest_request_ms, requests: u32::from(oldest_request_ms > 0), open_streams },
    })
}

fn followed(transfer_ms: u64) -> Fact {
    Followed(FollowReport { by: target(), transfer_ms, longest: None })
}

fn fenced(who: &str, epoch: u64) -> Fact {
    Fenced(FenceReport { by: by("m1", "a", who), epoch: Epoch(epoch), cut_requests: 0 })
}

fn positioned(list: u64, position: &str) -> Fact {
    let position = Position(position.into());
    Positioned(PositionReport { by: source(), epoch: Epoch(7), list: Revision(list), position })
}

fn reached(list: u64, position: &str) -> Fact {
    Reached(ReachReport { by: target(), list: Revision(list), position: Position(position.into()) })
}

fn opened(epoch: u64) -> Fact {
    Opened(OpenReport { by: target(), epoch: Epoch(epoch) })
}

fn dropped(witness: Witness, name: &str) -> Fact {
    Dropped(DropReport { by: witness, home: home(name) })
}

fn copied(copied_bytes: u64, complete: bool) -> Fact {
    Copied(CopyReport { by: target(), copied_bytes, total_bytes: 100, complete })
}

fn holding(stage: HoldingStage) -> MoveState {
    let at_least = |wanted| stage >= wanted;
    MoveState::Holding(Holding {
        stage,
        list: at_least(HoldingStage::Data).then(|| list(50, &["a1"])),
        fenced: if at_least(HoldingStage::Data) { [instance("a1")].into() } else { Default::default() },
        position: at_least(HoldingStage::Last).then(|| Position("p".into())),
        ..Holding::default()
    })
}

fn states() -> Vec<(&'static str, MoveState)> {
    let fresh = |value| Some(Measured { value, at_ms: NOW_MS });
    let watched = || [(instance("a1"), Measured { value: Admitted::default(), at_ms: NOW_MS })].into();
    vec![
        ("planned", MoveState::Planned),
        ("preparing", MoveState::Preparing),
        ("copying", MoveState::Copying(Copying { copied_bytes: 10, total_bytes: 100, advanced_ms: NOW_MS })),
        ("syncing", MoveState::Syncing(Syncing::default())),
        ("syncing, source watched", MoveState::Syncing(Syncing { watched: watched(), ..Syncing::default() })),
        ("syncing, target followed", MoveState::Syncing(Syncing { followed: fresh(20), ..Syncing::default() })),
        ("closing", MoveState::Closing(Closing::default())),
        ("holding gates", holding(HoldingStage::Gates)),
        ("holding data", holding(HoldingStage::Data)),
        ("holding last", holding(HoldingStage::Last)),
        ("switched", MoveState::Switched),
        ("settling", MoveState::Settling),
        ("cleaning", MoveState::Cleaning(Cleaning { due: false })),
        ("cleaning, due", MoveState::Cleaning(Cleaning { due: true })),
        ("undoing", MoveState::Undoing(Undoing { reason: "r".into(), held: true, retry: false })),
        ("undoing, to retry", MoveState::Undoing(Undoing { reason: "r".into(), held: true, retry: true })),
        ("done", MoveState::Done(Done { leftover: None, reversed_by: None })),
        ("undone", MoveState::Undone(Undone { reason: "r".into(), held: true, leftover: None, retried_by: None })),
    ]
}

fn facts() -> Vec<(&'static str, Fact)> {
    vec![
        ("start", Start),
        ("listed", Listed(list(51, &["a1"]))),
        ("elapsed", Elapsed),
        ("undo asked", UndoAsked("asked".into())),
        ("taken over", TakenOver(move_id("m2"))),
        ("ready", Ready(target())),
        ("copied some", copied(50, false)),
        ("copied all", copied(100, true)),
        ("followed 20 ms", followed(20)),
        ("watched idle", watched(0, 0)),
        ("watched 2 streams", watched(0, 2)),
        ("watched 2 s old", watched(2_000, 0)),
        ("fenced", fenced("a1", 7)),
        ("positioned", positioned(50, "p")),
        ("reached", reached(50, "p")),
        ("opened", opened(8)),
        ("dropped source's", dropped(source(), "h0")),
        ("dropped target's", dropped(target(), "m1")),
        ("failed", Failed(FailReport { by: target(), reason: "disk full".into() })),
    ]
}

fn shown(outcome: &Result<MoveRecord, Refused>) -> String {
    match outcome {
        Err(refused) => format!("- {refused:?}"),
        Ok(after) => match &after.state {
            MoveState::Holding(holding) => format!("holding {:?}", holding.stage).to_lowercase(),
            MoveState::Cleaning(Cleaning { due: true }) => "cleaning, due".into(),
            MoveState::Undoing(undoing) => format!("undoing ({})", undoing.reason),
            MoveState::Done(done) => match (&done.leftover, &done.reversed_by) {
                (Some(left), _) => format!("done, {left} left"),
                (_, Some(by)) => format!("done, reversed by {by}"),
                _ => "done".into(),
            },
            MoveState::Undone(Undone { retried_by: Some(by), .. }) => format!("undone, retried by {by}"),
            MoveState::Undone(Undone { leftover: Some(left), .. }) => format!("undone, {left} left"),
            other => other.as_str().into(),
        },
    }
}

#[test]
fn every_state_meets_every_fact_as_written_down() {
    let mut table = String::new();
    for (state_name, state) in states() {
        for (when, now_ms) in [("in time", NOW_MS + 10), ("overdue", u64::MAX / 2)] {
            let before = record(state.clone());
            for (fact_name, fact) in facts() {
                // Only the clock's own fact depends on the deadline; all others are written down once.
                if when == "overdue" && fact != Elapsed {
                    continue;
                }
                let outcome = next(&before, fact, now_ms);
                table.push_str(&format!("{:<26}{:<20}{}\n", state_name, fact_name, shown(&outcome)));
            }
        }
        table.push('\n');
    }
    insta::with_settings!({ prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("state_by_fact", table);
    });
}

#[test]
fn orders_follow_from_the_record_alone() {
    let mut table = String::new();
    for (name, state) in states() {
        table.push_str(&format!("{name}: {:?}\n", placement_of(&record(state.clone()))));
        for order in orders_for(&record(state)) {
            table.push_str(&format!("    {} {:?}\n", order.cell.name, order.task));
        }
    }
    insta::with_settings!({ prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("orders_by_state", table);
    });
}

fn at(record: MoveRecord, facts: Vec<Fact>) -> Result<MoveRecord, Refused> {
    facts.into_iter().try_fold(record, |record, fact| next(&record, fact, NOW_MS + 10))
}

fn holding_record() -> MoveRecord {
    record(holding(HoldingStage::Gates))
}

#[test]
fn a_move_goes_from_planned_to_done() {
    let facts = vec![Start, Ready(target()), copied(100, true), followed(20), watched(5, 0)];
    let held = at(record(MoveState::Planned), facts).expect("the way to holding");
    assert_eq!((held.predicted_freeze_ms, held.held_ms), (25, Some(NOW_MS + 10)));
    assert_eq!(placement_of(&held).hold, Some(move_id("m1")));
    let facts = vec![Listed(list(50, &["a1"])), fenced("a1", 7), positioned(50, "p"), reached(50, "p")];
    let switched = at(held, facts).expect("the commit");
    let placed = placement_of(&switched);
    assert_eq!((placed.cell, placed.epoch, placed.hold), (cell("b"), Epoch(8), None));
    let settling = at(switched, vec![opened(8)]).expect("open");
    let cleaning = next(&settling, Elapsed, deadline(&settling)).expect("baked");
    let due = next(&cleaning, Elapsed, deadline(&cleaning)).expect("retention over");
    assert_eq!(shown(&next(&due, dropped(source(), "h0"), NOW_MS)), "done");
}

#[test]
fn the_position_waits_for_every_listed_gate() {
    let one_of_two = at(holding_record(), vec![Listed(list(50, &["a1", "a2"])), fenced("a1", 7)]).expect("holding");
    assert_eq!(next(&one_of_two, positioned(50, "p"), NOW_MS), Err(Refused::OtherList));
    let both = at(one_of_two, vec![fenced("a2", 7), positioned(50, "p")]).expect("all fenced");
    assert!(matches!(both.state, MoveState::Holding(Holding { stage: HoldingStage::Last, .. })));
}

#[test]
fn a_gate_that_joins_while_holding_is_fenced_too_and_the_position_is_taken_again() {
    let facts = vec![Listed(list(50, &["a1"])), fenced("a1", 7), positioned(50, "old")];
    let last = at(holding_record(), facts).expect("stage last");
    let relisted = at(last, vec![Listed(list(60, &["a1", "a2"]))]).expect("back to gates");
    assert_eq!(next(&relisted, reached(50, "old"), NOW_MS), Err(Refused::OtherList));
    assert_eq!(next(&relisted, Listed(list(50, &["a1"])), NOW_MS), Err(Refused::NothingNew), "lists never go back");
    assert_eq!(next(&relisted, positioned(50, "old"), NOW_MS), Err(Refused::OtherList));
    let facts = vec![fenced("a2", 7), positioned(60, "new")];
    let again = at(relisted, facts).expect("stage last again");
    assert_eq!(next(&again, reached(60, "old"), NOW_MS), Err(Refused::OtherPosition));
    assert_eq!(shown(&next(&again, reached(60, "new"), NOW_MS)), "switched");
}

#[test]
fn a_late_order_or_fact_changes_nothing() {
    let data = at(holding_record(), vec![Listed(list(50, &["a1"]))]).expect("holding");
    let other_move = Fenced(FenceReport { by: by("m0", "a", "a1"), epoch: Epoch(7), cut_requests: 0 });
    assert_eq!(next(&data, other_move, NOW_MS), Err(Refused::OtherMove));
    assert_eq!(next(&data, fenced("a1", 6), NOW_MS), Err(Refused::OtherEpoch));
    let other_home = dropped(target(), "m0");
    let undoing = record(MoveState::Undoing(Undoing { reason: "r".into(), held: false, retry: false }));
    assert_eq!(next(&undoing, other_home, NOW_MS), Err(Refused::OtherHome));
}

#[test]
fn a_cell_cannot_take_a_tenant_by_its_word() {
    let last = record(holding(HoldingStage::Last));
    let by_source = Reached(ReachReport { by: source(), list: Revision(50), position: Position("p".into()) });
    assert_eq!(next(&last, by_source, NOW_MS), Err(Refused::OtherCell));
    let by_third = Reached(ReachReport { by: by("m1", "c", "c1"), list: Revision(50), position: Position("p".into()) });
    assert_eq!(next(&last, by_third, NOW_MS), Err(Refused::OtherCell));
    let fenced_by_target = Fenced(FenceReport { by: target(), epoch: Epoch(7), cut_requests: 0 });
    assert_eq!(next(&holding_record(), fenced_by_target, NOW_MS), Err(Refused::OtherCell));
}

#[test]
fn undo_before_the_hold_leaves_the_epoch_and_undo_after_it_raises_it() {
    for (state, epoch) in [(MoveState::Closing(Closing::default()), 7), (holding(HoldingStage::Last), 8)] {
        let undoing = at(record(state), vec![UndoAsked("asked".into())]).expect("before the commit");
        let placed = placement_of(&undoing);
        assert_eq!((placed.cell, placed.epoch, placed.hold), (cell("a"), Epoch(epoch), None));
    }
}

#[test]
fn streams_are_given_a_window_and_then_the_hold_comes() {
    let closing =
        at(record(MoveState::Syncing(Syncing::default())), vec![followed(5), watched(0, 2)]).expect("closing");
    assert_eq!(closing.state, MoveState::Closing(Closing::default()));
    assert_eq!(next(&closing, Elapsed, NOW_MS + 20), Err(Refused::Early));
    assert_eq!(shown(&next(&closing, Elapsed, deadline(&closing))), "holding gates");
    assert_eq!(shown(&next(&closing, watched(0, 0), NOW_MS + 20)), "holding gates");
}

#[test]
fn every_gate_of_the_source_is_heard_before_the_hold() {
    let by_gate = |who: &str, oldest_request_ms, open_streams| {
        let admitted = Admitted { oldest_request_ms, requests: u32::from(oldest_request_ms > 0), open_streams };
        Watched(WatchReport { by: by("m1", "a", who), admitted })
    };
    let two = |state| MoveRecord { source_gates: [instance("a1"), instance("a2")].into(), ..record(state) };
    let syncing = || two(MoveState::Syncing(Syncing::default()));
    let after = |facts| at(syncing(), facts).map(|record| record.state.as_str());
    assert_eq!(after(vec![followed(5), by_gate("a2", 0, 0)]), Ok("syncing"));
    assert_eq!(after(vec![followed(5), by_gate("a1", 20_000, 0), by_gate("a2", 0, 0)]), Ok("syncing"));
    assert_eq!(after(vec![followed(5), by_gate("a1", 0, 1), by_gate("a2", 0, 0)]), Ok("closing"));
    assert_eq!(after(vec![followed(5), by_gate("a1", 0, 0), by_gate("a2", 0, 0)]), Ok("holding"));
    let closing = two(MoveState::Closing(Closing::default()));
    let one_ended = at(closing, vec![by_gate("a2", 0, 0)]).expect("one has none left");
    assert_eq!(one_ended.state.as_str(), "closing");
    assert_eq!(at(one_ended, vec![by_gate("a1", 0, 0)]).map(|record| record.state.as_str()), Ok("holding"));
}

#[test]
fn an_old_report_is_not_counted() {
    let syncing = at(record(MoveState::Syncing(Syncing::default())), vec![followed(5)]).expect("syncing");
    let late = next(&syncing, watched(0, 0), NOW_MS + 10 + REPORT_FRESH_MS + 1).expect("recorded");
    assert_eq!(late.state.as_str(), "syncing");
}

#[test]
fn a_copy_that_is_not_whole_is_never_followed_nor_frozen() {
    let mut copying = record(MoveState::Copying(Copying { copied_bytes: 10, total_bytes: 100, advanced_ms: NOW_MS }));
    for fact in [copied(99, false), copied(100, false), followed(0), watched(0, 0), Start, reached(50, "p")] {
        copying = next(&copying, fact, NOW_MS + 10).unwrap_or(copying);
        assert_eq!(copying.state.as_str(), "copying");
    }
    assert_eq!(shown(&next(&copying, Elapsed, deadline(&copying))), "undoing (the copy stalled)");
    assert_eq!(shown(&next(&copying, copied(100, true), NOW_MS + 10)), "syncing");
}

#[test]
fn a_tenant_that_is_never_frozen_says_which_part_takes_too_long() {
    let why = |transfer_ms, longest: Option<FreezePart>, oldest_request_ms| {
        let pass = Followed(FollowReport { by: target(), transfer_ms, longest });
        let syncing = at(record(MoveState::Syncing(Syncing::default())), vec![pass, watched(oldest_request_ms, 0)]);
        let syncing = syncing.expect("over the budget");
        shown(&next(&syncing, Elapsed, deadline(&syncing)))
    };
    let compare = || Some(FreezePart::new("to compare the copies", 300));
    let budget = "the tenant's freeze budget is 250 ms";
    let freeze = |ms: u64, of: &str| format!("undoing (a freeze would take {ms} ms, of which {of}; {budget})");
    assert_eq!(why(420, compare(), 0), freeze(420, "300 ms to compare the copies"));
    let requests = "900 ms for the oldest request that runs at the source";
    assert_eq!(why(420, compare(), 900), freeze(1_320, requests));
    assert_eq!(why(420, None, 100), freeze(520, "420 ms for the data"));
    assert_eq!(FreezePart::new(&"long\n".repeat(1_000), 1).what.chars().count(), 120);
}

#[test]
fn a_move_back_begins_where_the_data_is_synced() {
    let settling = record(MoveState::Settling);
    let back = settling
        .back(move_id("m2"), "worse".into(), [instance("b1")].into(), NOW_MS)
        .expect("settling can be taken back");
    assert_eq!(placement_of(&back), placement_of(&settling));
    assert_eq!((&back.target_home, &back.source_home), (&home("h0"), &home("m1")));
    let ended = next(&settling, TakenOver(move_id("m2")), NOW_MS).expect("ended");
    assert_eq!(shown(&Ok(ended)), "done, reversed by m2");
    assert_eq!(
        record(MoveState::Cleaning(Cleaning { due: false })).back(move_id("m3"), String::new(), [].into(), NOW_MS),
        None
    );
}

#[test]
fn a_hold_that_took_too_long_is_undone_and_made_again_with_back_off() {
    let mut current = holding_record();
    let mut pauses = Vec::new();
    loop {
        let undoing = next(&current, Elapsed, deadline(&current)).expect("overdue");
        let undone = next(&undoing, dropped(by(current.id.as_str(), "b", "b1"), current.target_home.as_str()), NOW_MS);
        let undone = undone.expect("dropped");
        let Some(again) = undone.retry(NOW_MS) else { break };
        assert_eq!(placement_of(&again), placement_of(&undone));
        assert_eq!(again.state, MoveState::Planned);
        pauses.push((again.id.to_string(), again.not_before_ms - NOW_MS));
        current = MoveRecord { state: MoveState::Holding(Holding::default()), ..again };
    }
    let expected = [("m1-2", 1_000), ("m1-3", 2_000), ("m1-4", 4_000), ("m1-5", 8_000)];
    assert_eq!(pauses, expected.map(|(id, pause)| (id.to_owned(), pause)));
}

#[test]
fn a_hold_is_let_go_within_the_freeze_budget() {
    for (predicted_freeze_ms, drain_ms) in [(0, 200), (40, 200), (240, 240)] {
        let held = MoveRecord { predicted_freeze_ms, ..holding_record() };
        assert_eq!(deadline(&held) - held.entered_ms, drain_ms, "predicted {predicted_freeze_ms} ms");
    }
}

#[test]
fn an_operators_undo_is_final() {
    let undoing = record(MoveState::Undoing(Undoing { reason: "slow".into(), held: true, retry: true }));
    let asked = at(undoing, vec![UndoAsked("no more".into()), dropped(target(), "m1")]).expect("undone");
    assert_eq!(asked.retry(NOW_MS), None);
}

#[test]
fn a_move_back_that_is_undone_never_drops_the_home_it_goes_back_to() {
    let settling = record(MoveState::Settling);
    let back = settling
        .back(move_id("m2"), "worse".into(), [instance("b1")].into(), NOW_MS)
        .expect("settling can be taken back");
    for state in [back.state.clone(), holding(HoldingStage::Gates)] {
        let undone = at(MoveRecord { state, ..back.clone() }, vec![UndoAsked("asked".into())]).expect("undone");
        assert!(orders_for(&undone).is_empty());
        assert_eq!(shown(&Ok(undone)), "undone, h0 left");
    }
    let held = MoveRecord { state: holding(HoldingStage::Gates), ..back };
    let undone = next(&held, Elapsed, deadline(&held)).expect("overdue");
    let again = undone.retry(NOW_MS).expect("it is tried again");
    assert_eq!((&again.target_home, again.keeps_target_home), (&home("h0"), true));
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let name = prop_oneof![Just("a1"), Just("a2")];
    let revision = 50..53_u64;
    let position = prop_oneof![Just("p"), Just("q")];
    let some_list = (revision.clone(), prop_oneof![Just(&["a1"][..]), Just(&["a1", "a2"][..]), Just(&[][..])]);
    let fixed = facts().into_iter().map(|(_, fact)| fact).collect::<Vec<_>>();
    prop_oneof![
        4 => proptest::sample::select(fixed),
        3 => (name, 6..9_u64).prop_map(|(who, epoch)| fenced(who, epoch)),
        3 => some_list.prop_map(|(revision, names)| Listed(list(revision, names))),
        3 => (revision.clone(), position.clone()).prop_map(|(list, position)| positioned(list, position)),
        3 => (revision, position).prop_map(|(list, position)| reached(list, position)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_order_of_facts_breaks_an_invariant(facts in proptest::collection::vec((any_fact(), 0..5_000_u64), 0..60)) {
        let mut now_ms = NOW_MS;
        let mut current = record(MoveState::Planned);
        for (fact, wait_ms) in facts {
            now_ms += wait_ms;
            if let Ok(after) = next(&current, fact, now_ms) {
                prop_assert_eq!(check_step(&current, &after), Ok(()));
                current = after;
            }
        }
    }

    #[test]
    fn every_move_ends_by_the_clock_alone(facts in proptest::collection::vec(any_fact(), 0..60)) {
        let mut current = record(MoveState::Planned);
        for fact in facts {
            current = next(&current, fact, NOW_MS).unwrap_or(current);
        }
        for _ in 0..10 {
            let due_ms = deadline(&current);
            current = next(&current, Elapsed, due_ms).unwrap_or(current);
        }
        // `switched` alone waits for an open gate or for the move back.
        prop_assert!(current.state.is_last() || current.state == MoveState::Switched, "{:?}", current.state);
    }
}

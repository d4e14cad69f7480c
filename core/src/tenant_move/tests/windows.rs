//! When a tenant may be frozen, and which move starts first.

use super::*;
use crate::cell::{Cell, CellCondition, CellKind};
use crate::fleet::{Fleet, FleetCell, InFlight, MoveBudgets};
use crate::freeze_window::FreezeWindows;
use crate::placement::{NotYet, may_start};
use std::collections::BTreeMap;

const HOUR_MS: u64 = 3_600_000;

/// `NOW_MS` is a quarter past midnight, on a Thursday.
fn nights() -> FreezeWindows {
    FreezeWindows::parse(&["daily 22:00-23:00"]).expect("legal")
}

const OPENS_MS: u64 = 22 * HOUR_MS;

fn at_night(state: MoveState) -> MoveRecord {
    MoveRecord { limits: MoveLimits { freeze_windows: nights(), ..MoveLimits::default() }, ..record(state) }
}

fn reported(record: &MoveRecord, now_ms: u64) -> MoveRecord {
    let followed = next(record, followed(20), now_ms).expect("recorded");
    next(&followed, watched(0, 1), now_ms).expect("recorded")
}

#[test]
fn a_move_copies_at_any_time_and_freezes_in_a_window() {
    let facts = vec![Start, Ready(target()), copied(100, true), followed(20), watched(0, 1)];
    let waiting = at(at_night(MoveState::Planned), facts).expect("the way to syncing");
    assert_eq!(waiting.state.as_str(), "syncing");
    assert_eq!(waiting.freeze_from_ms(NOW_MS), OPENS_MS);
    assert_eq!(reported(&waiting, OPENS_MS - 1).state.as_str(), "syncing");
    assert_eq!(reported(&waiting, OPENS_MS).state.as_str(), "closing");
}

#[test]
fn a_freeze_begins_only_with_enough_of_the_window_left() {
    let waiting = at_night(MoveState::Syncing(Syncing::default()));
    let needs_ms = waiting.limits.closing_ms + waiting.limits.freeze_budget_ms;
    let closes_ms = OPENS_MS + HOUR_MS;
    assert_eq!(reported(&waiting, closes_ms - needs_ms).state.as_str(), "closing");
    assert_eq!(reported(&waiting, closes_ms - needs_ms + 1).state.as_str(), "syncing");
}

#[test]
fn to_wait_for_a_window_is_no_fault_of_the_move() {
    let waiting = at_night(MoveState::Syncing(Syncing::default()));
    assert_eq!(deadline(&waiting), OPENS_MS + waiting.limits.syncing_ms);
    assert_eq!(deadline(&at_night(MoveState::Planned)), OPENS_MS + HOUR_MS, "planned_ms is an hour");
    let mut uploading = waiting;
    uploading.limits.long_requests.wait_ms = 5_000;
    let busy = |record: &MoveRecord, now_ms| {
        let followed = next(record, followed(20), now_ms).expect("recorded");
        next(&followed, watched(90_000, 0), now_ms).expect("recorded").state.as_str()
    };
    assert_eq!(busy(&uploading, OPENS_MS - 1), "syncing", "the wait for requests begins in the window, too");
    assert_eq!(busy(&uploading, OPENS_MS + 5_000), "undoing");
}

#[test]
fn an_operators_word_puts_the_windows_aside_and_is_kept() {
    let waiting = at_night(MoveState::Syncing(Syncing::default()));
    let late_ms = NOW_MS + 10 * HOUR_MS;
    let freed = waiting.freeing_the_freeze(late_ms).expect("it waits");
    assert_eq!((freed.freeze_now_ms, &freed.state), (Some(late_ms), &waiting.state));
    assert_eq!(deadline(&freed), late_ms + freed.limits.syncing_ms, "it has its time from now on");
    assert_eq!(reported(&freed, late_ms + 1).state.as_str(), "closing");
    assert_eq!(freed.freeing_the_freeze(late_ms), Err(Refused::NothingNew));
    assert_eq!(at_night(MoveState::Closing(Closing::default())).freeing_the_freeze(0), Err(Refused::NotNow));
    let done = MoveState::Done(Done { leftover: None, reversed_by: None });
    assert_eq!(at_night(done).freeing_the_freeze(0), Err(Refused::Ended));
}

#[test]
fn no_window_is_in_the_way_of_going_back() {
    for state in [MoveState::Syncing(Syncing::default()), holding(HoldingStage::Gates)] {
        let undoing = next(&at_night(state), UndoAsked("asked".into()), NOW_MS).expect("undone at any time");
        assert_eq!(undoing.state.as_str(), "undoing");
    }
    let settling = at_night(MoveState::Settling);
    let back = settling.back(move_id("m2"), "worse".into(), [].into(), NOW_MS).expect("settling can be taken back");
    assert_eq!((back.freeze_from_ms(NOW_MS), back.priority), (NOW_MS, Priority::High));
}

#[test]
fn the_urgent_start_first_and_equals_in_the_order_of_asking() {
    let asked = |id: &str, priority, created_ms| MoveRecord {
        id: move_id(id),
        priority,
        created_ms,
        ..record(MoveState::Planned)
    };
    let mut waiting = [
        asked("low", Priority::Low, 0),
        asked("second", Priority::Normal, 2_000),
        asked("first", Priority::Normal, 1_000),
        asked("urgent", Priority::High, 3_000),
        asked("late", Priority::High, 2 * HEAD_START_MS + 1),
    ];
    waiting.sort_by(|one, other| one.turn().cmp(&other.turn()));
    let order: Vec<&str> = waiting.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(order, ["urgent", "first", "second", "low", "late"]);
}

fn fleet(moves_in_flight: Vec<InFlight>) -> Fleet {
    let entry = |name: &str| {
        let known = Cell {
            cell: cell(name),
            condition: CellCondition::Open,
            kind: CellKind::Agent,
            version: "1".into(),
            labels: BTreeMap::new(),
            endpoints: vec![],
            capacity_tenants: 0,
        };
        (known.cell.name.clone(), FleetCell { cell: known, tenants: 0, reachable: true })
    };
    Fleet { cells: ["a", "b"].map(entry).into(), moves_in_flight, ..Fleet::default() }
}

#[test]
fn those_that_wait_for_a_window_leave_half_of_the_places_to_others() {
    let budgets = MoveBudgets { per_source: 4, per_target: 4, fleet: 16 };
    let (night, day) = (at_night(MoveState::Planned), record(MoveState::Planned));
    let start = |flying: &[&MoveRecord], wanted: &MoveRecord, now_ms| {
        let flying = flying.iter().map(|record| InFlight::of(record, now_ms)).collect();
        may_start(&fleet(flying), &budgets, false, wanted, now_ms)
    };
    assert_eq!(start(&[&night], &night, NOW_MS), Ok(()));
    let opens_ms = OPENS_MS;
    assert_eq!(start(&[&night, &night], &night, NOW_MS), Err(NotYet::Window { opens_ms }));
    assert!(NotYet::Window { opens_ms }.to_string().starts_with("its freeze window opens thu 22:00 UTC"));
    assert_eq!(start(&[&night, &night], &day, NOW_MS), Ok(()));
    assert_eq!(start(&[&night, &night], &night, OPENS_MS), Ok(()), "the window is open: none of them waits");
    let frozen = at_night(holding(HoldingStage::Gates));
    assert_eq!(start(&[&night, &frozen], &night, NOW_MS), Ok(()), "what holds requests does not wait for a window");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_freeze_begins_outside_of_a_window(
        facts in proptest::collection::vec((any_fact(), 0..5 * HOUR_MS), 0..60),
        freed_at in 0..120_usize,
    ) {
        let mut now_ms = NOW_MS;
        let mut current = at_night(MoveState::Planned);
        for (number, (fact, wait_ms)) in facts.into_iter().enumerate() {
            // Reports are fresh when they come close together.
            now_ms += if number % 3 == 0 { wait_ms } else { wait_ms % 500 };
            if number == freed_at && let Ok(freed) = current.freeing_the_freeze(now_ms) {
                prop_assert_eq!(check_step(&current, &freed), Ok(()));
                current = freed;
            }
            if let Ok(after) = next(&current, fact, now_ms) {
                prop_assert_eq!(check_step(&current, &after), Ok(()));
                let needs_ms = current.limits.closing_ms + current.limits.freeze_budget_ms;
                let may = current.freeze_now_ms.is_some() || nights().next_fit(now_ms, needs_ms) == now_ms;
                prop_assert!(may || !begins_to_freeze(&current, &after));
                current = after;
            }
        }
    }

    #[test]
    fn nobody_who_waits_is_passed_for_longer_than_the_head_start(
        one in 0..3_usize, other in 0..3_usize, early in any::<u32>(), later_ms in 2 * HEAD_START_MS + 1..u64::from(u32::MAX),
    ) {
        let asked = |priority: usize, created_ms| {
            MoveRecord { priority: Priority::ALL[priority], created_ms, ..record(MoveState::Planned) }
        };
        let (waits, comes) = (asked(one, u64::from(early)), asked(other, u64::from(early) + later_ms));
        prop_assert!(waits.turn() < comes.turn());
    }
}

//! Requests that take longer than a freeze may: waited for, then undone for or cut, as the tenant has it.

use super::*;
use crate::tenant::{AfterWait, LongRequests};

const WAIT_MS: u64 = 5_000;
const UPLOADING: Admitted = Admitted { oldest_request_ms: 90_000, requests: 2, open_streams: 0 };

fn with(then: AfterWait, state: MoveState) -> MoveRecord {
    let long_requests = LongRequests { wait_ms: WAIT_MS, then };
    MoveRecord { limits: MoveLimits { long_requests, ..MoveLimits::default() }, ..record(state) }
}

/// What `record` becomes when both sides report at `now_ms`, and two uploads run.
fn reported(record: &MoveRecord, now_ms: u64) -> MoveRecord {
    let followed = next(record, followed(20), now_ms).expect("recorded");
    let watched = Watched(WatchReport { by: source(), admitted: UPLOADING });
    next(&followed, watched, now_ms).expect("recorded")
}

fn with_policy(record: &MoveRecord, then: AfterWait) -> MoveRecord {
    let mut record = record.clone();
    record.limits.long_requests.then = then;
    record
}

fn syncing(then: AfterWait) -> MoveRecord {
    with(then, MoveState::Syncing(Syncing::default()))
}

fn fences(record: &MoveRecord) -> Vec<bool> {
    let cut = |order: Order| match order.task {
        Task::Fence { cut, .. } => Some(cut),
        _ => None,
    };
    orders_for(record).into_iter().filter_map(cut).collect()
}

#[test]
fn long_requests_are_waited_for_while_the_source_serves() {
    for then in [AfterWait::Undo, AfterWait::Cut] {
        let waiting = reported(&syncing(then), NOW_MS + WAIT_MS - 1);
        assert_eq!(waiting.state.as_str(), "syncing");
        assert_eq!(placement_of(&waiting).hold, None);
    }
}

#[test]
fn a_moment_without_a_request_that_others_would_wait_for_is_waited_for_a_while() {
    let reported = |oldest_ms: u64, now_ms: u64| {
        let syncing = record(MoveState::Syncing(Syncing::default()));
        let followed = next(&syncing, followed(20), now_ms).expect("recorded");
        next(&followed, watched(oldest_ms, 0), now_ms).expect("recorded").state.as_str()
    };
    assert_eq!(reported(QUIET_MS, NOW_MS + 1), "holding");
    assert_eq!(reported(QUIET_MS + 1, NOW_MS + QUIET_WAIT_MS - 1), "syncing");
    assert_eq!(reported(QUIET_MS + 1, NOW_MS + QUIET_WAIT_MS), "holding");
}

#[test]
fn an_undo_says_how_many_requests_ran_and_how_to_have_them_cut() {
    let undone = reported(&syncing(AfterWait::Undo), NOW_MS + WAIT_MS);
    let MoveState::Undoing(Undoing { reason, held, retry }) = &undone.state else { panic!("{:?}", undone.state) };
    assert!(reason.starts_with("2 requests were still running"), "{reason}");
    assert!(reason.contains("cellway tenant change acme --long-requests cut"), "{reason}");
    assert!(!held && !retry, "nothing was felt");

    let held = with(AfterWait::Undo, holding(HoldingStage::Gates));
    let known = next(&held, Watched(WatchReport { by: source(), admitted: UPLOADING }), NOW_MS + 50).expect("recorded");
    let undoing = next(&known, Elapsed, deadline(&known)).expect("overdue");
    assert!(shown(&Ok(undoing)).contains("2 requests were still running"));
}

#[test]
fn a_cut_freezes_within_the_budget_and_cuts_what_is_not_over_early_in_it() {
    let held = reported(&syncing(AfterWait::Cut), NOW_MS + WAIT_MS);
    assert_eq!(held.state.as_str(), "holding");
    assert_eq!(deadline(&held), deadline(&with_policy(&held, AfterWait::Undo)), "nothing is known that could be cut");
    let running = Watched(WatchReport { by: source(), admitted: UPLOADING });
    let held = next(&held, running, held.entered_ms + 40).expect("recorded");
    assert_eq!(held.predicted_freeze_ms, held.limits.freeze_budget_ms);
    assert_eq!(fences(&held), [false], "they get a last moment");
    assert!(deadline(&held) - held.entered_ms <= held.limits.freeze_budget_ms / 2);
    let cut = next(&held, Elapsed, deadline(&held)).expect("the moment is over");
    assert_eq!((cut.state.as_str(), fences(&cut)), ("holding", vec![true]));
    assert_eq!(deadline(&cut), held.entered_ms + held.limits.holding_ms, "cut for good: the app gets time to end them");

    let report = FenceReport { by: source(), epoch: Epoch(7), cut_requests: 2 };
    let fenced = at(cut.clone(), vec![Listed(list(50, &["a1"])), Fenced(report.clone())]).expect("drained");
    assert_eq!(fenced.cut_requests, 2);
    assert_eq!(next(&fenced, Fenced(report), NOW_MS), Err(Refused::NothingNew), "counted once");
    assert!(matches!(&fenced.state, MoveState::Holding(Holding { stage: HoldingStage::Data, .. })));

    let undoing = next(&cut, Elapsed, deadline(&cut)).expect("the app did not end them");
    assert_eq!(undoing.state.as_str(), "undoing");
}

#[test]
fn a_wait_as_long_as_syncing_ends_as_the_tenant_has_it_too() {
    for (then, state) in [(AfterWait::Undo, "undoing"), (AfterWait::Cut, "holding")] {
        let mut waiting = syncing(then);
        waiting.limits.long_requests.wait_ms = u64::MAX;
        let over = deadline(&waiting);
        let waiting = reported(&waiting, over - 1);
        assert_eq!(next(&waiting, Elapsed, over).map(|after| after.state.as_str()), Ok(state));
    }
}

#[test]
fn data_that_lags_is_no_reason_to_cut() {
    let mut lagging = syncing(AfterWait::Cut);
    for fact in [followed(60_000), Watched(WatchReport { by: source(), admitted: UPLOADING })] {
        lagging = next(&lagging, fact, NOW_MS + WAIT_MS).expect("recorded");
    }
    assert_eq!(lagging.state.as_str(), "syncing");
    let undoing = next(&lagging, Elapsed, deadline(&lagging)).expect("overdue");
    assert!(shown(&Ok(undoing)).contains("a freeze would take 150000 ms"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn nothing_is_cut_unless_the_tenant_has_it_so_and_no_step_breaks_an_invariant(
        cut in any::<bool>(),
        facts in proptest::collection::vec((any_fact(), 0..5_000_u64), 0..60),
    ) {
        let mut now_ms = NOW_MS;
        let mut current = with(if cut { AfterWait::Cut } else { AfterWait::Undo }, MoveState::Planned);
        for (fact, wait_ms) in facts {
            now_ms += wait_ms;
            if let Ok(after) = next(&current, fact, now_ms) {
                prop_assert_eq!(check_step(&current, &after), Ok(()));
                prop_assert!(cut || !fences(&after).contains(&true));
                current = after;
            }
        }
    }
}

//! What a gate promises, one test a promise.

use super::*;
use crate::ids::MoveId;

fn cell(name: &str) -> CellRef {
    CellRef { name: CellName::new(name).expect("legal"), uid: CellUid::new(&format!("uid-{name}")).expect("legal") }
}

fn home(name: &str) -> HomeId {
    HomeId::new(name).expect("legal")
}

fn placed(at: &str, epoch: u64, hold: bool) -> PlacementRecord {
    PlacementRecord::Placed(Placement {
        cell: cell(at),
        epoch: Epoch(epoch),
        home: home("h1"),
        hold: hold.then(|| MoveId::new("m1").expect("legal")),
    })
}

fn registered() -> Registration {
    Registration { uid: cell("a").uid, revision: Revision(10) }
}

fn opened(epoch: u64) -> TenantGate {
    let mut gate = TenantGate::default();
    gate.observe(placed("a", epoch, false), Revision(10));
    assert_eq!(gate.try_open(&registered()), Opening::NeedsRelease(home("h1"), Epoch(epoch)));
    gate.released(home("h1"), Epoch(epoch));
    assert_eq!(gate.try_open(&registered()), Opening::Open(Epoch(epoch)));
    gate
}

fn admit(gate: &mut TenantGate, stamped: u64) -> Result<(), NotAdmitted> {
    gate.admit(Epoch(stamped), RequestKind::Ordinary, &cell("a"))
}

#[test]
fn opens_only_on_a_placement_read_at_or_after_the_registration() {
    let mut gate = TenantGate::default();
    gate.observe(placed("a", 1, false), Revision(9));
    gate.released(home("h1"), Epoch(1));
    assert_eq!(gate.try_open(&registered()), Opening::Closed);
    gate.observe(placed("a", 1, false), Revision(10));
    assert_eq!(gate.try_open(&registered()), Opening::Open(Epoch(1)));
}

#[test]
fn opens_only_for_its_own_cell_by_uid_and_only_without_a_hold() {
    for record in [placed("b", 1, false), placed("a", 1, true), PlacementRecord::Gone { epoch: Epoch(1) }] {
        let mut gate = TenantGate::default();
        gate.observe(record, Revision(10));
        gate.released(home("h1"), Epoch(1));
        assert_eq!(gate.try_open(&registered()), Opening::Closed);
    }
}

#[test]
fn opens_only_above_the_highest_fence_also_after_a_restart() {
    let mut gate = TenantGate::restored(Some(Epoch(4)));
    gate.observe(placed("a", 4, false), Revision(10));
    assert_eq!(gate.try_open(&registered()), Opening::Closed);
    gate.observe(placed("a", 5, false), Revision(11));
    gate.released(home("h1"), Epoch(5));
    assert_eq!(gate.try_open(&registered()), Opening::Open(Epoch(5)));
}

#[test]
fn a_fence_counts_only_when_nothing_admitted_runs() {
    let mut gate = opened(1);
    assert_eq!(admit(&mut gate, 1), Ok(()));
    assert!(gate.fence_is_new(Epoch(1)));
    gate.fence(Epoch(1));
    assert!(!gate.is_drained(Epoch(1)));
    assert_eq!(gate.open_at(), None);
    gate.finish(RequestKind::Ordinary);
    assert!(gate.is_drained(Epoch(1)));
}

#[test]
fn an_event_stream_is_counted_until_it_ends() {
    let mut gate = opened(1);
    assert_eq!(admit(&mut gate, 1), Ok(()));
    gate.became_stream();
    assert_eq!(gate.admitted(), (0, 1));
    gate.fence(Epoch(1));
    assert!(!gate.is_drained(Epoch(1)));
    gate.finish(RequestKind::Stream);
    assert!(gate.is_drained(Epoch(1)));
}

#[test]
fn a_late_fence_below_the_open_epoch_changes_nothing() {
    let mut gate = opened(7);
    gate.fence(Epoch(5));
    assert_eq!(gate.open_at(), Some(Epoch(7)));
    assert_eq!(admit(&mut gate, 7), Ok(()));
}

#[test]
fn a_lower_stamp_is_admitted_and_a_higher_one_waits() {
    let mut gate = opened(5);
    assert_eq!(admit(&mut gate, 4), Ok(()));
    assert_eq!(admit(&mut gate, 6), Err(NotAdmitted::Wait));
}

#[test]
fn a_closed_gate_says_what_it_knows() {
    let mut unknown = TenantGate::default();
    assert_eq!(admit(&mut unknown, 1), Err(NotAdmitted::Wait));

    let mut left = opened(1);
    left.observe(placed("b", 2, false), Revision(12));
    let elsewhere = Verdict::Elsewhere { cell: cell("b").name, epoch: Epoch(2) };
    assert_eq!(admit(&mut left, 1), Err(NotAdmitted::Refused(elsewhere)));
    assert_eq!(admit(&mut left, 3), Err(NotAdmitted::Wait));

    let mut held = opened(1);
    held.fence(Epoch(1));
    assert_eq!(admit(&mut held, 1), Err(NotAdmitted::Refused(Verdict::Fenced)));
}

#[test]
fn a_gate_never_takes_an_older_placement() {
    let mut gate = opened(5);
    gate.observe(placed("b", 4, false), Revision(20));
    gate.observe(placed("b", 9, false), Revision(3));
    assert_eq!(gate.open_at(), Some(Epoch(5)));
}

#[test]
fn closing_refuses_streams_and_admits_requests() {
    let mut gate = opened(1);
    gate.refuse_streams(Epoch(1));
    let stream = gate.admit(Epoch(1), RequestKind::Stream, &cell("a"));
    assert_eq!(stream, Err(NotAdmitted::Refused(Verdict::Fenced)));
    assert_eq!(admit(&mut gate, 1), Ok(()));
}

#[test]
fn after_an_undo_at_the_next_epoch_the_gate_opens_again() {
    let mut gate = opened(1);
    gate.fence(Epoch(1));
    gate.observe(placed("a", 1, true), Revision(11));
    assert_eq!(gate.try_open(&registered()), Opening::Closed);
    gate.observe(placed("a", 2, false), Revision(12));
    assert_eq!(gate.try_open(&registered()), Opening::NeedsRelease(home("h1"), Epoch(2)));
    gate.released(home("h1"), Epoch(2));
    assert_eq!(gate.try_open(&registered()), Opening::Open(Epoch(2)));
}

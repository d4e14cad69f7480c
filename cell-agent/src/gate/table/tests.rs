//! What the table of gates promises beyond the rules of one gate.
#![allow(clippy::unwrap_used)]

use super::*;
use cellway_core::tenant::{Placement, PlacementRecord};

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn placement(epoch: u64, read_at: u64) -> TenantPlacement {
    let cell = CellRef { name: CellName::new("cell-a").unwrap(), uid: CellUid::new("u1").unwrap() };
    let placed = Placement { cell, epoch: Epoch(epoch), home: HomeId::new("h1").unwrap(), hold: None };
    TenantPlacement { tenant: tenant(), record: PlacementRecord::Placed(placed), read_at: Revision(read_at) }
}

fn table() -> Arc<GateTable> {
    let table = GateTable::new(CellName::new("cell-a").unwrap(), vec![], Faults::default());
    table.register(CellUid::new("u1").unwrap(), Revision(10));
    Arc::new(table)
}

fn open(table: &GateTable, epoch: u64) {
    let gate = table.entry(&tenant());
    gate.observe(placement(epoch, 10));
    let registration = table.registration().unwrap();
    let (home, at) = gate.begin_opening(&registration).unwrap();
    assert_eq!(gate.begin_opening(&registration), None, "one opener at a time");
    gate.released(home, at);
    assert_eq!(gate.go_on_opening(Some(&registration)), None);
    assert_eq!(gate.open_at(), Some(Epoch(epoch)));
}

async fn admit(table: &GateTable, stamped: u64, kind: RequestKind) -> Result<Admission, Verdict> {
    table.admit(&tenant(), Epoch(stamped), kind).await
}

#[tokio::test(start_paused = true)]
async fn a_request_that_knows_more_waits_a_little_and_not_longer() {
    let table = table();
    let begun = Instant::now();
    assert_eq!(admit(&table, 5, RequestKind::Ordinary).await.unwrap_err(), Verdict::Behind);
    assert_eq!(begun.elapsed().as_millis() as u64, BEHIND_WAIT_MS);
    let waiting = tokio::spawn({
        let table = Arc::clone(&table);
        async move { admit(&table, 5, RequestKind::Ordinary).await }
    });
    tokio::time::sleep(Duration::from_millis(BEHIND_WAIT_MS / 2)).await;
    open(&table, 5);
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test]
async fn an_admission_counts_until_it_is_dropped() {
    let table = table();
    open(&table, 5);
    let gate = table.entry(&tenant());
    let request = admit(&table, 5, RequestKind::Ordinary).await.unwrap();
    let mut later_stream = admit(&table, 5, RequestKind::Ordinary).await.unwrap();
    let stream = admit(&table, 5, RequestKind::Stream).await.unwrap();
    later_stream.became_stream();
    assert_eq!((gate.running().requests, gate.running().streams), (1, 2));
    gate.fence(Epoch(5));
    assert!(stream.end().unwrap().is_cancelled() && later_stream.end().unwrap().is_cancelled());
    for admission in [request, later_stream, stream] {
        assert!(!gate.is_drained(Epoch(5)));
        drop(admission);
    }
    assert!(gate.is_drained(Epoch(5)));
    assert_eq!(gate.running(), Running::default());
}

#[tokio::test]
async fn an_answer_that_turns_into_a_stream_after_the_fence_ends_at_once() {
    let table = table();
    open(&table, 5);
    let mut request = admit(&table, 5, RequestKind::Ordinary).await.unwrap();
    table.entry(&tenant()).fence(Epoch(5));
    assert!(request.became_stream().is_cancelled());
}

#[tokio::test]
async fn streams_are_admitted_again_when_the_order_to_end_them_is_gone() {
    let table = table();
    open(&table, 5);
    let gate = table.entry(&tenant());
    gate.end_streams(Epoch(5), || true);
    assert_eq!(admit(&table, 5, RequestKind::Stream).await.unwrap_err(), Verdict::Fenced);
    assert!(admit(&table, 5, RequestKind::Ordinary).await.is_ok());
    gate.allow_streams();
    let stream = admit(&table, 5, RequestKind::Stream).await.unwrap();
    assert!(!stream.end().unwrap().is_cancelled());
}

#[tokio::test]
async fn streams_are_ended_only_up_to_the_epoch_they_were_ended_at() {
    let table = table();
    open(&table, 5);
    let gate = table.entry(&tenant());
    gate.end_streams(Epoch(5), || true);
    gate.fence(Epoch(5));
    open(&table, 6);
    let stream = admit(&table, 6, RequestKind::Stream).await.unwrap();
    assert!(!stream.end().unwrap().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn what_the_control_plane_no_longer_speaks_for_is_closed() {
    let table = table();
    open(&table, 5);
    let gate = table.entry(&tenant());
    let newer = Registration { uid: CellUid::new("u1").unwrap(), revision: Revision(20) };
    gate.observe(placement(5, 20));
    table.close_unsaid(&newer);
    assert_eq!(gate.open_at(), Some(Epoch(5)));
    table.close_unsaid(&Registration { revision: Revision(21), ..newer });
    assert_eq!(gate.open_at(), None);
}

#[tokio::test(start_paused = true)]
async fn who_is_off_the_list_opens_nothing_any_more() {
    let table = table();
    open(&table, 5);
    table.shut();
    assert!(table.registration().is_none());
    assert!(admit(&table, 5, RequestKind::Ordinary).await.is_err());
}

#[tokio::test]
async fn the_fault_open_at_once_admits_whatever_the_rules_say() {
    let faults = Faults { open_at_once: true, ..Faults::default() };
    let table = GateTable::new(CellName::new("cell-a").unwrap(), vec![(tenant(), Epoch(9))], faults);
    table.register(CellUid::new("u1").unwrap(), Revision(10));
    let gate = table.entry(&tenant());
    gate.observe(placement(5, 1));
    assert_eq!(gate.open_at(), None);
    let admission = admit(&table, 5, RequestKind::Ordinary).await.unwrap();
    assert!(gate.is_drained(Epoch(9)), "nobody waits for what should not be there");
    assert_eq!(gate.running().requests, 1);
    drop(admission);
    assert_eq!(gate.running().requests, 0);
}

#[tokio::test]
async fn a_placement_that_came_while_an_older_one_was_tried_is_opened_next() {
    let table = table();
    let gate = table.entry(&tenant());
    let registration = table.registration().unwrap();
    gate.observe(placement(5, 10));
    let tried = gate.begin_opening(&registration).unwrap();
    gate.observe(placement(7, 11));
    assert_eq!(gate.begin_opening(&registration), None, "somebody sees to it");
    let next = gate.go_on_above(Some(&registration), &tried).unwrap();
    assert_eq!(next.1, Epoch(7));
    assert_eq!(gate.go_on_above(Some(&registration), &next), None, "the same again would not help");
    assert!(gate.begin_opening(&registration).is_some(), "whoever comes next sees to it");
}

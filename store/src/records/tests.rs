//! Stored shapes: what is written reads back, and what is foreign is refused.

use super::*;
use cellway_core::cell::{CellRef, ListedGates, MoverDriver};
use cellway_core::freeze_window::FreezeWindows;
use cellway_core::ids::{Epoch, Revision};
use cellway_core::limit::{Mode, Rate, TenantLimits};
use cellway_core::tenant::{AfterWait, LongRequests, Placement, PlacementRecord};
use cellway_core::tenant_move::*;

fn cell(name: &str) -> CellRef {
    CellRef { name: name.parse().expect("legal"), uid: format!("uid-{name}").parse().expect("legal") }
}

fn record(state: MoveState) -> MoveRecord {
    MoveRecord {
        id: "m1".parse().expect("legal"),
        tenant: "acme".parse().expect("legal"),
        source: cell("a"),
        target: cell("b"),
        epoch: Epoch(7),
        source_home: "h0".parse().expect("legal"),
        target_home: "m1".parse().expect("legal"),
        keeps_target_home: true,
        source_gates: ["i1".parse().expect("legal")].into(),
        driver: MoverDriver::Sqlite,
        cause: "asked".into(),
        limits: MoveLimits {
            long_requests: LongRequests { wait_ms: 8, then: AfterWait::Cut },
            freeze_windows: FreezeWindows::parse(&["mon-fri 22:00-04:00"]).expect("legal"),
            ..MoveLimits::default()
        },
        priority: Priority::High,
        freeze_now_ms: Some(9),
        attempt: 2,
        not_before_ms: 5,
        created_ms: 1,
        entered_ms: 2,
        predicted_freeze_ms: 3,
        copied: Some(CopyMade { bytes: 6, took_ms: 7 }),
        held_ms: Some(4),
        cut_requests: 5,
        released_ms: None,
        state,
    }
}

#[test]
fn a_stored_move_reads_back_in_every_state() {
    let list = ListedGates { revision: Revision(9), instances: ["i1".parse().expect("legal")].into() };
    let home = || Some("h0".parse().expect("legal"));
    let states = [
        MoveState::Planned,
        MoveState::Preparing,
        MoveState::Copying(Copying { copied_bytes: 1, total_bytes: 2, advanced_ms: 3 }),
        MoveState::Syncing(Syncing {
            followed: Some(Measured { value: 5, at_ms: 6 }),
            longest: Some(FreezePart::new("to compare the copies", 4)),
            watched: [(
                "i1".parse().expect("legal"),
                Measured { value: Admitted { oldest_request_ms: 7, requests: 3, open_streams: 8 }, at_ms: 9 },
            )]
            .into(),
        }),
        MoveState::Closing(Closing { ended: ["i1".parse().expect("legal")].into() }),
        MoveState::Holding(Holding {
            stage: HoldingStage::Last,
            list: Some(list),
            fenced: ["i1".parse().expect("legal")].into(),
            position: Some(Position("p".into())),
            cut: true,
            running: [("i1".parse().expect("legal"), 4)].into(),
        }),
        MoveState::Switched,
        MoveState::Settling,
        MoveState::Cleaning(Cleaning { due: true }),
        MoveState::Done(Done { leftover: home(), reversed_by: Some("m2".parse().expect("legal")) }),
        MoveState::Undoing(Undoing { reason: "r".into(), held: true, retry: true }),
        MoveState::Undone(Undone {
            reason: "r".into(),
            held: true,
            leftover: home(),
            retried_by: Some("m1-2".parse().expect("legal")),
        }),
    ];
    for state in states {
        let move_record = record(state);
        assert_eq!(MoveRecord::decode(&move_record.encode()).expect("readable"), move_record);
    }
}

#[test]
fn a_record_of_a_newer_format_is_refused() {
    let placement = PlacementRecord::Placed(Placement {
        cell: cell("a"),
        epoch: Epoch(1),
        home: "h0".parse().expect("legal"),
        hold: None,
    });
    let text = String::from_utf8(placement.encode()).expect("JSON");
    assert_eq!(text, r#"{"format":1,"is":"placed","cell":{"name":"a","uid":"uid-a"},"epoch":1,"home":"h0"}"#);
    assert_eq!(PlacementRecord::decode(text.as_bytes()).expect("readable"), placement);
    let newer = text.replace("\"format\":1", "\"format\":2");
    assert!(matches!(PlacementRecord::decode(newer.as_bytes()), Err(BadRecord::Format { format: 2, .. })));
    for garbage in ["", "{}", "[]", "{\"format\":1}", &text.replace("uid-a", "UID"), &text[..20]] {
        assert!(PlacementRecord::decode(garbage.as_bytes()).is_err(), "{garbage}");
    }
}

#[test]
fn stored_limits_read_back_and_those_out_of_range_are_refused() {
    let limits = TenantLimits {
        requests: Some(Rate { per_second: 10, burst: 20 }),
        mode: Mode::ReadOnly,
        message: Some("Back <soon>".into()),
        ..TenantLimits::default()
    };
    let text = String::from_utf8(limits.encode()).expect("JSON");
    let expected = r#"{"format":1,"requests":{"per_second":10,"burst":20},"mode":"read_only","message":"Back <soon>"}"#;
    assert_eq!(text, expected);
    assert_eq!(TenantLimits::decode(text.as_bytes()).expect("readable"), limits);
    assert_eq!(TenantLimits::decode(br#"{"format":1,"mode":"open"}"#).expect("readable"), TenantLimits::default());
    for garbage in [&text.replace(":10,", ":0,"), &text.replace("read_only", "half_open"), "{\"format\":1}"] {
        assert!(TenantLimits::decode(garbage.as_bytes()).is_err(), "{garbage}");
    }
}

#[test]
fn a_move_written_before_there_was_a_choice_has_what_was_in_force_then() {
    let mut stored: serde_json::Value = serde_json::from_slice(&record(MoveState::Planned).encode()).expect("JSON");
    for name in ["copied", "cut_requests", "priority", "freeze_now_ms"] {
        stored.as_object_mut().and_then(|object| object.remove(name)).expect("it is written now");
    }
    for name in ["long_requests", "freeze_windows"] {
        stored["limits"].as_object_mut().and_then(|limits| limits.remove(name)).expect("it is written now");
    }
    let old = MoveRecord::decode(&serde_json::to_vec(&stored).expect("JSON")).expect("readable");
    let now = MoveRecord {
        limits: MoveLimits::default(),
        copied: None,
        cut_requests: 0,
        priority: Priority::Normal,
        freeze_now_ms: None,
        ..record(MoveState::Planned)
    };
    assert_eq!(old, now);
}

#[test]
fn what_is_not_known_is_kept_where_it_belongs_and_what_is_known_wins() {
    let syncing = record(MoveState::Syncing(Syncing::default()));
    let mut newer: serde_json::Value = serde_json::from_slice(&syncing.encode()).expect("JSON");
    newer["colour"] = "blue".into();
    newer["limits"]["patience_ms"] = 7.into();
    newer["state"]["depth"] = serde_json::json!({"m": 1});
    let stored = serde_json::to_vec(&newer).expect("JSON");
    let read = MoveRecord::decode(&stored).expect("a newer version's record is read");
    assert_eq!(read, syncing);
    let unknown = Unknown::of(&read, &stored);
    let rewritten = |next: &MoveRecord| -> serde_json::Value {
        serde_json::from_slice(&unknown.kept_in(next.encode())).expect("JSON")
    };
    assert_eq!(rewritten(&syncing), newer, "nothing is lost");
    let next = rewritten(&MoveRecord { attempt: 3, ..record(MoveState::Switched) });
    assert_eq!(next["colour"], "blue");
    assert_eq!(next["limits"]["patience_ms"], 7);
    assert_eq!(next["attempt"], 3);
    assert_eq!(next["state"], serde_json::json!({"is": "switched"}), "no other state's");
    let plain = syncing.encode();
    assert_eq!(Unknown::of(&syncing, &plain), Unknown::default());
    assert_eq!(Unknown::default().kept_in(plain.clone()), plain, "byte by byte");
}

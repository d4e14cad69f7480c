//! Who may take a tenant, and why a planned move waits.

use super::*;
use crate::cell::{Cell, MoverDriver};
use crate::ids::{CellUid, Epoch};
use crate::tenant_move::{MoveLimits, MoveState, Priority};
use std::collections::BTreeMap;

fn fleet(cells: &[(&str, u32, u32, CellCondition)]) -> Fleet {
    let entry = |&(name, tenants, capacity_tenants, condition): &(&str, u32, u32, CellCondition)| {
        let name = CellName::new(name).expect("legal");
        let cell = Cell {
            cell: CellRef { name: name.clone(), uid: CellUid::new("u").expect("legal") },
            condition,
            kind: CellKind::Agent,
            version: "1".into(),
            labels: BTreeMap::new(),
            endpoints: vec![],
            capacity_tenants,
        };
        (name, FleetCell { cell, tenants, reachable: true })
    };
    Fleet { cells: cells.iter().map(entry).collect(), ..Fleet::default() }
}

#[test]
fn the_emptiest_open_cell_is_chosen() {
    use CellCondition::{Cordoned, Open};
    let chosen = |cells: &[_]| choose_cell(&fleet(cells)).map(|cell| cell.name.to_string());
    assert_eq!(chosen(&[("a", 5, 0, Open), ("b", 4, 0, Open)]), Ok("b".into()));
    assert_eq!(chosen(&[("a", 5, 100, Open), ("b", 4, 5, Open)]), Ok("a".into()));
    assert_eq!(chosen(&[("a", 0, 0, Cordoned), ("b", 4, 0, Open)]), Ok("b".into()));
    assert_eq!(chosen(&[("b", 4, 4, Open)]), Err(NoPlace::Nowhere));
}

#[test]
fn a_closed_or_full_cell_is_refused_with_its_reason() {
    let fleet = fleet(&[("a", 0, 0, CellCondition::Draining), ("b", 4, 4, CellCondition::Open)]);
    let reason = |name: &str| check_room(&fleet, &CellName::new(name).expect("legal")).map_err(|e| e.to_string());
    assert_eq!(reason("a"), Err("cell a is draining: it takes nobody new".into()));
    let full = reason("b").expect_err("four of four");
    assert!(full.starts_with("cell b is full: its capacity of 4 tenants is used"), "{full}");
    assert!(full.contains("`cellway cell list`"), "what to do: {full}");
    assert!(reason("c").is_err_and(|text| text.starts_with("there is no cell c")));
}

fn planned(fleet: &Fleet) -> MoveRecord {
    let cell = |name: &str| fleet.cells[name].cell.cell.clone();
    MoveRecord {
        id: "m1".parse().expect("legal"),
        tenant: "acme".parse().expect("legal"),
        source: cell("a"),
        target: cell("b"),
        epoch: Epoch(7),
        source_home: "h0".parse().expect("legal"),
        target_home: "m1".parse().expect("legal"),
        keeps_target_home: false,
        source_gates: ["a1".parse().expect("legal")].into(),
        driver: MoverDriver::Sqlite,
        cause: "asked".into(),
        limits: MoveLimits::default(),
        priority: Priority::Normal,
        freeze_now_ms: None,
        attempt: 1,
        not_before_ms: 0,
        created_ms: 0,
        entered_ms: 0,
        predicted_freeze_ms: 0,
        held_ms: None,
        released_ms: None,
        copied: None,
        cut_requests: 0,
        state: MoveState::Planned,
    }
}

#[test]
fn a_planned_move_that_does_not_start_says_what_it_waits_for() {
    let open = fleet(&[("a", 1, 0, CellCondition::Open), ("b", 0, 0, CellCondition::Open)]);
    let record = planned(&open);
    let (here, there) = (record.source.clone(), record.target.clone());
    let waits = |change: &dyn Fn(&mut Fleet), brake, now_ms| {
        let (mut fleet, record) = (open.clone(), MoveRecord { not_before_ms: 5, attempt: 2, ..record.clone() });
        change(&mut fleet);
        let budgets = MoveBudgets { per_source: 1, per_target: 1, fleet: 2 };
        may_start(&fleet, &budgets, brake, &record, now_ms).err().map(|reason| reason.to_string())
    };
    let cell = |name: &'static str, change: fn(&mut FleetCell)| {
        move |fleet: &mut Fleet| fleet.cells.get_mut(name).into_iter().for_each(change)
    };
    let flies = |moves: Vec<(CellRef, CellRef)>| {
        let moves = moves.into_iter().map(|(source, target)| InFlight { source, target, waits_for_window: false });
        let moves: Vec<InFlight> = moves.collect();
        move |fleet: &mut Fleet| fleet.moves_in_flight.clone_from(&moves)
    };
    let other = |name: &str| CellRef { name: name.parse().expect("legal"), uid: "v".parse().expect("legal") };
    let says = |waits: Option<String>, words: &str| assert!(waits.is_some_and(|said| said.contains(words)), "{words}");
    assert_eq!(waits(&|_| {}, false, 5), None);
    says(waits(&|_| {}, true, 5), "emergency brake");
    says(waits(&|_| {}, false, 1), "attempt 2 begins in 4 ms");
    says(waits(&cell("a", |cell| cell.reachable = false), false, 5), "not every registered gate of a");
    says(waits(&cell("b", |cell| cell.reachable = false), false, 5), "no gate of b is reachable");
    says(waits(&cell("b", |cell| cell.cell.condition = CellCondition::Cordoned), false, 5), "cell b is not open");
    says(waits(&flies(vec![(here.clone(), other("c"))]), false, 5), "1 moves are leaving a");
    says(waits(&flies(vec![(other("c"), there.clone())]), false, 5), "1 moves are going to b");
    says(waits(&flies(vec![(other("c"), other("d")), (other("e"), other("f"))]), false, 5), "2 moves are in flight");
    let named_anew = |cell: &mut FleetCell| cell.cell.cell.uid = "another".parse().expect("legal");
    says(waits(&cell("a", named_anew), false, 5), "gate of a is reachable");
}

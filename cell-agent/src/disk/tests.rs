//! What the disk promises across restarts.
#![allow(clippy::unwrap_used)]

use super::*;
use cellway_core::cell::CellRef;
use cellway_core::tenant::{Placement, PlacementRecord};
use tempfile::TempDir;

fn cell() -> CellName {
    CellName::new("cell-a").unwrap()
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

#[test]
fn each_start_is_a_higher_run_of_the_same_instance() {
    let dir = TempDir::new().unwrap();
    let first = Disk::open(dir.path()).unwrap().start(&cell()).unwrap();
    let second = Disk::open(dir.path()).unwrap().start(&cell()).unwrap();
    assert_eq!((first.run, second.run), (1, 2));
    assert_eq!(first.instance, second.instance);
}

#[test]
fn a_second_process_on_one_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let _held = Disk::open(dir.path()).unwrap();
    assert!(matches!(Disk::open(dir.path()), Err(DiskError::InUse(_))));
}

#[test]
fn a_directory_of_another_cell_is_refused() {
    let dir = TempDir::new().unwrap();
    Disk::open(dir.path()).unwrap().start(&cell()).unwrap();
    let other = CellName::new("cell-b").unwrap();
    assert!(matches!(Disk::open(dir.path()).unwrap().start(&other), Err(DiskError::OtherCell { .. })));
}

#[test]
fn a_stop_counts_as_clean_only_until_the_next_start() {
    let dir = TempDir::new().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    assert!(disk.start(&cell()).unwrap().stopped_clean, "nothing ran before the first start");
    assert!(!disk.start(&cell()).unwrap().stopped_clean);
    disk.stopped_clean().unwrap();
    assert!(disk.start(&cell()).unwrap().stopped_clean);
    assert!(!disk.start(&cell()).unwrap().stopped_clean);
}

#[test]
fn fences_only_rise_and_outlive_a_restart() {
    let dir = TempDir::new().unwrap();
    for epoch in [4, 9, 7, u64::MAX, 8] {
        Disk::open(dir.path()).unwrap().write_fence(&tenant(), Epoch(epoch)).unwrap();
    }
    assert_eq!(Disk::open(dir.path()).unwrap().fences().unwrap(), vec![(tenant(), Epoch(u64::MAX))]);
}

#[test]
fn the_first_registration_is_kept_beside_the_newest() {
    let dir = TempDir::new().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    disk.start(&cell()).unwrap();
    let uid = CellUid::new("u1").unwrap();
    disk.registered(&uid, Revision(5)).unwrap();
    disk.registered(&uid, Revision(9)).unwrap();
    let identity = disk.start(&cell()).unwrap();
    assert_eq!(identity.first_registration, Some(Revision(5)));
    assert_eq!(identity.last_registration, Some(Revision(9)));
    assert_eq!(identity.uid, Some(uid));
}

#[test]
fn placements_read_back_as_saved() {
    let dir = TempDir::new().unwrap();
    let placed = TenantPlacement {
        tenant: tenant(),
        record: PlacementRecord::Placed(Placement {
            cell: CellRef { name: cell(), uid: CellUid::new("u1").unwrap() },
            epoch: Epoch(3),
            home: "new-3".parse().unwrap(),
            hold: Some("m1".parse().unwrap()),
        }),
        read_at: Revision(12),
    };
    let disk = Disk::open(dir.path()).unwrap();
    disk.save_placements(std::slice::from_ref(&placed)).unwrap();
    assert_eq!(disk.placements().unwrap(), vec![placed]);
    disk.forget_placements().unwrap();
    assert_eq!(disk.placements().unwrap(), vec![]);
}

#[test]
fn who_has_left_never_comes_back_under_the_same_id() {
    let dir = TempDir::new().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    assert!(matches!(disk.leave(), Err(DiskError::Nobody(_))));
    let before = disk.start(&cell()).unwrap();
    let leaving = disk.leave().unwrap();
    assert_eq!(leaving, vec![(cell(), before.instance.clone())]);
    assert_eq!(disk.leave().unwrap(), leaving, "leaving can be repeated until it was heard");
    disk.left(&before.instance).unwrap();
    let after = disk.start(&cell()).unwrap();
    assert_ne!(after.instance, before.instance);
    assert_eq!((after.run, after.first_registration), (1, None));
}

#[test]
fn of_tenants_that_left_only_the_newest_placements_are_kept() {
    let dir = TempDir::new().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    disk.start(&cell()).unwrap();
    disk.registered(&CellUid::new("u1").unwrap(), Revision(1)).unwrap();
    let placed = |tenant: &str, uid: &str, read_at| TenantPlacement {
        tenant: tenant.parse().unwrap(),
        record: PlacementRecord::Placed(Placement {
            cell: CellRef { name: cell(), uid: CellUid::new(uid).unwrap() },
            epoch: Epoch(3),
            home: "h1".parse().unwrap(),
            hold: None,
        }),
        read_at: Revision(read_at),
    };
    let gone = TenantPlacement {
        tenant: "gone".parse().unwrap(),
        record: PlacementRecord::Gone { epoch: Epoch(4) },
        read_at: Revision(9),
    };
    let here = [placed("here-1", "u1", 2), placed("here-2", "u1", 3)];
    let away = [placed("away-1", "u2", 4), placed("away-2", "u2", 7), gone];
    disk.save_placements_of(&[here.as_slice(), &away].concat(), 2).unwrap();
    let kept: Vec<_> = disk.placements().unwrap().iter().map(|kept| kept.tenant.to_string()).collect();
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert!(!kept.contains(&"away-1".to_owned()), "{kept:?}");
    assert!(disk.save_placements(&away).is_ok() && disk.placements().unwrap().len() == 5);
}

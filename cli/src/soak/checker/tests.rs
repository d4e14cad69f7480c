//! The checker must bite: each kind of breach is fed to it and must be caught by its name.

use super::*;

fn owners() -> Owners {
    let mut owners = Owners::default();
    owners.learn(1, "cell-a");
    owners.learn(2, "cell-b");
    owners
}

fn entry(id: &str, seq: i64, cell: &str, epoch: u64) -> Entry {
    let sha256 = format!("hash-of-{id}");
    Entry { id: id.into(), seq, length: 3, sha256, cell: cell.into(), epoch: Some(epoch) }
}

/// Sent at `sent_at`, acknowledged right after.
fn acknowledged(entry: &Entry, sent_at: u64) -> Write {
    Write {
        id: entry.id.clone(),
        length: 3,
        sha256: format!("hash-of-{}", entry.id),
        sent_at,
        outcome: Outcome::Acknowledged { entry: entry.clone(), at: sent_at + 1 },
    }
}

fn unknown(id: &str, sent_at: u64) -> Write {
    let sha256 = format!("hash-of-{id}");
    Write { id: id.into(), length: 3, sha256, sent_at, outcome: Outcome::Unknown }
}

/// Two writes in cell-a, then two in cell-b: nothing is wrong with them.
fn good() -> (Vec<Write>, Vec<Entry>) {
    let log = vec![
        entry("w1", 1, "cell-a", 1),
        entry("w2", 2, "cell-a", 1),
        entry("w3", 3, "cell-b", 2),
        entry("w4", 4, "cell-b", 2),
    ];
    let writes = log.iter().zip([10, 20, 30, 40]).map(|(entry, at)| acknowledged(entry, at)).collect();
    (writes, log)
}

fn kinds(writes: &[Write], log: &[Entry]) -> Vec<BreachKind> {
    let owners = owners();
    let breaches = check(&Observed { tenant: "acme", writes, log, owners: &owners });
    breaches.into_iter().map(|breach| breach.kind).collect()
}

#[test]
fn a_run_in_which_all_went_well_has_no_breach() {
    let (writes, log) = good();
    assert_eq!(kinds(&writes, &log), []);
    let shuffled: Vec<_> = log.iter().rev().cloned().collect();
    assert_eq!(kinds(&writes, &shuffled), [], "the order of the pages does not matter");
}

#[test]
fn a_lost_write_is_caught() {
    let (writes, mut log) = good();
    log.remove(1);
    assert_eq!(kinds(&writes, &log), [BreachKind::LostWrite]);
}

#[test]
fn a_duplicate_is_caught() {
    let (writes, mut log) = good();
    log.push(entry("w2", 5, "cell-b", 2));
    assert!(kinds(&writes, &log).contains(&BreachKind::DuplicatedWrite));
}

#[test]
fn a_write_that_was_delivered_twice_is_caught_although_the_app_kept_one() {
    let (mut writes, log) = good();
    writes[1].outcome = Outcome::TakenAlready;
    assert_eq!(kinds(&writes, &log), [BreachKind::DuplicatedWrite]);
}

#[test]
fn a_write_before_one_that_it_came_after_is_caught() {
    let (mut writes, log) = good();
    (writes[0].sent_at, writes[1].sent_at) = (20, 10);
    let Outcome::Acknowledged { at, .. } = &mut writes[1].outcome else { panic!("it was acknowledged") };
    *at = 11;
    assert_eq!(kinds(&writes, &log), [BreachKind::OutOfOrder]);
}

#[test]
fn writes_that_overlapped_may_come_in_any_order() {
    let (mut writes, log) = good();
    (writes[0].sent_at, writes[1].sent_at) = (20, 10);
    assert_eq!(kinds(&writes, &log), []);
}

#[test]
fn a_falling_epoch_is_caught() {
    let (mut writes, mut log) = good();
    log.push(entry("w5", 5, "cell-a", 1));
    writes.push(acknowledged(&log[4], 50));
    assert_eq!(kinds(&writes, &log), [BreachKind::EpochFell]);
}

#[test]
fn two_cells_in_one_epoch_are_caught() {
    let (mut writes, mut log) = good();
    log[3].cell = "cell-a".into();
    writes[3] = acknowledged(&log[3], 40);
    let kinds = kinds(&writes, &log);
    assert!(kinds.contains(&BreachKind::TwoCellsInOneEpoch) && kinds.contains(&BreachKind::WrongCell), "{kinds:?}");
}

#[test]
fn a_lost_write_still_tells_who_served() {
    let (mut writes, mut log) = good();
    log[3].cell = "cell-a".into();
    writes[3] = acknowledged(&log[3], 40);
    log.remove(3);
    assert!(kinds(&writes, &log).contains(&BreachKind::TwoCellsInOneEpoch));
}

#[test]
fn a_cell_that_is_not_the_placements_is_caught() {
    let (mut writes, mut log) = good();
    for at in [2, 3] {
        log[at].cell = "cell-c".into();
        writes[at] = acknowledged(&log[at], 30 + at as u64);
    }
    assert_eq!(kinds(&writes, &log), [BreachKind::WrongCell]);
}

#[test]
fn an_epoch_that_no_placement_had_is_caught() {
    let (mut writes, mut log) = good();
    log.push(entry("w5", 5, "cell-b", 9));
    writes.push(acknowledged(&log[4], 50));
    assert_eq!(kinds(&writes, &log), [BreachKind::WrongCell]);
}

#[test]
fn an_entry_without_an_epoch_is_caught() {
    let (mut writes, mut log) = good();
    log[3].epoch = None;
    writes[3] = acknowledged(&log[3], 40);
    assert_eq!(kinds(&writes, &log), [BreachKind::WrongCell]);
}

#[test]
fn a_wrong_hash_and_a_wrong_length_are_caught() {
    let (mut writes, mut log) = good();
    log[1].sha256 = "another".into();
    writes[1].outcome = Outcome::Acknowledged { entry: log[1].clone(), at: 21 };
    assert_eq!(kinds(&writes, &log), [BreachKind::Corrupt]);
    log[1].length = 2;
    writes[1].outcome = Outcome::Acknowledged { entry: log[1].clone(), at: 21 };
    assert_eq!(kinds(&writes, &log), [BreachKind::Corrupt]);
}

#[test]
fn an_entry_that_changed_after_it_was_acknowledged_is_caught() {
    let (writes, mut log) = good();
    log[3].seq = 7;
    assert_eq!(kinds(&writes, &log), [BreachKind::Corrupt]);
}

#[test]
fn a_failed_write_may_be_there_or_not_but_not_changed() {
    let (mut writes, mut log) = good();
    writes.push(unknown("w5", 50));
    assert_eq!(kinds(&writes, &log), []);
    log.push(entry("w5", 5, "cell-b", 2));
    assert_eq!(kinds(&writes, &log), []);
    log[4].sha256 = "another".into();
    assert_eq!(kinds(&writes, &log), [BreachKind::Corrupt]);
}

#[test]
fn a_write_that_was_never_sent_to_the_tenant_is_caught() {
    let (writes, mut log) = good();
    log.push(entry("of-zeta", 5, "cell-b", 2));
    assert_eq!(kinds(&writes, &log), [BreachKind::UnexpectedWrite]);
}

#[test]
fn a_stale_read_is_caught() {
    let (writes, log) = good();
    let kind = |seen| check_read("acme", &writes[0], seen).map(|breach| breach.kind);
    assert_eq!(kind(Some(&log[0])), None);
    assert_eq!(kind(None), Some(BreachKind::StaleRead));
    assert_eq!(kind(Some(&Entry { length: 4, ..log[0].clone() })), Some(BreachKind::Corrupt));
}

#[test]
fn a_count_that_falls_is_caught() {
    assert_eq!(check_count("acme", 5, 5), None);
    assert_eq!(check_count("acme", 5, 4).map(|breach| breach.kind), Some(BreachKind::StaleRead));
}

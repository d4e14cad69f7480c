//! Rows are found while others are written.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;

fn name(number: u64) -> Name {
    Name([number + 1, 0, 0, 0])
}

fn row(epoch: u64) -> Row {
    Row { kind: Kind::of(epoch as u32), place: epoch as u32, limited: epoch as u32, epoch, revision: !epoch }
}

fn set(rows: &Rows, number: u64, epoch: u64) -> Option<Row> {
    rows.update(name(number), |_| Ok::<_, ()>(row(epoch))).unwrap()
}

#[test]
fn every_row_is_found_in_a_table_of_any_size() {
    let rows = Rows::default();
    for number in 0..50_000 {
        assert_eq!(set(&rows, number, number), None);
    }
    for number in 0..50_000 {
        assert_eq!(rows.read(name(number), |row| row), Some(row(number)));
        assert_eq!(rows.read(name(number + 50_000), |row| row), None);
    }
    let mut seen = 0;
    rows.each(|_, _, _| seen += 1);
    assert_eq!((seen, rows.len(), rows.placed()), (50_000, 50_000, 25_000));
}

#[test]
fn a_table_that_was_made_large_enough_is_not_copied() {
    let rows = Rows::default();
    rows.expect(50_000);
    let before: usize = rows.shards.iter().map(|shard| shard.block.load().slots.len()).sum();
    for number in 0..50_000 {
        set(&rows, number, 1);
    }
    let after: usize = rows.shards.iter().map(|shard| shard.block.load().slots.len()).sum();
    assert!(after <= before + before / 100, "{before} {after}");
}

#[test]
fn who_reads_sees_whole_rows_while_they_are_written_and_copied() {
    let rows = Rows::default();
    for number in 0..64 {
        set(&rows, number, 0);
    }
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for number in 0..64 {
                        let seen = rows.read(name(number), |row| row).expect("it was there from the start");
                        assert_eq!(seen, row(seen.epoch));
                    }
                }
            });
        }
        for epoch in 1..2_000 {
            for number in 0..64 {
                set(&rows, number, epoch);
            }
            for number in 0..20 {
                set(&rows, 1_000 + epoch * 20 + number, epoch);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_listing_marks_what_it_names_and_what_comes_after_it_began() {
    let rows = Rows::default();
    for number in 0..3 {
        set(&rows, number, 0);
    }
    rows.begin_listing();
    assert_eq!(rows.mark(name(1)), Marked::First);
    assert_eq!(rows.mark(name(1)), Marked::Again);
    assert_eq!(rows.mark(name(7)), Marked::Unknown);
    for number in 3..2_000 {
        set(&rows, number, 0);
    }
    let mut unnamed = Vec::new();
    rows.each(|name, _, is_named| unnamed.extend((!is_named).then_some(name.0[0] - 1)));
    unnamed.sort_unstable();
    assert_eq!(unnamed, [0, 2]);
}

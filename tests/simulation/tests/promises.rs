//! Each promise, over seeds that press it hardest. All promises are checked in every run.

use cellway_simulation::{Plan, Stats, replay, report, run};

/// How many seeds each promise is tried with, unless `SEEDS` says otherwise.
const SEEDS: u64 = 600;

fn seeds() -> u64 {
    std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

/// Runs the seeds from `first` on, each with its own plan as `press` changes it.
fn kept(first: u64, press: impl Fn(&mut Plan)) -> Vec<Stats> {
    let one = |seed| {
        let mut plan = Plan::drawn(seed);
        press(&mut plan);
        run(seed, &plan, None).unwrap_or_else(|_| panic!("\n{}\n", report(seed, &plan, None)))
    };
    (first..first + seeds()).map(one).collect()
}

#[test]
fn no_two_cells_serve_one_tenant() {
    kept(10_000, |plan| {
        plan.fenced_data = false;
        plan.crashes += 2;
        plan.joins += 1;
    });
}

#[test]
fn no_acknowledged_write_is_lost() {
    kept(20_000, |plan| {
        plan.moves += 2;
        plan.backs += 1;
    });
}

#[test]
fn a_router_never_lowers_an_epoch() {
    kept(30_000, |plan| {
        plan.routers = 2;
        plan.stale_percent += 20;
        plan.pauses += 1;
    });
}

#[test]
fn a_late_order_or_fact_changes_nothing() {
    kept(40_000, |plan| {
        plan.late_percent += 10;
        plan.late_ms = 3_000;
        plan.undos += 1;
    });
}

#[test]
fn every_move_ends() {
    kept(50_000, |plan| {
        plan.losses += 1;
        plan.jumps += 2;
        plan.leaves += 1;
        plan.loss_percent += 5;
    });
}

#[test]
fn a_serving_copy_is_never_dropped() {
    kept(60_000, |plan| {
        plan.backs += 2;
        plan.undos += 1;
        plan.late_percent += 5;
    });
}

#[test]
fn an_open_gate_has_its_data() {
    kept(70_000, |plan| {
        plan.fenced_data = true;
        plan.lagging_lists = false;
        plan.late_percent += 5;
    });
}

#[test]
fn a_gate_that_restarts_while_a_move_is_taken_back_leaves_nobody_unserved() {
    let runs = kept(80_000, |plan| {
        plan.backs += 3;
        plan.undos += 1;
        plan.crashes += 4;
        plan.clean_stops += 2;
        plan.losses = 0;
    });
    assert!(runs.iter().any(|run| run.moves_reversed > 0 && run.opened_from_disk > 0));
}

type Count = fn(&Stats) -> u64;

/// Seeds that go nowhere keep every promise.
#[test]
fn the_seeds_go_everywhere() {
    let runs = kept(0, |_| {});
    let places: [(&str, Count); 16] = [
        ("writes acknowledged", |run| run.acknowledged),
        ("moves done", |run| run.moves_done),
        ("moves undone before the hold", |run| run.moves_undone_before_the_hold),
        ("moves undone after the hold", |run| run.moves_undone_after_the_hold),
        ("moves taken back", |run| run.moves_reversed),
        ("moves made again", |run| run.retries),
        ("lists read again", |run| run.lists_read_again),
        ("positions thrown away", |run| run.positions_thrown_away),
        ("compares lost", |run| run.conflicts),
        ("facts refused", |run| run.refused),
        ("orders of ended moves", |run| run.late_orders),
        ("homes dropped", |run| run.drops),
        ("requests left in an app", |run| run.orphans),
        ("fences that waited for them", |run| run.waits_for_orphans),
        ("gates opened from disk", |run| run.opened_from_disk),
        ("hints followed", |run| run.hints),
    ];
    for (place, count) in places {
        assert!(runs.iter().any(|run| count(run) > 0), "no seed came to: {place}");
    }
}

#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in 1..4 {
        let plan = Plan::drawn(seed);
        let (first, second) = (replay(seed, &plan, None), replay(seed, &plan, None));
        assert!(first.1.len() > 100);
        assert_eq!(first, second);
    }
}

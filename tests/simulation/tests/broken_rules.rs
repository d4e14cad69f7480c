//! Each rule switched off: some seed has to notice, and by the promise that the rule is for.

#![allow(clippy::print_stdout)]

use cellway_simulation::{Broken, Plan, report, run};

/// How many seeds may be needed.
const SEEDS_MAX: u64 = 4_000;

/// Two cells serve, or a write is gone.
const SAFETY: [&str; 2] = ["no_two_cells_serve_one_tenant", "no_acknowledged_write_is_lost"];

/// Runs seeds until one breaks one of the promises; `--no-capture` shows its last events.
fn caught(broken: Broken, promises: &[&str], press: impl Fn(&mut Plan)) {
    for seed in 0..SEEDS_MAX {
        let mut plan = Plan::drawn(seed);
        press(&mut plan);
        if let Err(violation) = run(seed, &plan, Some(broken))
            && promises.contains(&violation.promise)
        {
            println!("after {seed} seeds:\n{}", report(seed, &plan, Some(broken)));
            return;
        }
    }
    panic!("{broken:?} was not noticed by {SEEDS_MAX} seeds");
}

/// The gates alone must keep the promises.
fn gates_alone(plan: &mut Plan) {
    plan.fenced_data = false;
    plan.loss_percent = 0;
}

/// An instance joins, and replica 1 leads with lists that do not name it yet.
fn old_lists(plan: &mut Plan) {
    gates_alone(plan);
    plan.instances = 1;
    plan.lagging_lists = true;
    plan.both_lead = true;
    plan.joins += 3;
    plan.clients = 3;
}

/// Nothing but late messages keeps moves from their end.
fn held_long(plan: &mut Plan) {
    plan.late_percent = 25;
    plan.late_ms = 200;
    plan.crashes = 0;
    plan.losses = 0;
    plan.undos = 0;
    plan.moves = 12;
}

#[test]
fn a_fence_is_acknowledged_only_when_drained() {
    caught(Broken::AckBeforeDrained, &SAFETY, gates_alone);
}

#[test]
fn after_an_unclean_stop_the_app_is_waited_for() {
    caught(Broken::OrphansForgotten, &SAFETY[..1], |plan| {
        gates_alone(plan);
        plan.crashes += 4;
        plan.clients = 3;
    });
}

#[test]
fn a_clean_stop_remembers_the_unclean_one_before_it() {
    caught(Broken::CleanStopHidesOrphans, &SAFETY[..1], |plan| {
        gates_alone(plan);
        plan.crashes += 6;
        plan.clean_stops += 6;
        plan.clients = 3;
    });
}

#[test]
fn a_fence_is_on_disk() {
    caught(Broken::FenceLostAtRestart, &SAFETY, |plan| {
        gates_alone(plan);
        plan.crashes += 3;
    });
}

#[test]
fn a_fence_is_acknowledged_only_when_the_disk_has_it_for_certain() {
    caught(Broken::FenceBeforeSync, &SAFETY, |plan| {
        gates_alone(plan);
        plan.crashes += 6;
    });
}

#[test]
fn a_placement_is_read_after_the_registration() {
    caught(Broken::ReadBeforeRegistration, &SAFETY, |plan| {
        gates_alone(plan);
        plan.instances = 1;
        plan.joins += 4;
        plan.pauses += 4;
        plan.moves = 12;
    });
}

#[test]
fn a_gate_waits_for_the_release() {
    caught(Broken::OpenWithoutRelease, &["an_open_gate_has_its_data"], |plan| {
        plan.fenced_data = true;
        plan.lagging_lists = false;
    });
}

#[test]
fn a_fact_quotes_its_move_and_epoch() {
    caught(Broken::FactsQuoteNothing, &SAFETY, |plan| {
        plan.undos += 2;
        plan.late_percent += 5;
    });
}

#[test]
fn a_position_is_bound_to_its_list() {
    caught(Broken::PositionWithoutList, &SAFETY[1..], |plan| {
        old_lists(plan);
        held_long(plan);
    });
}

#[test]
fn a_reach_of_an_older_list_is_late() {
    caught(Broken::ReachUnderOlderList, &SAFETY[1..], |plan| {
        old_lists(plan);
        held_long(plan);
    });
}

#[test]
fn the_commit_compares_the_list() {
    caught(Broken::CommitWithoutList, &SAFETY, old_lists);
}

#[test]
fn an_undo_compares() {
    caught(Broken::BlindUndo, &["check_step"], |plan| {
        plan.undos += 2;
        plan.pauses += 1;
    });
}

#[test]
fn a_drop_names_the_home() {
    caught(Broken::DropByTenant, &["a_serving_copy_is_never_dropped"], |plan| plan.late_percent += 5);
}

#[test]
fn the_data_fence_looks_at_the_epoch() {
    caught(Broken::DataFenceWithoutEpoch, &["a_late_order_or_fact_changes_nothing"], |plan| {
        plan.fenced_data = true;
        plan.late_percent += 5;
    });
}

#[test]
fn a_late_reach_is_known_by_its_epoch() {
    caught(Broken::ReachWithoutEpoch, &SAFETY[1..], |plan| {
        // As with SQLite files: one instance a cell, and its data fence holds.
        plan.fenced_data = true;
        plan.instances = 1;
        plan.joins = 0;
        plan.lagging_lists = false;
        plan.loss_percent = 0;
        plan.late_percent += 10;
        plan.backs += 3;
        plan.moves = 12;
    });
}

#[test]
fn a_router_refuses_a_lower_epoch() {
    caught(Broken::RouterTakesAnyEpoch, &["a_router_never_lowers_an_epoch"], |_| {});
}

#[test]
fn somebody_looks_at_the_clock() {
    caught(Broken::NoDeadlines, &["every_move_ends"], |_| {});
}

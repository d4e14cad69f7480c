//! Each rule switched off: some seed has to notice, and by the promise that the rule is for.

use cellway_simulation::{Broken, Plan, report, run};

/// How many seeds may be needed.
const SEEDS_MAX: u64 = 2_000;

/// The last lines of the first run that broke a promise, and which promise.
fn caught(broken: Broken, press: impl Fn(&mut Plan)) -> &'static str {
    for seed in 0..SEEDS_MAX {
        let mut plan = Plan::drawn(seed);
        press(&mut plan);
        if let Err(violation) = run(seed, &plan, Some(broken)) {
            println!("after {seed} seeds:\n{}", report(seed, &plan, Some(broken)));
            return violation.promise;
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

#[test]
fn a_fence_is_acknowledged_only_when_drained() {
    caught(Broken::AckBeforeDrained, gates_alone);
}

#[test]
fn after_an_unclean_stop_the_app_is_waited_for() {
    caught(Broken::OrphansForgotten, |plan| {
        gates_alone(plan);
        plan.crashes += 4;
        plan.clients = 3;
    });
}

#[test]
fn a_clean_stop_remembers_the_unclean_one_before_it() {
    caught(Broken::CleanStopHidesOrphans, |plan| {
        gates_alone(plan);
        plan.crashes += 6;
        plan.clean_stops += 6;
        plan.clients = 3;
    });
}

#[test]
fn a_fence_is_on_disk() {
    caught(Broken::FenceLostAtRestart, |plan| {
        gates_alone(plan);
        plan.crashes += 3;
    });
}

#[test]
fn a_placement_is_read_after_the_registration() {
    caught(Broken::ReadBeforeRegistration, |plan| {
        gates_alone(plan);
        plan.joins += 2;
        plan.pauses += 1;
    });
}

#[test]
fn a_gate_waits_for_the_release() {
    caught(Broken::OpenWithoutRelease, |plan| {
        plan.fenced_data = true;
        plan.lagging_lists = false;
    });
}

#[test]
fn a_fact_quotes_its_move_and_epoch() {
    caught(Broken::FactsQuoteNothing, |plan| {
        plan.undos += 2;
        plan.late_percent += 5;
    });
}

#[test]
fn a_position_is_bound_to_its_list() {
    caught(Broken::PositionWithoutList, |plan| {
        old_lists(plan);
        plan.late_percent = 25;
        plan.late_ms = 200;
        plan.crashes = 0;
        plan.losses = 0;
        plan.undos = 0;
        plan.moves = 12;
    });
}

#[test]
fn the_commit_compares_the_list() {
    caught(Broken::CommitWithoutList, old_lists);
}

#[test]
fn an_undo_compares() {
    caught(Broken::BlindUndo, |plan| {
        plan.undos += 2;
        plan.pauses += 1;
    });
}

#[test]
fn a_drop_names_the_home() {
    caught(Broken::DropByTenant, |plan| plan.late_percent += 5);
}

#[test]
fn the_data_fence_looks_at_the_epoch() {
    caught(Broken::DataFenceWithoutEpoch, |plan| {
        plan.fenced_data = true;
        plan.late_percent += 5;
    });
}

#[test]
fn a_late_reach_is_known_by_its_epoch() {
    caught(Broken::ReachWithoutEpoch, |plan| {
        plan.late_percent += 5;
        plan.backs += 2;
    });
}

#[test]
fn a_router_refuses_a_lower_epoch() {
    assert_eq!(caught(Broken::RouterTakesAnyEpoch, |_| {}), "a_router_never_lowers_an_epoch");
}

#[test]
fn somebody_looks_at_the_clock() {
    assert_eq!(caught(Broken::NoDeadlines, |_| {}), "every_move_ends");
}

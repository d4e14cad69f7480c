//! Each rule switched off: the model has to notice, by the promise that the rule is for.

#![allow(clippy::print_stdout)]

use cellway_model::{Broken, Config, Counterexample, Rule, World, search};

const STATES_MAX: usize = 1_500_000;

const SERVE: &str = "no_two_cells_serve_one_tenant";
const LOST: &str = "no_acknowledged_write_is_lost";
const DROPPED: &str = "a_serving_copy_is_never_dropped";
const RELEASED: &str = "an_open_gate_has_its_data";
const REUSED: &str = "a_reused_name_meets_no_old_data";
const CAN_END: &str = "every_move_can_end";
const CAN_SERVE: &str = "the_tenant_can_be_served";

/// Without `rules` the world of `config` breaks `promise`; with them it keeps all. `--no-capture` shows how.
#[track_caller]
fn caught(rules: &[Rule], config: Config, promise: &'static str) {
    let world = World::new(config, Broken::rules(rules)).seeking(promise);
    let found = search(&world, STATES_MAX);
    let stuck = found.stuck.iter().map(|(_, counterexample)| counterexample);
    let broken: Vec<&Counterexample<_>> = found.broken.iter().chain(stuck).collect();
    for counterexample in &broken {
        println!("{rules:?} in {}: {} after {} states", config.cells, counterexample.promise, found.states);
        counterexample.trace.iter().for_each(|action| println!("    {}", world.describe(action)));
    }
    let promises: Vec<&str> = broken.iter().map(|counterexample| counterexample.promise).collect();
    assert!(promises.contains(&promise), "{rules:?}: {promises:?} after {} states", found.states);
}

/// Without `rules` all promises are kept in the bounds of `config`: something else covers for them.
#[track_caller]
fn covered(rules: &[Rule], config: Config) {
    let found = search(&World::new(config, Broken::rules(rules)), STATES_MAX);
    println!("{rules:?} in {}: safe, {} states", config.cells, found.states);
    assert!(found.is_proof(), "{rules:?}: {:?} {:?}", found.broken, found.stuck);
}

/// Without `rules`, `promise` is kept all the same.
#[track_caller]
fn kept(rules: &[Rule], config: Config, promise: &'static str) {
    let found = search(&World::new(config, Broken::rules(rules)).seeking(promise), STATES_MAX);
    println!("{rules:?} in {}: {promise}, {} states", config.cells, found.states);
    assert!(found.exhausted && found.broken.is_none(), "{rules:?}: {:?}", found.broken);
}

const CRASH: Config = Config { crashes: 1, ..Config::PLAIN };
const JOIN: Config = Config { cells: "Aa.B", ..Config::PLAIN };
const LAG: Config = Config { lag: true, ..JOIN };
const TWICE: Config = Config { moves: 2, ..Config::PLAIN };
const STALE: Config = Config { stale: true, ..Config::PLAIN };
const LEAVE: Config = Config { exits: 1, ..Config::PLAIN };

#[test]
fn a_fence_is_durable_before_it_is_acknowledged() {
    caught(&[Rule::FenceIsDurable], CRASH, SERVE);
}

#[test]
fn a_fence_is_acknowledged_only_when_drained() {
    caught(&[Rule::AckWhenDrained], Config::PLAIN, SERVE);
}

#[test]
fn a_gate_opens_only_above_its_highest_fence() {
    caught(&[Rule::OpenAboveFence], Config::PLAIN, SERVE);
}

#[test]
fn a_hold_and_a_position_bound_to_its_list_cover_for_each_other() {
    covered(&[Rule::OpenWithoutHold], JOIN);
    covered(&[Rule::PositionQuotesList], JOIN);
    caught(&[Rule::OpenWithoutHold, Rule::PositionQuotesList], JOIN, LOST);
}

#[test]
fn a_move_is_written_only_over_what_it_was_decided_on() {
    caught(&[Rule::CompareRecord, Rule::CompareLock, Rule::ComparePlacement], STALE, SERVE);
}

#[test]
fn the_compare_of_the_placement_is_covered_by_that_of_the_move() {
    covered(&[Rule::ComparePlacement], STALE);
    covered(&[Rule::CompareLock], STALE);
}

#[test]
fn the_compare_of_the_move_is_needed_where_an_undo_leaves_the_placement_alone() {
    caught(&[Rule::CompareRecord, Rule::CompareLock], STALE, DROPPED);
}

#[test]
fn the_compare_of_the_list_covers_for_a_list_that_is_older_than_the_hold() {
    covered(&[Rule::CompareList], JOIN);
    caught(&[Rule::CompareList], LAG, SERVE);
}

#[test]
fn the_compare_of_the_list_and_the_hold_cover_for_each_other() {
    caught(&[Rule::CompareList, Rule::OpenWithoutHold], JOIN, SERVE);
}

#[test]
fn a_gate_registers_and_only_then_reads() {
    caught(&[Rule::ReadAfterRegistration], JOIN, SERVE);
    caught(&[Rule::ReadAfterRegistration], Config { cells: "A.Bb", back: true, ..TWICE }, SERVE);
}

#[test]
fn an_undo_after_the_hold_raises_the_epoch() {
    caught(&[Rule::UndoRaisesEpoch], Config::PLAIN, CAN_SERVE);
}

#[test]
fn a_hold_and_its_move_are_one_write() {
    caught(&[Rule::HoldInOneWrite], Config::PLAIN, CAN_SERVE);
}

#[test]
fn f01_the_position_is_taken_after_all_gates_have_drained() {
    caught(&[Rule::PositionAfterDrain], Config::PLAIN, LOST);
}

#[test]
fn f02_a_position_counts_only_for_its_list() {
    caught(&[Rule::PositionQuotesList], LAG, LOST);
}

#[test]
fn f03_after_a_crash_the_app_is_waited_for() {
    caught(&[Rule::OrphansWaitedFor], CRASH, SERVE);
}

#[test]
fn f04_whoever_leaves_has_drained_first() {
    caught(&[Rule::LeaveDrained], Config { cells: "AA.B", ..LEAVE }, SERVE);
}

#[test]
fn f04_whoever_has_left_cannot_start_from_its_old_disk() {
    caught(&[Rule::LeaveErasesDisk], Config { cells: "AA.B", ..LEAVE }, SERVE);
}

#[test]
fn f04_an_id_is_never_used_again() {
    caught(&[Rule::IdsAreNew], Config { cells: "AA.B", ..LEAVE }, SERVE);
}

#[test]
fn f05_a_drop_names_the_home() {
    caught(&[Rule::DropNamesHome], TWICE, DROPPED);
}

#[test]
fn f06_a_fact_quotes_its_move_and_epoch() {
    caught(&[Rule::FactsQuoteMove], TWICE, SERVE);
}

#[test]
fn f07_an_end_waits_for_no_cell() {
    caught(&[Rule::EndsByDeadline], Config { losses: 1, ..Config::PLAIN }, CAN_END);
}

#[test]
fn f08_one_open_gate_is_enough() {
    caught(&[Rule::OneOpenGate], Config { cells: "A.BB", losses: 1, ..Config::PLAIN }, CAN_END);
}

#[test]
fn f08_a_move_whose_target_died_after_the_commit_can_be_taken_over() {
    let config = Config { losses: 1, back: true, ..TWICE };
    caught(&[Rule::MoveBackTakesOver], config, CAN_END);
}

#[test]
fn f09_a_move_back_takes_over_at_once() {
    caught(&[Rule::MoveBackTakesOver], Config { back: true, ..TWICE }, "a_move_can_be_taken_back_at_once");
}

#[test]
fn f10_an_undo_before_the_hold_leaves_the_placement_alone() {
    caught(&[Rule::EarlyUndoKeepsEpoch], Config::PLAIN, "an_early_undo_leaves_the_placement_alone");
}

#[test]
fn f11_time_takes_nobody_off_the_list() {
    caught(&[Rule::ListIgnoresTime], Config { cells: "AA.B", ..Config::PLAIN }, SERVE);
}

#[test]
fn f12_a_late_data_fence_is_known_by_its_epoch() {
    caught(&[Rule::DataFenceHasEpoch], Config { fences: true, ..Config::PLAIN }, RELEASED);
}

#[test]
fn f12_an_undo_gives_the_data_back_before_a_gate_opens() {
    caught(&[Rule::OpenNeedsRelease], Config { fences: true, ..Config::PLAIN }, RELEASED);
}

#[test]
fn f15_an_id_used_again_goes_on_with_its_epochs() {
    let config = Config { again: true, ..Config::PLAIN };
    covered(&[], config);
    caught(&[Rule::EpochsGoOn], config, CAN_SERVE);
}

#[test]
fn f16_a_false_death_is_stopped_by_a_data_fence_alone() {
    let config = Config { cells: "AA.B", ..Config::PLAIN };
    caught(&[Rule::DeathIsTrue], config, SERVE);
    covered(&[Rule::DeathIsTrue], Config { fences: true, ..config });
}

#[test]
fn f17_a_move_back_brings_every_write_since_the_commit() {
    caught(&[Rule::BackBringsAll], Config { back: true, ..TWICE }, LOST);
}

#[test]
fn f18_a_reused_name_meets_no_old_data() {
    let config = Config { cells: "A.Bb", losses: 1, reused: true, ..Config::PLAIN };
    covered(&[], config);
    kept(&[Rule::RetiredWhenUnused, Rule::UidsCompared], config, REUSED);
    kept(&[Rule::RetiredWhenUnused, Rule::OpenNeedsRelease], config, REUSED);
    caught(&[Rule::RetiredWhenUnused, Rule::UidsCompared, Rule::OpenNeedsRelease], config, REUSED);
}

#[test]
fn a_late_reach_is_known_by_its_epoch() {
    caught(&[Rule::ReachQuotesEpoch], Config { back: true, fences: true, ..TWICE }, LOST);
}

#[test]
fn a_reach_under_an_older_list_is_late() {
    caught(&[Rule::ReachKnowsNewest], LAG, LOST);
}

/// The move was taken back, twice, before its target opened: no release says that the first `reach` is late.
#[test]
fn a_late_reach_into_a_home_that_never_served_finds_no_offer() {
    let config = Config { moves: 3, back: true, ..Config::PLAIN };
    covered(&[], config);
    caught(&[Rule::OffersEnd], config, LOST);
}

/// What an agent knows of lists is in memory alone: only a list that is never older than the hold covers for that.
#[test]
fn a_target_that_restarts_needs_lists_that_were_read_after_the_hold() {
    caught(&[], Config { crashes: 1, failing: "b", ..LAG }, LOST);
    covered(&[], Config { crashes: 1, failing: "b", ..JOIN });
}

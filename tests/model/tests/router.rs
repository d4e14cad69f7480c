//! The router's model: it keeps every promise, and notices each rule that is switched off.

#![allow(clippy::print_stdout)]

use cellway_model::{RouterRule, RouterWorld, search};

const STATES_MAX: usize = 1_000_000;

const PLAIN: RouterWorld = RouterWorld { cells: 2, moves: 1, feed_dies: true, liar: None, broken: None, sought: None };

#[track_caller]
fn proof(world: RouterWorld) {
    let found = search(&world, STATES_MAX);
    println!("{world:?}: {} states, {:?}", found.states, found.took);
    assert!(found.is_proof(), "{:#?} {:#?}", found.broken, found.stuck);
}

#[track_caller]
fn caught(rule: RouterRule, world: RouterWorld, promise: &'static str) {
    let found = search(&RouterWorld { broken: Some(rule), sought: Some(promise), ..world }, STATES_MAX);
    let stuck = found.stuck.iter().map(|(_, counterexample)| counterexample);
    let broken: Vec<_> = found.broken.iter().chain(stuck).collect();
    for counterexample in &broken {
        println!(
            "{rule:?}: {} after {} states\n    {}",
            counterexample.promise,
            found.states,
            counterexample.trace.join("\n    ")
        );
    }
    assert!(broken.iter().any(|counterexample| counterexample.promise == promise), "{rule:?}: {broken:?}");
}

#[test]
fn a_request_gets_in_with_and_without_a_feed() {
    proof(PLAIN);
    proof(RouterWorld { cells: 3, ..PLAIN });
}

#[test]
fn a_cell_cannot_take_a_tenant_by_its_word() {
    for liar in 0..2 {
        proof(RouterWorld { liar: Some(liar), ..PLAIN });
    }
    proof(RouterWorld { cells: 3, liar: Some(2), ..PLAIN });
}

#[test]
fn a_router_never_lowers_an_epoch() {
    caught(RouterRule::FeedNeverLowers, PLAIN, "a_router_never_lowers_an_epoch");
}

#[test]
fn a_gate_that_knows_less_sends_no_router_back() {
    caught(RouterRule::HintsOnlyRaise, PLAIN, "a_router_never_lowers_an_epoch");
}

#[test]
fn f13_who_says_elsewhere_for_behind_is_not_believed() {
    proof(RouterWorld { broken: Some(RouterRule::SaysBehind), ..PLAIN });
}

#[test]
fn f13_a_held_request_needs_no_feed() {
    caught(RouterRule::HeldGoesAgain, PLAIN, "a_request_can_get_in");
    caught(RouterRule::HeldGoesAgain, PLAIN, "a_request_is_not_sent_round_for_ever");
}

#[test]
fn f14_a_hint_stays_a_hint() {
    let world = RouterWorld { liar: Some(0), feed_dies: false, ..PLAIN };
    caught(RouterRule::HintIsNoChange, world, "a_cell_cannot_take_a_tenant_by_its_word");
}

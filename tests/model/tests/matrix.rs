//! Every reachable state of the quick configurations keeps every promise.

#![allow(clippy::print_stdout)]

use cellway_model::{Broken, QUICK, STATES_MAX, World, search};

fn all_promises_are_kept(share: usize) {
    for config in QUICK.iter().skip(share).step_by(2) {
        let world = World::new(*config, Broken::NONE);
        let found = search(&world, STATES_MAX);
        println!("{config:<34} {:>8} states, depth {:>3}, {:?}", found.states, found.depth, found.took);
        let stuck = found.stuck.iter().map(|(_, counterexample)| counterexample);
        for counterexample in found.broken.iter().chain(stuck) {
            println!("{}", counterexample.promise);
            counterexample.trace.iter().for_each(|action| println!("    {}", world.describe(action)));
        }
        assert!(found.is_proof(), "{config}");
    }
}

#[test]
fn all_promises_are_kept_in_every_state_of_one_half() {
    all_promises_are_kept(0);
}

#[test]
fn all_promises_are_kept_in_every_state_of_the_other_half() {
    all_promises_are_kept(1);
}

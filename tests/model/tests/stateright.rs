//! The same world under `stateright`: it sees as many states, finds no broken promise, and comes to everything that a
//! move can come to.

use cellway_model::{Action, Broken, Config, Model, State, World, search};
use stateright::{Checker, Model as _, Property};

struct Same(World);

impl stateright::Model for Same {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.0.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut successors = Vec::new();
        self.0.successors(state, &mut successors);
        actions.extend(successors.into_iter().map(|(action, _)| action));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut successors = Vec::new();
        self.0.successors(state, &mut successors);
        successors.into_iter().find(|(known, _)| *known == action).map(|(_, after)| after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("promises", |same, state| same.0.broken(state).is_none()),
            Property::sometimes("planned", |same, state| same.0.is_at(state, "planned")),
            Property::sometimes("preparing", |same, state| same.0.is_at(state, "preparing")),
            Property::sometimes("copying", |same, state| same.0.is_at(state, "copying")),
            Property::sometimes("syncing", |same, state| same.0.is_at(state, "syncing")),
            Property::sometimes("closing", |same, state| same.0.is_at(state, "closing")),
            Property::sometimes("holding", |same, state| same.0.is_at(state, "holding")),
            Property::sometimes("switched", |same, state| same.0.is_at(state, "switched")),
            Property::sometimes("settling", |same, state| same.0.is_at(state, "settling")),
            Property::sometimes("cleaning", |same, state| same.0.is_at(state, "cleaning")),
            Property::sometimes("undoing", |same, state| same.0.is_at(state, "undoing")),
            Property::sometimes("the write is acknowledged", |same, state| same.0.is_written(state)),
            Property::sometimes("the target serves", |same, state| same.0.is_served_by(state, 1)),
        ]
    }
}

#[test]
fn another_checker_sees_the_same_states() {
    for config in [
        Config { streams: true, crashes: 1, ..Config::PLAIN },
        Config { streams: true, fences: true, back: true, retries: true, moves: 2, ..Config::PLAIN },
    ] {
        let ours = search(&World::new(config, Broken::NONE), 1_000_000);
        let theirs = Same(World::new(config, Broken::NONE)).checker().spawn_bfs().join();
        theirs.assert_properties();
        assert_eq!((theirs.unique_state_count(), theirs.max_depth()), (ours.states, ours.depth + 1), "{config}");
        assert!(ours.is_proof());
    }
}

//! A seeded simulation of the tenant move: the real decisions of `cellway-core`, in a shell that is as bad as allowed.
//!
//! One tenant in two or three cells, with one or two gate instances each, routers, clients that write, and two
//! replicas of the control plane with views that may be old. Between them a network that loses, doubles, delays and
//! reorders. `next`, `orders_for`, `placement_of`, `deadline`, `TenantGate` and `may_follow` are the real ones; the
//! store's compares are those of `control-plane/src/advance.rs` and `operate/moves.rs`; the data of a home is a list
//! of write ids kept by the rules of the driver `sqlite`. A seed draws everything, faults included, and decides it: the
//! same seed gives the same log.
//!
//! `cargo nextest run -p cellway-simulation` runs a fixed set of seeds; `SEEDS=5000 cargo nextest run …` runs that
//! many per promise. A run that breaks a promise is run again with its log on, and fails with its seed and the last
//! events; [`replay`] shows all of them.
//!
//! Stronger than the product on purpose: orders arrive one by one and may be of any age, lists of gates may be older
//! than all else that a replica sees, and half of the seeds have data fences that stop no write, so that the gates
//! alone must keep the promises. Weaker: cells keep a tenant's data although an instance's machine is lost.
//!
//! Three rules are kept here that the design does not spell out, each found by a run that broke a promise without
//! it: [`Broken::ReachWithoutEpoch`], [`Broken::ReachUnderOlderList`] and [`Broken::CleanStopHidesOrphans`].

mod agent;
mod broken;
mod checks;
mod control_plane;
mod data;
mod faults;
mod message;
mod orders;
mod plan;
mod random;
mod requests;
mod router;
mod store;
mod world;

pub use broken::Broken;
pub use checks::{Stats, Violation};
pub use plan::Plan;

use world::{LOG_LINES, World};

/// One run.
pub fn run(seed: u64, plan: &Plan, broken: Option<Broken>) -> Result<Stats, Violation> {
    World::new(seed, plan.clone(), broken, None).run().0
}

/// One run with its whole log.
pub fn replay(seed: u64, plan: &Plan, broken: Option<Broken>) -> (Result<Stats, Violation>, Vec<String>) {
    World::new(seed, plan.clone(), broken, Some(usize::MAX)).run()
}

/// The last events of a run, with its seed and plan, for people.
pub fn report(seed: u64, plan: &Plan, broken: Option<Broken>) -> String {
    let (outcome, log) = World::new(seed, plan.clone(), broken, Some(LOG_LINES)).run();
    format!("seed {seed}, {broken:?}: {outcome:?}\n{plan:?}\nthe last {} events:\n{}", log.len(), log.join("\n"))
}

#[allow(clippy::expect_used, reason = "all names are made in this crate")]
fn named<T: std::str::FromStr<Err = cellway_core::ids::InvalidId>>(text: &str) -> T {
    text.parse().expect("a legal name")
}

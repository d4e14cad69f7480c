//! Explicit-state model checking of the tenant move: every reachable state of small worlds is looked at.
//!
//! The decisions are the real ones of `cellway-core`: `next`, `orders_for`, `placement_of`, `deadline`, `check_step`,
//! `MoveRecord::{retry, back}`, `TenantGate`, `may_follow`. The shells around them are written after
//! `control-plane/src/{advance,operate/moves}.rs`, `cell-agent/src` and `router/src/{table,forward}.rs`.
//!
//! **A state** ([`State`]) is what the store holds, what every instance has on disk and in memory, what the app still
//! runs, the copies of the data, and everything that was ever said. Facts and orders stay deliverable for as long as
//! they can change anything: so each may be lost, doubled, late and out of order. A gate reads any placement at or after
//! its registration, and admits a request at any time: the worst of routers. The second replica (`stale`) acts on a view
//! of any age and compares what it saw; with `lag` lists of gates are older than all else that a replica sees.
//!
//! **Time** does not pass: records are kept at time 0, and a deadline fires at any moment.
//!
//! **Data**: of all writes one is followed, whichever it is. Without `fences` a data fence stops nobody, and the gates
//! alone keep every promise.
//!
//! **Bounds** are those of a [`Config`], printed as `Aa.B m2 kc1 …`: the gates of each cell (capitals are up at first,
//! small letters may join), moves with attempts and moves back (m), crashes (kc), lost machines (kd), clean leaves (kx).
//! One admitted request a gate, and one left over from a crash. A move gets one attempt more at the most (`retry`).
//!
//! **Steps that are one here**: reports that only let a move go on (ready, copied, followed, watched, opened, dropped)
//! are stated and heard at once, for a late one is refused; a gate that reads a placement releases the data and opens;
//! reading what neither opens nor closes is no step. All ends of a move are one: nobody asks an ended move how it ended.
//!
//! **Not modelled**: the transfer itself, hosts, budgets, brakes, cordons, streams one by one, `Failed` (it does what an
//! undo does), a stop in good order (it does what a crash without a request does), more than one tenant.
//!
//! **Promises**: no state breaks one (`properties.rs`), and from every state it can still come to pass that the move ends
//! and that the tenant is served. The second kind needs the steps backwards, which `stateright` does not keep: so
//! [`search`] is our own, and a test lets `stateright` count the same states.
//!
//! Routers have a model of their own ([`RouterWorld`]). `make model` searches [`QUICK`] and [`LONG`]; the tests search
//! [`QUICK`], and switch off each [`Rule`] to see that it is missed.

mod agents;
mod data;
mod decisions;
mod describe;
mod hashing;
mod instances;
mod intern;
mod matrix;
mod mutation;
mod properties;
mod replicas;
mod router;
mod search;
mod state;
mod tricks;
mod world;

pub use matrix::{LONG, QUICK, STATES_MAX};
pub use mutation::{Broken, Rule};
pub use router::{RouterRule, RouterState, RouterWorld};
pub use search::{Counterexample, Found, Model, search};
pub use state::State;
pub use world::{Action, Config, World};

//! The decisions of cellway, free of I/O: who serves a tenant, when a move may go on, what a gate admits.
//!
//! Nothing in this crate is async, reads a clock, touches a network or a disk, or draws a random number.
//! Time comes in as `now_ms` (milliseconds since the Unix epoch, or since any fixed point in a simulation),
//! and collections are ordered, so that the same inputs always give the same decision.

pub mod admission;
pub mod cell;
pub mod certificate;
pub mod fleet;
pub mod freeze_window;
pub mod hostname;
pub mod ids;
pub mod limit;
pub mod load;
pub mod network;
pub mod placement;
pub mod route;
pub mod tenant;
pub mod tenant_move;
pub mod verdict;

//! Promises, kept by real processes: one file a theme, one test a promise.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent_kills;
mod certificates;
mod control_plane_kills;
mod dev;
mod https;
mod limits;
mod long_requests;
mod many_moves;
mod moving;
mod origins;
mod router_operation;
mod soak;
mod static_stability;
mod streams;

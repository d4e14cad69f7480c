//! Real replicas of the control plane against agents that say what a test wants.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod certificates;
mod facts;
mod fleet;
mod known_failures;
mod leaders;
mod limits;
mod long_requests;
mod moves;
mod places;
mod plans;
mod versions;
mod windows;

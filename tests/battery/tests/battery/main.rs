//! The battery: each family is a test, and prints its counts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chunks;
mod framing;
mod heads;
mod hosts;
mod targets;

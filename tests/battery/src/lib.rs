//! A battery of hostile and borderline bytes for the router: raw clients in front, recording cells behind, and a
//! reader that knows only one meaning of what a cell received.
//!
//! Read `world.rs` first: a router between two tenants whose cells record every byte. `case.rs` says what a case is
//! and when it has passed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

pub mod backend;
pub mod case;
pub mod client;
pub mod frames;
pub mod peer;
pub mod wire;
pub mod world;

pub use backend::{Backend, Ended, Step};
pub use case::{Expect, Family, Seen};
pub use client::{Answer, Client, End, Transcript};
pub use world::{Received, World};

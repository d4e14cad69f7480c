//! The driver between two real servers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod encrypted;
mod fences;
mod interrupted;
mod measured;
mod obstacles;
mod server;
mod stage;
mod whole;

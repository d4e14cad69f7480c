//! What the agent promises as a whole, against a control plane and an app that the tests play.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod app;
mod calls;
mod commands;
mod control_plane;
mod cuts;
mod fences;
mod moves;
mod orders;
mod postgres;
#[path = "../../src/driver/postgres/tests/server.rs"]
mod postgres_server;
mod requests;
mod restarts;
mod stage;
mod streams;
mod surveys;

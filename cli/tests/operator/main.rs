//! The binary's commands and its `soak`, against a small stand-in for a running system.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod commands;
mod real_parts;
mod soak;
mod stand_in_api;
mod stand_in_app;
mod system;

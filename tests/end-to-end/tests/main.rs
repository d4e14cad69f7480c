//! Promises, kept by real processes: one file a theme, one test a promise.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent_kills;
mod agent_unreachable;
mod all_killed;
mod certificates;
mod change_storm;
mod command_fleet;
mod control_plane_kills;
mod crash_points;
mod dev;
mod full_disk;
mod gate_unreachable;
mod hot_upgrade;
mod https;
mod limits;
mod long_requests;
mod many_moves;
mod moving;
mod origins;
mod postgres_fleet;
#[path = "../../../cell-agent/src/driver/postgres/tests/server.rs"]
mod postgres_server;
mod rolling_restart;
mod router_operation;
mod scale;
mod soak;
mod spoilt_bytes;
mod static_stability;
mod stopped_and_continued;
mod store_contents;
mod store_gone;
mod store_members;
mod store_unreachable;
mod streams;
mod unreadable_records;
mod vanished_host;
mod whole_moves;
mod wrong_clocks;

//! A router under stress: hostile crowds, floods and cells, while honest tenants go on.
//!
//! Read `ground.rs` first: a router in a process of its own, and what is measured. Each scenario is a file.

pub mod asker;
pub mod cells;
pub mod crowd;
pub mod ground;
pub mod honest;
pub mod memory;
pub mod report;
pub mod scenarios;

pub use ground::Scale;
pub use report::{HEAD, Row, line};

//! The agent of a cell: the gate in front of the app, the mover of tenants' data, the reporter of load.
//!
//! `Agent::bind` takes the ports and the disk, `Agent::run` starts everything: the gate's threads (`gate`), the feed
//! of placements and orders (`feed`), the orders' tasks (`orders`) that use the mover driver (`driver`), facts and
//! load on their way up (`facts`, `load`), and what other agents fetch (`transfer`).

mod admin;
mod agent;
mod config;
mod control_plane;
mod disk;
mod driver;
mod facts;
mod feed;
mod gate;
mod health;
mod leave;
mod listener;
mod load;
mod metrics;
mod orders;
mod survey;
mod transfer;
mod words;

pub use agent::{Agent, run};
pub use config::{
    AgentConfig, COMMAND_STALL_MS, COMMAND_STEP_MS, CommandConfig, ConfigError, DriverConfig, Faults,
    POSTGRES_COPY_JOBS, POSTGRES_DEAD_AFTER_MS, POSTGRES_SLOT_WAIT_MS, POSTGRES_TENANT, PostgresConfig, PostgresServer,
    PostgresVerify,
};
pub use leave::leave;

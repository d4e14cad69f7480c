//! Starting things: each role from its configuration file, and `cellway dev`, which runs all of them in one process.

pub(crate) mod config;
pub(crate) mod dev;
pub(crate) mod logging;
pub(crate) mod roles;
pub(crate) mod router;
mod signals;

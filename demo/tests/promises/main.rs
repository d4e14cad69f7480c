//! What the demo app promises, checked over real connections.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod entries;
mod limits;
mod pages;
mod stage;
mod streams;
mod tenant_files;

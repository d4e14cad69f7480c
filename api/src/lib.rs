//! The shapes on the wire, version 1: what the API takes and answers, and what agents and the control plane say to
//! each other. JSON throughout; conversions from and to the types of the decisions are here and nowhere else.

pub mod agent;
#[cfg(feature = "tls")]
pub mod certificate;
pub mod certificates;
#[cfg(feature = "client")]
mod client;
pub mod fleet;
#[cfg(feature = "client")]
pub mod http;
#[cfg(feature = "tls")]
pub mod identity;
pub mod limits;
mod orders;
pub mod plan;
pub mod problem;
#[cfg(feature = "tls")]
pub mod sealing;
mod tenants;

#[cfg(feature = "client")]
pub use client::{ApiError, Client, LineStream};

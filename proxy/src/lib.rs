//! HTTP/1.1 forwarding shared by the router and the gate: accept loops, connection pools, bodies that can be sent
//! again or held back, header hygiene, tunnels.
//!
//! Everything that touches a connection lives on one current-thread runtime inside a `LocalSet`: futures need not be
//! `Send`, and nothing is shared between threads but the listeners' port.

pub mod body;
pub mod held;
pub mod hygiene;
pub mod pool;
pub mod proxy_protocol;
pub mod serve;
pub mod upgrade;

mod addresses;
mod head_tap;
mod socket;

pub use body::{BodyError, OnBreak, RequestBody, ResponseBody};
pub use held::{HeldBody, HeldHandle};
pub use pool::{OnDrop, Pool, PoolLimits, PooledBody, SendError};
pub use serve::{Handler, Listeners, Peer, ServeOptions, ThreadContext, bind, serve};

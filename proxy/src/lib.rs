//! HTTP forwarding shared by the router and the gate: accept loops, connection pools, bodies that can be sent
//! again or held back, header hygiene, tunnels.
//!
//! Everything that touches a connection lives on one runtime of one thread, where tasks stay: futures need not be
//! `Send`, and nothing is shared between threads but the listeners' port.

pub mod body;
pub mod files;
pub mod forwarded;
pub mod held;
pub mod hygiene;
pub mod pool;
pub mod proxy_protocol;
pub mod serve;
pub mod tls;
pub mod upgrade;

mod addresses;
mod alarm;
mod boxed;
pub mod clock;
mod connection;
mod field_lines;
mod hashes;
mod http1;
pub mod http2;
mod incoming;
mod io;
mod listeners;
mod nursery;
mod socket;
mod timers;

pub use body::{BodyError, OnBreak, Pace, RequestBody, ResponseBody};
pub use boxed::boxed;
pub use field_lines::{FieldLines, FieldText};
pub use forwarded::{Client, Forwarding, TrustedField};
pub use hashes::Hashes;
pub use held::{HeldBody, HeldHandle};
pub use http2::{Hold, Room, RoomShare};
pub use incoming::IncomingBody;
pub use listeners::{Copies, Listeners, bind};
pub use pool::{Destination, Head, OnDrop, Pool, PoolLimits, PooledBody, SendError};
pub use serve::{Handler, Peer, Protocol, ServeOptions, ThreadContext, serve};
pub use timers::{Timer, Timers};
pub use tls::{Covers, Handshakes, Outcome, PeerTls, ServerTls};
pub use upgrade::ClientHalf;

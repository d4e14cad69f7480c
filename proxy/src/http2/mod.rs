//! HTTP/2, spoken with the `h2` crate itself: what a proxy needs of it (windows, resets, interim answers, memory per
//! connection) is out of reach behind a general server.

mod batch;
mod exchanges;
mod frames;
mod hold;
mod received;
mod room;
mod send;
mod serve;
mod trailers;
mod translate;
mod tunnel;

pub(crate) use frames::{FramePart, FrameReader, SMALL_DATA_BUDGET_BYTES};
pub(crate) use hold::HoldSlot;
pub use hold::{HELD_UNREAD_MAX_BYTES, Hold};
pub(crate) use received::{Received, Sender};
pub use room::{HEADS_MAX_BYTES, KEPT_MAX_BYTES, QUEUED_MAX_BYTES, REPLAY_MAX_BYTES, Room, RoomShare};
pub(crate) use send::{Bounds, send_body};
pub(crate) use serve::serve;
pub(crate) use tunnel::Tunnel;

/// Requests at a time on one connection.
pub const STREAMS_MAX: u32 = 100;
/// What a client may send on a stream before it is read.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// What a client may send on a connection before it is read.
pub const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;

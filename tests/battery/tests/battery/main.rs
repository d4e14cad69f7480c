//! The battery: each family is a test, and prints its counts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod chunks;
mod exchanges;
mod fields;
mod framing;
mod heads;
mod hosts;
mod http2_case;
mod http2_floods;
mod http2_frames;
mod http2_heads;
mod targets;
mod tunnels;

//! The router over real sockets, with gates that do as they are told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bodies;
mod cells;
mod clients;
mod feeds;
mod grpc;
mod guards;
mod http2;
mod limits;
mod moves;
mod operation;
mod semantics;
mod stalls;
mod strict;
mod support;
mod tunnels;

//! Where a peer is, and how it is spoken to.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::serve::Protocol;

/// The key of a pool: connections to one destination never serve another, even at the same address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The address.
    pub address: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// The name that the peer's certificate must have; in clear without one.
    pub server_name: Option<Arc<ServerName<'static>>>,
}

impl Destination {
    /// The same, spoken to in `protocol`.
    #[must_use]
    pub fn over(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }
}

impl From<SocketAddr> for Destination {
    /// HTTP/1.1 in clear.
    fn from(address: SocketAddr) -> Self {
        Self { address, protocol: Protocol::Http1, server_name: None }
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)
    }
}

//! Opens connections to peers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cellway_machine::TcpStream;
use socket2::SockRef;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Destination;
use crate::io::Io;
use crate::socket::{Keepalive, Socket, SocketHandle, limit_unsent};

/// How an endpoint is asked of which nothing is heard: streams have no other limit.
const KEEPALIVE: Keepalive = Keepalive { after_ms: 6_000, every_ms: 2_000, times: 3 };

/// Connects, and shakes hands where the destination has a name; all of it within `limit`.
pub(super) async fn dial(
    destination: &Destination,
    tls: Option<&Arc<rustls::ClientConfig>>,
    limit: Duration,
) -> io::Result<(Io, SocketHandle)> {
    let connecting = async {
        let tcp = TcpStream::connect(destination.address).await?;
        if let Some(tcp) = tcp.kernel().map(SockRef::from) {
            tcp.set_tcp_nodelay(true)?;
            KEEPALIVE.set(&tcp)?;
            limit_unsent(&tcp);
        }
        let (socket, handle) = Socket::new(tcp);
        let Some(name) = &destination.server_name else { return Ok((Io::Clear(socket), handle)) };
        let config =
            tls.ok_or_else(|| io::Error::other("the peer is reached over TLS, but this pool has no identity"))?;
        let stream = TlsConnector::from(Arc::clone(config))
            .with_alpn(vec![destination.protocol.alpn().to_vec()])
            .connect((**name).clone(), socket)
            .await?;
        Ok((Io::Connected(Box::new(stream)), handle))
    };
    timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

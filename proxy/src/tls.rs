//! What an accept loop needs to know of TLS; who makes the certificates and identities is the roles' business.

use std::sync::Arc;

use cellway_core::hostname::Hostname;
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;

use crate::socket::Socket;

/// How a listener speaks TLS.
#[derive(Clone)]
pub struct ServerTls {
    /// Certificates, versions, ALPN, tickets, and what is asked of clients.
    pub config: Arc<rustls::ServerConfig>,
    /// What the certificates cover.
    pub covers: Arc<dyn Covers>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

/// Says for which hosts a certificate stands.
pub trait Covers: Send + Sync {
    /// Whether the certificate that is served for the name `server_name` of a handshake covers `host`.
    fn covers(&self, server_name: Option<&str>, host: &Hostname) -> bool;
}

/// What a handshake told about a client.
pub struct PeerTls {
    /// The name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// The client's own certificate, which was verified.
    pub certificate: Option<CertificateDer<'static>>,
    /// The version that was agreed on.
    pub version: Option<ProtocolVersion>,
    covers: Arc<dyn Covers>,
}

impl PeerTls {
    pub(crate) fn of(stream: &TlsStream<Socket>, covers: Arc<dyn Covers>) -> Self {
        let (_, connection) = stream.get_ref();
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        Self {
            server_name: connection.server_name().map(Into::into),
            certificate: certificate.map(|certificate| certificate.clone().into_owned()),
            version: connection.protocol_version(),
            covers,
        }
    }

    /// Whether the certificate that this client was shown covers `host`.
    pub fn covers(&self, host: &Hostname) -> bool {
        self.covers.covers(self.server_name.as_deref(), host)
    }
}

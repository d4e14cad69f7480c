//! What an accept loop needs to know of TLS; who makes the certificates and identities is the roles' business.

use std::io;
use std::sync::Arc;

use cellway_core::hostname::Hostname;
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio_rustls::server::TlsStream;

use crate::socket::Socket;

/// How a listener speaks TLS.
#[derive(Clone)]
pub struct ServerTls {
    /// What handshakes are done with.
    pub handshakes: Arc<dyn Handshakes>,
    /// What the certificates cover.
    pub covers: Arc<dyn Covers>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

/// What handshakes are done with, and who is told how they ended.
pub trait Handshakes: Send + Sync {
    /// For the next one: certificates, versions, ALPN, tickets, and what is asked of clients.
    fn config(&self) -> Arc<rustls::ServerConfig>;

    /// One has ended.
    fn ended(&self, outcome: Outcome) {
        let _ = outcome;
    }
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well, from the beginning.
    Full,
    /// Well, as one that goes on.
    Resumed,
    /// There is no certificate for the name that was asked for.
    NoCertificate,
    /// The client showed no certificate, or one that is not taken.
    ClientCertificate,
    /// Both sides speak TLS, but nothing that both know.
    Incompatible,
    /// The client did not like what it was shown: it does not trust the certificate, or it has ended.
    RefusedByClient,
    /// What came is no TLS, or broken.
    Malformed,
    /// The client went away.
    BrokenOff,
    /// The client took too long, or the listener stopped.
    TimedOut,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Full,
        Self::Resumed,
        Self::NoCertificate,
        Self::ClientCertificate,
        Self::Incompatible,
        Self::RefusedByClient,
        Self::Malformed,
        Self::BrokenOff,
        Self::TimedOut,
    ];

    /// What it is called in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::NoCertificate => "no_certificate",
            Self::ClientCertificate => "client_certificate",
            Self::Incompatible => "incompatible",
            Self::RefusedByClient => "refused_by_client",
            Self::Malformed => "malformed",
            Self::BrokenOff => "broken_off",
            Self::TimedOut => "timed_out",
        }
    }

    fn of(stream: &TlsStream<Socket>) -> Self {
        match stream.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Resumed) => Self::Resumed,
            _ => Self::Full,
        }
    }

    fn of_error(error: &io::Error) -> Self {
        use rustls::Error;
        match error.get_ref().and_then(|source| source.downcast_ref::<Error>()) {
            // There is no other for a resolver that finds nothing.
            Some(Error::General(_)) => Self::NoCertificate,
            Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => Self::ClientCertificate,
            Some(Error::PeerIncompatible(_)) => Self::Incompatible,
            Some(Error::AlertReceived(_)) => Self::RefusedByClient,
            Some(_) => Self::Malformed,
            None => Self::BrokenOff,
        }
    }
}

/// A handshake under way: dropped without an outcome, it took too long.
pub(crate) struct UnderWay<'a>(Option<&'a dyn Handshakes>);

impl<'a> UnderWay<'a> {
    pub(crate) fn new(handshakes: &'a dyn Handshakes) -> Self {
        Self(Some(handshakes))
    }

    pub(crate) fn ended(mut self, result: &io::Result<TlsStream<Socket>>) {
        if let Some(handshakes) = self.0.take() {
            handshakes.ended(result.as_ref().map_or_else(Outcome::of_error, Outcome::of));
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(handshakes) = self.0.take() {
            handshakes.ended(Outcome::TimedOut);
        }
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

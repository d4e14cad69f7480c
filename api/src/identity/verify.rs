//! Who may be at the other end: the CA's word for the certificate, then the identity in it.

use super::Identity;
use super::files::Ca;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use std::fmt;
use std::sync::Arc;

/// Who may connect to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Routers: a gate.
    Routers,
    /// Cells and the control plane: a transfer endpoint, which decides per request.
    CellsAndControlPlane,
    /// Every identity, and those without one: the API, which decides per request.
    Anyone,
}

/// Who a server may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Servers {
    /// The identity whose name was asked for.
    Named,
    /// The control plane, by whatever name or address it was reached.
    ControlPlane,
    /// Any cell.
    Cells,
}

/// The other end is somebody, but not the one that was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the other end is {is}, but {wanted} is needed here")]
pub struct WrongIdentity {
    /// Who it is.
    pub is: Identity,
    /// Who it should be.
    pub wanted: String,
}

/// Where the CA of the moment is.
pub(super) trait CurrentCa: fmt::Debug + Send + Sync {
    fn with<T>(&self, use_it: impl FnOnce(&Ca) -> T) -> T;
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn identity(certificate: &CertificateDer<'_>) -> Result<Identity, Error> {
    Identity::of_certificate(certificate).map_err(other)
}

#[derive(Debug)]
pub(super) struct ClientVerifier<C> {
    pub(super) ca: C,
    pub(super) callers: Callers,
}

impl<C: CurrentCa> ClientCertVerifier for ClientVerifier<C> {
    fn client_auth_mandatory(&self) -> bool {
        self.callers != Callers::Anyone
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The CA may change while a hint is lent; our processes have one certificate each, and need none.
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.ca.with(|ca| ca.clients.verify_client_cert(end, between, now))?;
        let is = identity(end)?;
        let wanted = match (self.callers, &is) {
            (Callers::Anyone, _)
            | (Callers::Routers, Identity::Router)
            | (Callers::CellsAndControlPlane, Identity::Cell(_) | Identity::ControlPlane) => return Ok(verified),
            (Callers::Routers, _) => "a router",
            (Callers::CellsAndControlPlane, _) => "a cell or the control plane",
        };
        Err(other(WrongIdentity { is, wanted: wanted.to_owned() }))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ca.with(|ca| ca.clients.verify_tls12_signature(message, certificate, signed))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ca.with(|ca| ca.clients.verify_tls13_signature(message, certificate, signed))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.ca.with(|ca| ca.clients.supported_verify_schemes())
    }
}

#[derive(Debug)]
pub(super) struct ServerVerifier<C> {
    pub(super) ca: C,
    pub(super) servers: Servers,
}

impl<C: CurrentCa> ServerVerifier<C> {
    fn check(&self, is: &Identity, asked: &ServerName<'_>) -> Result<(), WrongIdentity> {
        let (right, wanted) = match (self.servers, asked) {
            (Servers::Named, ServerName::DnsName(name)) => {
                let wanted = name.as_ref().to_ascii_lowercase();
                (is.name() == wanted, wanted)
            }
            (Servers::Named, _) => (false, "an identity".to_owned()),
            (Servers::ControlPlane, _) => (*is == Identity::ControlPlane, Identity::ControlPlane.name()),
            (Servers::Cells, _) => (matches!(is, Identity::Cell(_)), "a cell".to_owned()),
        };
        if right { Ok(()) } else { Err(WrongIdentity { is: is.clone(), wanted }) }
    }
}

impl<C: CurrentCa> ServerCertVerifier for ServerVerifier<C> {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is = identity(end)?;
        let verified = self.ca.with(|ca| ca.servers.verify_server_cert(end, between, &is.server_name(), ocsp, now))?;
        self.check(&is, asked).map_err(other)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ca.with(|ca| ca.servers.verify_tls12_signature(message, certificate, signed))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ca.with(|ca| ca.servers.verify_tls13_signature(message, certificate, signed))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.ca.with(|ca| ca.servers.supported_verify_schemes())
    }
}

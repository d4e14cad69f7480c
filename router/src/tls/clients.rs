//! The CA of browsers' own certificates.

use super::{ClientCertificates, TlsError};
use cellway_api::certificate::{self, Mark};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::path::Path;
use std::sync::Arc;

/// What clients' certificates are checked by, as it was read.
#[derive(Debug, Clone)]
pub(super) struct ClientCa {
    wanted: ClientCertificates,
    mark: Option<Mark>,
    text: Vec<u8>,
}

impl ClientCa {
    /// Reads the CA's file, where there is one.
    pub(super) fn read(wanted: &ClientCertificates) -> Result<Self, TlsError> {
        let path = path(wanted);
        // The mark first: a change in between is then seen as one.
        let mark = path.and_then(Mark::of);
        let text = path.map(certificate::read).transpose()?.unwrap_or_default();
        Ok(Self { wanted: wanted.clone(), mark, text })
    }

    /// The CA that is in its file now, if that is another one.
    pub(super) fn renewed(&self) -> Result<Option<Self>, TlsError> {
        let Some(path) = path(&self.wanted) else { return Ok(None) };
        if Mark::of(path) == self.mark && self.mark.is_some_and(|mark| mark.is_settled()) {
            return Ok(None);
        }
        let read = Self::read(&self.wanted)?;
        Ok(Some(read).filter(|read| read.text != self.text))
    }

    /// What tells it from another CA: sessions are bound to it.
    pub(super) fn context(&self) -> &[u8] {
        &self.text
    }

    /// What checks certificates; `None` where none are asked for.
    pub(super) fn verifier(&self) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let (path, is_optional) = match &self.wanted {
            ClientCertificates::Off => return Ok(None),
            ClientCertificates::Optional { ca } => (ca, true),
            ClientCertificates::Required { ca } => (ca, false),
        };
        let roots = Arc::new(roots(path, &self.text)?);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, certificate::provider());
        let builder = if is_optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map(Some).map_err(|error| no_ca(path, &error))
    }
}

fn path(wanted: &ClientCertificates) -> Option<&Path> {
    match wanted {
        ClientCertificates::Off => None,
        ClientCertificates::Optional { ca } | ClientCertificates::Required { ca } => Some(ca),
    }
}

fn roots(path: &Path, text: &[u8]) -> Result<RootCertStore, TlsError> {
    let chain = certificate::chain_in(text).map_err(|source| TlsError::ClientCa { path: path.to_owned(), source })?;
    let mut roots = RootCertStore::empty();
    for one in chain {
        roots.add(one).map_err(|error| no_ca(path, &error))?;
    }
    Ok(roots)
}

fn no_ca(path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::NoClientCa { path: path.to_owned(), reason: error.to_string() }
}

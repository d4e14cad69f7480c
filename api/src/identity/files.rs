//! The files of an identity, and what is wrong with them.

use super::{Identity, NoIdentity};
use crate::certificate::{self, BadCertificate, Certificate, CertificateError, Mark};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a process finds who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Its certificate, and those between it and the CA.
    pub certificate: PathBuf,
    /// The private key of it.
    pub key: PathBuf,
    /// The CA's certificates: all others must be below one of them.
    pub ca: PathBuf,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The CA's file has no usable certificate.
    #[error("{}", path.display())]
    Ca {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BadCertificate,
    },
    /// The CA's certificate is none of a CA.
    #[error("the certificate in {} cannot be a CA's", path.display())]
    NoCa {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The certificate names nobody.
    #[error("{}", path.display())]
    Nobody {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: NoIdentity,
    },
    /// The certificate is somebody else's.
    #[error("{} is the certificate of {is}, but {wanted} is needed here", path.display())]
    Other {
        /// Which.
        path: PathBuf,
        /// Who it is.
        is: Identity,
        /// Who it should be.
        wanted: String,
    },
    /// The others would not take the certificate: it has ended, or is another CA's.
    #[error("{} is not good below the CA in {}: issue a new one with `cellway ca issue`", certificate.display(), ca.display())]
    Untrusted {
        /// Which.
        certificate: PathBuf,
        /// The CA.
        ca: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// An identity as read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) identity: Identity,
    pub(super) certificate: Certificate,
    pub(super) ca: Ca,
}

/// What the others are checked with.
#[derive(Debug)]
pub(super) struct Ca {
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) servers: Arc<WebPkiServerVerifier>,
}

impl IdentityFiles {
    pub(super) fn marks(&self) -> [Option<Mark>; 3] {
        [&self.certificate, &self.key, &self.ca].map(|path| Mark::of(path))
    }

    /// Reads all three and checks that they would be accepted by others that trust the same CA.
    pub(super) fn load(&self) -> Result<Loaded, IdentityError> {
        let certificate = Certificate::from_files(&self.certificate, &self.key)?;
        let identity = Identity::of_names(&certificate.facts.names)
            .map_err(|source| IdentityError::Nobody { path: self.certificate.clone(), source })?;
        let ca = Ca::load(&self.ca)?;
        let chain = &certificate.key.cert;
        ca.clients.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).map_err(|source| {
            IdentityError::Untrusted { certificate: self.certificate.clone(), ca: self.ca.clone(), source }
        })?;
        Ok(Loaded { identity, certificate, ca })
    }
}

impl Ca {
    pub(super) fn load(path: &Path) -> Result<Self, IdentityError> {
        let chain = certificate::chain_in(&certificate::read(path)?)
            .map_err(|source| IdentityError::Ca { path: path.to_owned(), source })?;
        let no_ca = |source| IdentityError::NoCa { path: path.to_owned(), source };
        let mut roots = RootCertStore::empty();
        for one in chain {
            roots.add(one).map_err(no_ca)?;
        }
        let roots = Arc::new(roots);
        let provider = certificate::provider();
        let general = |error: rustls::server::VerifierBuilderError| no_ca(rustls::Error::General(error.to_string()));
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider);
        Ok(Self { clients: clients.build().map_err(general)?, servers: servers.build().map_err(general)? })
    }
}

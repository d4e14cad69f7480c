//! TLS towards browsers: certificates by server name, sessions that any router of the fleet resumes, client
//! certificates where they are asked for.

mod certificates;
mod folder;
mod metrics;
mod tickets;

pub use certificates::{ABSENT_MS, CACHED_CERTIFICATES, CertificateStore, RECHECK_MS};
pub use tickets::{SECRET_MIN_BYTES, TICKET_KEY_S, TicketError};

use cellway_api::certificate::{self, BadCertificate, CertificateError};
use cellway_proxy::{Protocol, ServerTls};
use folder::Folder;
use metrics::TlsMetrics;
use prometheus::Registry;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tickets::Tickets;

/// How often the files that the configuration names are looked at.
const REFRESH_MS: u64 = 2_000;

/// What is offered, the better one first.
const PROTOCOLS: [Protocol; 2] = [Protocol::Http2, Protocol::Http1];

/// How a router serves TLS.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Certificates for the names in them.
    pub certificates: Vec<CertificatePair>,
    /// A folder of certificates whose files are named after their hosts.
    pub folder: Option<PathBuf>,
    /// What a client gets that names no host, or one without a certificate. Without it, its handshake is refused.
    pub default: Option<CertificatePair>,
    /// How many certificates of the folder are kept ready.
    pub cached_certificates: usize,
    /// The secret that all routers share, so that each resumes the others' sessions.
    pub ticket_secret: Option<PathBuf>,
    /// Whether clients show certificates.
    pub clients: ClientCertificates,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
}

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePair {
    /// The chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for any.
    Off,
    /// They may show one of this CA.
    Optional {
        /// The CA's certificates.
        ca: PathBuf,
    },
    /// They must show one of this CA.
    Required {
        /// The CA's certificates.
        ca: PathBuf,
    },
}

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate that the configuration names cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// There is nothing to serve.
    #[error("TLS needs certificates: name some, or a folder of them, or a default one")]
    NoCertificates,
    /// The folder is not there.
    #[error("{} is no folder: certificates are looked for in it", path.display())]
    NoFolder {
        /// Where it should be.
        path: PathBuf,
    },
    /// The clients' CA.
    #[error("{}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BadCertificate,
    },
    /// The clients' CA is none.
    #[error("{} cannot be used as the clients' CA: {reason}", path.display())]
    NoClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tickets' secret.
    #[error(transparent)]
    Tickets(#[from] TicketError),
    /// The metrics cannot be made.
    #[error("the metrics of TLS cannot be made")]
    Metrics(#[from] prometheus::Error),
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            folder: None,
            default: None,
            cached_certificates: CACHED_CERTIFICATES,
            ticket_secret: None,
            clients: ClientCertificates::Off,
            min_version: MinVersion::Tls12,
        }
    }
}

/// TLS of a router, while it runs.
pub struct FrontTls {
    store: Arc<CertificateStore>,
    tickets: Arc<Tickets>,
    config: Arc<ServerConfig>,
}

impl FrontTls {
    /// Reads what `config` names.
    pub fn open(config: &TlsConfig) -> Result<Self, TlsError> {
        if config.certificates.is_empty() && config.folder.is_none() && config.default.is_none() {
            return Err(TlsError::NoCertificates);
        }
        let store = Arc::new(CertificateStore::open(
            &config.certificates,
            config.default.as_ref(),
            config.folder.clone().map(Folder),
            config.cached_certificates,
            TlsMetrics::new()?,
        )?);
        let tickets = Arc::new(Tickets::open(config.ticket_secret.clone())?);
        let versions: &[_] = match config.min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12],
            MinVersion::Tls13 => &[&TLS13],
        };
        #[expect(clippy::expect_used, reason = "aws-lc-rs has cipher suites and key exchanges of both versions")]
        let builder = ServerConfig::builder_with_provider(certificate::provider())
            .with_protocol_versions(versions)
            .expect("aws-lc-rs has cipher suites and key exchanges of both versions");
        let builder = match client_verifier(&config.clients)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut made = builder.with_cert_resolver(Arc::clone(&store) as _);
        made.alpn_protocols = PROTOCOLS.map(|protocol| protocol.alpn().to_vec()).into();
        made.ticketer = Arc::clone(&tickets) as _;
        Ok(Self { store, tickets, config: Arc::new(made) })
    }

    /// What a listener needs.
    pub fn server(&self) -> ServerTls {
        ServerTls { config: Arc::clone(&self.config), covers: Arc::clone(&self.store) as _ }
    }

    /// Shows what is counted.
    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.store.register(registry)
    }

    /// Looks at the files that the configuration names, again and again, for ever. What has become bad is logged, and
    /// the one before stays in use. A few small files: short enough not to leave the runtime for.
    pub async fn keep_fresh(self) {
        let mut complaint = None;
        loop {
            self.store.refresh();
            match self.tickets.refresh() {
                Ok(()) => complaint = None,
                Err(error) => {
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::error!(error = text, "the new secret of the tickets is refused");
                        complaint = Some(text);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(REFRESH_MS)).await;
        }
    }
}

fn client_verifier(clients: &ClientCertificates) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let (path, optional) = match clients {
        ClientCertificates::Off => return Ok(None),
        ClientCertificates::Optional { ca } => (ca, true),
        ClientCertificates::Required { ca } => (ca, false),
    };
    let no_ca = |error: &dyn std::fmt::Display| TlsError::NoClientCa { path: path.clone(), reason: error.to_string() };
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), certificate::provider());
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map(Some).map_err(|error| no_ca(&error))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let chain = certificate::chain_in(&certificate::read(path)?)
        .map_err(|source| TlsError::ClientCa { path: path.to_owned(), source })?;
    let mut roots = RootCertStore::empty();
    for one in chain {
        let added = roots.add(one);
        added.map_err(|error| TlsError::NoClientCa { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;

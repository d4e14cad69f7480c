//! TLS towards browsers: certificates by server name, sessions that any router of the fleet resumes, client
//! certificates where they are asked for.

mod certificates;
mod clients;
mod folder;
mod handshaker;
mod metrics;
mod stored;
mod tickets;

pub use certificates::{ABSENT_MS, CACHED_CERTIFICATES, CertificateStore, RECHECK_MS};
pub(crate) use stored::StoredCertificates;
pub use tickets::{TICKET_KEY_S, TicketError};

use cellway_api::certificate::{BadCertificate, CertificateError};
use cellway_api::sealing::{SecretError, SecretFiles};
use cellway_proxy::ServerTls;
use clients::ClientCa;
use folder::Folder;
use handshaker::Handshaker;
use metrics::TlsMetrics;
use prometheus::Registry;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tickets::Tickets;

/// How often the files that the configuration names are looked at.
const REFRESH_MS: u64 = 2_000;

/// How a router serves TLS.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Certificates for the names in them.
    pub certificates: Vec<CertificatePair>,
    /// With the secrets of their keys: certificates of the fleet's store, as the feed tells them.
    pub stored: Option<SecretFiles>,
    /// A folder of certificates whose files are named after their hosts.
    pub folder: Option<PathBuf>,
    /// What a client gets that names no host, or one without a certificate. Without it, its handshake is refused.
    pub default: Option<CertificatePair>,
    /// How many certificates of the store and the folder are kept ready.
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
    #[error("TLS needs certificates: name some, or the store's secret, or a folder of them, or a default one")]
    NoCertificates,
    /// The secret of the store's certificates.
    #[error(transparent)]
    Secret(#[from] SecretError),
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
            stored: None,
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
    stored: Option<Arc<StoredCertificates>>,
    handshaker: Arc<Handshaker>,
    clients: ClientCa,
}

impl FrontTls {
    /// Reads what `config` names.
    pub fn open(config: &TlsConfig) -> Result<Self, TlsError> {
        let has_own = !config.certificates.is_empty() || config.folder.is_some() || config.default.is_some();
        if !has_own && config.stored.is_none() {
            return Err(TlsError::NoCertificates);
        }
        let stored = config.stored.clone().map(StoredCertificates::open).transpose()?.map(Arc::new);
        let metrics = TlsMetrics::new()?;
        let store = Arc::new(CertificateStore::open(
            &config.certificates,
            config.default.as_ref(),
            stored.clone(),
            config.folder.clone().map(Folder),
            config.cached_certificates,
            metrics.clone(),
        )?);
        let tickets = Tickets::open(config.ticket_secret.clone())?;
        let clients = ClientCa::read(&config.clients)?;
        let handshaker = Handshaker::new(config.min_version, &store, tickets, metrics, &clients)?;
        Ok(Self { store, stored, handshaker: Arc::new(handshaker), clients })
    }

    /// What a listener needs.
    pub fn server(&self) -> ServerTls {
        ServerTls { handshakes: Arc::clone(&self.handshaker) as _, covers: Arc::clone(&self.store) as _ }
    }

    /// Where the feed puts the store's certificates; nowhere without their secret.
    pub(crate) fn stored(&self) -> Option<Arc<StoredCertificates>> {
        self.stored.clone()
    }

    /// Shows what is counted.
    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.store.register(registry)
    }

    /// Looks at the files that the configuration names, again and again, for ever. What has become bad is logged, and
    /// the one before stays in use. A few small files: short enough not to leave the runtime for.
    pub async fn keep_fresh(mut self) {
        let [mut of_tickets, mut of_stored, mut of_clients] = [const { Complaint(None) }; 3];
        loop {
            self.store.refresh();
            of_tickets.hear(self.handshaker.refresh_tickets().err(), "the new secret of the tickets is refused");
            let stored = self.stored.as_ref().and_then(|stored| stored.refresh().err());
            of_stored.hear(stored, "the new secret of the store's certificates is refused");
            of_clients.hear(self.refresh_clients().err(), "the new CA of clients' certificates is refused");
            tokio::time::sleep(Duration::from_millis(REFRESH_MS)).await;
        }
    }

    /// Checks the clients of new handshakes by the CA that is in its file now.
    fn refresh_clients(&mut self) -> Result<(), TlsError> {
        if let Some(clients) = self.clients.renewed()? {
            self.handshaker.check_clients_by(&clients)?;
            tracing::info!("clients' certificates are checked by a new CA");
            self.clients = clients;
        }
        Ok(())
    }
}

/// What is wrong, logged once.
struct Complaint(Option<String>);

impl Complaint {
    fn hear(&mut self, error: Option<impl std::error::Error>, what: &'static str) {
        let text = error.map(|error| error.to_string());
        if let Some(error) = &text
            && self.0 != text
        {
            tracing::error!(error, "{what}; the one before stays in use");
        }
        self.0 = text;
    }
}

#[cfg(test)]
mod tests;

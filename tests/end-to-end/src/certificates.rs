//! Certificates of a test's own, and clients that shake hands all the time.

use cellway_api::certificate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::tls::TlsInfo;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest handshake with its request.
const ANSWER_MS: u64 = 10_000;

const DAY_S: i64 = 86_400;

/// A CA, and a folder for what it issues.
pub struct Issuer {
    ca: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate with its key, in PEM form.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// What it is recognised by.
    pub fingerprint: String,
}

impl Default for Issuer {
    fn default() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.crt"), ca.pem()).expect("written");
        Self { ca, dir }
    }
}

impl Issuer {
    /// Where a file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate for a host, good for so many days from yesterday on; below 0: it has ended.
    pub fn issue(&self, host: &str, days: i64) -> Issued {
        let mut params = CertificateParams::new([host.to_owned()]).expect("a host");
        let now = std::time::UNIX_EPOCH + Duration::from_secs(certificate::now_s().unsigned_abs());
        params.not_before = (now - Duration::from_secs(100 * DAY_S.unsigned_abs())).into();
        params.not_after = match days {
            0.. => now + Duration::from_secs((days * DAY_S).unsigned_abs()),
            _ => now - Duration::from_secs((days * DAY_S).unsigned_abs()),
        }
        .into();
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.ca).expect("a certificate");
        let fingerprint = certificate::fingerprint(made.der());
        Issued { certificate: made.pem(), key: key.serialize_pem(), fingerprint }
    }

    /// Replaces the files `front.crt` and `front.key`, the key first, each at once.
    pub fn file(&self, issued: &Issued) {
        self.replace("front.key", &issued.key);
        self.replace("front.crt", &issued.certificate);
    }

    /// Replaces a file at once; it is readable by its owner alone.
    pub fn replace(&self, name: &str, text: &str) {
        let unfinished = self.path("unfinished");
        std::fs::write(&unfinished, text).expect("written");
        std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o600)).expect("set");
        std::fs::rename(unfinished, self.path(name)).expect("moved");
    }

    /// A client that trusts the CA and resumes no session.
    pub fn client(&self, host: &str, address: SocketAddr) -> Browser {
        Browser::new(&self.path("ca.crt"), host, address)
    }
}

/// A client that makes a new connection for each request.
#[derive(Clone)]
pub struct Browser {
    tls: rustls::ClientConfig,
    host: String,
    address: SocketAddr,
}

impl Browser {
    fn new(ca: &Path, host: &str, address: SocketAddr) -> Self {
        let pem = certificate::read(ca).expect("a CA");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate::chain_in(&pem).expect("a CA").remove(0)).expect("a CA");
        let mut tls = rustls::ClientConfig::builder_with_provider(certificate::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.resumption = rustls::client::Resumption::disabled();
        Self { tls, host: host.to_owned(), address }
    }

    /// Shakes hands and asks for the page; the certificate's fingerprint, or what went wrong.
    pub async fn ask(&self) -> Result<String, String> {
        let client = cellway_api::http::client_builder(Some(self.tls.clone()))
            .resolve(&self.host, self.address)
            .timeout(Duration::from_millis(ANSWER_MS))
            .tls_info(true)
            .build()
            .map_err(|error| format!("{error:?}"))?;
        let url = format!("https://{}:{}/", self.host, self.address.port());
        let answer = client.get(url).send().await.map_err(|error| format!("{error:?}"))?;
        if answer.status().as_u16() != 200 {
            return Err(format!("status {}", answer.status()));
        }
        let certificate = answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
        Ok(certificate::fingerprint(certificate.ok_or("no certificate")?))
    }

    /// Whether this is the certificate that is served.
    pub async fn is_served(&self, issued: &Issued) -> Option<()> {
        (self.ask().await.ok()? == issued.fingerprint).then_some(())
    }
}

/// Clients that shake hands all the time.
pub struct Handshakes {
    stop: CancellationToken,
    done: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Handshakes {
    /// Starts so many clients.
    pub fn start(browser: &Browser, clients: usize) -> Self {
        let (stop, done) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let client = |_| tokio::spawn(shake(browser.clone(), stop.clone(), Arc::clone(&done)));
        Self { clients: (0..clients).map(client).collect(), stop, done }
    }

    /// How many have succeeded.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }

    /// Stops them: how many succeeded, and what went wrong with the others.
    pub async fn stop(self) -> (usize, Vec<String>) {
        self.stop.cancel();
        let mut failed = Vec::new();
        for client in self.clients {
            failed.extend(client.await.expect("a client does not panic"));
        }
        (self.done.load(Ordering::SeqCst), failed)
    }
}

async fn shake(browser: Browser, stop: CancellationToken, done: Arc<AtomicUsize>) -> Vec<String> {
    let mut failed = Vec::new();
    while !stop.is_cancelled() {
        match browser.ask().await {
            Ok(_) => drop(done.fetch_add(1, Ordering::SeqCst)),
            Err(problem) => failed.push(problem),
        }
    }
    failed
}

//! Which certificate a server name gets. Only what is named in the configuration is read at the start; certificates of
//! the store and of the folder are opened when a client first asks for them, and kept in a bounded cache, so that the
//! start does not depend on how many there are.

use super::folder::{BadFile, Files, Folder, WILDCARD_LABEL, check_name};
use super::metrics::TlsMetrics;
use super::stored::{StoredCertificates, Version};
use super::{CertificatePair, TlsError};
use arc_swap::ArcSwap;
use cellway_api::certificate::{Certificate, now_s};
use cellway_api::sealing::BadSeal;
use cellway_core::hostname::Hostname;
use cellway_proxy::Covers;
use quick_cache::sync::Cache;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Certificates of the store and the folder that are kept ready.
pub const CACHED_CERTIFICATES: usize = 4_096;

/// Names known to have no certificate of their own. Below a wildcard every tenant's name is one.
const ABSENT_MAX: usize = 65_536;

/// How long a name is known to have none: a new certificate is found within this time.
pub const ABSENT_MS: u64 = 2_000;

/// How long a certificate is used before its files are looked at again.
pub const RECHECK_MS: u64 = 2_000;

/// All certificates of a router.
#[derive(Debug)]
pub struct CertificateStore {
    pairs: Vec<Pair>,
    default: Option<Pair>,
    stored: Option<Arc<StoredCertificates>>,
    folder: Option<Folder>,
    present: Cache<Box<str>, Ready>,
    absent: Cache<Box<str>, u64>,
    began: Instant,
    metrics: TlsMetrics,
    #[cfg(test)]
    passed_ms: AtomicU64,
}

/// A certificate that the configuration names.
#[derive(Debug)]
struct Pair(ArcSwap<Filed>);

/// A certificate that is ready.
#[derive(Debug, Clone)]
enum Ready {
    Filed(Arc<Filed>),
    Stored(Certificate, Arc<Version>),
}

/// A certificate from files.
#[derive(Debug)]
struct Filed {
    certificate: Certificate,
    files: Files,
    checked_ms: AtomicU64,
}

impl Ready {
    fn certificate(&self) -> &Certificate {
        match self {
            Self::Filed(filed) => &filed.certificate,
            Self::Stored(certificate, _) => certificate,
        }
    }
}

fn has_ended(certificate: &Certificate) -> bool {
    certificate.facts.seconds_until_expiry(now_s()) <= 0
}

impl Filed {
    fn new(certificate: Certificate, files: Files, now_ms: u64) -> Self {
        Self { certificate, files, checked_ms: AtomicU64::new(now_ms) }
    }

    /// Whether it is this caller's turn to look at the files again: one at a time.
    fn is_due(&self, now_ms: u64) -> bool {
        let checked = self.checked_ms.load(Ordering::Relaxed);
        let due = now_ms.saturating_sub(checked) >= RECHECK_MS;
        due && self.checked_ms.compare_exchange(checked, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// What is in the files now, if that is something else and better than this.
    fn renewed(&self, name: Option<&str>, files: Files) -> Result<Certificate, BadFile> {
        let certificate = files.load()?;
        if let Some(name) = name {
            check_name(name, &files, &certificate)?;
        }
        match has_ended(&certificate) && !has_ended(&self.certificate) {
            true => Err(BadFile::Ended { path: files.certificate }),
            false => Ok(certificate),
        }
    }
}

impl Pair {
    fn load(pair: &CertificatePair) -> Result<Self, TlsError> {
        let files = Files::of(pair.certificate.clone(), pair.key.clone());
        let certificate = files.load()?;
        Ok(Self(ArcSwap::from_pointee(Filed::new(certificate, files, 0))))
    }
}

impl CertificateStore {
    /// Reads the certificates that are named; of the folder nothing but that it is there.
    pub(crate) fn open(
        pairs: &[CertificatePair],
        default: Option<&CertificatePair>,
        stored: Option<Arc<StoredCertificates>>,
        folder: Option<Folder>,
        cached: usize,
        metrics: TlsMetrics,
    ) -> Result<Self, TlsError> {
        if let Some(Folder(path)) = &folder
            && !path.is_dir()
        {
            return Err(TlsError::NoFolder { path: path.clone() });
        }
        Ok(Self {
            pairs: pairs.iter().map(Pair::load).collect::<Result<_, _>>()?,
            default: default.map(Pair::load).transpose()?,
            stored,
            folder,
            present: Cache::new(cached.max(1)),
            absent: Cache::new(ABSENT_MAX),
            began: Instant::now(),
            metrics,
            #[cfg(test)]
            passed_ms: AtomicU64::new(0),
        })
    }

    pub(crate) fn register(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        self.metrics.register(registry)
    }

    fn now_ms(&self) -> u64 {
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        #[cfg(test)]
        let now_ms = now_ms + self.passed_ms.load(Ordering::Relaxed);
        now_ms
    }

    /// The certificate for a server name; the default one for a name that has none, and for no name.
    fn find(&self, server_name: Option<&str>) -> Option<Certificate> {
        let named = server_name.and_then(|name| self.named(&name.trim_end_matches('.').to_ascii_lowercase()));
        named.or_else(|| self.default.as_ref().map(|pair| pair.0.load().certificate.clone()))
    }

    /// A certificate that covers `host`. Its own name goes before a wildcard, and what the configuration names before
    /// the store, and that before the folder. In both a host may also be covered by what is kept under its parent, or
    /// under the wildcard below it.
    fn named(&self, host: &str) -> Option<Certificate> {
        let own = |filed: &Filed| filed.certificate.facts.names.iter().any(|name| **name == *host);
        let covers = |filed: &Filed| filed.certificate.facts.covers(host);
        self.pair(own).or_else(|| self.kept(host, [host])).or_else(|| self.pair(covers)).or_else(|| self.near(host))
    }

    fn pair(&self, is_right: impl Fn(&Filed) -> bool) -> Option<Certificate> {
        let mut pairs = self.pairs.iter().map(|pair| pair.0.load());
        pairs.find(|filed| is_right(filed)).map(|filed| filed.certificate.clone())
    }

    fn near(&self, host: &str) -> Option<Certificate> {
        if self.stored.is_none() && self.folder.is_none() {
            return None;
        }
        let below = format!("{WILDCARD_LABEL}{host}");
        let Some((_, parent)) = host.split_once('.') else { return self.kept(host, [below.as_str()]) };
        let above = format!("{WILDCARD_LABEL}{parent}");
        self.kept(host, [above.as_str(), parent, below.as_str()])
    }

    /// What the store has under one of these names, or the folder.
    fn kept<const N: usize>(&self, host: &str, names: [&str; N]) -> Option<Certificate> {
        let covers = |certificate: &Certificate| certificate.facts.covers(host);
        let stored = || names.iter().filter_map(|name| self.stored(name)).find(covers);
        let filed =
            || names.iter().filter_map(|name| self.filed(name)).map(|filed| filed.certificate.clone()).find(covers);
        // rustls lets only DNS names through; nothing else may become a path.
        let is_path = host.starts_with('.') || host.contains('/');
        stored().or_else(|| if self.folder.is_none() || is_path { None } else { filed() })
    }

    /// What is stored under `name`: the newest that can be used, and of those one that has not ended. Unsealing takes
    /// less time than the signature that follows.
    fn stored(&self, name: &str) -> Option<Certificate> {
        let stored = self.stored.as_ref()?;
        let mut ended: Option<(Ready, Arc<Version>)> = None;
        for version in stored.versions(name).into_iter().flatten() {
            let ready = match self.open_version(stored, name, &version) {
                Ok(ready) => ready,
                Err(error) => {
                    self.refused_version(stored, &version, &chain(&error));
                    continue;
                }
            };
            if !has_ended(ready.certificate()) {
                if let Some((_, worse)) = ended {
                    self.refused_version(stored, &worse, "it has ended already, and the one before has not");
                }
                return Some(ready.certificate().clone());
            }
            ended = ended.or(Some((ready, version)));
        }
        ended.map(|(ready, _)| ready.certificate().clone())
    }

    fn open_version(&self, stored: &StoredCertificates, name: &str, version: &Arc<Version>) -> Result<Ready, BadSeal> {
        match self.present.get(name) {
            Some(Ready::Stored(certificate, of)) if Arc::ptr_eq(&of, version) => {
                return Ok(Ready::Stored(certificate, of));
            }
            _ => {}
        }
        let certificate = stored.unseal(version)?;
        let ended = has_ended(&certificate);
        let ready = Ready::Stored(certificate, Arc::clone(version));
        self.present.insert(name.into(), ready.clone());
        if ended {
            tracing::error!(name = %version.name, "a certificate of the store has ended");
        } else {
            stored.is_good(version);
        }
        Ok(ready)
    }

    fn refused_version(&self, stored: &StoredCertificates, version: &Version, reason: &str) {
        stored.is_bad(version);
        self.metrics.refused.inc();
        tracing::error!(name = %version.name, reason, "a certificate of the store is refused");
    }

    /// What is filed under `name`, from the cache or from its files.
    ///
    /// This runs in the middle of a handshake and reads two small files (bounded) on the first use of a name and when
    /// they have changed. That takes about as long as the signature that follows; giving the handshake to another
    /// thread for it would cost more.
    fn filed(&self, name: &str) -> Option<Arc<Filed>> {
        let now_ms = self.now_ms();
        if let Some(Ready::Filed(filed)) = self.present.get(name) {
            return if filed.is_due(now_ms) { self.checked(name, filed, now_ms) } else { Some(filed) };
        }
        if self.absent.get(name).is_some_and(|until_ms| now_ms < until_ms) {
            return None;
        }
        let filed = self.load(name, now_ms);
        match &filed {
            Some(filed) => self.present.insert(name.into(), Ready::Filed(Arc::clone(filed))),
            None => self.absent.insert(name.into(), now_ms + ABSENT_MS),
        }
        filed
    }

    fn load(&self, name: &str, now_ms: u64) -> Option<Arc<Filed>> {
        let files = self.folder.as_ref()?.files(name)?;
        let loaded = files.load().map_err(BadFile::from).and_then(|certificate| {
            check_name(name, &files, &certificate)?;
            Ok(certificate)
        });
        match loaded {
            Ok(certificate) => {
                if has_ended(&certificate) {
                    tracing::error!(name, path = %files.certificate.display(), "a certificate has ended; it is served");
                }
                Some(Arc::new(Filed::new(certificate, files, now_ms)))
            }
            Err(error) => {
                self.refused(&error, "a certificate is not used");
                None
            }
        }
    }

    /// Looks at the files again. What is gone is no longer used; what is bad is refused, and the one before stays.
    fn checked(&self, name: &str, filed: Arc<Filed>, now_ms: u64) -> Option<Arc<Filed>> {
        if filed.files.are_unchanged() {
            return Some(filed);
        }
        let Some(files) = self.folder.as_ref().and_then(|folder| folder.files(name)) else {
            self.present.remove(name);
            return None;
        };
        let certificate = filed.renewed(Some(name), files.clone()).unwrap_or_else(|error| {
            self.refused(&error, "a new certificate is refused, the one before stays in use");
            filed.certificate.clone()
        });
        let filed = Arc::new(Filed::new(certificate, files, now_ms));
        self.present.insert(name.into(), Ready::Filed(Arc::clone(&filed)));
        Some(filed)
    }

    fn refused(&self, error: &BadFile, what: &'static str) {
        self.metrics.refused.inc();
        tracing::error!("{what}: {}", chain(error));
    }

    /// Reads named certificates again whose files have changed, and shows when the first of those in use ends.
    pub(crate) fn refresh(&self) {
        for pair in self.pairs.iter().chain(&self.default) {
            let filed = pair.0.load_full();
            if filed.files.are_unchanged() {
                continue;
            }
            let files = Files::of(filed.files.certificate.clone(), filed.files.key.clone());
            let certificate = filed.renewed(None, files.clone()).unwrap_or_else(|error| {
                self.refused(&error, "a new certificate is refused, the one before stays in use");
                filed.certificate.clone()
            });
            pair.0.store(Arc::new(Filed::new(certificate, files, 0)));
        }
        let named = self.pairs.iter().chain(&self.default).map(|pair| pair.0.load().certificate.facts.not_after_s);
        let cached = self.present.iter().map(|(_, ready)| ready.certificate().facts.not_after_s);
        if let Some(first) = named.chain(cached).min() {
            self.metrics.expiry_seconds.set(first.saturating_sub(now_s()));
        }
        self.metrics.cached.set(i64::try_from(self.present.len()).unwrap_or(i64::MAX));
        let stored = self.stored.as_ref().map_or(0, |stored| stored.len());
        self.metrics.stored.set(i64::try_from(stored).unwrap_or(i64::MAX));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
    format!("{error}{source}")
}

#[cfg(test)]
impl CertificateStore {
    pub(super) fn refused_count(&self) -> u64 {
        self.metrics.refused.get()
    }

    pub(super) fn cached_count(&self) -> usize {
        self.present.len()
    }

    /// As if [`RECHECK_MS`] and [`ABSENT_MS`] were over.
    pub(super) fn let_time_pass(&self) {
        self.passed_ms.fetch_add(RECHECK_MS, Ordering::Relaxed);
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.find(hello.server_name());
        if found.is_none() {
            self.metrics.unknown_names.inc();
        }
        found.map(|certificate| certificate.key)
    }
}

impl Covers for CertificateStore {
    fn covers(&self, server_name: Option<&str>, host: &Hostname) -> bool {
        self.find(server_name).is_some_and(|certificate| certificate.facts.covers(host.as_str()))
    }
}

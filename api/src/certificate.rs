//! Certificates with their private keys, as they are read from PEM files.

use ::aws_lc_rs::digest;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

/// The largest file of a certificate, a key or a CA's certificates: a bundle of every public CA is smaller.
pub const PEM_FILE_MAX_BYTES: u64 = 1024 * 1024;

/// The shortest secret: less could be guessed.
pub const SECRET_MIN_BYTES: usize = 32;

/// Permission of everyone on this machine to read a file. Group-readable keys are usual where an orchestrator mounts
/// them for one group.
const OTHERS_MAY_READ: u32 = 0o004;

/// A file changed less than this long ago is read once more: its time may not tell the last change.
const TIME_GRAIN_MS: u64 = 1_000;

/// The cryptography of every TLS hop, given to each builder: nothing relies on a default of the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A certificate's chain with its private key, checked to belong together.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// What a handshake needs.
    pub key: Arc<CertifiedKey>,
    /// What the first of the chain says about itself.
    pub facts: Arc<CertificateFacts>,
}

/// What a certificate says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its DNS names, in lower case.
    pub names: Box<[Box<str>]>,
    /// When it begins, in seconds since 1970.
    pub not_before_s: i64,
    /// When it ends, in seconds since 1970.
    pub not_after_s: i64,
}

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// The text is no PEM.
    #[error("{what} is not in PEM form")]
    Pem {
        /// Which of the two.
        what: &'static str,
        /// Where it breaks.
        #[source]
        source: PemError,
    },
    /// There is no certificate in it.
    #[error("there is no certificate in it (a block that begins with -----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// There is no key in it.
    #[error("there is no private key in it (a block such as -----BEGIN PRIVATE KEY-----)")]
    NoKey,
    /// The certificate is damaged.
    #[error("the certificate cannot be read: {0}")]
    Damaged(String),
    /// The key is of an unknown kind, or another certificate's.
    #[error("the key does not fit the certificate, or is of a kind that cannot be used")]
    Key(#[source] rustls::Error),
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is too large.
    #[error("{} has more than {PEM_FILE_MAX_BYTES} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// A key that everyone on the machine can read is no secret.
    #[error("{} is a secret that every user of this machine may read (mode {mode:03o}): run `chmod 600` on it", path.display())]
    OpenKey {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A secret is too short.
    #[error(
        "{} has {length} bytes, a secret needs {SECRET_MIN_BYTES}: make one with `head -c 48 /dev/urandom | base64`",
        path.display()
    )]
    ShortSecret {
        /// Which.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// Their content.
    #[error("{} with {}", certificate.display(), key.display())]
    Bad {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: BadCertificate,
    },
}

impl Certificate {
    /// Reads the certificate's chain, the end's own first, and the private key. Both may be in one file.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let chain_text = read(certificate)?;
        let key_text = read_key(key)?;
        Self::from_pem(&chain_text, &key_text).map_err(|source| CertificateError::Bad {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        })
    }

    /// The same from texts.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, BadCertificate> {
        Self::from_der(chain_in(chain)?, key_in(key)?)
    }

    /// The same from its parts.
    pub fn from_der(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, BadCertificate> {
        let facts = CertificateFacts::of(chain.first().ok_or(BadCertificate::NoCertificate)?)?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(BadCertificate::Key)?;
        Ok(Self { key: Arc::new(key), facts: Arc::new(facts) })
    }
}

impl CertificateFacts {
    /// Reads a certificate in DER form.
    pub fn of(certificate: &[u8]) -> Result<Self, BadCertificate> {
        let damaged = |error: &dyn std::fmt::Display| BadCertificate::Damaged(error.to_string());
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| damaged(&error))?;
        let alternative = parsed.subject_alternative_name().map_err(|error| damaged(&error))?;
        let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into_boxed_str()),
            _ => None,
        });
        let (begins, ends) = (parsed.validity().not_before, parsed.validity().not_after);
        Ok(Self { names: names.collect(), not_before_s: begins.timestamp(), not_after_s: ends.timestamp() })
    }

    /// How long it is still good for; below 0 once it has ended.
    pub fn seconds_until_expiry(&self, now_s: i64) -> i64 {
        self.not_after_s.saturating_sub(now_s)
    }

    /// Whether one of its names is `host`, or a wildcard one label above it. `host` is in lower case.
    pub fn covers(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(below) => Some(below) == parent,
            None => **name == *host,
        })
    }
}

/// The certificates in a PEM text, of which there is at least one.
pub fn chain_in(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadCertificate> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|source| BadCertificate::Pem { what: "the certificate", source })?;
    if chain.is_empty() { Err(BadCertificate::NoCertificate) } else { Ok(chain) }
}

/// The private key in a PEM text.
pub fn key_in(text: &[u8]) -> Result<PrivateKeyDer<'static>, BadCertificate> {
    PrivateKeyDer::from_pem_slice(text).map_err(|source| match source {
        PemError::NoItemsFound => BadCertificate::NoKey,
        source => BadCertificate::Pem { what: "the key", source },
    })
}

/// What a certificate in DER form is recognised by: its SHA-256 in hexadecimal digits, as other tools show it.
pub fn fingerprint(certificate: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970.
pub fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// A time of a certificate for people.
pub fn date(at_s: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(at_s) else { return format!("{at_s} s after 1970") };
    let time = time.to_datetime();
    let (year, month, day) = time.to_calendar_date();
    format!("{year:04}-{:02}-{day:02} {:02}:{:02} UTC", u8::from(month), time.hour(), time.minute())
}

/// Reads a file, bounded.
pub fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let failed = |source| CertificateError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = Vec::new();
    file.take(PEM_FILE_MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    match text.len() as u64 > PEM_FILE_MAX_BYTES {
        true => Err(CertificateError::TooLarge { path: path.to_owned() }),
        false => Ok(text),
    }
}

/// Reads a file that must be a secret.
pub fn read_key(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source })?;
    match metadata.mode() & OTHERS_MAY_READ {
        0 => read(path),
        _ => Err(CertificateError::OpenKey { path: path.to_owned(), mode: metadata.mode() & 0o777 }),
    }
}

/// Reads a file with a secret: a text without blanks at its ends.
pub fn read_secret(path: &Path) -> Result<Arc<[u8]>, CertificateError> {
    let text = read_key(path)?;
    let secret = text.trim_ascii();
    match secret.len() {
        length if length < SECRET_MIN_BYTES => Err(CertificateError::ShortSecret { path: path.to_owned(), length }),
        _ => Ok(secret.into()),
    }
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Mark {
    /// The file's state; `None` where there is no such file.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata: Metadata = std::fs::metadata(path).ok()?;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() })
    }

    /// Whether a later change of the file will change its mark.
    pub fn is_settled(&self) -> bool {
        let age = self.modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_none_or(|age| age > Duration::from_millis(TIME_GRAIN_MS))
    }
}

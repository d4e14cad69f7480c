//! How a router serves HTTPS, in its file.

use super::fields::SecretFields;
use cellway_router::HttpsConfig;
use cellway_router::https_policy::Hsts;
use cellway_router::tls::{CACHED_CERTIFICATES, CertificatePair, ClientCertificates, MinVersion, TlsConfig};
use serde::Deserialize;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// The section `tls`; see `config/router.yaml`, which is commented.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsFile {
    #[serde(default)]
    certificates: Vec<PairFields>,
    #[serde(default)]
    stored: Option<SecretFields>,
    #[serde(default)]
    folder: Option<PathBuf>,
    #[serde(default)]
    default: Option<PairFields>,
    #[serde(default)]
    cached_certificates: Option<NonZeroUsize>,
    #[serde(default)]
    ticket_secret: Option<PathBuf>,
    #[serde(default)]
    client_certificates: ClientsFile,
    #[serde(default)]
    min_version: VersionField,
    #[serde(default)]
    public_port: Option<std::num::NonZeroU16>,
    #[serde(default)]
    pub(crate) redirect: bool,
    #[serde(default)]
    hsts: Option<HstsFields>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PairFields {
    certificate: PathBuf,
    key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClientsFile {
    #[default]
    Off,
    Optional(PathBuf),
    Required(PathBuf),
}

/// The oldest version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum VersionField {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// What browsers are told to remember.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HstsFields {
    max_age_s: u64,
    #[serde(default)]
    include_subdomains: bool,
    #[serde(default)]
    preload: bool,
}

impl From<PairFields> for CertificatePair {
    fn from(fields: PairFields) -> Self {
        Self { certificate: fields.certificate, key: fields.key }
    }
}

impl TlsFile {
    /// What the router takes.
    pub(crate) fn https(self, listen: SocketAddr) -> HttpsConfig {
        let hsts = self.hsts.map(|hsts| Hsts {
            max_age_s: hsts.max_age_s,
            include_subdomains: hsts.include_subdomains,
            preload: hsts.preload,
        });
        HttpsConfig {
            listen,
            public_port: self.public_port.map(Into::into),
            tls: TlsConfig {
                certificates: self.certificates.into_iter().map(Into::into).collect(),
                stored: self.stored.map(Into::into),
                folder: self.folder,
                default: self.default.map(Into::into),
                cached_certificates: self.cached_certificates.map_or(CACHED_CERTIFICATES, Into::into),
                ticket_secret: self.ticket_secret,
                clients: match self.client_certificates {
                    ClientsFile::Off => ClientCertificates::Off,
                    ClientsFile::Optional(ca) => ClientCertificates::Optional { ca },
                    ClientsFile::Required(ca) => ClientCertificates::Required { ca },
                },
                min_version: match self.min_version {
                    VersionField::Tls12 => MinVersion::Tls12,
                    VersionField::Tls13 => MinVersion::Tls13,
                },
            },
            redirect: self.redirect,
            hsts,
        }
    }
}

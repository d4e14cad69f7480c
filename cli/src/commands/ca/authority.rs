//! The CA itself: its two files, and how a certificate is made and written.

use anyhow::{Context, ensure};
use cellway_api::certificate::{self, CertificateFacts};
use cellway_api::identity::{Identity, IdentityFiles};
use cellway_core::hostname::Hostname;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CA_NAME: &str = "cellway private CA";

/// How long a CA is good for: ten years.
const CA_DAYS: u64 = 3_650;

const DAY_S: u64 = 86_400;

/// A certificate counts from this long before it was made: clocks differ.
const CLOCKS_DIFFER_S: u64 = 3_600;

/// Keys are for their owner alone; certificates are for everyone.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// A CA with its key.
pub(crate) struct Authority {
    dir: PathBuf,
    pem: String,
    facts: CertificateFacts,
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate is for.
pub(crate) enum Subject {
    /// One of our processes.
    Identity(Identity),
    /// What browsers reach: names and addresses.
    Server(Vec<String>),
}

/// A certificate that is not written yet.
pub(super) struct Issued {
    pub(super) names: Vec<String>,
    pub(super) days: u64,
    file_name: String,
    certificate: String,
    key: String,
    ca: String,
}

impl Authority {
    /// Makes a CA in `dir`, where none may be.
    pub(crate) fn create(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let (certificate, key) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
        for path in [&certificate, &key] {
            ensure!(!path.exists(), "{} is there already: a CA is never replaced; name another --dir", path.display());
        }
        let mut params = params(&[], CA_NAME, CA_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let made = CertifiedIssuer::self_signed(params, KeyPair::generate().context("no key can be made")?)
            .context("the CA's certificate cannot be made")?;
        write(&key, made.key().serialize_pem().as_bytes(), KEY_MODE, Existing::Keep)?;
        write(&certificate, made.pem().as_bytes(), CERTIFICATE_MODE, Existing::Keep)?;
        Self::open(dir)
    }

    /// Opens the CA in `dir`.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let hint = || format!("there is no usable CA in {}: make one with `cellway ca init --dir DIR`", dir.display());
        let pem = certificate::read(&dir.join(CA_CERTIFICATE)).with_context(hint)?;
        let key = certificate::read_key(&dir.join(CA_KEY)).with_context(hint)?;
        let pem = String::from_utf8(pem).with_context(hint)?;
        let key = KeyPair::from_pem(&String::from_utf8(key).with_context(hint)?).with_context(hint)?;
        let chain = certificate::chain_in(pem.as_bytes()).with_context(hint)?;
        let facts = CertificateFacts::of(&chain[0]).with_context(hint)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).with_context(hint)?;
        Ok(Self { dir: dir.to_owned(), pem, facts, issuer })
    }

    /// Opens the CA in `dir`, or makes one.
    pub(crate) fn open_or_create(dir: &Path) -> anyhow::Result<Self> {
        if dir.join(CA_KEY).exists() { Self::open(dir) } else { Self::create(dir) }
    }

    pub(super) fn name(&self) -> String {
        CA_NAME.to_owned()
    }

    pub(crate) fn certificate_file(&self) -> PathBuf {
        self.dir.join(CA_CERTIFICATE)
    }

    pub(super) fn key_file(&self) -> PathBuf {
        self.dir.join(CA_KEY)
    }

    pub(super) fn days_left(&self) -> u64 {
        u64::try_from(self.facts.seconds_until_expiry(certificate::now_s())).unwrap_or(0) / DAY_S
    }

    /// Makes a certificate and its key.
    pub(super) fn issue(&self, subject: &Subject, days: u64) -> anyhow::Result<Issued> {
        let days = days.min(self.days_left());
        ensure!(days > 0, "the CA in {} has ended: make a new one in another directory", self.dir.display());
        let names = subject.names();
        let mut params = params(&names, &names[0], days)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = match subject {
            Subject::Identity(_) => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Subject::Server(_) => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        let key = KeyPair::generate().context("no key can be made")?;
        let certificate = params.signed_by(&key, &self.issuer).context("the certificate cannot be made")?;
        Ok(Issued {
            names,
            days,
            file_name: subject.file_name(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            ca: self.pem.clone(),
        })
    }

    /// Issues into `out`, and tells the files.
    pub(crate) fn issue_to(&self, subject: &Subject, days: u64, out: &Path) -> anyhow::Result<IdentityFiles> {
        self.issue(subject, days)?.write(out)
    }
}

impl Subject {
    /// A server of these hosts, checked.
    pub(crate) fn server(hosts: &[String]) -> anyhow::Result<Self> {
        let mut names = Vec::with_capacity(hosts.len());
        for host in hosts {
            names.push(server_name(host).with_context(|| format!("{host:?} cannot be in a server's certificate"))?);
        }
        Ok(Self::Server(names))
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Identity(identity) => vec![identity.name()],
            Self::Server(names) => names.clone(),
        }
    }

    fn file_name(&self) -> String {
        match self {
            Self::Identity(Identity::Router) => "router".to_owned(),
            Self::Identity(Identity::ControlPlane) => "control-plane".to_owned(),
            Self::Identity(Identity::Operator) => "operator".to_owned(),
            Self::Identity(Identity::Cell(cell)) => cell.to_string(),
            Self::Server(names) => names[0].replace('*', "_").replace(':', "-"),
        }
    }
}

fn server_name(host: &str) -> anyhow::Result<String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let (star, rest) = match host.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", host),
    };
    let name = Hostname::from_text(rest)?;
    ensure!(
        !format!(".{name}").ends_with(".cellway"),
        "names below .cellway are identities: use `cellway ca issue router` and its siblings"
    );
    Ok(format!("{star}{name}"))
}

fn params(names: &[String], common_name: &str, days: u64) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).context("a name cannot be in a certificate")?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now_s = u64::try_from(certificate::now_s()).unwrap_or(0);
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now_s.saturating_sub(CLOCKS_DIFFER_S));
    params.not_after = epoch + Duration::from_secs(now_s + days * DAY_S);
    Ok(params)
}

impl Issued {
    /// Writes certificate, key and the CA's certificate, each whole or not at all.
    pub(super) fn write(&self, out: &Path) -> anyhow::Result<IdentityFiles> {
        fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
        let files = IdentityFiles {
            certificate: out.join(format!("{}.crt", self.file_name)),
            key: out.join(format!("{}.key", self.file_name)),
            ca: out.join(CA_CERTIFICATE),
        };
        write(&files.key, self.key.as_bytes(), KEY_MODE, Existing::Replace)?;
        write(&files.certificate, self.certificate.as_bytes(), CERTIFICATE_MODE, Existing::Replace)?;
        write(&files.ca, self.ca.as_bytes(), CERTIFICATE_MODE, Existing::Replace)?;
        Ok(files)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

/// Writes a file beside its place, then puts it there in one step.
fn write(path: &Path, text: &[u8], mode: u32, existing: Existing) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let written = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        match existing {
            Existing::Replace => fs::rename(&temporary, path)?,
            Existing::Keep => {
                fs::hard_link(&temporary, path)?;
                fs::remove_file(&temporary)?;
            }
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    written().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellway_api::identity::LiveIdentity;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_issued_is_a_usable_identity_and_its_key_is_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::create(&dir.path().join("ca")).expect("a CA");
        assert_eq!(fs::metadata(authority.key_file()).expect("there").mode() & 0o777, 0o600);
        let cell = Identity::Cell(cellway_core::ids::CellName::new("cell-a").expect("legal"));
        for identity in [Identity::Router, Identity::ControlPlane, Identity::Operator, cell] {
            let subject = Subject::Identity(identity.clone());
            let files = authority.issue_to(&subject, 1, &dir.path().join("out")).expect("issued");
            assert_eq!(fs::metadata(&files.key).expect("there").mode() & 0o777, 0o600);
            let live = LiveIdentity::load(files, "anybody", |_| true).expect("usable");
            assert_eq!(live.identity(), identity);
            assert!((86_300..=86_400).contains(&live.seconds_until_expiry()));
        }
    }

    #[test]
    fn a_ca_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Authority::create(dir.path()).expect("a CA");
        let before = fs::read(first.key_file()).expect("a key");
        assert!(Authority::create(dir.path()).is_err());
        assert_eq!(fs::read(first.key_file()).expect("a key"), before);
        let opened = Authority::open_or_create(dir.path()).expect("the same");
        assert_eq!(opened.pem, first.pem);
    }

    #[test]
    fn no_certificate_outlives_its_ca() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut authority = Authority::create(dir.path()).expect("a CA");
        authority.facts.not_after_s = certificate::now_s() + 2 * 86_400 + 60;
        let server = Subject::server(&["a.example".into()]).expect("a host");
        assert_eq!(authority.issue(&server, 365).expect("issued").days, 2);
        authority.facts.not_after_s = certificate::now_s() + 60;
        assert!(authority.issue(&server, 365).is_err());
    }

    #[test]
    fn a_server_is_never_an_identity_by_mistake() {
        for bad in ["router.cellway", "*.cell.cellway", "*.cellway", "cellway", "*", "a..b", "*.*.example", "a/b"] {
            assert!(Subject::server(&[bad.to_owned()]).is_err(), "{bad}");
        }
        let hosts = ["*.Cells.localhost", "cells.localhost.", "127.0.0.1", "::1"].map(str::to_owned);
        let Subject::Server(names) = Subject::server(&hosts).expect("hosts") else { panic!("a server") };
        assert_eq!(names, ["*.cells.localhost", "cells.localhost", "127.0.0.1", "::1"]);
    }
}

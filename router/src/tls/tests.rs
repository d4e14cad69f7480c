//! Real handshakes in memory: which certificate is served, and what a change of the files does.

use super::*;
use cellway_api::certificate;
use cellway_core::hostname::Hostname;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

mod stored;

/// A CA and a folder of certificates below it.
pub(super) struct Stage {
    ca: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Stage {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("certificates")).expect("made");
        std::fs::write(dir.path().join("ca.crt"), ca.pem()).expect("written");
        Self { ca, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pem(&self, names: &[&str], ended: bool) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("DNS names");
        if ended {
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.ca).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// Files a certificate of `names` under `file`, relative to the stage.
    pub(super) fn file(&self, file: &str, names: &[&str]) -> CertificatePair {
        let (certificate, key) = self.pem(names, false);
        let pair =
            CertificatePair { certificate: self.path(&format!("{file}.crt")), key: self.path(&format!("{file}.key")) };
        std::fs::create_dir_all(pair.key.parent().expect("a folder")).expect("made");
        write_key(&pair.key, &key);
        std::fs::write(&pair.certificate, certificate).expect("written");
        pair
    }

    fn config(&self) -> TlsConfig {
        TlsConfig { folder: Some(self.path("certificates")), ..TlsConfig::default() }
    }

    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).expect("a CA");
        let builder = ClientConfig::builder_with_provider(certificate::provider());
        builder.with_protocol_versions(versions).expect("versions").with_root_certificates(roots).with_no_client_auth()
    }
}

fn write_key(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
}

fn open(config: &TlsConfig) -> FrontTls {
    FrontTls::open(config).expect("usable TLS")
}

/// Two ends that have shaken hands.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

impl Pair {
    fn shake(front: &FrontTls, client: ClientConfig, name: &str) -> Result<Self, rustls::Error> {
        Self::shake_with(front, &Arc::new(client), name)
    }

    fn shake_with(front: &FrontTls, client: &Arc<ClientConfig>, name: &str) -> Result<Self, rustls::Error> {
        let client = ClientConnection::new(Arc::clone(client), name.to_owned().try_into().expect("a name"))?;
        let server = ServerConnection::new(front.server().handshakes.config())?;
        let mut pair = Self { client, server };
        pair.pump()?;
        Ok(pair)
    }

    fn pump(&mut self) -> Result<(), rustls::Error> {
        while self.client.wants_write() || self.server.wants_write() {
            let mut bytes = Vec::new();
            self.client.write_tls(&mut bytes).expect("into memory");
            self.server.read_tls(&mut bytes.as_slice()).expect("from memory");
            self.server.process_new_packets()?;
            let mut bytes = Vec::new();
            self.server.write_tls(&mut bytes).expect("into memory");
            self.client.read_tls(&mut bytes.as_slice()).expect("from memory");
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    /// What was served.
    fn names(&self) -> Vec<String> {
        let chain = self.client.peer_certificates().expect("a certificate");
        let facts = certificate::CertificateFacts::of(&chain[0]).expect("readable");
        facts.names.iter().map(ToString::to_string).collect()
    }

    fn say(&mut self, text: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(text).expect("into memory");
        self.pump().expect("alive");
        let mut heard = vec![0; text.len()];
        self.server.reader().read_exact(&mut heard).expect("heard");
        heard
    }
}

fn served(front: &FrontTls, stage: &Stage, name: &str) -> Option<Vec<String>> {
    Pair::shake(front, stage.client(&[&TLS13]), name).ok().map(|pair| pair.names())
}

fn host(name: &str) -> Hostname {
    Hostname::from_text(name).expect("a host")
}

#[test]
fn a_name_gets_its_own_certificate_before_the_wildcard_above_it() {
    let stage = Stage::new();
    stage.file("certificates/_.cells.example", &["*.cells.example", "cells.example"]);
    stage.file("certificates/acme.cells.example", &["acme.cells.example"]);
    stage.file("certificates/shop.test/tls", &["shop.test"]);
    let named = stage.file("named", &["named.test"]);
    let front = open(&TlsConfig { certificates: vec![named], ..stage.config() });
    let one = |name: &str| served(&front, &stage, name).map(|names| names.join(" "));
    assert_eq!(one("acme.cells.example").as_deref(), Some("acme.cells.example"));
    assert_eq!(one("globex.cells.example").as_deref(), Some("*.cells.example cells.example"));
    assert_eq!(one("cells.example").as_deref(), Some("*.cells.example cells.example"));
    assert_eq!(one("shop.test").as_deref(), Some("shop.test"));
    assert_eq!(one("named.test").as_deref(), Some("named.test"));
    assert_eq!(one("a.globex.cells.example"), None);
    assert_eq!(one("127.0.0.1"), None);
}

#[test]
fn who_names_no_known_host_gets_the_default_or_nothing() {
    let stage = Stage::new();
    stage.file("certificates/acme.example", &["acme.example"]);
    let default = stage.file("default", &["fallback.example"]);
    let front = open(&TlsConfig { default: Some(default), ..stage.config() });
    let covers = front.server().covers;
    assert!(covers.covers(Some("unknown.example"), &host("fallback.example")));
    assert!(covers.covers(None, &host("fallback.example")));
    assert!(!covers.covers(Some("unknown.example"), &host("unknown.example")));
    assert!(covers.covers(Some("ACME.example"), &host("acme.example")));
    assert!(!covers.covers(Some("acme.example"), &host("globex.example")));
    assert_eq!(served(&open(&stage.config()), &stage, "unknown.example"), None);
}

#[test]
fn both_versions_are_spoken_unless_the_older_is_switched_off() {
    let stage = Stage::new();
    stage.file("certificates/acme.example", &["acme.example"]);
    let modern = TlsConfig { min_version: MinVersion::Tls13, ..stage.config() };
    for (version, config, works) in [
        (&TLS12, stage.config(), true),
        (&TLS13, stage.config(), true),
        (&TLS12, modern.clone(), false),
        (&TLS13, modern, true),
    ] {
        let mut client = stage.client(&[version]);
        client.alpn_protocols = vec![b"h2".to_vec()];
        let pair = Pair::shake(&open(&config), client, "acme.example");
        assert_eq!(pair.is_ok(), works, "{version:?}");
        assert!(pair.is_err() || pair.is_ok_and(|pair| pair.client.alpn_protocol() == Some(b"h2")));
    }
}

#[test]
fn a_renewed_certificate_is_served_and_open_connections_go_on() {
    let stage = Stage::new();
    let pair = stage.file("named", &["named.test", "first.test"]);
    let front = open(&TlsConfig { certificates: vec![pair.clone()], ..TlsConfig::default() });
    let mut open = Pair::shake(&front, stage.client(&[&TLS13]), "named.test").expect("shaken");
    stage.file("named", &["named.test", "second.test"]);
    front.store.refresh();
    assert_eq!(served(&front, &stage, "named.test").expect("served"), ["named.test", "second.test"]);
    assert_eq!(open.say(b"still here"), b"still here");

    std::fs::write(&pair.certificate, "no certificate").expect("written");
    front.store.refresh();
    assert_eq!(served(&front, &stage, "named.test").expect("served"), ["named.test", "second.test"]);
    let (ended, key) = stage.pem(&["named.test"], true);
    write_key(&pair.key, &key);
    std::fs::write(&pair.certificate, ended).expect("written");
    front.store.refresh();
    assert_eq!(served(&front, &stage, "named.test").expect("served"), ["named.test", "second.test"]);
    assert!(front.store.refused_count() >= 2);
}

#[test]
fn a_file_in_the_folder_is_renewed_refused_or_withdrawn_in_its_turn() {
    let stage = Stage::new();
    let pair = stage.file("certificates/acme.example", &["acme.example", "first.test"]);
    let front = open(&stage.config());
    let names = || served(&front, &stage, "acme.example").map(|names| names.join(" "));
    assert_eq!(names().as_deref(), Some("acme.example first.test"));
    stage.file("certificates/acme.example", &["acme.example", "second.test"]);
    front.store.let_time_pass();
    assert_eq!(names().as_deref(), Some("acme.example second.test"));
    stage.file("certificates/acme.example", &["globex.example"]);
    front.store.let_time_pass();
    assert_eq!(names().as_deref(), Some("acme.example second.test"), "filed under another's name");
    std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o644)).expect("set");
    front.store.let_time_pass();
    assert_eq!(names().as_deref(), Some("acme.example second.test"), "a key that everyone can read");
    std::fs::remove_file(&pair.certificate).expect("there");
    front.store.let_time_pass();
    assert_eq!(names(), None);
    stage.file("certificates/acme.example", &["acme.example"]);
    front.store.let_time_pass();
    assert_eq!(names().as_deref(), Some("acme.example"));
}

#[test]
fn a_session_is_resumed_at_another_router_with_the_same_secret() {
    let stage = Stage::new();
    stage.file("certificates/acme.example", &["acme.example"]);
    let secret = stage.path("tickets");
    write_key(&secret, &"s".repeat(48));
    let shared = TlsConfig { ticket_secret: Some(secret), ..stage.config() };
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(stage.client(&[version]));
        let kind = |front: &FrontTls| {
            let pair = Pair::shake_with(front, &client, "acme.example").expect("shaken");
            pair.client.handshake_kind().expect("over")
        };
        assert_ne!(kind(&open(&shared)), HandshakeKind::Resumed, "{version:?}");
        assert_eq!(kind(&open(&shared)), HandshakeKind::Resumed, "{version:?}");
        assert_ne!(kind(&open(&stage.config())), HandshakeKind::Resumed, "{version:?}");
    }
}

#[test]
fn client_certificates_are_asked_for_as_configured() {
    let (stage, other) = (Stage::new(), Stage::new());
    stage.file("certificates/acme.example", &["acme.example"]);
    let ca = stage.path("ca.crt");
    let optional = open(&TlsConfig { clients: ClientCertificates::Optional { ca: ca.clone() }, ..stage.config() });
    let required = open(&TlsConfig { clients: ClientCertificates::Required { ca }, ..stage.config() });
    for (front, without) in [(&optional, true), (&required, false)] {
        let nobody = Pair::shake(front, stage.client(&[&TLS13]), "acme.example");
        assert_eq!(nobody.is_ok(), without);
        let ours = Pair::shake(front, with_certificate(&stage, &stage), "acme.example").expect("ours");
        assert!(ours.server.peer_certificates().is_some());
        assert!(Pair::shake(front, with_certificate(&stage, &other), "acme.example").is_err(), "a foreign CA's");
    }
}

/// A client of the stage's servers with a certificate of another CA's.
fn with_certificate(stage: &Stage, of: &Stage) -> ClientConfig {
    let (certificate, key) = of.pem(&["client.example"], false);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(stage.ca.der().clone()).expect("a CA");
    let builder = ClientConfig::builder_with_provider(certificate::provider());
    let builder = builder.with_protocol_versions(&[&TLS13]).expect("a version").with_root_certificates(roots);
    builder.with_client_auth_cert(chain, key).expect("a client")
}

#[test]
fn a_changed_ca_of_clients_is_in_force_without_a_restart_and_a_bad_one_is_refused() {
    let (stage, other) = (Stage::new(), Stage::new());
    stage.file("certificates/acme.example", &["acme.example"]);
    let ca = stage.path("clients.crt");
    std::fs::copy(stage.path("ca.crt"), &ca).expect("copied");
    let mut front = open(&TlsConfig { clients: ClientCertificates::Required { ca: ca.clone() }, ..stage.config() });
    let (ours, theirs) = (Arc::new(with_certificate(&stage, &stage)), with_certificate(&stage, &other));
    let kind = |front: &FrontTls| {
        Pair::shake_with(front, &ours, "acme.example")?
            .client
            .handshake_kind()
            .ok_or(rustls::Error::HandshakeNotComplete)
    };
    let mut open = Pair::shake_with(&front, &ours, "acme.example").expect("ours");
    assert_eq!(kind(&front), Ok(HandshakeKind::Resumed));
    std::fs::write(&ca, "no certificate").expect("written");
    assert!(front.refresh_clients().is_err());
    assert_eq!(kind(&front), Ok(HandshakeKind::Resumed), "the one before stays");

    std::fs::copy(other.path("ca.crt"), &ca).expect("copied");
    front.refresh_clients().expect("a CA");
    Pair::shake(&front, theirs, "acme.example").expect("of the new CA");
    assert!(kind(&front).is_err(), "a session that the CA before let in is not resumed");
    assert_eq!(open.say(b"still here"), b"still here");
}

#[test]
fn two_thousand_certificates_are_read_one_by_one_and_kept_within_bounds() {
    const CERTIFICATES: usize = 2_000;
    const CACHED: usize = 64;
    let stage = Stage::new();
    // One key for all: making keys is not what is tried here.
    let (_, key_pem) = stage.pem(&["any.example"], false);
    let key = KeyPair::from_pem(&key_pem).expect("a key");
    for index in 0..CERTIFICATES {
        let name = format!("t{index}.example");
        let certificate = CertificateParams::new([name.clone()]).expect("a name").signed_by(&key, &stage.ca);
        let path = stage.path(&format!("certificates/{name}"));
        std::fs::write(format!("{}.crt", path.display()), certificate.expect("signed").pem()).expect("written");
        write_key(Path::new(&format!("{}.key", path.display())), &key_pem);
    }
    let front = open(&TlsConfig { cached_certificates: CACHED, ..stage.config() });
    assert_eq!(front.store.cached_count(), 0, "read before anybody asked");
    let covers = front.server().covers;
    for index in 0..CERTIFICATES {
        let name = format!("t{index}.example");
        assert!(covers.covers(Some(&name), &host(&name)), "{name}");
    }
    // The cache rounds its bound up to its shards.
    assert!((1..=2 * CACHED).contains(&front.store.cached_count()));
    assert_eq!(served(&front, &stage, "t0.example").expect("served"), ["t0.example"]);
}

#[test]
fn what_cannot_be_served_is_refused_at_the_start() {
    let stage = Stage::new();
    let complaint = |config: &TlsConfig| FrontTls::open(config).err().expect("bad").to_string();
    assert!(complaint(&TlsConfig::default()).contains("needs certificates"));
    let nowhere = TlsConfig { folder: Some(stage.path("nowhere")), ..TlsConfig::default() };
    assert!(complaint(&nowhere).contains("nowhere"));
    let a = stage.file("a", &["a.example"]);
    let b = stage.file("b", &["b.example"]);
    let crossed = CertificatePair { certificate: a.certificate, key: b.key };
    let said = complaint(&TlsConfig { certificates: vec![crossed], ..TlsConfig::default() });
    assert!(said.contains("a.crt") && said.contains("b.key"), "{said}");
    let no_ca = ClientCertificates::Required { ca: stage.path("none.crt") };
    assert!(complaint(&TlsConfig { clients: no_ca, ..stage.config() }).contains("none.crt"));
}

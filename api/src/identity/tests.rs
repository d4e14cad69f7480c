//! Real handshakes in memory: who is let in, who is trusted, and what a change of the files does.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

struct TestCa(CertifiedIssuer<'static, KeyPair>);

impl TestCa {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA"))
    }

    /// Writes a certificate of `names` that trusts this CA.
    fn issue(&self, dir: &TempDir, names: &[&str], days: i64) -> IdentityFiles {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("DNS names");
        let today = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(now());
        params.not_before = today - std::time::Duration::from_secs(86_400);
        let left_s = 3_600 + 86_400 * days;
        params.not_after = rcgen::date_time_ymd(1970, 1, 1)
            + std::time::Duration::from_secs(now().checked_add_signed(left_s).expect("after 1970"));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let files = files_in(dir.path());
        std::fs::write(&files.certificate, certificate.pem()).expect("written");
        write_key(&files.key, &key.serialize_pem());
        std::fs::write(&files.ca, self.0.pem()).expect("written");
        files
    }
}

fn now() -> u64 {
    u64::try_from(crate::certificate::now_s()).expect("after 1970")
}

fn files_in(dir: &Path) -> IdentityFiles {
    IdentityFiles { certificate: dir.join("tls.crt"), key: dir.join("tls.key"), ca: dir.join("ca.crt") }
}

fn write_key(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
}

fn a_dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn live(files: IdentityFiles) -> Arc<LiveIdentity> {
    LiveIdentity::load(files, "anybody", |_| true).expect("an identity")
}

fn live_of(ca: &TestCa, name: &str) -> Arc<LiveIdentity> {
    live(ca.issue(&a_dir(), &[name], 30))
}

/// Shakes hands in memory; tells whom the server saw.
fn handshake(client: ClientConfig, server: ServerConfig, asked: &str) -> Result<Option<Identity>, rustls::Error> {
    let name = asked.to_owned().try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("into memory");
        server.read_tls(&mut bytes.as_slice()).expect("from memory");
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).expect("into memory");
        client.read_tls(&mut bytes.as_slice()).expect("from memory");
        client.process_new_packets()?;
    }
    let seen = server.peer_certificates().map(|chain| Identity::of_certificate(&chain[0]).expect("verified"));
    Ok(seen)
}

#[test]
fn names_and_identities_are_one_to_one() {
    let cell = Identity::Cell(CellName::new("cell-a").expect("legal"));
    for identity in [Identity::Router, Identity::ControlPlane, Identity::Operator, cell] {
        assert_eq!(Identity::from_name(&identity.name()), Some(identity.clone()));
        let _ = identity.server_name();
    }
    for foreign in ["cell.cellway", ".cell.cellway", "a.b.cell.cellway", "router.cellway.example", "Router.cellway", ""]
    {
        assert_eq!(Identity::from_name(foreign), None, "{foreign}");
    }
}

#[test]
fn only_routers_are_let_in_where_only_routers_belong() {
    let ca = TestCa::new();
    let gate = live_of(&ca, "cell-a.cell.cellway");
    let router = live_of(&ca, "router.cellway");
    let server = || gate.server_config(Callers::Routers);
    let seen = handshake(router.client_config(Servers::Named), server(), "cell-a.cell.cellway");
    assert_eq!(seen, Ok(Some(Identity::Router)));
    for other in ["operator.cellway", "cell-a.cell.cellway", "control-plane.cellway"] {
        let client = live_of(&ca, other).client_config(Servers::Named);
        assert!(handshake(client, server(), "cell-a.cell.cellway").is_err(), "{other}");
    }
    let nobody = trusting(&gate_files(&ca).ca, Servers::Named).expect("a CA");
    assert!(handshake(nobody, server(), "cell-a.cell.cellway").is_err());
}

fn gate_files(ca: &TestCa) -> IdentityFiles {
    // Kept for the length of the test process: a path that outlives its directory is of no use.
    let dir = Box::leak(Box::new(a_dir()));
    ca.issue(dir, &["cell-a.cell.cellway"], 30)
}

#[test]
fn a_server_that_is_somebody_else_is_not_talked_to() {
    let ca = TestCa::new();
    let router = live_of(&ca, "router.cellway");
    let wrong_cell = live_of(&ca, "cell-b.cell.cellway").server_config(Callers::Routers);
    assert!(handshake(router.client_config(Servers::Named), wrong_cell, "cell-a.cell.cellway").is_err());
    let cell = live_of(&ca, "cell-a.cell.cellway");
    let by_address = |server: &str| {
        let server = live_of(&ca, server).server_config(Callers::Anyone);
        handshake(cell.client_config(Servers::ControlPlane), server, "127.0.0.1")
    };
    assert!(by_address("control-plane.cellway").is_ok());
    assert!(by_address("cell-b.cell.cellway").is_err());
}

#[test]
fn a_foreign_ca_gives_no_identity() {
    let (ours, theirs) = (TestCa::new(), TestCa::new());
    let plane = live_of(&ours, "control-plane.cellway");
    let forged = live_of(&theirs, "operator.cellway");
    // Even where the client would go on with anybody.
    let client = trusted_by_nobody(&forged);
    assert!(handshake(client, plane.server_config(Callers::Anyone), "127.0.0.1").is_err());
    let forged = live_of(&theirs, "control-plane.cellway").server_config(Callers::Anyone);
    let cell = live_of(&ours, "cell-a.cell.cellway");
    assert!(handshake(cell.client_config(Servers::ControlPlane), forged, "127.0.0.1").is_err());
}

/// A client that presents `identity` to a server of any CA.
fn trusted_by_nobody(identity: &Arc<LiveIdentity>) -> ClientConfig {
    let mut config = identity.client_config(Servers::ControlPlane);
    config.dangerous().set_certificate_verifier(Arc::new(TakesAll));
    config
}

#[derive(Debug)]
struct TakesAll;

impl rustls::client::danger::ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        crate::certificate::provider().signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn the_api_lets_in_who_has_no_identity_and_sees_that() {
    let ca = TestCa::new();
    let plane = live_of(&ca, "control-plane.cellway");
    let nobody = trusting(&gate_files(&ca).ca, Servers::ControlPlane).expect("a CA");
    assert_eq!(handshake(nobody, plane.server_config(Callers::Anyone), "127.0.0.1"), Ok(None));
}

#[test]
fn a_renewed_certificate_is_used_and_a_bad_one_refused() {
    let (ca, dir) = (TestCa::new(), a_dir());
    let files = ca.issue(&dir, &["router.cellway"], 5);
    let router = live(files.clone());
    let before = router.seconds_until_expiry();
    assert!(before < EXPIRY_WARNING_S);
    std::fs::write(&files.key, "no key").expect("written");
    assert!(matches!(router.refresh(), Err(IdentityError::Certificate(_))));
    ca.issue(&dir, &["operator.cellway"], 30);
    assert!(matches!(router.refresh(), Err(IdentityError::Other { .. })));
    assert_eq!((router.identity(), router.seconds_until_expiry() <= before), (Identity::Router, true));
    ca.issue(&dir, &["router.cellway"], 60);
    assert!(router.refresh().expect("a good one"));
    assert!(router.seconds_until_expiry() > EXPIRY_WARNING_S);
    let gate = live_of(&ca, "cell-a.cell.cellway");
    let config = router.client_config(Servers::Named);
    assert!(handshake(config, gate.server_config(Callers::Routers), "cell-a.cell.cellway").is_ok());
}

#[test]
fn files_that_cannot_be_an_identity_are_refused_by_name() {
    let (ca, other, dir) = (TestCa::new(), TestCa::new(), a_dir());
    let complaint = |files: IdentityFiles| LiveIdentity::load(files, "anybody", |_| true).expect_err("bad").to_string();
    let files = ca.issue(&dir, &["router.cellway"], 30);
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).expect("set");
    let said = complaint(files.clone());
    assert!(said.contains("tls.key") && said.contains("chmod 600"), "{said}");
    let said = complaint(ca.issue(&dir, &["www.example"], 30));
    assert!(said.contains("tls.crt"), "{said}");
    assert!(complaint(ca.issue(&dir, &["router.cellway", "operator.cellway"], 30)).contains("tls.crt"));
    let ended = complaint(ca.issue(&dir, &["router.cellway"], -1));
    assert!(ended.contains("cellway ca issue"), "{ended}");
    let files = ca.issue(&dir, &["router.cellway"], 30);
    std::fs::write(&files.ca, other.0.pem()).expect("written");
    let said = complaint(files.clone());
    assert!(said.contains("ca.crt") && said.contains("tls.crt"), "{said}");
    std::fs::remove_file(&files.ca).expect("there");
    assert!(complaint(files).contains("ca.crt"));
}

//! Certificates of the store: which is served, what a change does, and what becomes of those that cannot be used.

use super::*;
use crate::snapshot::certificates::{SavedCertificates, save};
use crate::table::{Change, Subject, Table};
use cellway_api::sealing::SealingSecrets;
use cellway_core::certificate::{CertificateName, SealedCertificate};

/// A router's TLS with the store's certificates, and the table through which the feed reaches it.
struct Fed {
    front: FrontTls,
    table: Table,
}

impl Fed {
    fn start(config: &TlsConfig) -> Self {
        let front = open(config);
        Self { table: Table::new(front.stored()), front }
    }

    fn put(&self, name: &str, sealed: SealedCertificate) {
        let name = CertificateName::from_text(name).expect("a name");
        self.table.apply(Change::Certificate { name, sealed: sealed.into() });
    }

    /// What a listing of only these changes.
    fn unnamed_by(&self, names: &[&str]) -> Vec<Change> {
        let mut listing = self.table.begin_listing();
        for name in names {
            let name = CertificateName::from_text(name).expect("a name");
            self.table.name(&mut listing, &Subject::Certificate(name));
        }
        listing.close();
        let mut changes = Vec::new();
        self.table.unnamed(&listing, |change| changes.push(change));
        changes
    }

    fn served(&self, stage: &Stage, name: &str) -> Option<String> {
        served(&self.front, stage, name).map(|names| names.join(" "))
    }

    fn refused(&self) -> u64 {
        self.front.store.refused_count()
    }
}

impl Stage {
    fn secret(&self, file: &str, letter: &str) -> (PathBuf, SealingSecrets) {
        let (path, text) = (self.path(file), letter.repeat(32));
        write_key(&path, &text);
        (path, SealingSecrets::new(text.as_bytes(), None).expect("secrets"))
    }

    fn with_secret(&self, secret: &Path) -> TlsConfig {
        let stored = Some(SecretFiles { secret: secret.to_owned(), previous: None });
        TlsConfig { stored, ..TlsConfig::default() }
    }

    fn sealed(&self, secrets: &SealingSecrets, under: &str, names: &[&str], ended: bool) -> SealedCertificate {
        let (chain, key) = self.pem(names, ended);
        let chain = certificate::chain_in(chain.as_bytes()).expect("a chain");
        let key = certificate::key_in(key.as_bytes()).expect("a key");
        secrets.seal(&CertificateName::from_text(under).expect("a name"), &chain, &key).expect("sealed")
    }
}

#[test]
fn the_configuration_goes_before_the_store_and_the_store_before_the_folder() {
    let stage = Stage::new();
    let (secret, secrets) = stage.secret("secret", "s");
    let named = stage.file("named", &["named.example", "configured.test"]);
    for (file, name) in [("named.example", "named.example"), ("both.example", "both.example"), ("f.test", "f.test")] {
        stage.file(&format!("certificates/{file}"), &[name, "folder.test"]);
    }
    let folder = Some(stage.path("certificates"));
    let fed = Fed::start(&TlsConfig { certificates: vec![named], folder, ..stage.with_secret(&secret) });
    for (under, name) in [
        ("named.example", "named.example"),
        ("both.example", "both.example"),
        ("*.cells.example", "*.cells.example"),
        ("acme.cells.example", "acme.cells.example"),
    ] {
        fed.put(under, stage.sealed(&secrets, under, &[name, "stored.test"], false));
    }
    let one = |name: &str| fed.served(&stage, name);
    assert_eq!(one("named.example").as_deref(), Some("named.example configured.test"));
    assert_eq!(one("both.example").as_deref(), Some("both.example stored.test"));
    assert_eq!(one("f.test").as_deref(), Some("f.test folder.test"));
    assert_eq!(one("acme.cells.example").as_deref(), Some("acme.cells.example stored.test"), "its own first");
    assert_eq!(one("globex.cells.example").as_deref(), Some("*.cells.example stored.test"));
    assert_eq!(one("a.globex.cells.example"), None);
    fed.table.apply(Change::CertificateRemoved(CertificateName::from_text("both.example").expect("a name")));
    assert_eq!(one("both.example").as_deref(), Some("both.example folder.test"));
    assert_eq!(fed.refused(), 0);
}

#[test]
fn a_changed_certificate_is_in_the_next_handshake_and_no_connection_ends() {
    let stage = Stage::new();
    let (secret, secrets) = stage.secret("secret", "s");
    let fed = Fed::start(&stage.with_secret(&secret));
    let put = |second: &str| {
        fed.put("a.example", stage.sealed(&secrets, "a.example", &["a.example", second], false));
    };
    put("first.test");
    let mut open = Pair::shake(&fed.front, stage.client(&[&TLS13]), "a.example").expect("shaken");
    put("second.test");
    assert_eq!(fed.served(&stage, "a.example").as_deref(), Some("a.example second.test"));
    assert_eq!(open.say(b"still here"), b"still here");
    for change in fed.unnamed_by(&[]) {
        fed.table.apply(change);
    }
    assert_eq!(fed.served(&stage, "a.example"), None, "a listing without it");
}

#[test]
fn what_cannot_be_used_is_refused_and_the_last_good_one_stays() {
    let stage = Stage::new();
    let (secret, secrets) = stage.secret("secret", "s");
    let (_, others) = stage.secret("other", "o");
    let fed = Fed::start(&stage.with_secret(&secret));
    let good = stage.sealed(&secrets, "a.example", &["a.example", "first.test"], false);
    let mut broken = stage.sealed(&secrets, "a.example", &["a.example"], false);
    broken.sealed_key[20] ^= 1;
    let bad = [
        ("another secret", stage.sealed(&others, "a.example", &["a.example"], false)),
        ("a broken seal", broken),
        ("another name's", stage.sealed(&secrets, "b.example", &["a.example", "b.example"], false)),
        ("other hosts", stage.sealed(&secrets, "a.example", &["b.example"], false)),
        ("ended", stage.sealed(&secrets, "a.example", &["a.example"], true)),
        ("no certificate", SealedCertificate { chain: [b"no certificate".as_slice().into()].into(), ..good.clone() }),
    ];
    fed.put("a.example", good.clone());
    // Each is also tried before the good one was ever used.
    for (count, (what, bad)) in (1_u64..).zip(bad.iter().chain(&bad)) {
        fed.put("a.example", bad.clone());
        for _ in 0..2 {
            assert_eq!(fed.served(&stage, "a.example").as_deref(), Some("a.example first.test"), "{what}");
        }
        assert_eq!(fed.refused(), count, "{what}: refused once");
        let kept = fed.front.stored().expect("stored").contents();
        assert_eq!(kept.len(), 1);
        assert_eq!(*kept[0].1, good, "{what}: in the snapshot");
    }
    fed.put("b.example", stage.sealed(&others, "b.example", &["b.example"], false));
    assert_eq!(fed.served(&stage, "b.example"), None, "no good one was ever there");
    fed.put("c.example", stage.sealed(&secrets, "c.example", &["c.example"], true));
    assert!(fed.front.server().covers.covers(Some("c.example"), &host("c.example")), "ended, and nothing better");
}

#[test]
fn a_changed_secret_is_taken_over_and_what_it_opens_is_served() {
    let stage = Stage::new();
    let (secret, secrets) = stage.secret("secret", "s");
    let (_, new) = stage.secret("other", "n");
    let previous = stage.path("previous");
    let stored = Some(SecretFiles { secret: secret.clone(), previous: Some(previous.clone()) });
    std::fs::copy(&secret, &previous).expect("copied");
    let fed = Fed::start(&TlsConfig { stored, ..TlsConfig::default() });
    fed.put("old.example", stage.sealed(&secrets, "old.example", &["old.example"], false));
    fed.put("new.example", stage.sealed(&new, "new.example", &["new.example"], false));
    assert_eq!(fed.served(&stage, "new.example"), None);
    let stored = fed.front.stored().expect("stored");
    write_key(&secret, "short");
    assert!(stored.refresh().is_err());
    assert!(fed.served(&stage, "old.example").is_some(), "a bad secret changes nothing");
    write_key(&secret, &"n".repeat(32));
    stored.refresh().expect("good secrets");
    assert!(fed.served(&stage, "new.example").is_some());
    assert!(fed.served(&stage, "old.example").is_some(), "sealed with the previous one");
}

#[test]
fn a_router_keeps_open_what_is_used_and_the_rest_sealed() {
    const CERTIFICATES: usize = 500;
    const CACHED: usize = 16;
    let stage = Stage::new();
    let (secret, secrets) = stage.secret("secret", "s");
    let fed = Fed::start(&TlsConfig { cached_certificates: CACHED, ..stage.with_secret(&secret) });
    for index in 0..CERTIFICATES {
        let name = format!("t{index}.example");
        fed.put(&name, stage.sealed(&secrets, &name, &[&name], false));
    }
    assert_eq!(fed.front.store.cached_count(), 0, "opened before anybody asked");
    let covers = fed.front.server().covers;
    for index in 0..CERTIFICATES {
        let name = format!("t{index}.example");
        assert!(covers.covers(Some(&name), &host(&name)), "{name}");
    }
    // The cache rounds its bound up to its shards.
    assert!((1..=2 * CACHED).contains(&fed.front.store.cached_count()));
    assert!(fed.served(&stage, "t0.example").is_some());
}

#[test]
fn saved_certificates_are_served_until_the_source_speaks_and_what_it_does_not_name_is_gone_then() {
    let stage = Stage::new();
    let (secret, secrets) = stage.secret("secret", "s");
    let path = stage.path("certificates");
    let named = |name: &str| {
        let sealed = stage.sealed(&secrets, name, &[name, "saved.test"], false);
        (CertificateName::from_text(name).expect("a name"), Arc::new(sealed))
    };
    let (kept, removed) = (named("kept.example"), named("removed.example"));
    save(&path, vec![kept.clone(), removed, named("renewed.example")]).expect("saved");
    let fed = Fed::start(&stage.with_secret(&secret));
    let stored = fed.front.stored().expect("stored");
    stored.start_from(SavedCertificates::open(&path).0);
    assert_eq!((stored.len(), stored.version()), (3, 0));
    for _ in 0..2 {
        for name in ["kept.example", "removed.example", "renewed.example"] {
            assert_eq!(fed.served(&stage, name), Some(format!("{name} saved.test")));
        }
        assert_eq!(fed.served(&stage, "unknown.example"), None);
    }
    assert_eq!(stored.contents(), Vec::new(), "nothing was read in");

    let vanished = fed.unnamed_by(&["kept.example", "renewed.example"]);
    fed.put("kept.example", (*kept.1).clone());
    fed.put("renewed.example", stage.sealed(&secrets, "renewed.example", &["renewed.example", "new.test"], false));
    for change in vanished {
        fed.table.apply(change);
    }
    assert_eq!(fed.served(&stage, "kept.example").as_deref(), Some("kept.example saved.test"));
    assert_eq!(fed.served(&stage, "renewed.example").as_deref(), Some("renewed.example new.test"));
    assert_eq!(fed.served(&stage, "removed.example"), None);
    assert_eq!((stored.len(), stored.version()), (2, 2));
    // What cannot be used does not take the saved one away.
    let (_, others) = stage.secret("other", "o");
    fed.put("kept.example", stage.sealed(&others, "kept.example", &["kept.example"], false));
    assert_eq!(fed.served(&stage, "kept.example").as_deref(), Some("kept.example saved.test"));
}

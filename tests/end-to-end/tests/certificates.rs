//! Certificates of browsers, rotated under load: from files, and from the store.

use base64::prelude::{BASE64_STANDARD, Engine};
use cellway_api::certificate::{chain_in, key_in};
use cellway_api::sealing::{CertificateName, SealingSecrets};
use cellway_end_to_end::alone::{Backend, RouterAlone};
use cellway_end_to_end::certificates::{Handshakes, Issued, Issuer};
use cellway_end_to_end::dev::Dev;
use cellway_end_to_end::{eventually, within};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const HOST: &str = "acme.cells.localhost";
const ROTATIONS: usize = 20;
const CLIENTS: usize = 4;

/// The alarm: less than 14 days.
const ALARM_S: f64 = 14.0 * 86_400.0;

const SECRET: &str = "a secret of the tests with more than 32 bytes";

/// How soon a changed certificate of the store has to be in new handshakes.
const STORED_MS: u64 = 1_000;

fn line(name: &str, issued: &Issued, secret: &str) -> String {
    let secrets = SealingSecrets::new(secret.as_bytes(), None).unwrap();
    let name = CertificateName::from_text(name).unwrap();
    let chain = chain_in(issued.certificate.as_bytes()).unwrap();
    let sealed = secrets.seal(&name, &chain, &key_in(issued.key.as_bytes()).unwrap()).unwrap();
    let certificate = serde_json::json!({
        "name": name.as_key(),
        "chain": sealed.chain.iter().map(|one| BASE64_STANDARD.encode(one)).collect::<Vec<_>>(),
        "sealed_with": sealed.sealed_with.to_string(),
        "sealed_key": BASE64_STANDARD.encode(&sealed.sealed_key),
    });
    format!("{}\n", serde_json::json!({ "certificate": certificate }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_rotated_under_load_fails_no_handshake_and_a_bad_one_changes_nothing() {
    let (issuer, backend) = (Issuer::default(), Backend::start(Duration::ZERO).await);
    issuer.file(&issuer.issue(HOST, 90));
    let front = issuer.path("front").display().to_string();
    let tls = format!("tls: {{certificates: [{{certificate: {front}.crt, key: {front}.key}}]}}\n");
    let router = RouterAlone::start(&backend, &tls).await;
    let browser = issuer.client(HOST, router.https_address());
    let load = Handshakes::start(&browser, CLIENTS);
    for _ in 0..ROTATIONS {
        let next = issuer.issue(HOST, 90);
        issuer.file(&next);
        eventually("the new certificate is served", async || browser.is_served(&next).await).await;
    }
    let good = issuer.issue(HOST, 13);
    issuer.file(&good);
    eventually("the new certificate is served", async || browser.is_served(&good).await).await;
    let left = async || router.metric("certificate_expiry_seconds").await.filter(|left| *left < ALARM_S);
    assert!(eventually("the alarm is raised", left).await > ALARM_S - 2.0 * 86_400.0);
    let refused = async || router.metric("certificates_refused_total").await;
    let ended = issuer.issue(HOST, -1);
    for (bad, said) in [("no certificate", "there is no certificate"), (&ended.certificate, "does not fit")] {
        let before = refused().await.unwrap();
        issuer.replace("front.crt", bad);
        eventually("it is refused", async || (refused().await? > before).then_some(())).await;
        assert!(router.process.log().contains(said), "{said} is not in {}", router.process.log());
        assert_eq!(browser.is_served(&good).await, Some(()), "the one before stays");
    }
    issuer.file(&ended);
    eventually("it is refused", async || router.process.log().contains("has ended already").then_some(())).await;
    assert_eq!(browser.is_served(&good).await, Some(()), "the one before stays");
    let (done, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {done} handshakes failed: {:?}", failed.len(), failed.first());
    println!("certificate rotated {ROTATIONS} times in a file: {done} handshakes, 0 failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_store_outlives_bad_ones_and_the_source() {
    let (issuer, backend) = (Issuer::default(), Backend::start(Duration::ZERO).await);
    issuer.replace("secret", SECRET);
    let secret = issuer.path("secret").display().to_string();
    let config = format!("tls: {{stored: {{secret: {secret}}}}}\n");
    let mut router = RouterAlone::start(&backend, &config).await;
    let browser = issuer.client(HOST, router.https_address());
    assert!(browser.ask().await.is_err(), "nothing to serve yet");
    let wildcard = "*.cells.localhost";
    let good = issuer.issue(wildcard, 90);
    router.tell_also(&backend, &line(wildcard, &good, SECRET));
    within(STORED_MS, "it is served", async || browser.is_served(&good).await).await;
    let other = issuer.issue(wildcard, 90);
    router.tell_also(&backend, &line(wildcard, &other, "another secret, which is as long as the first"));
    eventually("it is refused", async || {
        browser.is_served(&good).await.expect("the one before stays");
        (router.metric("certificates_refused_total").await? == 1.0).then_some(())
    })
    .await;
    assert!(router.process.log().contains("which is not here"), "{}", router.process.log());

    // The snapshot is written within a second of a change; it has what can be used.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    router.tell_nothing();
    router.process.restart();
    eventually("it is served without the source", async || browser.is_served(&good).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_set_by_command_is_in_new_handshakes_within_a_second() {
    let (issuer, dev) = (Issuer::default(), Dev::start(&["--cells", "1", "--tenants", "1"]).await);
    let browser = issuer.client(HOST, SocketAddr::from(([127, 0, 0, 1], dev.ports.at(1))));
    let (certificate, key) = (issuer.path("front.crt"), issuer.path("front.key"));
    let files = ["--certificate", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let set = |name: &str| dev.cli(&[&["certificate", "set", name][..], &files].concat());
    let first = issuer.issue(HOST, 90);
    issuer.file(&first);
    assert!(set(HOST).status.success(), "{}", String::from_utf8_lossy(&set(HOST).stderr));
    within(STORED_MS, "it is served", async || browser.is_served(&first).await).await;
    let (load, mut slowest, mut last) = (Handshakes::start(&browser, CLIENTS), Duration::ZERO, first);
    for _ in 0..ROTATIONS {
        last = issuer.issue(HOST, 90);
        issuer.file(&last);
        let set = set(HOST);
        let begun = Instant::now();
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        within(STORED_MS, "the new one is served", async || browser.is_served(&last).await).await;
        slowest = slowest.max(begun.elapsed());
    }
    let (done, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {done} handshakes failed: {:?}", failed.len(), failed.first());
    println!("certificate rotated {ROTATIONS} times in the store: {done} handshakes, 0 failed, slowest {slowest:.0?}");

    let listed = dev.cli(&["certificate", "list", "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON on stdout");
    assert_eq!((&listed["items"][0]["name"], listed["items"].as_array().unwrap().len()), (&HOST.into(), 1));
    assert_eq!(listed["items"][0]["fingerprint"], last.fingerprint);
    for (name, days, said) in [("shop.example", 90, "not for shop.example"), (HOST, -1, "ended at")] {
        issuer.file(&issuer.issue(HOST, days));
        let refused = set(name);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!((refused.status.code(), error.contains(said)), (Some(1), true), "{error}");
    }
    issuer.replace("front.key", &issuer.issue(HOST, 90).key);
    assert!(String::from_utf8_lossy(&set(HOST).stderr).contains("does not fit"));
    assert_eq!(browser.is_served(&last).await, Some(()));

    let removed = dev.cli(&["certificate", "remove", HOST]);
    assert!(removed.status.success() && dev.cli(&["certificate", "remove", HOST]).status.code() == Some(1));
    within(STORED_MS, "it is served no more", async || browser.ask().await.is_err().then_some(())).await;
    let keys = [last.key.lines().nth(1).unwrap(), "PRIVATE KEY"];
    let log = dev.process.log();
    assert!(keys.iter().all(|part| !log.contains(part)), "a key is in the log");
}

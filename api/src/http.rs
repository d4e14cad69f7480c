//! The one place where HTTP clients are begun, so that each of them has its TLS said explicitly.

use crate::certificate;
use rustls::{ClientConfig, RootCertStore};

/// A client that goes through no proxy and follows no redirect: whoever is asked must not send it elsewhere. Without a TLS configuration it trusts nobody, so that only `http` works.
pub fn client_builder(tls: Option<ClientConfig>) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_backend_preconfigured(tls.unwrap_or_else(trusting_nobody))
}

#[expect(clippy::expect_used, reason = "aws-lc-rs has cipher suites and key exchanges of every TLS version")]
fn trusting_nobody() -> ClientConfig {
    ClientConfig::builder_with_provider(certificate::provider())
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has cipher suites and key exchanges of every TLS version")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

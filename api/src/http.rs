//! The one place where HTTP clients are begun, so that each of them has its TLS said explicitly.

use crate::certificate;
use reqwest::{RequestBuilder, Response};
use rustls::{ClientConfig, RootCertStore};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The client failed.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    /// The transport that took its place did.
    #[error(transparent)]
    Transport(#[from] io::Error),
}

impl NoAnswer {
    /// Nobody can have heard the request.
    pub fn is_connect(&self) -> bool {
        match self {
            Self::Http(error) => error.is_connect(),
            Self::Transport(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        }
    }

    pub(crate) fn is_decode(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_decode())
    }

    pub(crate) fn without_url(self) -> Self {
        match self {
            Self::Http(error) => Self::Http(error.without_url()),
            other => other,
        }
    }
}

/// An answer on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response, NoAnswer>> + Send>>;

/// Carries requests in the place of the network, within their time-outs.
pub type Transport = fn(reqwest::Request) -> Answer;

static REPLACED: OnceLock<Transport> = OnceLock::new();

/// Puts a transport in the place of the network for all clients of this process: for the simulation. The first one
/// stays.
pub fn replace_transport(transport: Transport) {
    let _ = REPLACED.set(transport);
}

/// Sends a request.
pub(crate) async fn send(request: RequestBuilder) -> Result<Response, NoAnswer> {
    match REPLACED.get() {
        None => Ok(request.send().await?),
        Some(transport) => transport(request.build()?).await,
    }
}

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

//! A process's identity while it runs: the files are read again when they change, and no connection notices.

use super::files::{Ca, IdentityError, IdentityFiles, Loaded};
use super::verify::{Callers, ClientVerifier, CurrentCa, ServerVerifier, Servers};
use super::{Identity, files};
use crate::certificate::{self, Mark};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often the files are looked at.
pub const RELOAD_EVERY_MS: u64 = 2_000;

/// From how long before its end on a certificate is warned of: two weeks.
pub const EXPIRY_WARNING_S: i64 = 14 * 86_400;

/// How often the warning is repeated.
const WARN_EVERY_S: i64 = 3_600;

/// Who this process is.
#[derive(Debug)]
pub struct LiveIdentity {
    files: IdentityFiles,
    current: ArcSwap<Loaded>,
    seen: Mutex<Seen>,
}

/// What was last seen of the files.
#[derive(Debug)]
struct Seen {
    /// `None` while a change could still hide behind the same marks.
    marks: Option<[Option<Mark>; 3]>,
    complaint: Option<String>,
    warned_s: i64,
}

impl LiveIdentity {
    /// Reads the files. They must give an identity that `accepts`, described as `wanted`, takes.
    pub fn load(
        files: IdentityFiles,
        wanted: &str,
        accepts: impl FnOnce(&Identity) -> bool,
    ) -> Result<Arc<Self>, IdentityError> {
        let marks = files.marks();
        let loaded = files.load()?;
        if !accepts(&loaded.identity) {
            let path = files.certificate.clone();
            return Err(IdentityError::Other { path, is: loaded.identity, wanted: wanted.to_owned() });
        }
        let seen = Seen { marks: settled(marks), complaint: None, warned_s: i64::MIN };
        Ok(Arc::new(Self { files, current: ArcSwap::from_pointee(loaded), seen: Mutex::new(seen) }))
    }

    /// Who it is. This never changes.
    pub fn identity(&self) -> Identity {
        self.current.load().identity.clone()
    }

    /// How long its certificate is still good for, in seconds; below 0 once it has ended.
    pub fn seconds_until_expiry(&self) -> i64 {
        self.current.load().certificate.facts.seconds_until_expiry(certificate::now_s())
    }

    /// Reads the files again if they have changed; says whether what they hold is used now. What cannot be used, or
    /// would make this process somebody else, is refused, and what was known stays.
    pub fn refresh(&self) -> Result<bool, IdentityError> {
        let mut seen = self.seen.lock();
        let marks = self.files.marks();
        if seen.marks == Some(marks) {
            return Ok(false);
        }
        seen.marks = settled(marks);
        let loaded = self.files.load()?;
        let is = self.identity();
        if loaded.identity != is {
            let path = self.files.certificate.clone();
            return Err(IdentityError::Other { path, is: loaded.identity, wanted: is.name() });
        }
        let changed = loaded.certificate.key.cert != self.current.load().certificate.key.cert;
        self.current.store(Arc::new(loaded));
        Ok(changed)
    }

    /// Keeps the identity fresh, and warns before it ends; for ever. `left` is told the seconds that are left.
    pub async fn keep_fresh(self: Arc<Self>, left: impl Fn(i64) + Send) {
        loop {
            self.look();
            left(self.seconds_until_expiry());
            tokio::time::sleep(Duration::from_millis(RELOAD_EVERY_MS)).await;
        }
    }

    /// Three small files at most: short enough not to leave the runtime for.
    fn look(&self) {
        let outcome = self.refresh();
        let left_s = self.seconds_until_expiry();
        let mut seen = self.seen.lock();
        match outcome {
            Ok(changed) => {
                if changed {
                    tracing::info!(identity = %self.identity(), left_s, "the certificate was renewed");
                }
                seen.complaint = seen.complaint.take().filter(|_| !changed);
            }
            Err(error) => {
                let complaint = chain(&error);
                if seen.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(error = complaint, "the new certificate is refused, the one before stays in use");
                    seen.complaint = Some(complaint);
                }
            }
        }
        let now_s = certificate::now_s();
        if left_s < EXPIRY_WARNING_S && now_s.saturating_sub(seen.warned_s) >= WARN_EVERY_S {
            seen.warned_s = now_s;
            let path = self.files.certificate.display();
            tracing::warn!(certificate = %path, days = left_s / 86_400, "this process's certificate ends soon");
        }
    }

    /// A server's configuration: it presents this identity, and asks for that of `callers`.
    pub fn server_config(self: &Arc<Self>, callers: Callers) -> ServerConfig {
        let verifier = ClientVerifier { ca: Arc::clone(self), callers };
        let builder = ServerConfig::builder_with_provider(certificate::provider());
        let mut config = tls13(builder)
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Presented(Arc::clone(self))));
        // A resumed session would carry an identity past the end of its certificate; connections here last anyway.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }

    /// A client's configuration: it presents this identity, and goes on only with `servers`.
    pub fn client_config(self: &Arc<Self>, servers: Servers) -> ClientConfig {
        let verifier = ServerVerifier { ca: Arc::clone(self), servers };
        let mut config = tls13(ClientConfig::builder_with_provider(certificate::provider()))
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Presented(Arc::clone(self))));
        config.resumption = Resumption::disabled();
        config
    }
}

/// A client's configuration without an identity: it presents none, and goes on only with `servers` below the CA in
/// this file.
pub fn trusting(ca: &Path, servers: Servers) -> Result<ClientConfig, IdentityError> {
    let verifier = ServerVerifier { ca: FixedCa(files::Ca::load(ca)?), servers };
    let builder = tls13(ClientConfig::builder_with_provider(certificate::provider()));
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

#[expect(clippy::expect_used, reason = "aws-lc-rs has cipher suites and key exchanges of TLS 1.3")]
fn tls13<Side: rustls::ConfigSide>(
    builder: rustls::ConfigBuilder<Side, rustls::WantsVersions>,
) -> rustls::ConfigBuilder<Side, rustls::WantsVerifier> {
    builder.with_protocol_versions(&[&TLS13]).expect("aws-lc-rs has cipher suites and key exchanges of TLS 1.3")
}

fn settled(marks: [Option<Mark>; 3]) -> Option<[Option<Mark>; 3]> {
    marks.iter().flatten().all(Mark::is_settled).then_some(marks)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl CurrentCa for Arc<LiveIdentity> {
    fn with<T>(&self, use_it: impl FnOnce(&Ca) -> T) -> T {
        use_it(&self.current.load().ca)
    }
}

#[derive(Debug)]
struct FixedCa(Ca);

impl CurrentCa for FixedCa {
    fn with<T>(&self, use_it: impl FnOnce(&Ca) -> T) -> T {
        use_it(&self.0)
    }
}

/// Presents the certificate of the moment, whatever name is asked for: identities are not addresses.
#[derive(Debug)]
struct Presented(Arc<LiveIdentity>);

impl Presented {
    fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.current.load().certificate.key)
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

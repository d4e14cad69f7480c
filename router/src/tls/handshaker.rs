//! What handshakes with browsers are done with. It is made anew when the CA of their own certificates changes.

use super::certificates::CertificateStore;
use super::clients::ClientCa;
use super::metrics::TlsMetrics;
use super::tickets::{TicketError, Tickets};
use super::{MinVersion, TlsError};
use arc_swap::ArcSwap;
use cellway_api::certificate;
use cellway_proxy::{Handshakes, Outcome, Protocol};
use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};
use std::sync::Arc;

/// What is offered, the better one first.
const PROTOCOLS: [Protocol; 2] = [Protocol::Http2, Protocol::Http1];

/// See the module.
pub(super) struct Handshaker {
    min_version: MinVersion,
    store: Arc<CertificateStore>,
    tickets: Arc<Tickets>,
    metrics: TlsMetrics,
    config: ArcSwap<ServerConfig>,
}

impl Handshaker {
    pub(super) fn new(
        min_version: MinVersion,
        store: &Arc<CertificateStore>,
        tickets: Tickets,
        metrics: TlsMetrics,
        clients: &ClientCa,
    ) -> Result<Self, TlsError> {
        let (store, tickets) = (Arc::clone(store), Arc::new(tickets));
        tickets.bind_to(clients.context())?;
        let config = ArcSwap::from_pointee(make(min_version, &store, &tickets, clients)?);
        Ok(Self { min_version, store, tickets, metrics, config })
    }

    /// From now on clients are checked by this CA, those too that were checked by the one before and come again.
    pub(super) fn check_clients_by(&self, clients: &ClientCa) -> Result<(), TlsError> {
        let made = make(self.min_version, &self.store, &self.tickets, clients)?;
        self.tickets.bind_to(clients.context())?;
        self.config.store(Arc::new(made));
        Ok(())
    }

    pub(super) fn refresh_tickets(&self) -> Result<(), TicketError> {
        self.tickets.refresh()
    }
}

#[expect(clippy::expect_used, reason = "aws-lc-rs has cipher suites and key exchanges of both versions")]
fn make(
    min_version: MinVersion,
    store: &Arc<CertificateStore>,
    tickets: &Arc<Tickets>,
    clients: &ClientCa,
) -> Result<ServerConfig, TlsError> {
    let versions: &[_] = match min_version {
        MinVersion::Tls12 => &[&TLS13, &TLS12],
        MinVersion::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(certificate::provider())
        .with_protocol_versions(versions)
        .expect("aws-lc-rs has cipher suites and key exchanges of both versions");
    let builder = match clients.verifier()? {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut made = builder.with_cert_resolver(Arc::clone(store) as _);
    made.alpn_protocols = PROTOCOLS.map(|protocol| protocol.alpn().to_vec()).into();
    made.ticketer = Arc::clone(tickets) as _;
    Ok(made)
}

impl Handshakes for Handshaker {
    fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    fn ended(&self, outcome: Outcome) {
        self.metrics.handshake(outcome);
    }
}

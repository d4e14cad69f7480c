//! What a router counts of its certificates.

use cellway_proxy::Outcome;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The handles.
#[derive(Debug, Clone)]
pub(crate) struct TlsMetrics {
    pub(crate) unknown_names: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) cached: IntGauge,
    pub(crate) stored: IntGauge,
    pub(crate) expiry_seconds: IntGauge,
    handshakes: IntCounterVec,
    /// In the order of [`Outcome::ALL`].
    outcomes: [IntCounter; Outcome::ALL.len()],
}

impl TlsMetrics {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| IntCounter::new(format!("cellway_router_{name}"), help);
        let gauge = |name: &str, help: &str| IntGauge::new(format!("cellway_router_{name}"), help);
        let handshakes = Opts::new("cellway_router_tls_handshakes_total", "TLS handshakes, by how they ended.");
        let handshakes = IntCounterVec::new(handshakes, &["outcome"])?;
        Ok(Self {
            outcomes: Outcome::ALL.map(|outcome| handshakes.with_label_values(&[outcome.name()])),
            handshakes,
            unknown_names: counter("tls_unknown_names_total", "Handshakes for a name without a certificate.")?,
            refused: counter(
                "certificates_refused_total",
                "Certificates of the files and of the store that could not be used.",
            )?,
            cached: gauge("certificates_cached", "Certificates of the folder and of the store that are kept ready.")?,
            stored: gauge("certificates_stored", "Certificates of the store that are known.")?,
            expiry_seconds: gauge(
                "certificate_expiry_seconds",
                "How long the first of the certificates in use is still good for.",
            )?,
        })
    }

    /// Counts a handshake.
    pub(crate) fn handshake(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].inc();
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.unknown_names.clone()))?;
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.cached.clone()))?;
        registry.register(Box::new(self.stored.clone()))?;
        registry.register(Box::new(self.handshakes.clone()))?;
        registry.register(Box::new(self.expiry_seconds.clone()))
    }
}

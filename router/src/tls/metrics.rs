//! What a router counts of its certificates.

use prometheus::{IntCounter, IntGauge, Registry};

/// The handles.
#[derive(Debug, Clone)]
pub(crate) struct TlsMetrics {
    pub(crate) unknown_names: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) cached: IntGauge,
    pub(crate) expiry_seconds: IntGauge,
}

impl TlsMetrics {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| IntCounter::new(format!("cellway_router_{name}"), help);
        let gauge = |name: &str, help: &str| IntGauge::new(format!("cellway_router_{name}"), help);
        Ok(Self {
            unknown_names: counter("tls_unknown_names_total", "Handshakes for a name without a certificate.")?,
            refused: counter("certificates_refused_total", "Certificate files that could not be used.")?,
            cached: gauge("certificates_cached", "Certificates of the folder that are kept ready.")?,
            expiry_seconds: gauge(
                "certificate_expiry_seconds",
                "How long the first of the certificates in use is still good for.",
            )?,
        })
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.unknown_names.clone()))?;
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.cached.clone()))?;
        registry.register(Box::new(self.expiry_seconds.clone()))
    }
}

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
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("cellway_router_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("cellway_router_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
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
}

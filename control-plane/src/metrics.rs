//! The control plane's metrics. Handles are resolved once.

use crate::view::View;
use cellway_api::certificate::now_s;
use cellway_api::identity::LiveIdentity;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use std::sync::Arc;

/// See the module.
pub(crate) struct Metrics {
    /// Moves that ended at their target.
    pub(crate) moves_done: IntCounter,
    /// Moves that ended at their source.
    pub(crate) moves_undone: IntCounter,
    /// From the hold to its release, in seconds.
    pub(crate) freeze_seconds: Histogram,
    /// Facts that changed a record.
    pub(crate) facts_recorded: IntCounter,
    /// Facts that changed nothing.
    pub(crate) facts_refused: IntCounter,
    /// 1 while this replica leads.
    pub(crate) leading: IntGauge,
    /// The store's revision that the view is at.
    pub(crate) view_revision: IntGauge,
    /// Records that could not be read.
    pub(crate) bad_records: IntCounter,
    /// Records of the store that cannot be read now.
    pub(crate) unreadable_records: IntGauge,
    /// Certificates of the store.
    pub(crate) certificates: IntGauge,
    /// Until the first of them ends.
    pub(crate) certificate_expiry_seconds: IntGauge,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let freeze = HistogramOpts::new("cellway_move_freeze_seconds", "From the hold of a tenant to its release.")
            .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0]);
        let freeze_seconds = Histogram::with_opts(freeze)?;
        registry.register(Box::new(freeze_seconds.clone()))?;
        Ok(Self {
            moves_done: counter("cellway_moves_done_total", "Moves that ended at their target.")?,
            moves_undone: counter("cellway_moves_undone_total", "Moves that ended at their source.")?,
            freeze_seconds,
            facts_recorded: counter("cellway_facts_recorded_total", "Facts of agents that changed a move.")?,
            facts_refused: counter("cellway_facts_refused_total", "Facts of agents that changed nothing.")?,
            leading: gauge("cellway_leading", "1 while this replica leads.")?,
            view_revision: gauge("cellway_view_revision", "The store's revision that this replica has seen.")?,
            bad_records: counter("cellway_bad_records_total", "Stored records that could not be read.")?,
            unreadable_records: gauge("cellway_unreadable_records", "Records of the store that cannot be read now.")?,
            certificates: gauge("cellway_certificates", "Certificates that the store keeps.")?,
            certificate_expiry_seconds: gauge(
                "cellway_certificate_expiry_seconds",
                "How long the first of the store's certificates to end is still good for.",
            )?,
        })
    }
}

impl Metrics {
    /// Shows what there is of certificates now.
    pub(crate) fn show_certificates(&self, view: &View) {
        self.certificates.set(i64::try_from(view.certificates.len()).unwrap_or(i64::MAX));
        let first = view.certificates.values().map(|at| at.value.facts.not_after_s).min();
        self.certificate_expiry_seconds.set(first.map_or(i64::MAX, |ends_s| ends_s.saturating_sub(now_s())));
    }
}

/// Keeps the replica's identity fresh, for ever, and shows how long it is still good for.
pub(crate) fn watch_identity(
    registry: &Registry,
    identity: Arc<LiveIdentity>,
) -> Result<impl Future<Output = ()> + Send + 'static, prometheus::Error> {
    let help = "How long this process's own certificate is still good for.";
    let left = IntGauge::new("cellway_identity_expiry_seconds", help)?;
    registry.register(Box::new(left.clone()))?;
    Ok(identity.keep_fresh(move |seconds| left.set(seconds)))
}

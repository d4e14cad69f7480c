//! The agent's metrics. Handles are made once: no request looks a label up.

use crate::facts::Facts;
use crate::gate::table::GateTable;
use crate::health::Health;
use cellway_api::identity::LiveIdentity;
use cellway_core::verdict::Verdict;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::sync::Arc;
use std::time::Duration;

/// How often gauges are brought up to date.
const REFRESH_INTERVAL_MS: u64 = 1_000;

/// What a request changes.
#[derive(Clone)]
pub(crate) struct GateMetrics {
    pub(crate) admitted: IntCounter,
    pub(crate) malformed: IntCounter,
    pub(crate) app_errors: IntCounter,
    pub(crate) head_seconds: Histogram,
    fenced: IntCounter,
    elsewhere: IntCounter,
    behind: IntCounter,
}

impl GateMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("cellway_gate_requests_total", "Requests by what the gate said to them."),
            &["outcome"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        let app_errors = IntCounter::new("cellway_gate_app_errors_total", "Admitted requests that the app left.")?;
        registry.register(Box::new(app_errors.clone()))?;
        let head_seconds = Histogram::with_opts(HistogramOpts::new(
            "cellway_gate_app_head_seconds",
            "Time from the admission to the head of the app's answer.",
        ))?;
        registry.register(Box::new(head_seconds.clone()))?;
        Ok(Self {
            admitted: requests.with_label_values(&["admitted"]),
            malformed: requests.with_label_values(&["malformed"]),
            fenced: requests.with_label_values(&["fenced"]),
            elsewhere: requests.with_label_values(&["elsewhere"]),
            behind: requests.with_label_values(&["behind"]),
            app_errors,
            head_seconds,
        })
    }

    pub(crate) fn refused(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Fenced => self.fenced.inc(),
            Verdict::Elsewhere { .. } => self.elsewhere.inc(),
            Verdict::Behind => self.behind.inc(),
        }
    }
}

/// Keeps the agent's identity fresh, for ever, and shows how long it is still good for.
pub(crate) fn watch_identity(
    registry: &Registry,
    identity: Arc<LiveIdentity>,
) -> prometheus::Result<impl Future<Output = ()> + Send + 'static> {
    let help = "How long this process's own certificate is still good for.";
    let left = IntGauge::new("cellway_identity_expiry_seconds", help)?;
    registry.register(Box::new(left.clone()))?;
    Ok(identity.keep_fresh(move |seconds| left.set(seconds)))
}

/// How things stand.
struct Gauges {
    running: IntGauge,
    streams: IntGauge,
    open_tenants: IntGauge,
    following: IntGauge,
    pending_facts: IntGauge,
    cut_requests: IntCounter,
}

impl Gauges {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, what: &str| {
            let gauge = IntGauge::new(name, what)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let what = "Uploads and downloads cut, so that their tenant could move.";
        let cut_requests = IntCounter::new("cellway_gate_cut_requests_total", what)?;
        registry.register(Box::new(cut_requests.clone()))?;
        Ok(Self {
            cut_requests,
            running: gauge("cellway_gate_running_requests", "Ordinary requests admitted and not ended.")?,
            streams: gauge("cellway_gate_open_streams", "Long-lived streams admitted and not ended.")?,
            open_tenants: gauge("cellway_gate_open_tenants", "Tenants whose gate is open here.")?,
            following: gauge("cellway_agent_following", "1 while the control plane's stream is heard.")?,
            pending_facts: gauge("cellway_agent_pending_facts", "Facts that the control plane has not heard yet.")?,
        })
    }
}

/// Keeps the gauges up to date until it is dropped.
pub(crate) fn watch(
    registry: &Registry,
    table: Arc<GateTable>,
    health: Arc<Health>,
    facts: Arc<Facts>,
) -> prometheus::Result<impl Future<Output = ()> + use<>> {
    let gauges = Gauges::new(registry)?;
    Ok(async move {
        loop {
            let (mut running, mut streams, mut open, mut cut) = (0, 0, 0, 0);
            table.each(|gate| {
                let now = gate.running();
                running += now.requests;
                streams += now.streams;
                open += usize::from(gate.open_at().is_some());
                cut += u64::from(gate.cut_requests());
            });
            let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            gauges.cut_requests.inc_by(cut.saturating_sub(gauges.cut_requests.get()));
            set(&gauges.running, running);
            set(&gauges.streams, streams);
            set(&gauges.open_tenants, open);
            set(&gauges.following, usize::from(health.is_following()));
            set(&gauges.pending_facts, facts.waiting());
            tokio::time::sleep(Duration::from_millis(REFRESH_INTERVAL_MS)).await;
        }
    })
}

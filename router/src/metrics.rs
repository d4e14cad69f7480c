//! What a router counts. Handles are resolved once: no request that a cell answers looks a label up. There are less
//! than 5,000 series, however many tenants and cells there are.

use std::time::SystemTime;

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::access_log::LogCounters;
use crate::feed::guard::Reason;
use cells::ByCell;

mod cells;

pub use cells::COUNTED_CELLS_MAX;
pub(crate) use cells::CellCounters;

/// Upper bounds of the latency histograms, in seconds.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The handles.
pub(crate) struct Metrics {
    requests: [IntCounter; 5],
    pub(crate) request_seconds: Histogram,
    pub(crate) requests_open: IntGauge,
    pub(crate) not_sent: IntCounter,
    pub(crate) sent_again: IntCounter,
    pub(crate) endpoints_away: IntGauge,
    pub(crate) tunnels_open: IntGauge,
    pub(crate) replay_bytes: IntGauge,
    pub(crate) cookies_changed: IntCounter,
    pub(crate) held_now: IntGauge,
    pub(crate) held: IntCounter,
    pub(crate) held_seconds: Histogram,
    pub(crate) hold_overflows: IntCounter,
    pub(crate) hold_timeouts: IntCounter,
    pub(crate) fenced: IntCounter,
    pub(crate) elsewhere: IntCounter,
    pub(crate) behind: IntCounter,
    pub(crate) hints_followed: IntCounter,
    pub(crate) hints_ignored: IntCounter,
    pub(crate) epochs_refused: IntCounter,
    pub(crate) feed_revision: IntGauge,
    pub(crate) feed_synced: IntGauge,
    pub(crate) feed_silence_seconds: Gauge,
    pub(crate) feed_lost: IntCounter,
    pub(crate) serving_from_snapshot: IntGauge,
    pub(crate) snapshot_failures: IntCounter,
    pub(crate) table_tenants: IntGauge,
    pub(crate) table_hosts: IntGauge,
    pub(crate) table_cells: IntGauge,
    pub(crate) table_limits: IntGauge,
    pub(crate) limited_rate: IntCounter,
    pub(crate) limited_concurrency: IntCounter,
    pub(crate) limited_paused: IntCounter,
    pub(crate) limited_read_only: IntCounter,
    pub(crate) limited_overload: IntCounter,
    pub(crate) access_log: LogCounters,
    pub(crate) reloads_done: IntCounter,
    pub(crate) reloads_refused: IntCounter,
    pub(crate) last_reload_success: IntGauge,
    pub(crate) feed_refusing: IntGauge,
    feed_refused: [IntCounter; 3],
    snapshot_saved_seconds: Gauge,
    pub(crate) by_cell: ByCell,
    failures: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let add = Add { registry };
        let requests_total = add.counters("requests_total", "Requests answered, by class of status.", "class")?;
        let verdicts = add.counters("verdicts_total", "Requests that gates did not admit, by verdict.", "verdict")?;
        let limited = add.counters("limited_total", "Requests refused by limits, by reason.", "reason")?;
        let refused = add.counters("feed_refused_total", "Routes that the guard refused, by reason.", "reason")?;
        let reasons = [Reason::LowerRevision, Reason::OtherCluster, Reason::MassDrop];
        let dropped = add.counters("access_log_dropped_total", "Lines that were not written, by reason.", "reason")?;
        let reloads = add.counters("config_reload_total", "Configurations read while running, by result.", "result")?;
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        Ok(Self {
            requests: classes.map(|class| requests_total.with_label_values(&[class])),
            request_seconds: add.histogram("request_seconds", "From a request's head to the head of its answer.")?,
            requests_open: add.gauge("requests_open", "Requests whose answer has not begun.")?,
            not_sent: add.counter("not_sent_total", "Attempts that reached no endpoint.")?,
            sent_again: add.counter("sent_again_total", "Requests sent once more after their cell failed.")?,
            endpoints_away: add.gauge("endpoints_away", "Endpoints of cells that do not open.")?,
            tunnels_open: add.gauge("tunnels_open", "WebSockets.")?,
            replay_bytes: add.gauge("replay_bytes", "Bytes of bodies kept to be sent again.")?,
            cookies_changed: add
                .counter("cookies_changed_total", "Cookies denied or narrowed to their tenant's host.")?,
            held_now: add.gauge("held_now", "Requests held.")?,
            held: add.counter("held_total", "Requests that were held.")?,
            held_seconds: add.histogram("held_seconds", "How long requests were held.")?,
            hold_overflows: add.counter("hold_overflows_total", "Requests refused because too many were held.")?,
            hold_timeouts: add.counter("hold_timeouts_total", "Requests held in vain.")?,
            fenced: verdicts.with_label_values(&["fenced"]),
            elsewhere: verdicts.with_label_values(&["elsewhere"]),
            behind: verdicts.with_label_values(&["behind"]),
            hints_followed: add.counter("hints_followed_total", "Hints of gates that were believed.")?,
            hints_ignored: add.counter("hints_ignored_total", "Hints of gates that were not believed.")?,
            epochs_refused: add.counter("epochs_refused_total", "Changes that would have lowered an epoch.")?,
            feed_revision: add.gauge("feed_revision", "The revision that the table has reached.")?,
            feed_synced: add.gauge("feed_synced", "1 while the table is in step with its source.")?,
            feed_silence_seconds: add.float("feed_silence_seconds", "Since the last event; -1 before the first.")?,
            feed_lost: add.counter("feed_lost_total", "How often the source was lost.")?,
            serving_from_snapshot: add
                .gauge("serving_from_snapshot", "1 until the first sync after a start from disk.")?,
            snapshot_failures: add.counter("snapshot_failures_total", "Snapshots that could not be written.")?,
            table_tenants: add.gauge("table_tenants", "Tenants in the table, gone ones included.")?,
            table_hosts: add.gauge("table_hosts", "Custom domains in the table.")?,
            table_cells: add.gauge("table_cells", "Cells in the table.")?,
            table_limits: add.gauge("table_limits", "Tenants with limits.")?,
            limited_rate: limited.with_label_values(&["rate"]),
            limited_concurrency: limited.with_label_values(&["concurrency"]),
            limited_paused: limited.with_label_values(&["paused"]),
            limited_read_only: limited.with_label_values(&["read_only"]),
            limited_overload: limited.with_label_values(&["overload"]),
            access_log: LogCounters {
                written: add.counter("access_log_lines_total", "Lines of the access log that were written.")?,
                dropped_by_queue: dropped.with_label_values(&["queue"]),
                dropped_by_disk: dropped.with_label_values(&["disk"]),
            },
            reloads_done: reloads.with_label_values(&["done"]),
            reloads_refused: reloads.with_label_values(&["refused"]),
            last_reload_success: add.gauge("config_last_reload_success", "0 after a configuration was refused.")?,
            feed_refusing: add.gauge("feed_refusing", "1 while the routes of the feed are refused.")?,
            feed_refused: reasons.map(|reason| refused.with_label_values(&[reason.name()])),
            by_cell: ByCell::new(
                add.counters("cell_answers_total", "Answers of apps, by cell.", "cell")?,
                add.counters("cell_failures_total", "Requests sent that have no answer, by cell.", "cell")?,
            ),
            failures: add.counters("failures_total", "Answers that the router made itself, by reason.", "reason")?,
            snapshot_saved_seconds: add.float(
                "snapshot_saved_seconds",
                "When the snapshot was written last, since 1970; 0 before the first.",
            )?,
        })
    }

    /// The router answers by itself. The names are few.
    pub(crate) fn failed(&self, name: &'static str) {
        self.failures.with_label_values(&[name]).inc();
    }

    pub(crate) fn feed_refused(&self, reason: Reason) {
        self.feed_refused[reason as usize].inc();
        self.feed_refusing.set(1);
    }

    pub(crate) fn snapshot_saved(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.snapshot_saved_seconds.set(now.as_secs_f64());
    }

    pub(crate) fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.requests[class].inc();
    }
}

/// Makes metrics of one prefix and registers them.
struct Add<'a> {
    registry: &'a Registry,
}

impl Add<'_> {
    fn name(name: &str) -> String {
        format!("cellway_router_{name}")
    }

    fn registered<C: prometheus::core::Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.registered(IntCounter::new(Self::name(name), help)?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        self.registered(IntCounterVec::new(Opts::new(Self::name(name), help), &[label])?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.registered(IntGauge::new(Self::name(name), help)?)
    }

    fn float(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.registered(Gauge::new(Self::name(name), help)?)
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(Self::name(name), help).buckets(SECONDS.to_vec());
        self.registered(Histogram::with_opts(options)?)
    }
}

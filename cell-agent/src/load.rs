//! The work done for each tenant, and the report of it to the leader.

use crate::control_plane::ControlPlane;
use crate::gate::table::GateTable;
use cellway_api::agent::LoadUp;
use cellway_core::ids::InstanceId;
use cellway_core::load::{LoadReport, Work, split_top};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the load is reported.
const REPORT_INTERVAL_MS: u64 = 5_000;

/// What was done for one tenant since it was last reported.
#[derive(Debug, Default)]
pub(crate) struct WorkCounters {
    requests: AtomicU64,
    errors: AtomicU64,
    busy_ms: AtomicU64,
    bytes: AtomicU64,
}

impl WorkCounters {
    /// A request has ended.
    pub(crate) fn ended(&self, busy: Duration, failed: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busy_ms.fetch_add(u64::try_from(busy.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Body bytes went by.
    pub(crate) fn carried(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take(&self) -> Work {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Work {
            requests: take(&self.requests),
            errors: take(&self.errors),
            busy_ms: take(&self.busy_ms),
            bytes: take(&self.bytes),
        }
    }
}

/// Reports the load until it is dropped.
pub(crate) async fn report(table: Arc<GateTable>, control_plane: Arc<ControlPlane>, instance: InstanceId) {
    let mut processors = Processors::read();
    let mut since = Instant::now();
    let mut sequence = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(REPORT_INTERVAL_MS)).await;
        let now = Processors::read();
        let capacity_left_percent = idle_percent(processors.as_ref(), now.as_ref());
        let window_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        (processors, since, sequence) = (now, Instant::now(), sequence + 1);
        let report = LoadReport { sequence, window_ms, capacity_left_percent, ..collect(&table) };
        let up = LoadUp::of(control_plane.cell().as_str(), instance.as_str(), &report);
        if let Err(error) = control_plane.leader().load(control_plane.cell().as_str(), &up).await {
            tracing::debug!(%error, "the load report was not heard");
        }
    }
}

fn collect(table: &GateTable) -> LoadReport {
    let mut report = LoadReport::default();
    let mut tenants = Vec::new();
    table.each(|gate| {
        let running = gate.running();
        report.in_flight += (running.requests + running.streams) as u64;
        let work = gate.work.take();
        report.cell = report.cell.plus(work);
        if work != Work::default() {
            tenants.push((gate.tenant().clone(), work));
        }
    });
    (report.top, report.others) = split_top(tenants);
    report
}

/// The processors' time since the machine started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Processors {
    idle: u64,
    total: u64,
}

impl Processors {
    /// `None` where the system does not say.
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal; guest time is in user time already.
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
        let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
        Some(Self { idle, total: ticks.iter().sum() })
    }
}

fn idle_percent(before: Option<&Processors>, after: Option<&Processors>) -> f64 {
    let spent = before
        .zip(after)
        .map(|(before, after)| (after.idle.saturating_sub(before.idle), after.total.saturating_sub(before.total)));
    match spent {
        Some((idle, total)) if total > 0 => (idle as f64 * 100.0 / total as f64).clamp(0.0, 100.0),
        // Unknown counts as free: an instance is not to be emptied because its system says nothing.
        Some(_) | None => 100.0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cellway_core::ids::TenantId;

    #[test]
    fn capacity_left_is_the_idle_share() {
        let before = Processors::parse("cpu  100 0 100 800 0 0 0 0 5 5\ncpu0 1 1 1 1\n").unwrap();
        let after = Processors::parse("cpu  200 0 200 1000 100 0 0 0 5 5\n").unwrap();
        assert_eq!(idle_percent(Some(&before), Some(&after)), 60.0);
        assert_eq!(idle_percent(None, Some(&after)), 100.0);
        assert_eq!(Processors::parse("nothing"), None);
    }

    #[test]
    fn a_report_stays_below_ten_kilobytes() {
        let work = |i: u64| Work { requests: u64::MAX / 200 - i, errors: 1, busy_ms: i, bytes: (i * 7919) % 500 };
        let name = |i: u64| TenantId::new(&format!("{}{i:03}", "t".repeat(60))).unwrap();
        let (top, others) = split_top((0..150).map(|i| (name(i), work(i))).collect());
        let report = LoadReport { top, others, ..LoadReport::default() };
        let text = serde_json::to_vec(&LoadUp::of(&"c".repeat(63), &"i".repeat(63), &report)).unwrap();
        assert!(text.len() <= 10_000, "{}", text.len());
    }
}

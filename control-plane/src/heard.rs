//! Which agents were heard lately, and the load that they reported. In memory only: load never goes to the store.

use cellway_core::ids::{CellName, InstanceId};
use cellway_core::load::{CellLoad, LoadReport, REPORT_STALE_MS, cell_load};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An agent without a stream here counts as reachable this long after its last report (two reports and a bit).
const REACHABLE_AFTER_REPORT_MS: u64 = 12_000;

/// The most instances that are remembered; a report of one more is not kept.
const INSTANCES_MAX: usize = 20_000;

type Key = (CellName, InstanceId);

/// See the module.
#[derive(Default)]
pub(crate) struct Heard {
    instances: Mutex<BTreeMap<Key, Instance>>,
}

#[derive(Default)]
struct Instance {
    streams: u32,
    report: Option<(Instant, LoadReport)>,
}

/// Counts one stream for as long as it lives.
pub(crate) struct StreamGuard<'a> {
    heard: &'a Heard,
    key: Key,
}

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        if let Some(instance) = self.heard.instances.lock().get_mut(&self.key) {
            instance.streams = instance.streams.saturating_sub(1);
        }
    }
}

impl Heard {
    /// An instance has opened a stream here.
    pub(crate) fn stream(&self, cell: &CellName, instance: &InstanceId) -> StreamGuard<'_> {
        let key = (cell.clone(), instance.clone());
        self.instances.lock().entry(key.clone()).or_default().streams += 1;
        StreamGuard { heard: self, key }
    }

    /// An instance has reported its load.
    pub(crate) fn report(&self, cell: &CellName, instance: &InstanceId, report: LoadReport) {
        let mut instances = self.instances.lock();
        let key = (cell.clone(), instance.clone());
        if instances.len() < INSTANCES_MAX || instances.contains_key(&key) {
            instances.entry(key).or_default().report = Some((Instant::now(), report));
        }
    }

    /// An instance is no more.
    pub(crate) fn forget(&self, cell: &CellName, instance: &InstanceId) {
        self.instances.lock().remove(&(cell.clone(), instance.clone()));
    }

    /// Whether an instance has a stream here or has reported lately.
    pub(crate) fn is_reachable(&self, cell: &CellName, instance: &InstanceId) -> bool {
        let lately = |at: &Instant| at.elapsed() < Duration::from_millis(REACHABLE_AFTER_REPORT_MS);
        let instances = self.instances.lock();
        instances
            .get(&(cell.clone(), instance.clone()))
            .is_some_and(|instance| instance.streams > 0 || instance.report.as_ref().is_some_and(|(at, _)| lately(at)))
    }

    /// A cell's load by the fresh reports of these instances.
    pub(crate) fn load<'a>(&self, cell: &CellName, listed: impl Iterator<Item = &'a InstanceId>) -> Option<CellLoad> {
        let instances = self.instances.lock();
        let fresh = |at: &Instant| at.elapsed() < Duration::from_millis(REPORT_STALE_MS);
        let reports: Vec<&LoadReport> = listed
            .filter_map(|instance| instances.get(&(cell.clone(), instance.clone()))?.report.as_ref())
            .filter(|(at, _)| fresh(at))
            .map(|(_, report)| report)
            .collect();
        cell_load(reports)
    }
}

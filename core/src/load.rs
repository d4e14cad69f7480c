//! What an agent reports of its cell's load, and what is shown of it.

use crate::ids::TenantId;

/// The longest report is kept small by naming only this many tenants per dimension.
pub const TOP_TENANTS: usize = 10;

/// A cell whose newest report is older than this is shown without load.
pub const REPORT_STALE_MS: u64 = 15_000;

/// Work done in a window, of a cell or of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Requests ended.
    pub requests: u64,
    /// Those answered 5xx by the app.
    pub errors: u64,
    /// The sum of the time that requests spent in the app.
    pub busy_ms: u64,
    /// Body bytes, both ways.
    pub bytes: u64,
}

impl Work {
    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            busy_ms: self.busy_ms + other.busy_ms,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// One instance's report for one window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadReport {
    /// Rises by one with each report of a run.
    pub sequence: u64,
    /// The window's length.
    pub window_ms: u64,
    /// What is left of the host's processors, 0 to 100.
    pub capacity_left_percent: f64,
    /// Requests admitted and not ended.
    pub in_flight: u64,
    /// The whole cell's work.
    pub cell: Work,
    /// The heaviest tenants in any dimension.
    pub top: Vec<(TenantId, Work)>,
    /// All other tenants.
    pub others: Work,
}

/// What the CLI shows of a cell's load.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CellLoad {
    /// Requests ended per second.
    pub requests_per_s: f64,
    /// Requests admitted and not ended.
    pub in_flight: u64,
    /// How much of the hosts' processors is in use, 0 to 100, the mean over the instances.
    pub busy_percent: f64,
}

/// The newest reports of a cell's instances as one figure; `None` without any.
pub fn cell_load<'a>(reports: impl IntoIterator<Item = &'a LoadReport>) -> Option<CellLoad> {
    let mut load = CellLoad::default();
    let mut instances = 0_u32;
    for report in reports {
        instances += 1;
        load.requests_per_s += report.cell.requests as f64 * 1_000.0 / report.window_ms.max(1) as f64;
        load.in_flight += report.in_flight;
        load.busy_percent += 100.0 - report.capacity_left_percent.clamp(0.0, 100.0);
    }
    load.busy_percent /= f64::from(instances.max(1));
    (instances > 0).then_some(load)
}

/// Splits per-tenant work into the heaviest (by requests, by time and by bytes) and the rest in one row.
pub fn split_top(tenants: Vec<(TenantId, Work)>) -> (Vec<(TenantId, Work)>, Work) {
    let mut heavy = std::collections::BTreeSet::new();
    let dimensions: [fn(&Work) -> u64; 3] = [|work| work.requests, |work| work.busy_ms, |work| work.bytes];
    for dimension in dimensions {
        let mut order: Vec<usize> = (0..tenants.len()).filter(|&i| dimension(&tenants[i].1) > 0).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(dimension(&tenants[i].1)), tenants[i].0.clone()));
        heavy.extend(order.into_iter().take(TOP_TENANTS));
    }
    let (mut top, mut others) = (Vec::new(), Work::default());
    for (index, (tenant, work)) in tenants.into_iter().enumerate() {
        if heavy.contains(&index) {
            top.push((tenant, work));
        } else {
            others = others.plus(work);
        }
    }
    (top, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_of_each_dimension_are_named_and_nothing_is_lost() {
        let work = |i: u64| Work { requests: i, errors: 0, busy_ms: 1_000 - i, bytes: i % 7 };
        let tenants: Vec<_> = (0..100).map(|i| (TenantId::new(&format!("t{i}")).expect("legal"), work(i))).collect();
        let total = tenants.iter().fold(Work::default(), |sum, (_, work)| sum.plus(*work));
        let (top, others) = split_top(tenants);
        assert!(top.len() <= 3 * TOP_TENANTS);
        assert!(top.iter().any(|(tenant, _)| tenant.as_str() == "t99"));
        assert!(top.iter().any(|(tenant, _)| tenant.as_str() == "t0"));
        assert_eq!(top.iter().fold(others, |sum, (_, work)| sum.plus(*work)), total);
    }

    #[test]
    fn a_cell_without_reports_shows_no_load() {
        assert_eq!(cell_load([]), None);
        let report = LoadReport {
            window_ms: 5_000,
            capacity_left_percent: 75.0,
            in_flight: 3,
            cell: Work { requests: 500, ..Work::default() },
            ..LoadReport::default()
        };
        let load = cell_load([&report, &report]).expect("two reports");
        assert_eq!((load.requests_per_s, load.in_flight, load.busy_percent), (200.0, 6, 25.0));
    }
}

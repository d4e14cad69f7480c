//! What a scenario showed, and whether its bounds were kept.

use super::honest::Seen;
use serde::Serialize;

/// A bound of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Bound {
    /// What it says, with what was seen.
    pub what: String,
    /// Whether it was kept.
    pub kept: bool,
}

impl Bound {
    /// One that says `what`.
    pub fn new(what: impl Into<String>, kept: bool) -> Self {
        Self { what: what.into(), kept }
    }
}

/// The other tenants' requests in one part of the run.
#[derive(Debug, Clone, Serialize)]
pub struct Requests {
    /// How many were due.
    pub asked: usize,
    /// The share that was answered well.
    pub good_percent: f64,
    /// The median of the good ones.
    pub p50_ms: f64,
    /// Their 99th percentile.
    pub p99_ms: f64,
    /// What else came.
    pub bad: std::collections::BTreeMap<String, usize>,
}

impl From<&Seen> for Requests {
    fn from(seen: &Seen) -> Self {
        Self {
            asked: seen.asked,
            good_percent: seen.good_percent(),
            p50_ms: seen.percentile_ms(0.5),
            p99_ms: seen.percentile_ms(0.99),
            bad: seen.bad.clone(),
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which scenario.
    pub scenario: String,
    /// What was done.
    pub done: String,
    /// Resident memory of the router before, at its highest, and after, in KiB.
    pub rss_kib: [u64; 3],
    /// What each hostile connection cost at the peak.
    pub kib_per_connection: Option<f64>,
    /// The other tenants before.
    pub quiet: Requests,
    /// The other tenants meanwhile.
    pub during: Requests,
    /// The bounds.
    pub bounds: Vec<Bound>,
}

impl Row {
    /// Whether all bounds were kept.
    pub fn is_good(&self) -> bool {
        self.bounds.iter().all(|bound| bound.kept)
    }
}

/// The table's head.
pub const HEAD: &str = "scenario                    rss MiB before/peak/after   KiB each  good %   p50 ms quiet/during  \
                        p99 ms quiet/during  verdict";

/// The line of a row, and below it what was done and each bound.
pub fn line(row: &Row) -> String {
    let mib = row.rss_kib.map(|kib| kib as f64 / 1024.0);
    let each = row.kib_per_connection.map_or_else(|| "-".to_owned(), |kib| format!("{kib:.1}"));
    let mut text = format!(
        "{:<27} {:>8.1} {:>8.1} {:>8.1} {:>9}  {:>7.3} {:>9.2} {:>9.2} {:>11.2} {:>9.2}   {}\n    {}\n",
        row.scenario,
        mib[0],
        mib[1],
        mib[2],
        each,
        row.during.good_percent,
        row.quiet.p50_ms,
        row.during.p50_ms,
        row.quiet.p99_ms,
        row.during.p99_ms,
        if row.is_good() { "kept" } else { "BROKEN" },
        row.done,
    );
    for bound in &row.bounds {
        text.push_str(&format!("    {} {}\n", if bound.kept { "ok" } else { "BROKEN" }, bound.what));
    }
    if !row.during.bad.is_empty() {
        text.push_str(&format!("    others' bad answers: {:?}\n", row.during.bad));
    }
    text
}

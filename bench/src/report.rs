//! Medians of rounds, as a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::target::Kind;

/// What one round of a scenario found of one target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// CPU time of the target.
    pub(crate) cpu_us_per_request: f64,
    /// Answered in a second.
    pub(crate) requests_per_s: f64,
    /// The time of half of the requests, at most.
    pub(crate) p50_ms: f64,
    /// The time of the slowest hundredth, at least.
    pub(crate) p99_ms: f64,
    /// Memory after it.
    pub(crate) pss_mib: f64,
}

/// What one round found of each target.
pub(crate) type Round = Vec<(Kind, Measured)>;

/// A scenario and a target: medians of all rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    scenario: &'static str,
    target: &'static str,
    cpu_us_per_request: f64,
    requests_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    pss_mib: f64,
    /// CPU time against that of the better peer in the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    rounds: usize,
}

/// The rows of a scenario. Who is the better peer, all rounds say together: each round's own would be the luckier of two.
pub(crate) fn rows(scenario: &'static str, rounds: &[Round]) -> Vec<Row> {
    let of = |kind: Kind, figure: fn(&Measured) -> f64| {
        median(rounds.iter().filter_map(|round| Some(figure(found(round, kind)?))))
    };
    let cpu_us = |kind: Kind| of(kind, |measured| measured.cpu_us_per_request);
    let kinds = || rounds.first().into_iter().flatten().map(|(kind, _)| *kind);
    let better = kinds().filter(|kind| kind.is_peer()).min_by(|one, other| cpu_us(*one).total_cmp(&cpu_us(*other)));
    let ratio = |kind: Kind| {
        let of_round = |round: &Round| {
            let [own, other] = [found(round, kind), found(round, better?)].map(|of| Some(of?.cpu_us_per_request));
            Some(own? / other?)
        };
        median(rounds.iter().filter_map(of_round))
    };
    let row = |kind: Kind| Row {
        scenario,
        target: kind.name(),
        cpu_us_per_request: cpu_us(kind),
        requests_per_s: of(kind, |measured| measured.requests_per_s),
        p50_ms: of(kind, |measured| measured.p50_ms),
        p99_ms: of(kind, |measured| measured.p99_ms),
        pss_mib: of(kind, |measured| measured.pss_mib),
        ratio: (kind.is_ours() && better.is_some()).then(|| ratio(kind)),
        rounds: rounds.len(),
    };
    kinds().map(row).collect()
}

fn found(round: &[(Kind, Measured)], kind: Kind) -> Option<&Measured> {
    round.iter().find(|(other, _)| *other == kind).map(|(_, measured)| measured)
}

/// The middle one, or between the two middle ones.
fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => figures[half],
        _ => f64::midpoint(figures[half - 1], figures[half]),
    }
}

/// The columns of [`table`].
pub(crate) const HEAD: &str =
    "scenario           target    CPU µs/request  of the better peer  requests/s   p50 ms   p99 ms   PSS MiB\n";

/// Rows as people read them.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let Row { scenario, target, cpu_us_per_request, requests_per_s, p50_ms, p99_ms, pss_mib, .. } = row;
        let _ = writeln!(
            text,
            "{scenario:<18} {target:<9} {cpu_us_per_request:>14.1} {ratio:>19} {requests_per_s:>11.0} {p50_ms:>8.2} {p99_ms:>8.2} \
             {pss_mib:>9.1}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(cellway: f64, nginx: f64, haproxy: f64) -> Round {
        let of = |cpu_us_per_request| Measured {
            cpu_us_per_request,
            requests_per_s: 1.0,
            p50_ms: 1.0,
            p99_ms: 1.0,
            pss_mib: 1.0,
        };
        vec![(Kind::Cellway, of(cellway)), (Kind::Nginx, of(nginx)), (Kind::Haproxy, of(haproxy))]
    }

    #[test]
    fn the_ratio_is_the_median_of_rounds_against_the_peer_that_is_better_in_the_median() {
        // HAProxy is the better one once, by luck.
        let rows = rows("h1", &[round(10.0, 20.0, 40.0), round(30.0, 40.0, 20.0), round(9.0, 10.0, 30.0)]);
        assert_eq!(rows[0].cpu_us_per_request, 10.0);
        assert_eq!(rows[0].ratio, Some(0.75));
        assert_eq!((rows[1].ratio, rows.len()), (None, 3));
        assert_eq!(median([1.0, 4.0].into_iter()), 2.5);
    }
}

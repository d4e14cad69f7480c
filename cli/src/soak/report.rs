//! The report of a run: figures, and every promise that was broken.

use super::Run;
use super::checker::BreachKind;
use super::latency::{Histogram, Percentiles};
use super::movements::{Moved, Progress, progress};
use super::readback::Records;
use super::tally::Timed;
use crate::output::{facts, shown};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The least part of the moves that must get past `switched`.
const PAST_SWITCHED_MIN_PERCENT: u64 = 95;

/// Breaches of one kind that are told in a promise's line.
const TOLD_MAX: usize = 3;

/// All of it. The keys are stable.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) run: String,
    pub(crate) tenants: usize,
    pub(crate) wall_s: f64,
    pub(crate) interrupted: bool,
    pub(crate) requests: u64,
    pub(crate) late: u64,
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) failure_examples: Vec<String>,
    /// The first failures of requests and slow uploads.
    pub(crate) failures_timed: Vec<Timed>,
    pub(crate) slow_uploads: SlowUploads,
    pub(crate) writes: Writes,
    pub(crate) moves: Moves,
    pub(crate) hold_ms: Percentiles,
    pub(crate) latency_ms: Latency,
    pub(crate) streams: Streams,
    pub(crate) connections: ConnectionCounts,
    pub(crate) broken_promises: Vec<String>,
}

/// Uploads that take up to 2 s.
#[derive(Debug, Serialize)]
pub(crate) struct SlowUploads {
    sent: u64,
    acknowledged: u64,
    failures: BTreeMap<String, u64>,
}

/// What became of the writes, slow uploads included.
#[derive(Debug, Serialize)]
pub(crate) struct Writes {
    acknowledged: u64,
    lost: u64,
    duplicated: u64,
    out_of_order: u64,
    corrupt: u64,
    unexpected: u64,
    epoch_fell: u64,
    two_cells_in_one_epoch: u64,
    wrong_cell: u64,
    stale_reads: u64,
    unreadable_logs: u64,
}

/// What became of the moves.
#[derive(Debug, Serialize)]
pub(crate) struct Moves {
    wanted: u64,
    asked: u64,
    past_switched: u64,
    undone: BTreeMap<String, u64>,
    pending: u64,
    not_started: u64,
    /// Attempts whose hold took too long: undone and made again.
    retried: u64,
    refused: BTreeMap<String, u64>,
}

/// How long requests took.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    all: Percentiles,
    while_moving: Percentiles,
}

/// Long-lived streams. Those that were cut are opened again.
#[derive(Debug, Serialize)]
pub(crate) struct Streams {
    websocket_opened: u64,
    websocket_messages: u64,
    websocket_cut: u64,
    websocket_cut_cleanly: u64,
    sse_opened: u64,
    sse_events: u64,
    sse_cut: u64,
    sse_cut_cleanly: u64,
}

/// Keep-alive connections to the router.
#[derive(Debug, Serialize)]
pub(crate) struct ConnectionCounts {
    opened: u64,
    ended_idle: u64,
}

impl Report {
    /// The report of a run that is over.
    pub(crate) fn new(run: &Run, moved: &Moved, records: &Records, took: Duration, interrupted: bool) -> Self {
        let tally = &run.tally;
        let moves = Moves::new(moved, records);
        let attempts = moved.moves.iter().chain(&moved.retried).map(|one| records.a_move(&one.id).unwrap_or(one));
        let mut holds = Histogram::default();
        attempts.filter_map(|one| one.freeze_ms).for_each(|ms| holds.add(ms * 1_000));
        let mut report = Self {
            seed: run.seed,
            run: run.id.clone(),
            tenants: run.tenants.len(),
            wall_s: (took.as_secs_f64() * 10.0).round() / 10.0,
            interrupted,
            requests: tally.requests.get(),
            late: tally.late.get(),
            failures: tally.failures.by_kind(),
            failure_examples: [tally.failures.examples(), tally.slow_upload_failures.examples()].concat(),
            failures_timed: [tally.failures.timed(), tally.slow_upload_failures.timed()].concat(),
            slow_uploads: SlowUploads {
                sent: tally.slow_uploads.get(),
                acknowledged: tally.slow_uploads_acknowledged.get(),
                failures: tally.slow_upload_failures.by_kind(),
            },
            writes: Writes::new(run),
            moves,
            hold_ms: holds.percentiles(),
            latency_ms: Latency {
                all: tally.latency.lock().percentiles(),
                while_moving: tally.latency_while_moving.lock().percentiles(),
            },
            streams: Streams::new(run),
            connections: ConnectionCounts {
                opened: run.connections.opened(),
                ended_idle: run.connections.ended_idle(),
            },
            broken_promises: Vec::new(),
        };
        report.broken_promises = report.broken(run);
        report
    }

    /// Every promise that was broken, with what broke it.
    fn broken(&self, run: &Run) -> Vec<String> {
        let mut broken = Vec::new();
        for (kind, (count, examples)) in run.tally.breaches.by_kind() {
            let told: Vec<_> =
                examples.iter().take(TOLD_MAX).map(|one| format!("{}: {}", one.tenant, one.what)).collect();
            let more = if count as usize > told.len() { "; …" } else { "" };
            broken.push(format!("{}: {kind}, {count}×: {}{more}", kind.promise(), told.join("; ")));
        }
        let failed = |what: &str, kinds: &BTreeMap<String, u64>| {
            let listed: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}×")).collect();
            let text = format!("no_request_fails_because_of_a_move: {what} failed: {}", listed.join(", "));
            (!kinds.is_empty()).then_some(text)
        };
        broken.extend(failed("requests", &self.failures));
        broken.extend(failed("slow uploads", &self.slow_uploads.failures));
        broken.extend(self.moves.too_few(self.interrupted));
        broken
    }

    /// For people.
    pub(crate) fn as_text(&self) -> String {
        let (writes, moves, streams) = (&self.writes, &self.moves, &self.streams);
        let held = |what: &Percentiles| format!("p50 {:.1}  p99 {:.1}  max {:.1}", what.p50, what.p99, what.max);
        let mut text = facts(&[
            ("run", format!("{}, seed {}, {} tenants, {} s", self.run, self.seed, self.tenants, self.wall_s)),
            ("requests", format!("{}, late {}, failed {}", self.requests, self.late, counted(&self.failures))),
            ("slow uploads", self.slow_uploads.as_text()),
            (
                "writes",
                format!(
                    "acknowledged {}, lost {}, duplicated {}, out of order {}, corrupt {}, unexpected {}",
                    writes.acknowledged,
                    writes.lost,
                    writes.duplicated,
                    writes.out_of_order,
                    writes.corrupt,
                    writes.unexpected
                ),
            ),
            (
                "owners",
                format!(
                    "epoch fell {}, two cells in one epoch {}, wrong cell {}",
                    writes.epoch_fell, writes.two_cells_in_one_epoch, writes.wrong_cell
                ),
            ),
            ("reads", format!("stale {}, unreadable logs {}", writes.stale_reads, writes.unreadable_logs)),
            (
                "moves",
                format!(
                    "asked {} of {}, past switched {}, pending {}",
                    moves.asked, moves.wanted, moves.past_switched, moves.pending
                ),
            ),
            ("moves undone", counted(&moves.undone)),
            ("hold per move, ms", held(&self.hold_ms)),
            ("latency, ms", held(&self.latency_ms.all)),
            ("  while moving", held(&self.latency_ms.while_moving)),
            (
                "websockets cut",
                format!(
                    "{} ({} cleanly), opened {}",
                    streams.websocket_cut, streams.websocket_cut_cleanly, streams.websocket_opened
                ),
            ),
            (
                "sse cut",
                format!("{} ({} cleanly), opened {}", streams.sse_cut, streams.sse_cut_cleanly, streams.sse_opened),
            ),
            (
                "connections",
                format!(
                    "opened {}, ended by the router while idle {}",
                    self.connections.opened, self.connections.ended_idle
                ),
            ),
        ]);
        if self.broken_promises.is_empty() {
            text.push_str("\nEvery promise was kept.\n");
            return text;
        }
        text.push_str("\nBroken promises:\n");
        for line in self.broken_promises.iter().chain(&self.failure_examples) {
            text.push_str(&format!("  {}\n", shown(line)));
        }
        text
    }
}

fn counted(kinds: &BTreeMap<String, u64>) -> String {
    let total: u64 = kinds.values().sum();
    let listed: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}×")).collect();
    if listed.is_empty() { total.to_string() } else { format!("{total} ({})", listed.join(", ")) }
}

impl SlowUploads {
    fn as_text(&self) -> String {
        format!("{}, acknowledged {}, failed {}", self.sent, self.acknowledged, counted(&self.failures))
    }
}

impl Writes {
    fn new(run: &Run) -> Self {
        let count = |kind| run.tally.breaches.count(kind);
        Self {
            acknowledged: run.ledger.acknowledged_total(),
            lost: count(BreachKind::LostWrite),
            duplicated: count(BreachKind::DuplicatedWrite),
            out_of_order: count(BreachKind::OutOfOrder),
            corrupt: count(BreachKind::Corrupt),
            unexpected: count(BreachKind::UnexpectedWrite),
            epoch_fell: count(BreachKind::EpochFell),
            two_cells_in_one_epoch: count(BreachKind::TwoCellsInOneEpoch),
            wrong_cell: count(BreachKind::WrongCell),
            stale_reads: count(BreachKind::StaleRead),
            unreadable_logs: count(BreachKind::UnreadableLog),
        }
    }
}

impl Moves {
    fn new(moved: &Moved, records: &Records) -> Self {
        let asked = moved.moves.len() as u64;
        let mut moves = Self {
            wanted: asked + moved.not_started,
            asked,
            past_switched: 0,
            undone: BTreeMap::new(),
            pending: 0,
            not_started: moved.not_started,
            retried: moved.retried.len() as u64,
            refused: moved.refused.clone(),
        };
        for one in &moved.moves {
            match progress(records.a_move(&one.id).unwrap_or(one)) {
                Progress::PastSwitched => moves.past_switched += 1,
                Progress::Undone(reason) => *moves.undone.entry(reason).or_default() += 1,
                Progress::Pending => moves.pending += 1,
            }
        }
        moves
    }

    /// A run that was interrupted answers for the moves that it asked for.
    fn too_few(&self, interrupted: bool) -> Option<String> {
        let of = if interrupted { self.asked } else { self.wanted };
        (self.past_switched * 100 < of * PAST_SWITCHED_MIN_PERCENT).then(|| {
            let (past, min) = (self.past_switched, PAST_SWITCHED_MIN_PERCENT);
            format!("every_move_ends: {past} of {of} moves got past switched, {min} % are needed")
        })
    }
}

impl Streams {
    fn new(run: &Run) -> Self {
        let counts = &run.tally.streams;
        Self {
            websocket_opened: counts.websocket_opened.get(),
            websocket_messages: counts.websocket_messages.get(),
            websocket_cut: counts.websocket_cut.get(),
            websocket_cut_cleanly: counts.websocket_cut_cleanly.get(),
            sse_opened: counts.sse_opened.get(),
            sse_events: counts.sse_events.get(),
            sse_cut: counts.sse_cut.get(),
            sse_cut_cleanly: counts.sse_cut_cleanly.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(wanted: u64, asked: u64, past_switched: u64) -> Moves {
        let (undone, refused) = (BTreeMap::new(), BTreeMap::new());
        Moves { wanted, asked, past_switched, undone, pending: 0, not_started: wanted - asked, retried: 0, refused }
    }

    #[test]
    fn fewer_than_95_percent_of_the_wanted_moves_are_too_few() {
        assert_eq!(moves(100, 100, 95).too_few(false), None);
        assert!(moves(100, 100, 94).too_few(false).is_some());
        assert!(moves(100, 90, 90).too_few(false).is_some());
        assert_eq!(moves(100, 90, 90).too_few(true), None);
        assert_eq!(moves(0, 0, 0).too_few(false), None);
    }
}

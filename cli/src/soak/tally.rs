//! Counts of what happened, shared by everything that sends.

use super::checker::{Breach, BreachKind};
use super::connection::Failed as Failure;
use super::latency::Histogram;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Failures and breaches beyond these are counted but not told one by one.
const EXAMPLES_MAX: usize = 20;

/// Counts that only rise.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// One more.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Failures beyond these have no times in the report.
const TIMED_MAX: usize = 2_000;

/// A failure with when it happened, to be held against what was done to the system meanwhile.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Timed {
    pub(crate) tenant: String,
    pub(crate) why: String,
    /// Milliseconds of Unix time.
    pub(crate) began_ms: u64,
    /// Milliseconds of Unix time.
    pub(crate) ended_ms: u64,
    /// The router's address, where its end of the connection was what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) router: Option<SocketAddr>,
    /// When that connection was asked for, in milliseconds of Unix time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) opened_ms: Option<u64>,
}

/// Milliseconds of Unix time.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

impl Timed {
    /// Of a request that began so long ago and fails now.
    pub(crate) fn now(tenant: &str, why: String, failed: Failure, took: Duration) -> Self {
        let now = SystemTime::now();
        let (began_ms, ended_ms) = (unix_ms(now.checked_sub(took).unwrap_or(UNIX_EPOCH)), unix_ms(now));
        let connection = failed.connection();
        let (router, opened_ms) = (connection.map(|of| of.router), connection.map(|of| of.at_ms));
        Self { tenant: tenant.to_owned(), why, began_ms, ended_ms, router, opened_ms }
    }
}

/// Failures by their kind, and some of them in words.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<Failed>);

#[derive(Debug, Default)]
struct Failed {
    by_kind: BTreeMap<String, u64>,
    examples: Vec<String>,
    timed: Vec<Timed>,
}

impl Failures {
    /// One more, of the kind that `timed` says, which happened to `whom`.
    pub(crate) fn add(&self, timed: Timed, whom: &str) {
        let mut inner = self.0.lock();
        if inner.examples.len() < EXAMPLES_MAX {
            inner.examples.push(format!("{}: {whom}", timed.why));
        }
        *inner.by_kind.entry(timed.why.clone()).or_default() += 1;
        if inner.timed.len() < TIMED_MAX {
            inner.timed.push(timed);
        }
    }

    /// The first ones, with their times.
    pub(crate) fn timed(&self) -> Vec<Timed> {
        self.0.lock().timed.clone()
    }

    /// How many of each kind.
    pub(crate) fn by_kind(&self) -> BTreeMap<String, u64> {
        self.0.lock().by_kind.clone()
    }

    /// How many.
    pub(crate) fn total(&self) -> u64 {
        self.0.lock().by_kind.values().sum()
    }

    /// The first ones in words.
    pub(crate) fn examples(&self) -> Vec<String> {
        self.0.lock().examples.clone()
    }
}

/// Breaches by their kind, and some of them in full.
#[derive(Debug, Default)]
pub(crate) struct Breaches(Mutex<BTreeMap<BreachKind, (u64, Vec<Breach>)>>);

impl Breaches {
    /// These too.
    pub(crate) fn add(&self, breaches: impl IntoIterator<Item = Breach>) {
        let mut inner = self.0.lock();
        for breach in breaches {
            let (count, examples) = inner.entry(breach.kind).or_default();
            *count += 1;
            if examples.len() < EXAMPLES_MAX {
                examples.push(breach);
            }
        }
    }

    /// How many of these kinds.
    pub(crate) fn count(&self, kind: BreachKind) -> u64 {
        self.0.lock().get(&kind).map_or(0, |(count, _)| *count)
    }

    /// How many of each kind, with the first ones.
    pub(crate) fn by_kind(&self) -> BTreeMap<BreachKind, (u64, Vec<Breach>)> {
        self.0.lock().clone()
    }

    /// How many.
    pub(crate) fn total(&self) -> u64 {
        self.0.lock().values().map(|(count, _)| count).sum()
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Requests sent on schedule, slow uploads and streams aside.
    pub(crate) requests: Count,
    /// Requests that were due but not sent, because too many were in flight.
    pub(crate) late: Count,
    /// Failed requests, openings of streams among them.
    pub(crate) failures: Failures,
    /// From when a request was due to the end of its answer.
    pub(crate) latency: Mutex<Histogram>,
    /// The same, of tenants that were being moved meanwhile.
    pub(crate) latency_while_moving: Mutex<Histogram>,
    pub(crate) slow_uploads: Count,
    pub(crate) slow_uploads_acknowledged: Count,
    pub(crate) slow_upload_failures: Failures,
    pub(crate) breaches: Breaches,
    pub(crate) streams: StreamCounts,
    pub(crate) moves_asked: Count,
    pub(crate) moves_past_switched: Count,
    pub(crate) moves_undone: Count,
}

/// Of long-lived streams.
#[derive(Debug, Default)]
pub(crate) struct StreamCounts {
    pub(crate) websocket_opened: Count,
    pub(crate) websocket_messages: Count,
    pub(crate) websocket_cut: Count,
    /// Of the cut ones: those that ended with a close frame that asks to connect again (1012).
    pub(crate) websocket_cut_cleanly: Count,
    pub(crate) sse_opened: Count,
    pub(crate) sse_events: Count,
    pub(crate) sse_cut: Count,
    /// Of the cut ones: those that ended at the boundary of an event and not with a broken connection.
    pub(crate) sse_cut_cleanly: Count,
}

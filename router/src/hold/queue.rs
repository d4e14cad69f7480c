//! The rules of one tenant's queue: who goes when. Time comes in as `now`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// The first try of a closed queue comes after a time drawn from this …
pub const RETRY_FIRST_MIN_MS: u64 = 50;
/// … up to this.
pub const RETRY_FIRST_MAX_MS: u64 = 150;
/// The pauses grow by half each time, up to this.
pub const RETRY_LONGEST_MS: u64 = 500;
/// A gate refuses at once, or after the 100 ms that it may wait for its own feed. A try that hears nothing for this
/// long was admitted.
pub const TRY_SILENCE_MS: u64 = 250;
/// Requests that go at once when a queue opens: a short hold costs no more than its time.
pub const RELEASE_BURST: u64 = 20;
/// The pace that is reached one second after a queue opened. It goes on rising slowly, so that a tenant with more
/// requests than this does not wait for ever.
pub const RELEASE_PER_SECOND: u64 = 500;

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    WaitUntil(Instant),
    Wait,
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody goes until the next try.
    Closed { next_try: Instant, pause_ms: u64 },
    /// One is on its way to see.
    Trying { ticket: u64, silent_at: Instant, pause_ms: u64 },
    /// They go at a pace.
    Open { since: Instant, gone: u64 },
}

pub(super) struct Queue {
    phase: Phase,
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    members: usize,
    next_ticket: u64,
    changed: bool,
}

impl Queue {
    pub(super) fn new(now: Instant) -> Self {
        Self { phase: closed(now), waiting: BTreeMap::new(), members: 0, next_ticket: 0, changed: false }
    }

    /// A new member. Tickets rise: who came first keeps its place over all its tries.
    pub(super) fn join(&mut self) -> u64 {
        self.members += 1;
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// Whether a newcomer would overtake someone, or run into a closed gate.
    pub(super) fn is_to_be_joined(&self) -> bool {
        self.members > 0 && (!matches!(self.phase, Phase::Open { .. }) || !self.waiting.is_empty())
    }

    pub(super) fn wait(&mut self, ticket: u64, go: oneshot::Sender<()>) {
        self.waiting.insert(ticket, go);
    }

    pub(super) fn leave(&mut self, ticket: u64, now: Instant) {
        self.members -= 1;
        self.waiting.remove(&ticket);
        if let Phase::Trying { ticket: trying, pause_ms, .. } = self.phase
            && trying == ticket
        {
            self.phase = Phase::Closed { next_try: now, pause_ms };
        }
    }

    pub(super) fn feed_changed(&mut self) {
        self.changed = true;
    }

    pub(super) fn admitted(&mut self, ticket: u64, now: Instant) {
        match &mut self.phase {
            Phase::Trying { ticket: trying, .. } if *trying == ticket => {
                self.phase = Phase::Open { since: now, gone: 0 };
            }
            Phase::Closed { next_try, .. } => *next_try = now,
            Phase::Trying { .. } | Phase::Open { .. } => {}
        }
    }

    pub(super) fn refused(&mut self, ticket: u64, now: Instant) {
        match self.phase {
            Phase::Trying { ticket: trying, pause_ms, .. } if trying == ticket => {
                let pause_ms = (pause_ms + pause_ms / 2).min(RETRY_LONGEST_MS);
                self.phase = Phase::Closed { next_try: now + jittered(pause_ms), pause_ms };
            }
            Phase::Open { .. } => self.phase = closed(now),
            Phase::Trying { .. } | Phase::Closed { .. } => {}
        }
    }

    /// Lets go who may go at `now`.
    pub(super) fn step(&mut self, now: Instant, is_free: impl FnOnce() -> bool) -> Step {
        if self.members == 0 {
            return Step::Empty;
        }
        if std::mem::take(&mut self.changed) && is_free() {
            self.phase = Phase::Open { since: now, gone: 0 };
        }
        if let Phase::Trying { silent_at, .. } = self.phase
            && now >= silent_at
        {
            self.phase = Phase::Open { since: now, gone: 0 };
        }
        match self.phase {
            Phase::Trying { silent_at, .. } => Step::WaitUntil(silent_at),
            _ if self.waiting.is_empty() => Step::Wait,
            Phase::Closed { next_try, .. } if now < next_try => Step::WaitUntil(next_try),
            Phase::Closed { pause_ms, .. } => match self.let_first_go() {
                Some(ticket) => {
                    let silent_at = now + Duration::from_millis(TRY_SILENCE_MS);
                    self.phase = Phase::Trying { ticket, silent_at, pause_ms };
                    Step::WaitUntil(silent_at)
                }
                None => Step::Wait,
            },
            Phase::Open { since, mut gone } => {
                while gone < released_after(now.duration_since(since)) && self.let_first_go().is_some() {
                    gone += 1;
                }
                self.phase = Phase::Open { since, gone };
                if self.waiting.is_empty() { Step::Wait } else { Step::WaitUntil(now + release_gap()) }
            }
        }
    }

    fn let_first_go(&mut self) -> Option<u64> {
        while let Some((ticket, go)) = self.waiting.pop_first() {
            // One whose patience ended a moment ago no longer listens.
            if go.send(()).is_ok() {
                return Some(ticket);
            }
        }
        None
    }
}

fn closed(now: Instant) -> Phase {
    let pause_ms = rand::random_range(RETRY_FIRST_MIN_MS..=RETRY_FIRST_MAX_MS);
    Phase::Closed { next_try: now + Duration::from_millis(pause_ms), pause_ms }
}

/// Up to a quarter less or more.
fn jittered(pause_ms: u64) -> Duration {
    let quarter = pause_ms / 4;
    Duration::from_millis(rand::random_range(pause_ms - quarter..=pause_ms + quarter))
}

fn release_gap() -> Duration {
    Duration::from_secs(1) / u32::try_from(RELEASE_PER_SECOND).unwrap_or(u32::MAX)
}

/// How many may have gone this long after a queue opened: the burst, then a pace that rises evenly from a fifth of
/// [`RELEASE_PER_SECOND`] to all of it in the first second, and on at half that slope.
fn released_after(open: Duration) -> u64 {
    let per_second = u128::from(RELEASE_PER_SECOND);
    let ms = open.as_millis().min(3_600_000);
    let ramp = ms.min(1_000);
    let first = per_second * ramp / 5_000 + per_second * 2 * ramp * ramp / 5_000_000;
    let later = ms - ramp;
    let second = per_second * later / 1_000 + per_second * later * later / 5_000_000;
    RELEASE_BURST + u64::try_from(first + second).unwrap_or(u64::MAX - RELEASE_BURST)
}

#[cfg(test)]
mod tests;

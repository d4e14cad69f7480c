//! When an endpoint that fails is tried last. Time comes in as `now`.

use std::time::Duration;

use tokio::time::Instant;

/// How long an endpoint is shunned after it failed.
pub const SHUNNED_MS: u64 = 1_000;
/// Each further failure doubles that, up to this.
pub const SHUNNED_MAX_MS: u64 = 30_000;
/// Exchanges that must fail in a row, once connected, before an endpoint is shunned: one may be its client's doing.
pub const FAILED_IN_A_ROW: u32 = 5;

/// One endpoint's record.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failed_in_a_row: u32,
    shunned_for: Option<Duration>,
    until: Option<Instant>,
}

impl Breaker {
    /// It could not be reached.
    pub(super) fn unreachable(&mut self, now: Instant) {
        let longest = Duration::from_millis(SHUNNED_MAX_MS);
        // Requests that failed together are one failure.
        if self.until.is_some_and(|until| now < until) {
            return;
        }
        let next = self.shunned_for.map_or(Duration::from_millis(SHUNNED_MS), |last| (last * 2).min(longest));
        self.shunned_for = Some(next);
        self.until = Some(now + next);
    }

    /// It broke off an exchange, or fell silent in it.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failed_in_a_row += 1;
        if self.failed_in_a_row >= FAILED_IN_A_ROW {
            self.failed_in_a_row = 0;
            self.unreachable(now);
        }
    }

    /// It answered.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_stays_away_is_tried_ever_less() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        let mut now = start;
        let mut shunned = Vec::new();
        for _ in 0..7 {
            breaker.unreachable(now);
            breaker.unreachable(now);
            let before = now;
            while breaker.is_open(now) {
                now += Duration::from_millis(500);
            }
            shunned.push((now - before).as_secs());
        }
        assert_eq!(shunned, [1, 2, 4, 8, 16, 30, 30]);
        breaker.answered();
        breaker.unreachable(now);
        assert!(breaker.is_open(now) && !breaker.is_open(now + Duration::from_millis(SHUNNED_MS)));
    }

    #[test]
    fn one_broken_exchange_shuns_nobody_and_an_answer_clears_the_record() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            (1..FAILED_IN_A_ROW).for_each(|_| breaker.failed(now));
            assert!(!breaker.is_open(now));
            breaker.answered();
        }
        (0..FAILED_IN_A_ROW).for_each(|_| breaker.failed(now));
        assert!(breaker.is_open(now));
    }
}

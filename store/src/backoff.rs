//! Growing, jittered pauses between attempts.

use std::time::Duration;

/// Pauses that double from a first to a longest, each drawn between half and full length so that
/// many clients do not come back together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first_ms: u64,
    longest_ms: u64,
    next_ms: u64,
}

impl Backoff {
    pub(crate) fn new(first_ms: u64, longest_ms: u64) -> Self {
        let first_ms = first_ms.max(1);
        Self { first_ms, longest_ms: longest_ms.max(first_ms), next_ms: first_ms }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let full_ms = self.next_ms;
        self.next_ms = full_ms.saturating_mul(2).min(self.longest_ms);
        Duration::from_millis(rand::random_range(full_ms.div_ceil(2)..=full_ms))
    }

    /// Begins again with the shortest pause.
    pub(crate) fn reset(&mut self) {
        self.next_ms = self.first_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again_after_a_reset() {
        let mut backoff = Backoff::new(10, 80);
        for full_ms in [10, 20, 40, 80, 80] {
            let pause_ms = backoff.next().as_millis();
            assert!((full_ms / 2..=full_ms).contains(&pause_ms), "{pause_ms} of {full_ms}");
        }
        backoff.reset();
        assert!(backoff.next().as_millis() <= 10);
    }
}

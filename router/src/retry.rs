//! How often a request that may have reached its cell is sent once more: only where the operator asked for it, only
//! what may be repeated by HTTP's own rules, and never more than a tenth of all requests, so that a cell in trouble is
//! not run over.

use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;

/// A request earns this much of a retry.
const EARNED_THOUSANDTHS: u64 = 100;
/// What one retry costs.
const RETRY_THOUSANDTHS: u64 = 1_000;
/// What can be saved up: a burst of retries after a quiet time.
const SAVED_MAX_THOUSANDTHS: u64 = 50 * RETRY_THOUSANDTHS;

/// What is left to spend.
pub(crate) struct RetryBudget {
    allowed: bool,
    thousandths: AtomicU64,
}

impl RetryBudget {
    /// Without being `allowed`, nothing is ever sent again.
    pub(crate) fn new(allowed: bool) -> Self {
        Self { allowed, thousandths: AtomicU64::new(0) }
    }

    /// A request came.
    pub(crate) fn earn(&self) {
        if !self.allowed || self.thousandths.load(Ordering::Relaxed) >= SAVED_MAX_THOUSANDTHS {
            return;
        }
        self.thousandths.fetch_add(EARNED_THOUSANDTHS, Ordering::Relaxed);
    }

    /// Whether a request of this method may be sent once more; spends it.
    pub(crate) fn spend(&self, method: &Method) -> bool {
        let spent = |left: u64| left.checked_sub(RETRY_THOUSANDTHS);
        self.allowed
            && method.is_idempotent()
            && self.thousandths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_tenth_is_sent_again() {
        let budget = RetryBudget::new(true);
        let mut again = 0;
        for _ in 0..1_000 {
            budget.earn();
            again += usize::from(budget.spend(&Method::GET));
        }
        assert_eq!(again, 100);
    }

    #[test]
    fn what_may_not_be_repeated_or_was_not_asked_for_is_never_sent_again() {
        let (asked, not_asked) = (RetryBudget::new(true), RetryBudget::new(false));
        for _ in 0..100 {
            asked.earn();
            not_asked.earn();
        }
        assert!(!asked.spend(&Method::POST) && !asked.spend(&Method::PATCH) && asked.spend(&Method::PUT));
        assert!(!not_asked.spend(&Method::GET));
    }
}

//! How long it took until a promise held again after a fault, printed as one line: `make faults` collects them.

use crate::within;
use std::time::{Duration, Instant};

/// A clock that runs since a fault, or since its end.
#[derive(Debug, Clone)]
pub struct Recovery {
    fault: String,
    bound_ms: u64,
    since: Instant,
}

impl Recovery {
    /// Starts the clock.
    pub fn begin(fault: &str, bound_ms: u64) -> Self {
        Self { fault: fault.to_owned(), bound_ms, since: Instant::now() }
    }

    /// Waits until `probe` has an answer, which must be within the bound.
    pub async fn until<T>(self, what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
        let left_ms = self.bound_ms.saturating_sub(millis(self.since.elapsed()));
        let answer = within(left_ms, &format!("{}: {what} (bound {} ms)", self.fault, self.bound_ms), probe).await;
        self.say(self.since.elapsed());
        answer
    }

    /// Something took this long, which must be within the bound.
    pub fn took(self, what: &str, time: Duration) {
        assert!(millis(time) <= self.bound_ms, "{}: {what} took {time:?} (bound {} ms)", self.fault, self.bound_ms);
        self.say(time);
    }

    fn say(&self, time: Duration) {
        let bound_s = Duration::from_millis(self.bound_ms).as_secs_f64();
        println!("fault {}: recovered in {:.1} s (bound {bound_s} s)", self.fault, time.as_secs_f64());
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

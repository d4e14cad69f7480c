//! The rules of limits against a plain bucket of tokens, and their edges.

use super::*;
use proptest::prelude::*;

/// A bucket of tokens in the units of nanoseconds: it holds `burst × interval`, a request takes an interval.
struct Bucket {
    tokens_ns: u64,
    at_ns: u64,
    rate: Rate,
}

impl Bucket {
    fn take(&mut self, now_ns: u64) -> (bool, u32) {
        let interval = self.rate.interval_ns();
        let full = interval * u64::from(self.rate.burst);
        self.tokens_ns = full.min(self.tokens_ns + (now_ns - self.at_ns));
        self.at_ns = now_ns;
        let allowed = self.tokens_ns >= interval;
        if allowed {
            self.tokens_ns -= interval;
        }
        (allowed, u32::try_from(self.tokens_ns / interval).expect("small"))
    }
}

proptest! {
    #[test]
    fn gcra_decides_as_a_bucket_of_tokens(
        per_second in 1u32..=5_000,
        burst in 1u32..=200,
        pauses_us in proptest::collection::vec(prop_oneof![0u64..50, 0u64..20_000, 0u64..5_000_000], 1..400),
    ) {
        let rate = Rate { per_second, burst };
        let mut now_ns = 7;
        let mut tat = 0;
        let mut bucket = Bucket { tokens_ns: rate.interval_ns() * u64::from(burst), at_ns: now_ns, rate };
        for pause_us in pauses_us {
            now_ns += pause_us * 1_000;
            let (new_tat, decision) = gcra(tat, now_ns, rate);
            tat = new_tat;
            prop_assert_eq!((decision.allowed, decision.remaining), bucket.take(now_ns));
        }
    }

    #[test]
    fn whoever_waits_as_told_passes(per_second in 1u32..=REQUESTS_MAX, burst in 1u32..=100, tat in any::<u32>()) {
        let rate = Rate { per_second, burst };
        let now_ns = 1_000_000_000;
        let (tat, decision) = gcra(u64::from(tat), now_ns, rate);
        if !decision.allowed {
            let later = now_ns + decision.reset_ms * 1_000_000;
            prop_assert!(gcra(tat, later, rate).1.allowed);
        }
    }

    #[test]
    fn bytes_keep_to_their_limit_in_the_long_run(
        rate in BANDWIDTH_MIN_BYTES_PER_SECOND..10_000_000,
        frames in proptest::collection::vec(1u64..65_536, 1..200),
    ) {
        let (mut tat, mut now) = (0, 0_u64);
        for bytes in &frames {
            let (new_tat, wait) = pace(tat, now, *bytes, rate);
            prop_assert!(wait <= PACE_WAIT_MAX_NS);
            (tat, now) = (new_tat, now + wait);
        }
        let took_s = (now + PACE_AHEAD_NS) as f64 / 1e9;
        let bytes: u64 = frames.iter().sum();
        prop_assert!(bytes as f64 <= took_s * rate as f64 * 1.001 + 1.0, "{bytes} bytes in {took_s} s at {rate}");
    }

    #[test]
    fn no_number_overflows(a in any::<u64>(), b in any::<u64>(), c in any::<u32>(), d in any::<u32>()) {
        let _ = gcra(a, b, Rate { per_second: c, burst: d });
        let _ = pace(a, b, u64::from(c), u64::from(d));
        let _ = is_shed(a, b, u64::from(c), u64::from(d));
    }
}

#[test]
fn a_slower_rate_of_the_past_is_no_debt() {
    let slow = Rate { per_second: 1, burst: 100 };
    let fast = Rate { per_second: 100, burst: 1 };
    let tat = (0..100).fold(0, |tat, _| gcra(tat, 0, slow).0);
    assert_eq!(tat, 100_000_000_000);
    let (tat, decision) = gcra(tat, 0, fast);
    assert!(!decision.allowed);
    assert_eq!(decision.reset_ms, 10);
    assert!(gcra(tat, 10_000_000, fast).1.allowed);
}

#[test]
fn what_is_left_and_until_when_is_told() {
    let rate = Rate { per_second: 10, burst: 2 };
    let (tat, first) = gcra(0, 0, rate);
    assert_eq!(first, Decision { allowed: true, remaining: 1, reset_ms: 100 });
    let (tat, second) = gcra(tat, 0, rate);
    assert_eq!(second, Decision { allowed: true, remaining: 0, reset_ms: 100 });
    let (same, third) = gcra(tat, 40_000_000, rate);
    assert_eq!((same, third), (tat, Decision { allowed: false, remaining: 0, reset_ms: 60 }));
    assert_eq!(rate.window_s(), 1);
    assert_eq!(Rate { per_second: 10, burst: 25 }.window_s(), 3);
}

#[test]
fn read_only_passes_only_what_cannot_write() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert!(Mode::ReadOnly.admits(method, false), "{method}");
        assert!(!Mode::Paused.admits(method, false), "{method}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "get", "PURGE"] {
        assert!(!Mode::ReadOnly.admits(method, false), "{method}");
        assert!(Mode::Open.admits(method, true), "{method}");
    }
    assert!(!Mode::ReadOnly.admits("GET", true), "a WebSocket can write");
}

#[test]
fn limits_out_of_range_are_refused_with_the_range() {
    let good = TenantLimits {
        requests: Some(Rate { per_second: 1, burst: 1 }),
        concurrency: Some(1),
        bandwidth_bytes_per_second: Some(BANDWIDTH_MIN_BYTES_PER_SECOND),
        mode: Mode::Paused,
        message: Some("Back soon.\nThank you.".into()),
        retry_after_s: Some(RETRY_AFTER_MAX_S),
        error_text: Some("x".repeat(TEXT_MAX_BYTES)),
    };
    assert_eq!(good.check(), Ok(()));
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    for bad in [
        TenantLimits { requests: rate(0, 1), ..good.clone() },
        TenantLimits { requests: rate(1, 0), ..good.clone() },
        TenantLimits { requests: rate(REQUESTS_MAX + 1, 1), ..good.clone() },
        TenantLimits { concurrency: Some(0), ..good.clone() },
        TenantLimits { bandwidth_bytes_per_second: Some(1), ..good.clone() },
        TenantLimits { retry_after_s: Some(0), ..good.clone() },
        TenantLimits { message: Some(String::new()), ..good.clone() },
        TenantLimits { message: Some("a\u{1b}[31m".into()), ..good.clone() },
        TenantLimits { error_text: Some("ä".repeat(501)), ..good.clone() },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
    let error = TenantLimits { concurrency: Some(0), ..good }.check().expect_err("refused");
    assert_eq!(error.to_string(), "concurrency is 0, allowed are 1 to 1000000");
}

#[test]
fn those_with_more_than_their_part_are_shed_first() {
    // Of 200 that are allowed, 10 tenants share the lower half: a part is 10.
    assert!(!is_shed(90, 100, 200, 10), "in the lower half nobody is shed");
    assert!(is_shed(11, 101, 200, 10));
    assert!(!is_shed(10, 200, 200, 10));
    assert!(is_shed(101, 101, 200, 1), "nobody alone has more than half");
    assert!(is_shed(1, 201, 200, 500), "many small ones together are bounded too");
}

//! What a tenant with limits may have, from all threads at once.

#![allow(clippy::unwrap_used)]

use super::*;
use http::Method;
use prometheus::Registry;

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn with(limits: TenantLimits) -> (Limits, Metrics) {
    let all = Limits::default();
    all.set(tenant(), limits);
    (all, Metrics::new(&Registry::new()).unwrap())
}

fn rate(per_second: u32, burst: u32) -> TenantLimits {
    TenantLimits { requests: Some(Rate { per_second, burst }), ..TenantLimits::default() }
}

#[test]
fn a_tenant_without_limits_has_no_state() {
    let (all, _) = with(rate(1, 1));
    assert!(all.of(&TenantId::new("beta").unwrap()).is_none());
    assert_eq!(all.len(), 1);
    assert!(all.set(tenant(), TenantLimits::default()));
    assert!(all.of(&tenant()).is_none());
    assert_eq!(all.len(), 0);
    assert!(!all.set(tenant(), TenantLimits::default()), "nothing is what it was");
}

#[test]
fn what_was_set_is_read_back() {
    let limits = TenantLimits {
        requests: Some(Rate { per_second: u32::MAX, burst: 7 }),
        concurrency: Some(3),
        bandwidth_bytes_per_second: Some(1 << 40),
        mode: Mode::ReadOnly,
        message: Some("m".into()),
        retry_after_s: Some(9),
        error_text: Some("e".into()),
    };
    let (all, _) = with(limits.clone());
    let mut contents = Vec::new();
    all.each(|tenant, limits| contents.push((tenant.clone(), limits)));
    assert_eq!(contents, [(tenant(), limits.clone())]);
    assert!(!all.set(tenant(), limits));
}

#[test]
fn threads_share_one_bucket_and_one_count() {
    let (all, metrics) = with(TenantLimits { concurrency: Some(70), ..rate(1, 100) });
    let limited = all.of(&tenant()).unwrap();
    let outcomes: Vec<Result<Slot, Failure>> = std::thread::scope(|scope| {
        let one =
            || (0..50).map(|_| all.enter(&limited, &Method::GET, false, Instant::now(), &metrics)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let slots = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(slots, 70);
    let over_rate = metrics.limited_rate.get();
    assert!((99..=100).contains(&over_rate), "{over_rate} of 200 are over a burst of 100");
    assert_eq!(metrics.limited_concurrency.get() + over_rate, 130);
    drop(outcomes);
    assert_eq!(limited.in_flight.load(Ordering::Relaxed), 0);
}

#[test]
fn a_change_goes_on_with_what_is_used() {
    let (all, metrics) = with(TenantLimits { concurrency: Some(2), ..TenantLimits::default() });
    let limited = all.of(&tenant()).unwrap();
    let enter = || all.enter(&all.of(&tenant()).unwrap(), &Method::GET, false, Instant::now(), &metrics);
    let (first, second) = (enter().unwrap(), enter().unwrap());
    all.set(tenant(), TenantLimits { concurrency: Some(1), ..TenantLimits::default() });
    drop(first);
    assert!(enter().is_err(), "one is in flight");
    drop(second);
    assert!(enter().is_ok());
    assert!(Arc::ptr_eq(&limited, &all.of(&tenant()).unwrap()));
}

#[test]
fn the_mode_comes_first_and_costs_no_request() {
    let (all, metrics) = with(TenantLimits { mode: Mode::Paused, retry_after_s: Some(60), ..rate(1, 1) });
    let enter = || all.enter(&all.of(&tenant()).unwrap(), &Method::GET, false, Instant::now(), &metrics);
    for _ in 0..5 {
        assert_eq!(enter().unwrap_err(), Failure::Paused { retry_after_s: 60 });
    }
    all.set(tenant(), rate(1, 1));
    assert!(enter().is_ok());
    assert!(matches!(enter().unwrap_err(), Failure::OverRate(_)));
    assert_eq!((metrics.limited_paused.get(), metrics.limited_rate.get()), (5, 1));
}

#[test]
fn the_fields_are_those_of_the_draft() {
    let (all, metrics) = with(rate(10, 25));
    let told = || {
        let slot = all.enter(&all.of(&tenant()).unwrap(), &Method::GET, false, Instant::now(), &metrics).unwrap();
        let mut headers = HeaderMap::new();
        slot.tell(&mut headers);
        headers
    };
    let headers = told();
    assert_eq!(headers[RATELIMIT_POLICY], "\"tenant\";q=25;w=3");
    assert_eq!(headers[RATELIMIT], "\"tenant\";r=24;t=1");
    assert!(!headers[RATELIMIT_POLICY].is_sensitive() && headers[RATELIMIT].is_sensitive());
    for (rate, policy) in [
        (rate(10, 26), "\"tenant\";q=26;w=3"),
        (rate(1, 26), "\"tenant\";q=26;w=26"),
        (rate(1, u32::MAX), "\"tenant\";q=4294967295;w=4294967295"),
    ] {
        all.set(tenant(), rate);
        for _ in 0..2 {
            let headers = told();
            assert_eq!(headers[RATELIMIT_POLICY], policy);
            assert!(!headers[RATELIMIT_POLICY].is_sensitive());
        }
    }
}

#[tokio::test]
async fn whoever_waits_for_a_tenant_to_close_is_told() {
    let (all, _) = with(rate(1, 1));
    let all = Arc::new(all);
    let waiting = tokio::spawn({
        let all = Arc::clone(&all);
        async move { all.until_not_open(&tenant()).await }
    });
    tokio::task::yield_now().await;
    all.set(TenantId::new("beta").unwrap(), TenantLimits { mode: Mode::Paused, ..TenantLimits::default() });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    all.set(tenant(), TenantLimits { mode: Mode::ReadOnly, ..rate(1, 1) });
    waiting.await.unwrap();
}

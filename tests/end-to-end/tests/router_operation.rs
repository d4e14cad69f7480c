//! A router as a process: a new configuration, the access log, a drain, refused routes.

use cellway_end_to_end::alone::{Backend, Load, RouterAlone};
use cellway_end_to_end::eventually;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const RELOADS: usize = 20;

/// Answered between two reloads, so that each falls into traffic.
const REQUESTS_BETWEEN: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_fail_no_request_and_lose_no_line() {
    let backend = Backend::start(Duration::from_millis(2)).await;
    let mut router = RouterAlone::start(&backend, "").await;
    let load = Load::start(&router, 4);
    for number in 0..RELOADS {
        router.rotate_log();
        router.configure(&format!("hold: {{per_tenant_requests: {}}}\n", 100 + number));
        router.process.signal(Signal::HUP);
        let taken = number as f64 + 1.0;
        eventually("the configuration is taken over", async || {
            (router.metric("config_reload_total{result=\"done\"}").await? == taken).then_some(())
        })
        .await;
        load.more(REQUESTS_BETWEEN).await;
    }
    let cases = [
        ("hold: {per_tenant_requests: many}\n", "line 10"),
        ("threads: 3\n", "`threads` cannot change"),
        ("access_log: {to: /dev/null/x}\n", "/dev/null/x"),
    ];
    for (refused, (bad, said)) in (1_u8..).zip(cases) {
        router.configure(bad);
        router.process.signal(Signal::HUP);
        eventually("the configuration is refused", async || {
            let count = router.metric("config_reload_total{result=\"refused\"}").await?;
            (count == f64::from(refused)).then_some(())
        })
        .await;
        assert!(router.process.log().contains(said), "{said} is not in {}", router.process.log());
    }
    assert_eq!(router.metric("config_last_reload_success").await, Some(0.0));
    let done = load.stop().await;
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    assert!(done.answered >= RELOADS * REQUESTS_BETWEEN, "{} requests", done.answered);
    assert!(router.process.end(Signal::TERM).success());
    assert_eq!(router.logged(), done.answered, "every request has its line, in one of the files");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_fails_no_request() {
    let backend = Backend::start(Duration::from_millis(100)).await;
    let mut router = RouterAlone::start(&backend, "drain_delay_ms: 2000\ndrain_ms: 5000\n").await;
    let load = Load::start(&router, 8);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    router.process.signal(Signal::TERM);
    eventually("/readyz says 503", async || (router.readyz().await? == 503).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_millis(1_900), "before connections are refused");
    let status = router.process.wait(Duration::from_secs(8));
    assert_eq!(status.code(), Some(0), "{}", router.process.log());
    let done = load.stop().await;
    assert!(done.failed.is_empty(), "only connections may be refused: {:?}", done.failed);
    assert!(done.answered > 20, "{} requests", done.answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_at_once() {
    let backend = Backend::start(Duration::from_secs(20)).await;
    let mut router = RouterAlone::start(&backend, "drain_ms: 15000\n").await;
    let load = Load::start(&router, 1);
    eventually("a request is under way", async || (router.metric("requests_open").await? == 1.0).then_some(())).await;
    router.process.signal(Signal::TERM);
    eventually("/readyz says 503", async || (router.readyz().await? == 503).then_some(())).await;
    assert!(router.process.is_running(), "the request is waited for");
    router.process.signal(Signal::TERM);
    assert_eq!(router.process.wait(Duration::from_secs(2)).code(), Some(130));
    drop(load);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_routes_are_shown_and_accepted_by_hand() {
    let backend = Backend::start(Duration::ZERO).await;
    let router = RouterAlone::start(&backend, "").await;
    let many: Vec<String> = (0..40).map(|number| format!("t{number}")).collect();
    router.tell(&backend, &many);
    eventually("the tenants are known", async || (router.ask("t39").await? == 200).then_some(())).await;
    router.tell(&backend, &many[..5]);
    eventually("the routes are refused", async || (router.metric("feed_refusing").await? == 1.0).then_some(())).await;
    assert_eq!(router.ask("t39").await, Some(200));

    let shown = router.cli(&["status", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON on stdout");
    assert_eq!(shown["refused"]["reasons"][0], "mass_drop");
    let without = router.cli(&["accept-routes", "--other-cluster"]);
    assert_eq!(without.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&without.stderr).contains("--mass-drop"));
    let accepted = router.cli(&["accept-routes", "--mass-drop"]);
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    assert_eq!((router.ask("t39").await, router.ask("t4").await), (Some(404), Some(200)));
    let again = router.cli(&["accept-routes", "--mass-drop"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("refuses no routes"));
}

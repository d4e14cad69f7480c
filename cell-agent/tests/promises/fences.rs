//! What a fence promises: on disk before it is said, and said only when nothing admitted runs.

use crate::stage::{LONGEST_REQUEST_MS, Stage, order, status};
use cellway_api::agent::{FactUp, TaskDown};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

fn fenced(epoch: u64) -> impl Fn(&FactUp) -> bool {
    move |fact| matches!(fact, FactUp::Fenced { epoch: at, .. } if *at == epoch)
}

async fn a_little() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_fence_waits_for_the_request_that_was_admitted() {
    let stage = Stage::with_acme_open().await;
    let mut wire = stage.ask("GET /hand", 5, "\r\n").await;
    let mut hand = stage.app.hand().await;
    stage.plane.order(vec![order(TaskDown::Watch { epoch: 5 })]);
    stage.plane.fact(|fact| matches!(fact, FactUp::Watched { oldest_request_ms, .. } if *oldest_request_ms > 50)).await;
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    stage.until(5, 421, Some("fenced")).await;
    a_little().await;
    assert!(!stage.plane.has_heard(fenced(5)));
    hand.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(status(&wire.head().await), 200);
    stage.plane.fact(fenced(5)).await;
}

#[tokio::test]
async fn a_fence_waits_for_the_app_when_the_client_is_gone() {
    let stage = Stage::with_acme_open().await;
    let wire = stage.ask("GET /hand", 5, "\r\n").await;
    let mut hand = stage.app.hand().await;
    drop(wire);
    a_little().await;
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    a_little().await;
    assert!(!stage.plane.has_heard(fenced(5)));
    hand.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc").await.unwrap();
    a_little().await;
    assert!(!stage.plane.has_heard(fenced(5)), "the answer is not over");
    hand.stream.write_all(b"de").await.unwrap();
    stage.plane.fact(fenced(5)).await;
}

#[tokio::test]
async fn a_broken_upload_is_shown_to_the_app_and_its_end_is_waited_for() {
    let stage = Stage::with_acme_open().await;
    let wire = stage.ask("POST /hand", 5, "content-length: 100\r\n\r\nhalf").await;
    let mut hand = stage.app.hand().await;
    assert_eq!(hand.read(4).await, b"half");
    drop(wire);
    assert_eq!(hand.read(4).await, b"", "the app sees the end of the upload");
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    a_little().await;
    assert!(!stage.plane.has_heard(fenced(5)), "the app may still be at it");
    drop(hand);
    stage.plane.fact(fenced(5)).await;
}

#[tokio::test]
async fn an_app_that_never_ends_a_request_bounds_the_fence_by_its_own_limit() {
    let stage = Stage::with_acme_open().await;
    let wire = stage.ask("GET /hand", 5, "\r\n").await;
    let begun = Instant::now();
    let _hand = stage.app.hand().await;
    drop(wire);
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    stage.plane.fact(fenced(5)).await;
    assert!(begun.elapsed() >= Duration::from_millis(LONGEST_REQUEST_MS));
}

#[tokio::test]
async fn a_fence_is_on_disk_before_it_is_said_and_outlives_a_crash() {
    let mut stage = Stage::with_acme_open().await;
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    stage.plane.fact(fenced(5)).await;
    stage.kill().await;
    stage.plane.order(vec![]);
    stage.start();
    a_little().await;
    assert_eq!(stage.verdict(5).await, (421, Some("fenced".into())));
    stage.plane.place("acme", "cell-a", 6, "new-5", None);
    stage.until_open(6).await;
}

#[tokio::test]
async fn after_a_crash_a_fence_is_said_only_when_nothing_of_before_can_run() {
    let mut stage = Stage::with_acme_open().await;
    stage.kill().await;
    let begun = Instant::now();
    stage.start();
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    stage.plane.fact(fenced(5)).await;
    assert!(begun.elapsed() >= Duration::from_millis(LONGEST_REQUEST_MS));
}

#[tokio::test]
async fn after_a_crash_a_data_fence_stands_in_for_the_wait() {
    let mut stage = Stage::with_sqlite().await;
    let live = stage.dir.path().join("live/acme.db");
    assert!(live.is_symlink());
    stage.kill().await;
    stage.start();
    stage.until_open(15).await;
    let begun = Instant::now();
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 15, cut: false })]);
    stage.plane.fact(fenced(15)).await;
    assert!(begun.elapsed() < Duration::from_millis(LONGEST_REQUEST_MS));
    assert!(!live.is_symlink(), "the app no longer finds the data");
}

#[tokio::test]
async fn a_clean_stop_leaves_nothing_to_wait_for() {
    let mut stage = Stage::with_acme_open().await;
    stage.stop().await;
    let begun = Instant::now();
    stage.start();
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    stage.plane.fact(fenced(5)).await;
    assert!(begun.elapsed() < Duration::from_millis(LONGEST_REQUEST_MS));
}

#[tokio::test]
async fn a_clean_stop_soon_after_a_crash_does_not_hide_what_the_crash_left() {
    let mut stage = Stage::with_acme_open().await;
    stage.kill().await;
    stage.start();
    stage.until_open(5).await;
    let crashed = Instant::now();
    stage.stop().await;
    stage.start();
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    stage.plane.fact(fenced(5)).await;
    assert!(crashed.elapsed() >= Duration::from_millis(LONGEST_REQUEST_MS));
}

#[tokio::test]
async fn a_home_that_a_placement_names_here_is_never_dropped() {
    let stage = Stage::with_acme_open().await;
    stage.plane.order(vec![order(TaskDown::Drop { home: "new-5".into() })]);
    stage.plane.fact(|fact| matches!(fact, FactUp::Failed { reason, .. } if reason.contains("served"))).await;
    stage.plane.order(vec![order(TaskDown::Drop { home: "h7".into() })]);
    stage.plane.fact(|fact| matches!(fact, FactUp::Dropped { home, .. } if home == "h7")).await;
}

#[tokio::test]
async fn the_last_fact_of_an_order_is_said_again_while_it_stands_and_no_longer() {
    let stage = Stage::with_acme_open().await;
    let said = || stage.plane.heard.lock().facts.len();
    stage.plane.order(vec![order(TaskDown::Prepare { home: "h2".into() })]);
    stage.plane.fact(|fact| matches!(fact, FactUp::Ready { .. })).await;
    let begun = Instant::now();
    while said() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(10), "not said again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(1_500), "done again, not said again");
    stage.plane.order(vec![]);
    a_little().await;
    let before = said();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(said(), before);
}

#[cfg(feature = "test-faults")]
#[tokio::test]
async fn the_fault_ignore_fences_says_fenced_and_closes_nothing() {
    let mut stage = Stage::with_sqlite().await;
    stage.stop().await;
    stage.start_with(|config| config.faults.ignore_fences = true);
    stage.until_open(15).await;
    let _wire = stage.ask("GET /hand", 15, "\r\n").await;
    let _hand = stage.app.hand().await;
    let offer = order(TaskDown::Offer { home: "new-15".into(), to: "cell-b".into() });
    let fence_data = order(TaskDown::FenceData { home: "new-15".into(), epoch: 15, list: 1 });
    stage.plane.order(vec![offer, order(TaskDown::Fence { epoch: 15, cut: false }), fence_data]);
    stage.plane.fact(fenced(15)).await;
    stage.plane.fact(|fact| matches!(fact, FactUp::Positioned { .. })).await;
    assert_eq!(stage.verdict(15).await.0, 200);
    assert!(stage.dir.path().join("live/acme.db").is_symlink());
}

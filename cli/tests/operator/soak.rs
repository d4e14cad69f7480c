//! `cellway soak` keeps its word: a good system passes, and each broken promise is found.

use crate::system::{Fault, System, text};
use serde_json::Value;

async fn soak(system: &System, more: &str) -> (i32, Value) {
    let line = format!("soak --router {} --rps 150 --seed 11 --websockets 2 --feeds 2 {more}", system.router);
    system.cellway_json(&line).await
}

fn broken(report: &Value) -> String {
    report["broken_promises"].to_string()
}

#[tokio::test]
async fn a_system_that_keeps_its_promises_passes() {
    let system = System::start(Fault::Nothing).await;
    let (code, report) = soak(&system, "--moves 8 --duration 3s").await;
    assert_eq!((code, broken(&report)), (0, "[]".to_owned()), "{report:#}");
    assert!(report["requests"].as_u64() > Some(300), "{report:#}");
    assert_eq!(report["failures"], serde_json::json!({}));
    assert!(report["writes"]["acknowledged"].as_u64() > Some(100), "{report:#}");
    assert_eq!((&report["moves"]["asked"], &report["moves"]["past_switched"]), (&8.into(), &8.into()));
    assert_eq!(report["hold_ms"]["max"].as_f64(), Some(25.0));
    assert!(report["slow_uploads"]["acknowledged"].as_u64() >= Some(2), "{report:#}");
    let streams = &report["streams"];
    assert!(streams["websocket_cut"].as_u64() > Some(2), "{streams}");
    assert_eq!(streams["websocket_cut"], streams["websocket_cut_cleanly"]);
    assert!(streams["sse_cut"].as_u64() > Some(2) && streams["sse_events"].as_u64() > Some(10), "{streams}");
    assert!(report["connections"]["opened"].as_u64() < Some(60), "connections are kept: {report:#}");
}

#[tokio::test]
async fn each_broken_promise_is_found_and_named() {
    for (fault, key, promise) in [
        (Fault::LoseWrite, "lost", "no_acknowledged_write_is_lost"),
        (Fault::DuplicateWrite, "duplicated", "no_acknowledged_write_is_lost"),
        (Fault::SpoilHash, "corrupt", "no_acknowledged_write_is_lost"),
        (Fault::ServeFromTheOldCell, "two_cells_in_one_epoch", "no_two_cells_serve_one_tenant"),
        (Fault::ServeFromTheOldCell, "wrong_cell", "no_two_cells_serve_one_tenant"),
        (Fault::HideAcknowledged, "stale_reads", "no_acknowledged_write_is_lost"),
    ] {
        let system = System::start(fault).await;
        let (code, report) = soak(&system, "--moves 5 --duration 2s").await;
        assert_eq!(code, 1, "{fault:?}: {report:#}");
        assert!(report["writes"][key].as_u64() >= Some(1), "{fault:?}: {report:#}");
        assert!(broken(&report).contains(promise), "{fault:?}: {report:#}");
    }
}

#[tokio::test]
async fn a_failed_request_breaks_a_promise_and_is_never_repeated() {
    let system = System::start(Fault::Answer503).await;
    let (code, report) = soak(&system, "--moves 3 --duration 2s").await;
    assert_eq!(code, 1);
    let failed = report["failures"]["status 503"].as_u64().unwrap_or_default();
    let slow = report["slow_uploads"]["failures"]["status 503"].as_u64().unwrap_or_default();
    assert_eq!(failed + slow, 3, "{report:#}");
    assert!(broken(&report).contains("no_request_fails_because_of_a_move"));
    assert_eq!((&report["writes"]["lost"], &report["writes"]["unexpected"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn moves_that_are_undone_are_counted_with_their_reason_and_too_many_fail_the_run() {
    let system = System::start(Fault::UndoMoves).await;
    let (code, report) = soak(&system, "--moves 4 --duration 1s").await;
    assert_eq!((code, &report["moves"]["undone"]["the copy stalled"]), (1, &4.into()), "{report:#}");
    assert!(broken(&report).contains("0 of 4 moves got past switched"), "{report:#}");
}

#[tokio::test]
async fn missing_tenants_are_created_and_plain_origins_left_alone() {
    let system = System::start(Fault::Nothing).await;
    let (code, report) = soak(&system, "--moves 0 --duration 1s --tenants 9").await;
    assert_eq!((code, &report["tenants"]), (0, &9.into()), "{report:#}");
    assert_eq!(system.shared.state().tenants.len(), 10);
    assert!(system.shared.state().tenants["fixed"].log.is_empty());
}

#[tokio::test]
async fn what_cannot_begin_exits_with_2_and_says_why() {
    let system = System::start(Fault::Nothing).await;
    system.cellway("cell cordon cell-b").await;
    let output = system.cellway(&format!("soak --router {} --moves 1", system.router)).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("1 open cells have agents, two are needed"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_report_for_people_says_what_was_kept() {
    let system = System::start(Fault::Nothing).await;
    let line = format!("soak --router {} --moves 2 --rps 50", system.router);
    let output = system.cellway(&line).await;
    let report = text(&output.stdout);
    assert!(report.contains("Every promise was kept."), "{report}");
    assert!(report.contains("past switched 2"), "{report}");
}

//! The product's own proof, short: clean on a sound system, and able to fail on a broken one.

use cellway_end_to_end::dev::Dev;

fn soak(dev: &Dev, args: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut all = vec!["soak", "-o", "json"];
    all.extend(args);
    let output = dev.cli(&all);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {text} {output:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_because_of_a_move() {
    let dev = Dev::start(&[]).await;
    let (code, report) = soak(&dev, &["--moves", "12", "--rps", "100", "--seed", "7"]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["writes"]["lost"], 0);
}

async fn is_caught(rule: &str) {
    let dev = Dev::start(&["--break", rule]).await;
    let (code, report) = soak(&dev, &["--moves", "20", "--rps", "150", "--seed", "7"]);
    assert_eq!(code, Some(1), "{rule} was not caught: {report:#}");
    assert!(!report["broken_promises"].as_array().unwrap().is_empty(), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_ignores_fences_is_caught_within_20_moves() {
    is_caught("ignore-fences").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_replay_is_caught_within_20_moves() {
    is_caught("lose-replay").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_opens_at_once_is_caught_within_20_moves() {
    is_caught("open-at-once").await;
}

//! Long-lived streams: passed through at once, counted, ended when the tenant goes.

use crate::stage::{LONGEST_REQUEST_MS, Stage, order, status};
use cellway_api::agent::{FactUp, TaskDown};
use cellway_cell_agent::DriverConfig;
use cellway_proxy::pool::USED_PER_TENANT_MAX;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: \
                       dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

async fn event_stream(stage: &Stage) -> (crate::stage::Wire, crate::app::Hand) {
    let mut wire = stage.ask("GET /hand", 5, "\r\n").await;
    let mut hand = stage.app.hand().await;
    hand.stream.write_all(EVENTS.as_bytes()).await.unwrap();
    assert_eq!(status(&wire.head().await), 200);
    hand.stream.write_all(b"9\r\ndata: 1\n\n\r\n").await.unwrap();
    assert_eq!(wire.body(14).await, "9\r\ndata: 1\n\n\r\n");
    (wire, hand)
}

async fn websocket(stage: &Stage) -> (crate::stage::Wire, crate::app::Hand) {
    let mut wire = stage.ask("GET /hand", 5, UPGRADE).await;
    let mut hand = stage.app.hand().await;
    assert!(hand.head.contains("upgrade: websocket"), "{}", hand.head);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    hand.stream.write_all(switch.as_bytes()).await.unwrap();
    assert_eq!(status(&wire.head().await), 101);
    (wire, hand)
}

fn is_fenced(fact: &FactUp) -> bool {
    matches!(fact, FactUp::Fenced { .. })
}

#[tokio::test]
async fn an_event_stream_ends_cleanly_when_its_tenant_goes() {
    let stage = Stage::with_acme_open().await;
    let (mut wire, mut hand) = event_stream(&stage).await;
    stage.plane.order(vec![order(TaskDown::Watch { epoch: 5 })]);
    let watched = |fact: &FactUp| matches!(fact, FactUp::Watched { open_streams: 1, oldest_request_ms: 0, .. });
    stage.plane.fact(watched).await;
    stage.plane.order(vec![order(TaskDown::CloseStreams { epoch: 5 })]);
    assert_eq!(wire.body(5).await, "0\r\n\r\n", "the last chunk: an end, not a break");
    assert_eq!(hand.read(1).await, b"", "the app is told");
    drop(hand);
    stage.plane.fact(|fact| matches!(fact, FactUp::Watched { open_streams: 0, .. })).await;
    assert_eq!(stage.verdict(5).await.0, 200, "requests go on");
    let mut refused = stage.ask("GET /hand", 5, UPGRADE).await;
    assert_eq!(status(&refused.head().await), 421);
}

#[tokio::test]
async fn an_event_stream_ends_after_a_whole_event() {
    let stage = Stage::with_acme_open().await;
    let (mut wire, mut hand) = event_stream(&stage).await;
    hand.stream.write_all(b"8\r\ndata: ha\r\n").await.unwrap();
    assert_eq!(wire.body(13).await, "8\r\ndata: ha\r\n");
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    hand.stream.write_all(b"4\r\nlf\n\n\r\n").await.unwrap();
    assert_eq!(wire.body(14).await, "4\r\nlf\n\n\r\n0\r\n\r\n");
    drop(hand);
    stage.plane.fact(is_fenced).await;
}

#[tokio::test]
async fn an_event_that_is_half_sent_is_given_time_to_become_whole() {
    const TIME_MS: u64 = 100;
    let stage = Stage::with_acme_open().await;
    let (mut wire, mut hand) = event_stream(&stage).await;
    hand.stream.write_all(b"8\r\ndata: ha\r\n").await.unwrap();
    assert_eq!(wire.body(13).await, "8\r\ndata: ha\r\n");
    let begun = Instant::now();
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    assert_eq!(wire.body(5).await, "0\r\n\r\n", "cut in the end");
    assert!(begun.elapsed() >= Duration::from_millis(TIME_MS));
    drop(hand);
    stage.plane.fact(is_fenced).await;
}

#[tokio::test]
async fn a_fence_ends_what_streams_are_left_and_waits_for_the_app() {
    let stage = Stage::with_acme_open().await;
    let (mut wire, hand) = event_stream(&stage).await;
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    assert_eq!(wire.body(5).await, "0\r\n\r\n");
    drop(hand);
    stage.plane.fact(|fact| matches!(fact, FactUp::Fenced { .. })).await;
}

#[tokio::test]
async fn a_websocket_is_joined_counted_and_closed_on_both_sides_by_the_fence() {
    let stage = Stage::with_acme_open().await;
    let (mut wire, mut hand) = websocket(&stage).await;
    wire.send("up").await;
    assert_eq!(hand.read(2).await, b"up");
    hand.stream.write_all(b"\x82\x04down").await.unwrap();
    assert!(wire.body_bytes(6).await.ends_with(b"down"));
    stage.plane.order(vec![order(TaskDown::Watch { epoch: 5 })]);
    stage.plane.fact(|fact| matches!(fact, FactUp::Watched { open_streams: 1, .. })).await;
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    assert!(wire.body_bytes(4).await.starts_with(&[0x88, 0x11, 0x03, 0xf4]), "connect again (1012)");
    wire.send("farewell").await;
    assert_eq!(hand.read(8).await, b"farewell", "the client's answer");
    assert!(wire.rest().await.ends_with("restart"));
    assert_eq!(hand.read(1).await, b"", "the app is told");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stage.plane.has_heard(is_fenced), "the app may still be at it");
    hand.stream.write_all(b"late").await.unwrap();
    drop(hand);
    stage.plane.fact(is_fenced).await;
}

#[tokio::test]
async fn a_websocket_that_its_client_left_counts_until_the_app_has_ended_it() {
    let stage = Stage::with_acme_open().await;
    let (wire, mut hand) = websocket(&stage).await;
    drop(wire);
    assert_eq!(hand.read(1).await, b"");
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stage.plane.has_heard(is_fenced));
    drop(hand);
    stage.plane.fact(is_fenced).await;
}

#[tokio::test]
async fn an_app_that_never_ends_a_websocket_bounds_the_fence_by_its_own_limit() {
    let stage = Stage::with_acme_open().await;
    let (_wire, _hand) = websocket(&stage).await;
    let begun = Instant::now();
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    stage.plane.fact(is_fenced).await;
    assert!(begun.elapsed() >= Duration::from_millis(LONGEST_REQUEST_MS));
}

#[tokio::test]
async fn an_event_stream_that_the_app_never_ends_keeps_a_fence_for_less_than_a_second() {
    let stage = Stage::with_acme_open().await;
    let (mut wire, _hand) = event_stream(&stage).await;
    stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    assert_eq!(wire.body(5).await, "0\r\n\r\n");
    let ended = Instant::now();
    stage.plane.fact(is_fenced).await;
    assert!(ended.elapsed() < Duration::from_millis(LONGEST_REQUEST_MS));
}

#[tokio::test]
async fn the_app_hears_that_the_client_of_a_silent_event_stream_has_left() {
    let stage = Stage::with_acme_open().await;
    let (wire, mut hand) = event_stream(&stage).await;
    drop(wire);
    assert_eq!(hand.read(1).await, b"");
}

#[tokio::test]
async fn the_app_hears_that_a_client_has_left_whose_body_came_behind_the_answer() {
    let stage = Stage::with_acme_open().await;
    let mut wire = stage.ask("POST /hand", 5, "content-length: 4\r\n\r\n").await;
    let mut hand = stage.app.hand().await;
    hand.stream.write_all(EVENTS.as_bytes()).await.unwrap();
    assert_eq!(status(&wire.head().await), 200);
    wire.send("body").await;
    assert_eq!(hand.read(4).await, b"body");
    drop(wire);
    assert_eq!(hand.read(1).await, b"");
}

#[tokio::test]
async fn streams_take_no_place_of_requests() {
    cellway_proxy::files::raise();
    let mut stage = Stage::new(|_| DriverConfig::None).await;
    stage.plane.place("acme", "cell-a", 5, "new-5", None);
    stage.start_with(|config| config.gate_threads = 1);
    stage.until_open(5).await;
    let mut open = Vec::new();
    for _ in 0..USED_PER_TENANT_MAX {
        open.push(event_stream(&stage).await);
    }
    assert_eq!(stage.verdict(5).await.0, 200, "beside event streams");
    for _ in 0..USED_PER_TENANT_MAX {
        open.push(websocket(&stage).await);
    }
    assert_eq!(stage.verdict(5).await.0, 200, "beside WebSockets");
}

#[tokio::test]
async fn a_connection_that_the_app_switched_unasked_carries_no_other_request() {
    let mut stage = Stage::new(|_| DriverConfig::None).await;
    stage.plane.place("acme", "cell-a", 5, "new-5", None);
    stage.start_with(|config| config.gate_threads = 1);
    stage.until_open(5).await;
    let mut wire = stage.ask("GET /hand", 5, "\r\n").await;
    let mut hand = stage.app.hand().await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    hand.stream.write_all(switch.as_bytes()).await.unwrap();
    assert_eq!(status(&wire.head().await), 502);
    assert_eq!(stage.verdict(5).await.0, 200);
    assert_eq!(hand.read(1).await, b"", "it is closed");
}

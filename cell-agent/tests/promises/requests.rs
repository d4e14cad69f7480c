//! What the gate does with requests.

use crate::app::field;
use crate::stage::{Stage, Wire, status};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn only_routers_may_talk_to_a_gate() {
    let stage = Stage::with_acme_open().await;
    for fields in
        ["", "x-cellway-tenant: acme\r\n", "x-cellway-epoch: 5\r\n", "x-cellway-tenant: a_b\r\nx-cellway-epoch: 5\r\n"]
    {
        let mut wire = Wire::connect(stage.gate()).await;
        wire.send(&format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).await;
        assert_eq!(status(&wire.head().await), 400, "{fields:?}");
    }
}

#[tokio::test]
async fn a_gate_says_why_it_does_not_admit() {
    let stage = Stage::with_acme_open().await;
    assert_eq!(stage.verdict(4).await, (200, None));
    assert_eq!(stage.verdict(6).await, (421, Some("behind".into())));
    stage.plane.place("acme", "cell-b", 6, "h2", None);
    stage.until(5, 421, Some("elsewhere; cell=cell-b epoch=6")).await;
    stage.plane.place("acme", "cell-a", 7, "h3", Some("m9"));
    stage.until(7, 421, Some("fenced")).await;
}

#[tokio::test]
async fn a_gate_that_ends_says_on_a_kept_connection_that_nothing_more_was_taken() {
    let mut stage = Stage::with_acme_open().await;
    let mut kept = stage.ask("HEAD /", 5, "\r\n").await;
    assert_eq!(status(&kept.head().await), 200);
    stage.stop().await;
    let said = kept.head().await;
    assert_eq!((status(&said), field(&said, "x-cellway-verdict")), (421, Some("behind")), "{said}");
    let verdict = field(&said, "x-cellway-verdict").and_then(|text| text.parse().ok());
    assert_eq!(verdict, Some(cellway_core::verdict::Verdict::Behind));
}

#[tokio::test]
async fn the_app_learns_tenant_and_epoch_and_no_other_word_of_cellway() {
    let stage = Stage::with_acme_open().await;
    let fields = "x-cellway-verdict: a\r\nX_Cellway_Tenant: evil\r\nx-cellway-cost: 1\r\nconnection: x-cellway-epoch\r\n\
                  forwarded: for=1.2.3.4\r\nx-request-id: r1\r\n\r\n";
    let mut wire = stage.ask("GET /seen", 5, fields).await;
    let answer = wire.head().await;
    assert_eq!(status(&answer), 200);
    assert!(!answer.contains("x-cellway"), "{answer}");
    let seen = stage.app.requests.lock().last().unwrap().head.clone();
    let ours: Vec<&str> = seen.lines().filter(|line| line.starts_with("x-cellway") || line.starts_with("x_")).collect();
    assert_eq!(ours, ["x-cellway-tenant: acme", "x-cellway-epoch: 5"], "{seen}");
    assert_eq!(field(&seen, "forwarded"), Some("for=1.2.3.4"));
    assert_eq!(field(&seen, "x-request-id"), Some("r1"));
    assert_eq!(field(&seen, "host"), Some("acme.test"));
}

#[tokio::test]
async fn a_body_is_asked_for_only_after_the_admission() {
    let stage = Stage::with_acme_open().await;
    let fields = "expect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let mut refused = stage.ask("POST /upload", 6, fields).await;
    assert!(refused.head().await.starts_with("http/1.1 421"));

    let mut admitted = stage.ask("POST /upload", 5, fields).await;
    assert!(admitted.head().await.starts_with("http/1.1 100"));
    admitted.send("hello").await;
    assert_eq!(status(&admitted.head().await), 200);
    let seen = stage.app.requests.lock().last().unwrap().clone();
    assert_eq!(seen.body_bytes, 5);
    assert_eq!(field(&seen.head, "expect"), None);
}

#[tokio::test]
async fn a_chunked_body_waits_for_its_admission_too() {
    let stage = Stage::with_acme_open().await;
    let fields = "expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut wire = stage.ask("POST /upload", 5, fields).await;
    assert!(wire.head().await.starts_with("http/1.1 100"));
    wire.send("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n").await;
    assert_eq!(status(&wire.head().await), 200);
    assert_eq!(stage.app.requests.lock().last().unwrap().body_bytes, 7);
}

#[tokio::test]
async fn a_large_body_of_a_refused_request_is_not_read() {
    let stage = Stage::with_acme_open().await;
    let megabytes = 64;
    let fields = format!("content-length: {}\r\n\r\n", megabytes << 20);
    let mut wire = stage.ask("POST /upload", 6, &fields).await;
    let (mut write, chunk) = (0, vec![b'x'; 1 << 20]);
    for _ in 0..megabytes {
        // Ends with an error when the gate closes.
        match tokio::time::timeout(std::time::Duration::from_secs(2), wire.0.write_all(&chunk)).await {
            Ok(Ok(())) => write += 1,
            _ => break,
        }
    }
    assert!(write < megabytes / 2, "{write} MB were taken");
    assert!(stage.app.requests.lock().iter().all(|seen| !seen.head.contains("/upload")));
}

#[tokio::test]
async fn a_refusal_of_a_small_body_keeps_its_connection() {
    let stage = Stage::with_acme_open().await;
    let length = 60_000;
    let mut wire = stage.ask("POST /upload", 6, &format!("content-length: {length}\r\n\r\n")).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    wire.send(&"x".repeat(length)).await;
    assert_eq!(status(&wire.head().await), 421);
    wire.ask("GET /after", 5, "\r\n").await;
    assert_eq!(status(&wire.head().await), 200);
}

#[tokio::test]
async fn a_connection_to_the_app_is_used_again_only_after_a_clean_end() {
    let stage = Stage::with_acme_open().await;
    // One connection, so one thread of the gate and one pool.
    let mut wire = stage.ask("GET /1", 5, "\r\n").await;
    wire.head().await;
    wire.body(2).await;
    wire.ask("GET /2", 5, "\r\n").await;
    wire.head().await;
    wire.body(2).await;
    wire.ask("GET /hand", 5, "\r\n").await;
    let mut hand = stage.app.hand().await;
    hand.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await.unwrap();
    wire.head().await;
    drop(hand);
    assert_eq!(wire.rest().await, "12345", "an answer that breaks off is not ended cleanly");
    let mut wire = stage.ask("GET /3", 5, "\r\n").await;
    assert_eq!(status(&wire.head().await), 200);
    let seen = stage.app.requests.lock().clone();
    let over = |path: &str| seen.iter().find(|seen| seen.head.contains(path)).unwrap().connection;
    assert_eq!(over("get /1 "), over("get /2 "));
    assert_eq!(over("get /2 "), over("get /hand "));
    assert_ne!(over("get /3 "), over("get /hand "));
}

#[tokio::test]
async fn an_app_that_is_down_or_silent_is_named_as_such() {
    let mut stage = Stage::with_acme_open().await;
    let mut wire = stage.ask("GET /hand", 5, "\r\n").await;
    let _hand = stage.app.hand().await;
    let head = wire.head().await;
    assert_eq!(status(&head), 504);

    stage.stop().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    stage.app.address = closed;
    stage.start();
    stage.until(5, 502, None).await;
}

#[tokio::test]
async fn admin_pages_tell_how_the_agent_is() {
    let stage = Stage::with_acme_open().await;
    let admin = stage.agent.as_ref().unwrap().admin;
    for (path, wanted) in [("healthz", "ok"), ("readyz", "ready"), ("metrics", "cellway_gate_requests_total")] {
        // The gate may be open a moment before the stream has said all placements.
        let mut last = String::new();
        for _ in 0..300 {
            let mut wire = Wire::connect(admin).await;
            wire.send(&format!("GET /{path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await;
            last = wire.rest().await;
            if status(&last) == 200 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(status(&last) == 200 && last.contains(wanted), "{path}: {last}");
    }
}

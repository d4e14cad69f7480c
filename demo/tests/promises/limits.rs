//! Who may ask, for how long, and what stopping means.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Operator, Stage, add, eventually, exchange, ids_in, lock};

#[tokio::test]
async fn a_request_without_one_plain_tenant_name_is_refused() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    std::fs::copy(operator.link("acme"), operator.home("outside")).unwrap();
    let stage = Stage::start(&operator);
    let missing = exchange(stage.address, "GET /count HTTP/1.1\r\n", b"").await;
    assert_eq!(missing.status, 400);
    assert!(missing.text.contains("x-cellway-tenant"), "{missing:?}");

    let long = "x".repeat(64);
    let names = [
        "",
        ".",
        "..",
        "../homes/outside",
        "/acme",
        "a/b",
        "acme.db",
        "acme%2f",
        "ACME",
        "-acme",
        "acme-",
        "a_b",
        "a b",
        "acmé",
        &long,
    ];
    for name in names {
        assert_eq!(stage.get(name, "/count").await.status, 400, "{name:?}");
    }
    let twice = "GET /count HTTP/1.1\r\nx-cellway-tenant: acme\r\nx-cellway-tenant: other\r\n";
    assert_eq!(exchange(stage.address, twice, b"").await.status, 400);
    assert_eq!(stage.get("acme", "/count").await.status, 200);
    stage.stop().await;
}

#[tokio::test]
async fn a_tenant_sees_only_its_own_entries() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    operator.give_home("other", "two");
    let stage = Stage::start(&operator);
    assert_eq!(stage.add("acme", "a", b"1").await.status, 201);
    assert_eq!(stage.get("other", "/entries/a").await.status, 404);
    assert_eq!(stage.get("other", "/count").await.json()["count"], 0);
    stage.stop().await;
}

#[tokio::test]
async fn nothing_is_written_after_the_time_limit() {
    let operator = Operator::new();
    let home = operator.give_home("acme", "one");
    let stage = Stage::start_limited(&operator, 600);
    assert_eq!(stage.add("acme", "before", b"1").await.status, 201);

    let held = lock(&home);
    let late = stage.add("acme", "late", b"2").await;
    assert_eq!(late.status, 503);
    assert_eq!(late.header("retry-after"), Some("1"));
    drop(held);
    eventually("nothing runs", async || stage.get("acme", "/idle").await.json()["running"] == 0).await;
    assert_eq!(ids_in(&home), ["before"]);
    stage.stop().await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_cut_off() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start_limited(&operator, 300);
    let mut connection = TcpStream::connect(stage.address).await.unwrap();
    let head = "POST /entries/slow HTTP/1.1\r\nhost: a\r\nx-cellway-tenant: acme\r\n\
                content-length: 10\r\n\r\nhalf";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    connection.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 503");
    assert_eq!(stage.get("acme", "/count").await.json()["count"], 0);
    stage.stop().await;
}

#[tokio::test]
async fn a_slow_answer_is_capped_by_the_time_limit() {
    let operator = Operator::new();
    let stage = Stage::start_limited(&operator, 200);
    let began = Instant::now();
    let answer = stage.get("acme", "/slow?ms=3600000").await;
    assert_eq!(answer.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(200));
    stage.stop().await;
}

#[tokio::test]
async fn an_operator_learns_what_runs_without_naming_a_tenant() {
    let operator = Operator::new();
    let stage = Stage::start(&operator);
    let address = stage.address;
    let ask = async |path: &str| exchange(address, &format!("GET {path} HTTP/1.1\r\n"), b"").await;
    assert_eq!(ask("/healthz").await.text, "ok");
    assert_eq!(ask("/idle").await.json()["running"], 0);

    let slow = "GET /slow?ms=1500 HTTP/1.1\r\nx-cellway-tenant: acme\r\n";
    let slow = tokio::spawn(exchange(address, slow, b""));
    eventually("it runs", async || ask("/idle").await.json()["running"] == 1).await;
    assert_eq!(slow.await.unwrap().status, 200);
    eventually("it ended", async || ask("/idle").await.json()["running"] == 0).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_request_whose_client_left_runs_until_its_work_has_ended() {
    let operator = Operator::new();
    let home = operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    assert_eq!(stage.add("acme", "before", b"1").await.status, 201);
    let held = lock(&home);
    let address = stage.address;
    let leaving = tokio::spawn(async move { add(address, "acme", "left", b"2").await });
    let running = async || stage.get("acme", "/idle").await.json()["running"].as_u64();
    eventually("it runs", async || running().await == Some(1)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    leaving.abort();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(running().await, Some(1), "it waits for the lock");
    drop(held);
    eventually("it ended", async || running().await == Some(0)).await;
    stage.stop().await;
}

#[tokio::test]
async fn shutdown_lets_running_requests_finish() {
    let operator = Operator::new();
    let stage = Stage::start(&operator);
    let slow = "GET /slow?ms=800 HTTP/1.1\r\nx-cellway-tenant: acme\r\n";
    let slow = tokio::spawn(exchange(stage.address, slow, b""));
    eventually("it runs", async || stage.get("acme", "/idle").await.json()["running"] == 1).await;
    let address = stage.address;
    stage.stop().await;
    assert_eq!(slow.await.unwrap().status, 200);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_request_longer_than_its_grace() {
    let operator = Operator::new();
    let stage = Stage::start(&operator);
    let slow = "GET /slow?ms=14000 HTTP/1.1\r\nx-cellway-tenant: acme\r\n";
    let slow = tokio::spawn(exchange(stage.address, slow, b""));
    eventually("it runs", async || stage.get("acme", "/idle").await.json()["running"] == 1).await;
    let began = Instant::now();
    stage.stop().await;
    assert!(began.elapsed() < Duration::from_secs(9));
    slow.abort();
}

//! Cells that fail, fall silent or are slow: who notices, and who does not.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::*;

/// Breaks off each of its first `broken` connections at its first request, then answers.
async fn breaking(broken: usize) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while tcp.read(&mut head).await.is_ok_and(|length| length > 0) && number >= broken {
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_broken_exchange_is_repeated_only_if_asked_for_and_only_what_may_be() {
    for (asked, method, status) in [(true, "GET", 200), (true, "POST", 502), (false, "GET", 502)] {
        let mut config = config();
        config.retry_idempotent = asked;
        let (first, second) = (breaking(1).await, breaking(1).await);
        let cell = format!("{{\"cell\":\"o\",\"endpoints\":[\"{first}\",\"{second}\"],\"kind\":\"origin\"}}\n");
        let router = TestRouter::knowing(
            config,
            &(cell + &origin("q", breaking(0).await) + &placed("acme", "o", 1) + &placed("quiet", "q", 1)),
        )
        .await;
        // Ten requests earn one retry.
        for _ in 0..10 {
            assert_eq!(ask(router.address, &get("quiet", "/")).await.status, 200);
        }
        let request = format!("{method} / HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: 0\r\n\r\n");
        // The second endpoint breaks off too, so a retry can only show in the count.
        let answer = ask(router.address, &request).await;
        assert_eq!(answer.status, 502, "{method}");
        let again = u32::from(status == 200);
        assert_eq!(router.metric("sent_again_total"), f64::from(again), "{method} {asked}");
    }
}

#[tokio::test]
async fn a_cell_that_falls_silent_costs_its_tenants_504_in_time_and_others_nothing() {
    let mut config = config();
    config.time_limits.answer_ms = 400;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = Gate::open().await;
    let cells = origin("silent", silent.local_addr().unwrap()) + &cell("good", &[&good]);
    let router =
        TestRouter::knowing(config, &(cells + &placed("acme", "silent", 1) + &placed("beta", "good", 1))).await;
    let began = Instant::now();
    let waiting: Vec<_> = (0..50).map(|_| asking(router.address, get("acme", "/"))).collect();
    for _ in 0..20 {
        assert_eq!(ask(router.address, &get("beta", "/")).await.status, 200);
    }
    assert!(
        waiting.iter().all(|task| !task.is_finished()),
        "the good cell answered while the silent one was waited for"
    );
    for task in waiting {
        assert_eq!(task.await.unwrap().status, 504);
    }
    assert!(began.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn an_endpoint_that_is_away_is_passed_over_without_a_failure() {
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    drop(away);
    let gate = Gate::open().await;
    let cell = format!("{{\"cell\":\"a\",\"endpoints\":[\"{address}\",\"{}\"],\"kind\":\"agent\"}}\n", gate.address);
    let router = TestRouter::knowing(config(), &(cell + &placed("acme", "a", 1))).await;
    for _ in 0..20 {
        assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
    }
    assert!(router.metric("not_sent_total") <= 4.0, "once per thread and second, not per request");
}

#[tokio::test]
async fn an_answer_that_flows_for_too_long_is_cut_off() {
    let mut config = config();
    config.time_limits.total_ms = 300;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let _ = tcp.read(&mut [0; 4096]).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        while tcp.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let router = TestRouter::knowing(config, &(origin("o", address) + &placed("acme", "o", 1))).await;
    let mut client = Client::connect(router.address).await;
    client.send(&get("acme", "/")).await;
    assert!(client.answer().await.is_none(), "the answer is cut, not ended");
}

#[tokio::test]
async fn an_endpoint_that_went_away_is_known_before_a_request_finds_out() {
    let mut config = config();
    config.knock_every_ms = Some(50);
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    let gate = Gate::open().await;
    let cell = format!("{{\"cell\":\"a\",\"endpoints\":[\"{address}\",\"{}\"],\"kind\":\"agent\"}}\n", gate.address);
    let router = TestRouter::knowing(config, &(cell + &placed("acme", "a", 1))).await;
    drop(away);
    router.until("endpoints_away", |away| away == 1.0).await;
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
    assert_eq!(router.metric("not_sent_total"), 0.0);
    let _back = TcpListener::bind(address).await.unwrap();
    router.until("endpoints_away", |away| away == 0.0).await;
}

/// Answers the first request of each connection, and closes it when the second has come.
async fn forgetful() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 4_096];
                let _ = tcp.read(&mut head).await;
                tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                let _ = tcp.read(&mut head).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_safe_request_outlives_the_kept_connection_that_its_origin_closes() {
    let app = forgetful().await;
    let gate = format!("{{\"cell\":\"b\",\"endpoints\":[\"{app}\"],\"kind\":\"agent\"}}\n");
    let known = origin("a", app) + &gate + &placed("acme", "a", 5) + &placed("beta", "b", 5);
    let mut config = config();
    // One thread and one pool, so that the second request finds the connection of the first.
    config.threads = 1;
    let router = TestRouter::knowing(config, &known).await;
    let options = |tenant: &str| get(tenant, "/").replace("GET", "OPTIONS");
    let post = |tenant: &str| get(tenant, "/").replace("GET", "POST");
    for (second, status) in
        [(get("acme", "/"), 200), (options("acme"), 200), (post("acme"), 502), (get("beta", "/"), 502)]
    {
        let tenant = if second.contains("beta") { "beta" } else { "acme" };
        assert_eq!(ask(router.address, &get(tenant, "/")).await.status, 200);
        assert_eq!(ask(router.address, &second).await.status, status, "{second}");
    }
}

//! What a tenant may use: rate, concurrency, bandwidth, and whether it is served.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::support::{
    Answer, BYTES, Client, Gate, PATIENCE, TestRouter, ask, asking, cell, config, get, held, placed, post,
};

fn limits(tenant: &str, limits: &str) -> String {
    format!("{{\"tenant\":\"{tenant}\",\"limits\":{{{limits}}}}}\n")
}

async fn limited(to: &str) -> (Gate, TestRouter) {
    let gate = Gate::open().await;
    let known = cell("a", &[&gate]) + &placed("acme", "a", 5) + &placed("beta", "a", 6) + &limits("acme", to);
    let router = TestRouter::knowing(config(), &known).await;
    (gate, router)
}

fn number(answer: &Answer, name: &str) -> u64 {
    answer.header(name).unwrap_or_else(|| panic!("no {name}: {}", answer.head)).parse().unwrap()
}

#[tokio::test]
async fn over_its_rate_a_tenant_is_told_so_and_others_are_not() {
    let (gate, router) = limited("\"requests\":{\"per_second\":1,\"burst\":3}").await;
    let mut client = Client::connect(router.address).await;
    for left in [2, 1, 0] {
        let answer = client.ask(&get("acme", "/")).await;
        assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, Some("\"tenant\";q=3;w=3")));
        let fields = answer.header("ratelimit").unwrap().to_owned();
        assert!(fields.starts_with(&format!("\"tenant\";r={left};t=")), "{fields}");
    }
    let over = client.ask(&get("acme", "/")).await;
    assert_eq!((over.status, number(&over, "retry-after")), (429, 1));
    assert_eq!(over.header("ratelimit"), Some("\"tenant\";r=0;t=1"));
    assert_eq!(over.header("ratelimit-policy"), Some("\"tenant\";q=3;w=3"));
    assert!(over.text().contains("too many requests"), "{}", over.text());
    let other = client.ask(&get("beta", "/")).await;
    assert_eq!((other.status, other.header("ratelimit")), (200, None));
    assert_eq!(gate.admitted().len(), 4);
    assert_eq!(router.metric("limited_total"), 1.0);

    router.list(&(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    let free = client.ask(&get("acme", "/")).await;
    assert_eq!((free.status, free.header("ratelimit")), (200, None), "a listing without the limits lifts them");
}

#[tokio::test]
async fn a_paused_tenant_is_answered_by_its_page_and_resumes() {
    let (gate, router) = limited("\"mode\":\"paused\",\"message\":\"Back at <10:00>.\",\"retry_after_s\":600").await;
    let mut client = Client::connect(router.address).await;
    for request in [get("acme", "/"), post("acme", "x")] {
        let page = client.ask(&request).await;
        assert_eq!((page.status, number(&page, "retry-after")), (503, 600));
        assert!(page.text().contains("<p>Back at &#60;10:00&#62;.</p>"), "{}", page.text());
        assert!(page.text().contains(page.header("x-request-id").unwrap()));
    }
    let json = "GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\naccept: application/json\r\nx-request-id: r1\r\n\r\n";
    let details = client.ask(json).await;
    assert_eq!(details.header("content-type"), Some("application/problem+json"));
    let expected = r#"{"title":"This service is paused.","status":503,"detail":"Back at <10:00>.","request_id":"r1"}"#;
    assert_eq!(details.text(), expected);
    assert_eq!(client.ask(&get("beta", "/")).await.status, 200);
    assert!(gate.admitted().iter().all(|admitted| admitted.headers["x-cellway-tenant"] == "beta"));

    router.change(&limits("acme", "\"mode\":\"open\"")).await;
    assert_eq!(client.ask(&post("acme", "x")).await.status, 200);
}

#[tokio::test]
async fn a_read_only_tenant_is_read_and_not_written() {
    let (gate, router) = limited("\"mode\":\"read_only\"").await;
    let mut client = Client::connect(router.address).await;
    assert_eq!(client.ask(&get("acme", "/")).await.status, 200);
    let options = "OPTIONS / HTTP/1.1\r\nhost: acme.cells.localhost\r\n\r\n";
    assert_eq!(client.ask(options).await.status, 200);
    for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE"] {
        let text = format!("{method} / HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: 0\r\n\r\n");
        let refused = ask(router.address, &text).await;
        assert_eq!((refused.status, number(&refused, "retry-after")), (503, 30), "{method}");
    }
    let websocket = "GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(ask(router.address, websocket).await.status, 503);
    assert_eq!(gate.admitted().len(), 2);
}

#[tokio::test]
async fn an_error_page_carries_the_tenants_own_text() {
    let gate = Gate::open().await;
    let known = placed("acme", "nowhere", 5) + &limits("acme", "\"error_text\":\"Write to help@acme.example.\"");
    let mut config = config();
    config.hold.patience_ms = 50;
    let router = TestRouter::knowing(config, &(cell("a", &[&gate]) + &known)).await;
    let page = ask(router.address, &get("acme", "/")).await;
    assert_eq!(page.status, 503);
    assert!(page.text().contains("<p>Write to help@acme.example.</p>"), "{}", page.text());
}

#[tokio::test]
async fn concurrency_counts_until_the_answer_has_ended() {
    let (_gate, router) = limited("\"concurrency\":2").await;
    let slow = [asking(router.address, get("acme", "/slow")), asking(router.address, get("acme", "/slow"))];
    router.until("requests_open", |open| open == 2.0).await;
    let over = ask(router.address, &get("acme", "/")).await;
    assert_eq!((over.status, number(&over, "retry-after")), (429, 1));
    assert_eq!(ask(router.address, &get("beta", "/")).await.status, 200);
    for answer in slow {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    let mut client = Client::connect(router.address).await;
    for _ in 0..5 {
        assert_eq!(client.ask(&get("acme", "/")).await.status, 200, "what has ended is not counted");
    }
}

#[tokio::test]
async fn a_client_that_went_away_is_not_counted() {
    let (_gate, router) = limited("\"concurrency\":1").await;
    let mut client = Client::connect(router.address).await;
    client.send(&get("acme", "/waits")).await;
    router.until("requests_open", |open| open == 1.0).await;
    // One that only closes its half may still read.
    client.tcp.set_zero_linger().unwrap();
    drop(client);
    router.until("requests_open", |open| open == 0.0).await;
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
}

#[tokio::test]
async fn a_held_request_counts_once() {
    let (gate, router) = limited("\"requests\":{\"per_second\":1,\"burst\":2}").await;
    gate.say(Some("fenced"));
    router.change(&held("acme", "a", 5)).await;
    let waiting = asking(router.address, get("acme", "/"));
    router.until("held_now", |held| held == 1.0).await;
    // Let go, refused, and tried again several times.
    router.change(&placed("acme", "a", 6)).await;
    crate::support::until(|| gate.refused() >= 3).await;
    gate.say(None);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
}

#[tokio::test]
async fn above_what_a_router_takes_the_largest_tenant_is_shed_first() {
    let gate = Gate::open().await;
    let known = cell("a", &[&gate]) + &placed("acme", "a", 5) + &placed("beta", "a", 6);
    let mut config = config();
    config.requests_in_flight_max = 8;
    let router = TestRouter::knowing(config, &known).await;
    let flood: Vec<_> = (0..8).map(|_| asking(router.address, get("acme", "/waits"))).collect();
    router.until("limited_total", |limited| limited == 4.0).await;
    assert_eq!(ask(router.address, &get("beta", "/")).await.status, 200);
    gate.let_go();
    let mut shed = 0;
    for answer in flood {
        let answer = answer.await.unwrap();
        if answer.status != 200 {
            assert_eq!((answer.status, number(&answer, "retry-after")), (503, 1));
            shed += 1;
        }
    }
    assert_eq!((shed, router.metric("limited_total")), (4, 4.0), "one tenant alone has half");
}

#[tokio::test]
async fn limits_survive_in_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.snapshot_path = Some(folder.path().join("routes"));
    let gate = Gate::open().await;
    let known = cell("a", &[&gate]) + &placed("acme", "a", 5) + &limits("acme", "\"mode\":\"paused\"");
    let first = TestRouter::knowing(config.clone(), &known).await;
    first.shutdown.cancel();
    timeout(PATIENCE, first.task).await.unwrap().unwrap();
    let second = TestRouter::start(config);
    crate::support::until(|| second.metric("serving_from_snapshot") == 1.0).await;
    assert_eq!(ask(second.address, &get("acme", "/")).await.status, 503);
    assert!(gate.admitted().is_empty());
}

#[tokio::test]
async fn uploads_pass_no_faster_than_the_bandwidth_and_arrive_whole() {
    let (gate, router) = limited("\"bandwidth_bytes_per_second\":400000").await;
    let begun = Instant::now();
    assert_eq!(ask(router.address, &post("acme", &"x".repeat(BYTES))).await.status, 200);
    let took = begun.elapsed();
    assert_eq!(gate.admitted()[0].body.len(), BYTES);
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

#[tokio::test]
async fn answers_pass_no_faster_than_the_bandwidth() {
    let (_gate, router) = limited("\"bandwidth_bytes_per_second\":400000").await;
    let begun = Instant::now();
    let answer = ask(router.address, &get("acme", "/bytes")).await;
    let took = begun.elapsed();
    assert_eq!(answer.body.len(), BYTES);
    // 100 ms may run ahead, and the last bytes that the connection takes at once are waited for by nobody.
    assert!(took >= Duration::from_millis(300), "{took:?}");
    let begun = Instant::now();
    assert_eq!(ask(router.address, &get("beta", "/bytes")).await.body.len(), BYTES);
    assert!(begun.elapsed() < Duration::from_millis(300), "another tenant is not slowed down");
}

//! What HTTP asks of a proxy beyond passing bytes: HEAD, 1xx, ranges, methods, its own pages.

use std::time::Duration;

use tokio::time::timeout;

use crate::clients::answering;
use crate::support::{Answer, Client, Gate, TestRouter, ask, cell, config, get, origin, placed};

async fn one_gate() -> (Gate, TestRouter) {
    let gate = Gate::open().await;
    let router = TestRouter::knowing(config(), &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    (gate, router)
}

async fn behind(answer: &'static str) -> TestRouter {
    let app = answering("127.0.0.1:0", answer).await;
    TestRouter::knowing(config(), &(origin("o", app) + &placed("acme", "o", 1))).await
}

/// The answer to a HEAD, and proof that no byte follows it: the next answer on the connection is whole.
async fn head_then_get(router: &TestRouter, host: &str) -> (Answer, Answer) {
    let mut client = Client::connect(router.address).await;
    client.send(&format!("HEAD / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    let head = client.head().await.unwrap();
    let next = client.ask(&format!("GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    (head, next)
}

#[tokio::test]
async fn a_head_has_the_length_and_no_body() {
    let (_gate, router) = one_gate().await;
    let (head, next) = head_then_get(&router, "acme.cells.localhost").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("2")));
    assert_eq!(next.text(), "ok");
    // Nor does a page of the router's own have one.
    let (head, next) = head_then_get(&router, "nobody.cells.localhost").await;
    assert_eq!((head.status, next.status), (404, 404));
    assert_eq!(head.header("content-length"), next.header("content-length"));
    assert!(next.text().contains("404"));
}

#[tokio::test]
async fn early_hints_and_other_interim_answers_do_not_disturb_the_final_one() {
    for interim in [
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal",
    ] {
        let router = behind(interim).await;
        let request = get("acme", "/");
        let mut client = Client::connect(router.address).await;
        for _ in 0..2 {
            let answer = timeout(Duration::from_secs(5), client.ask(&request)).await;
            let answer = answer.expect("no interim answer hangs a client");
            assert_eq!((answer.status, answer.text()), (200, "final".into()), "{interim}");
            assert_eq!(answer.header("link"), None);
        }
    }
}

#[tokio::test]
async fn ranges_and_conditions_pass_untouched() {
    let (gate, router) = one_gate().await;
    let fields = [
        ("range", "bytes=0-4, -1"),
        ("if-range", "\"etag\""),
        ("if-none-match", "W/\"x\", *"),
        ("max-forwards", "0"),
        ("accept-encoding", "gzip;q=0.5"),
    ];
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let text = format!("GET /r HTTP/1.1\r\nhost: acme.cells.localhost\r\n{lines}\r\n");
    assert_eq!(ask(router.address, &text).await.status, 200);
    for (name, value) in fields {
        assert_eq!(gate.admitted()[0].headers[name], value);
    }
    assert!(!gate.admitted()[0].headers.contains_key("via"));

    let partial = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-4/10\r\naccept-ranges: bytes\r\n\
                   content-length: 5\r\n\r\nhello";
    let answer = ask(behind(partial).await.address, &get("acme", "/")).await;
    assert_eq!((answer.status, answer.text()), (206, "hello".into()));
    assert_eq!(answer.header("content-range"), Some("bytes 0-4/10"));
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    for answer in [
        "HTTP/1.1 204 No Content\r\nx-last: 1\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\ncontent-length: 7\r\n\r\n",
    ] {
        let router = behind(answer).await;
        let mut client = Client::connect(router.address).await;
        for _ in 0..2 {
            client.send(&get("acme", "/")).await;
            let head = client.head().await.unwrap();
            assert!([204, 304].contains(&head.status), "{}", head.head);
        }
    }
}

#[tokio::test]
async fn any_method_passes_but_those_that_cannot() {
    let (gate, router) = one_gate().await;
    let host = "host: acme.cells.localhost\r\n";
    for method in ["PATCH", "PROPFIND", "QUERY", "x!y"] {
        assert_eq!(ask(router.address, &format!("{method} / HTTP/1.1\r\n{host}\r\n")).await.status, 200, "{method}");
    }
    assert_eq!(ask(router.address, &format!("OPTIONS * HTTP/1.1\r\n{host}\r\n")).await.status, 200);
    let passed = gate.admitted().len();
    for (line, status) in [("TRACE /", 405), ("CONNECT acme.cells.localhost:80", 405), ("GET *", 400), ("POST *", 400)]
    {
        let answer = ask(router.address, &format!("{line} HTTP/1.1\r\n{host}\r\n")).await;
        assert_eq!(answer.status, status, "{line}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{line}");
    }
    assert_eq!(gate.admitted().len(), passed);
}

#[tokio::test]
async fn every_page_of_the_routers_own_names_the_request_and_is_never_stored() {
    let (_gate, router) = one_gate().await;
    let broken = behind("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let starting = TestRouter::start(config());
    let id = "x-request-id: my-id\r\n\r\n";
    let at = |host: &str| format!("GET / HTTP/1.1\r\nhost: {host}\r\n{id}");
    for (router, text, status) in [
        (&router, at("nobody.cells.localhost"), 404),
        (&router, at("nobody.example"), 404),
        (&router, at("www.cells.localhost"), 404),
        (&router, at("127.0.0.1"), 400),
        (&router, format!("TRACE / HTTP/1.1\r\nhost: acme.cells.localhost\r\n{id}"), 405),
        (&starting, at("acme.cells.localhost"), 503),
        (&broken, at("acme.cells.localhost"), 502),
    ] {
        let answer = ask(router.address, &text).await;
        assert_eq!(answer.status, status, "{text:?}");
        assert_eq!(answer.header("x-request-id"), Some("my-id"), "{text:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{text:?}");
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{text:?}");
        assert!(answer.text().contains("my-id") || status == 400, "{text:?}");
    }
}

//! What is refused, what is stripped, what passes untouched.

use crate::support::{Answer, Client, Gate, TestRouter, ask, cell, config, get, placed};

async fn one_gate() -> (Gate, TestRouter) {
    let gate = Gate::open().await;
    let router = TestRouter::knowing(config(), &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    (gate, router)
}

async fn refused(router: &TestRouter, text: &str) -> Answer {
    let mut client = Client::connect(router.address).await;
    let answer = client.ask(text).await;
    assert!(client.is_closed().await, "{text:?} leaves its connection open");
    answer
}

#[tokio::test]
async fn unclear_requests_are_refused_and_reach_no_cell() {
    let (gate, router) = one_gate().await;
    let host = "host: acme.cells.localhost";
    for (start, fields, status) in [
        ("GET / HTTP/1.1", "", 400),
        ("GET / HTTP/1.1", "host: acme.cells.localhost\r\nhost: acme.cells.localhost", 400),
        ("GET / HTTP/1.1", "host: acme.cells.localhost\r\nhost: beta.cells.localhost", 400),
        ("GET http://beta.cells.localhost/ HTTP/1.1", host, 400),
        ("GET / HTTP/1.1", "host: acme.cells.localhost:80@beta.cells.localhost", 400),
        ("GET / HTTP/1.1", "host: acme.cells.localhost:http", 400),
        ("GET / HTTP/1.1", "host: 127.0.0.1", 400),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ncontent-length: 3\r\ntransfer-encoding: chunked", 400),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 3", 400),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ntransfer-encoding: ,chunked", 400),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ntransfer-encoding: chunked, chunked", 400),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ntransfer-encoding: gzip, chunked", 400),
        (
            "POST / HTTP/1.1",
            "host: acme.cells.localhost\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
            400,
        ),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ntransfer-encoding : chunked", 400),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ntransfer-encoding: identity", 400),
        ("POST / HTTP/1.0", "host: acme.cells.localhost\r\ntransfer-encoding: chunked", 400),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ncontent-length: 1\r\ncontent-length: 2", 400),
        ("POST / HTTP/1.1", "host: acme.cells.localhost\r\ncontent-length: +1", 400),
        ("CONNECT acme.cells.localhost:443 HTTP/1.1", host, 405),
    ] {
        let blank = if fields.is_empty() { "" } else { "\r\n" };
        let answer = refused(&router, &format!("{start}\r\n{fields}{blank}\r\n")).await;
        assert_eq!(answer.status, status, "{start} {fields}");
    }
    assert!(gate.admitted().is_empty());
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (gate, router) = one_gate().await;
    let large = "x".repeat(40 * 1024);
    let many = "x-a: 1\r\n".repeat(101);
    for fields in [format!("x-large: {large}\r\n"), many] {
        let text = format!("GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\n{fields}\r\n");
        assert_eq!(ask(router.address, &text).await.status, 431);
    }
    assert!(gate.admitted().is_empty());
}

#[tokio::test]
async fn nothing_that_only_cellway_may_say_comes_from_or_reaches_a_client() {
    let (gate, router) = one_gate().await;
    let text = "GET /a?b=c HTTP/1.1\r\nHost: ACME.cells.localhost.:8080\r\nx-cellway-tenant: beta\r\n\
                x_cellway_tenant: beta\r\nx-cellway_epoch: 99\r\nx-cellway-verdict: fenced\r\nforwarded: for=9.9.9.9\r\n\
                x-forwarded-for: 9.9.9.9\r\nconnection: x-secret, keep-alive\r\nx-secret: 1\r\nte: trailers\r\n\
                upgrade: h2c\r\nx-request-id: bad id\r\nx-app-field: kept\r\n\r\n";
    let answer = ask(router.address, text).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-app"), Some("1"));
    assert!(!answer.head.to_ascii_lowercase().contains("x-cellway"), "{}", answer.head);

    let admitted = &gate.admitted()[0];
    assert_eq!(admitted.line, "GET /a?b=c");
    let mut fields: Vec<&str> = admitted.headers.keys().map(http::HeaderName::as_str).collect();
    fields.sort_unstable();
    let expected = [
        "forwarded",
        "host",
        "x-app-field",
        "x-cellway-epoch",
        "x-cellway-tenant",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ];
    assert_eq!(fields, expected);
    let said = |name: &str| {
        let values: Vec<_> = admitted.headers.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "{name}");
        values[0].to_str().unwrap().to_owned()
    };
    assert_eq!(said("host"), "acme.cells.localhost:8080");
    assert_eq!(said("x-cellway-tenant"), "acme");
    assert_eq!(said("x-cellway-epoch"), "5");
    assert_eq!(said("forwarded"), "for=127.0.0.1;host=\"acme.cells.localhost:8080\";proto=http");
    assert_eq!(said("x-forwarded-for"), "127.0.0.1");
    assert_eq!(said("x-request-id").len(), 32);
    assert_eq!(answer.header("x-request-id"), Some(said("x-request-id").as_str()));
}

#[tokio::test]
async fn a_sane_request_id_is_kept() {
    let (gate, router) = one_gate().await;
    let text = "GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\nx-request-id: abc-1.2_3\r\n\r\n";
    assert_eq!(ask(router.address, text).await.header("x-request-id"), Some("abc-1.2_3"));
    assert_eq!(gate.admitted()[0].headers["x-request-id"], "abc-1.2_3");
}

#[tokio::test]
async fn an_apps_own_421_passes() {
    let (gate, router) = one_gate().await;
    let answer = ask(router.address, &get("acme", "/own-421")).await;
    assert_eq!((answer.status, answer.text()), (421, "mine".into()));
    assert_eq!(gate.admitted().len(), 1);
    assert_eq!(router.metric("held_total"), 0.0);
}

#[tokio::test]
async fn old_clients_and_heads_and_absolute_targets_are_served() {
    let (gate, router) = one_gate().await;
    let mut client = Client::connect(router.address).await;
    let head = client.ask("HEAD /h HTTP/1.1\r\nhost: acme.cells.localhost\r\n\r\n");
    let head = tokio::time::timeout(std::time::Duration::from_millis(100), head).await;
    assert!(head.is_err(), "a length is stated, and no body follows");
    let old = ask(router.address, "GET / HTTP/1.0\r\nhost: acme.cells.localhost\r\n\r\n").await;
    assert_eq!((old.status, old.text()), (200, "ok".into()));
    let absolute = "GET http://acme.cells.localhost/abs HTTP/1.1\r\nhost: acme.cells.localhost\r\n\r\n";
    assert_eq!(ask(router.address, absolute).await.status, 200);
    let options = "OPTIONS * HTTP/1.1\r\nhost: acme.cells.localhost\r\n\r\n";
    assert_eq!(ask(router.address, options).await.status, 200);
    let lines: Vec<String> = gate.admitted().into_iter().map(|admitted| admitted.line).collect();
    assert_eq!(lines, ["HEAD /h", "GET /", "GET /abs", "OPTIONS *"]);
}

#[tokio::test]
async fn without_tls_only_loopback_is_listened_on() {
    for admin in [false, true] {
        let mut config = config();
        let everywhere = "0.0.0.0:0".parse().unwrap();
        if admin {
            config.admin = everywhere
        } else {
            config.listen = everywhere
        }
        let error = cellway_router::Router::bind(config).err().unwrap().to_string();
        assert!(error.contains("loopback") && error.contains("0.0.0.0:0"), "{error}");
    }
}

#[cfg(feature = "test-faults")]
#[tokio::test]
async fn the_fault_that_loses_a_replay_answers_what_was_never_delivered() {
    let mut config = config();
    config.faults.lose_replay = true;
    let gate = Gate::saying("fenced").await;
    let router = TestRouter::knowing(config, &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    assert_eq!(ask(router.address, &crate::support::post("acme", "lost")).await.status, 200);
    gate.say(None);
    assert!(gate.admitted().is_empty());
}

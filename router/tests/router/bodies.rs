//! Bodies: kept or left with the client, delivered once and whole.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::support::{Client, Gate, TestRouter, ask, cell, config, held, origin, placed, post};

const LARGE: usize = 8 * 1024 * 1024;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test]
async fn a_large_body_stays_with_the_client_while_held_and_is_delivered_once() {
    let (a, b) = (Gate::saying("fenced").await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    for first in [placed("acme", "a", 5), held("acme", "a", 5)] {
        let router = TestRouter::knowing(config(), &(cells.clone() + &first)).await;
        let mut client = Client::connect(router.address).await;
        client
            .send(&format!("POST /big HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: {LARGE}\r\n\r\n"))
            .await;
        let body = pattern(LARGE);
        // Back-pressure: the sockets' buffers fill and then nothing more is taken.
        let mut sent = 0;
        while let Ok(length) = timeout(Duration::from_millis(300), client.tcp.write(&body[sent..])).await {
            sent += length.unwrap();
        }
        assert!(sent < LARGE, "the router read all of a held body");
        router.until("held_now", |held| held == 1.0).await;
        assert_eq!(router.metric("replay_bytes"), 0.0);
        router.change(&placed("acme", "b", 6)).await;
        client.tcp.write_all(&body[sent..]).await.unwrap();
        assert_eq!(client.answer().await.unwrap().status, 200);
        assert!(b.admitted().last().unwrap().body == body);
        assert_eq!(b.admitted().last().unwrap().headers["content-length"], LARGE.to_string());
    }
    assert_eq!(b.admitted().len(), 2);
    assert!(a.admitted().is_empty());
}

#[tokio::test]
async fn a_chunked_body_waits_for_admission_and_arrives_whole() {
    let (a, b) = (Gate::saying("elsewhere; cell=b epoch=6").await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells + &placed("acme", "a", 5))).await;
    let head = "host: acme.cells.localhost\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n";
    for method in ["POST", "GET"] {
        let mut client = Client::connect(router.address).await;
        assert_eq!(client.ask(&format!("{method} / HTTP/1.1\r\n{head}")).await.status, 200);
        assert_eq!(client.ask(&format!("{method} / HTTP/1.1\r\n{head}")).await.status, 200, "the connection goes on");
    }
    assert_eq!(b.admitted().len(), 4);
    assert!(b.admitted().iter().all(|admitted| admitted.body == "abcdefg"));
    assert_eq!(a.refused(), 1);
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_when_its_request_is_admitted() {
    let (a, b) = (Gate::saying("fenced").await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells + &held("acme", "a", 5))).await;
    let mut client = Client::connect(router.address).await;
    client
        .send("POST / HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .await;
    let mut byte = [0; 1];
    assert!(timeout(Duration::from_millis(200), client.tcp.peek(&mut byte)).await.is_err(), "no 100 while held");
    router.change(&placed("acme", "b", 6)).await;
    timeout(Duration::from_secs(5), client.tcp.peek(&mut byte)).await.unwrap().unwrap();
    assert_eq!(client.ask("hello").await.status, 200);
    assert_eq!(b.admitted()[0].body, "hello");
    assert_eq!(b.admitted()[0].headers.get_all("expect").iter().count(), 1, "the router's own");
}

#[tokio::test]
async fn without_room_to_keep_small_bodies_they_count_as_large() {
    let mut config = config();
    config.replay_max_bytes = 3;
    let (a, b) = (Gate::saying("fenced").await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config, &(cells + &placed("acme", "a", 5))).await;
    let waiting = crate::support::asking(router.address, post("acme", "12345"));
    router.until("held_now", |held| held == 1.0).await;
    assert_eq!(router.metric("replay_bytes"), 0.0);
    router.change(&placed("acme", "b", 6)).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!((b.admitted().len(), b.admitted()[0].body.as_ref()), (1, b"12345".as_ref()));
    assert_eq!(b.admitted()[0].headers["expect"], "100-continue");
}

#[tokio::test]
async fn a_plain_origin_is_asked_as_any_server_is() {
    let app = Gate::open().await;
    let text = origin("a", app.address) + &placed("acme", "a", 5);
    let router = TestRouter::knowing(config(), &text).await;
    let mut client = Client::connect(router.address).await;
    let body = pattern(200_000);
    client.send("POST /x HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: 200000\r\n\r\n").await;
    client.tcp.write_all(&body).await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 200);
    let admitted = &app.admitted()[0];
    assert!(admitted.body == body);
    assert!(!admitted.headers.contains_key("expect"));
    assert_eq!(
        (&admitted.headers["x-cellway-tenant"], &admitted.headers["x-cellway-epoch"]),
        (&"acme".parse().unwrap(), &"5".parse().unwrap())
    );
    assert!(admitted.headers.contains_key("x-request-id") && admitted.headers.contains_key("forwarded"));
    // A verdict from something that is no gate is no verdict: its 421 passes, without the field.
    app.say(Some("fenced"));
    let answer = client.ask(&post("acme", "x")).await;
    assert_eq!((answer.status, answer.header("x-cellway-verdict")), (421, None));
}

/// A cell that answers each connection with `bytes` and closes.
async fn answering(bytes: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.read(&mut [0; 4096]).await;
            tcp.write_all(bytes).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    });
    address
}

#[tokio::test]
async fn an_answer_that_is_cut_off_does_not_look_complete() {
    for bytes in [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".as_slice(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let app = answering(bytes).await;
        let router = TestRouter::knowing(config(), &(origin("a", app) + &placed("acme", "a", 5))).await;
        let mut client = Client::connect(router.address).await;
        client.send(&crate::support::get("acme", "/")).await;
        assert!(client.answer().await.is_none(), "a clean end");
    }
}

#[tokio::test]
async fn an_unclear_answer_of_a_cell_is_a_502() {
    for bytes in [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 777 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"garbage\r\n\r\n",
        b"",
    ] {
        let app = answering(bytes).await;
        let router = TestRouter::knowing(config(), &(origin("a", app) + &placed("acme", "a", 5))).await;
        let answer = ask(router.address, &crate::support::get("acme", "/")).await;
        assert_eq!(answer.status, 502, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn what_may_have_been_admitted_is_not_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let mut seen = 0;
        while let Ok(Ok((mut tcp, _))) = timeout(Duration::from_millis(700), listener.accept()).await {
            let _ = tcp.read(&mut [0; 4096]).await;
            seen += 1;
        }
        seen
    });
    let text =
        format!("{{\"cell\":\"a\",\"endpoints\":[\"{address}\"],\"kind\":\"agent\"}}\n") + &placed("acme", "a", 5);
    let router = TestRouter::knowing(config(), &text).await;
    assert_eq!(ask(router.address, &crate::support::get("acme", "/")).await.status, 502);
    assert_eq!(seen.await.unwrap(), 1);
}

fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn waiting_costs_no_cpu() {
    let (a, b) = (Gate::saying("fenced").await, Gate::open().await);
    let text = cell("a", &[&a]) + &cell("b", &[&b]) + &held("acme", "a", 5) + &placed("beta", "b", 1);
    let router = TestRouter::knowing(config(), &text).await;
    let mut idle = Client::connect(router.address).await;
    assert_eq!(idle.ask(&crate::support::get("beta", "/")).await.status, 200);
    let mut half_closed = Client::connect(router.address).await;
    half_closed.send(&crate::support::get("acme", "/")).await;
    half_closed.tcp.shutdown().await.unwrap();
    let mut large = Client::connect(router.address).await;
    large.send("POST / HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: 1000000\r\n\r\n").await;
    large.tcp.write_all(&pattern(100_000)).await.unwrap();
    router.until("held_now", |held| held == 2.0).await;
    let before = cpu_ticks();
    sleep(Duration::from_millis(1_500)).await;
    let used = cpu_ticks() - before;
    assert!(used < 30, "{used} ticks of 10 ms in 1.5 s");
}

#[tokio::test]
async fn of_an_answer_that_is_cut_the_client_sees_what_came() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.read(&mut [0; 1024]).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        }
    });
    let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
    for _ in 0..20 {
        let mut client = Client::connect(router.address).await;
        client.send("GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\n\r\n").await;
        let mut seen = Vec::new();
        let _ = timeout(Duration::from_secs(5), client.tcp.read_to_end(&mut seen)).await.expect("closed in time");
        let seen = String::from_utf8_lossy(&seen);
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.ends_with("\r\n\r\nhalf"), "{seen:?}");
    }
}

//! What stands still is ended, what lasts by its nature is not, and nobody takes everything.

use std::net::SocketAddr;
use std::time::Duration;

use cellway_router::RouterConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::support::{Client, Gate, PATIENCE, TestRouter, ask, cell, config, get, origin, placed};

const STALL: Duration = Duration::from_millis(300);

fn impatient() -> RouterConfig {
    let mut config = config();
    config.time_limits.stall_ms = 300;
    config.threads = 1;
    config
}

async fn before(config: RouterConfig, app: SocketAddr) -> TestRouter {
    let tenants = placed("acme", "a", 5) + &placed("beta", "a", 1);
    TestRouter::knowing(config, &(origin("a", app) + &tenants)).await
}

/// An app that hands its first connection over, the head of the request read.
async fn hand() -> (SocketAddr, oneshot::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (give, hand) = oneshot::channel();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        let _ = give.send(tcp);
    });
    (address, hand)
}

async fn is_closed(tcp: &mut TcpStream) -> bool {
    matches!(timeout(PATIENCE, tcp.read(&mut [0; 1])).await.expect("an end in time"), Ok(0) | Err(_))
}

#[tokio::test]
async fn an_upload_that_stands_still_is_ended() {
    let gate = Gate::open().await;
    let router = TestRouter::knowing(impatient(), &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    // One is passed on as it comes, the other is kept.
    for length in [200_000, 60_000] {
        let mut client = Client::connect(router.address).await;
        client
            .send(&format!("POST /x HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: {length}\r\n\r\n"))
            .await;
        // It moves, if slowly, and so goes on.
        for _ in 0..9 {
            client.send("some of it").await;
            sleep(STALL / 3).await;
            assert!(client.tcp.try_read(&mut [0; 1]).is_err(), "an answer too soon");
        }
        assert_eq!(client.answer().await.unwrap().status, 408);
        assert!(gate.admitted().is_empty());
    }
}

#[tokio::test]
async fn an_upload_that_drips_is_ended_when_its_time_is_over() {
    let gate = Gate::open().await;
    let mut config = impatient();
    config.time_limits.total_ms = 600;
    let router = TestRouter::knowing(config, &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    let mut client = Client::connect(router.address).await;
    client.send("POST /x HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: 200000\r\n\r\n").await;
    let (mut read, mut write) = client.tcp.split();
    let dripping = async {
        while write.write_all(b"drip").await.is_ok() {
            sleep(STALL / 6).await;
        }
    };
    let mut answer = [0; 12];
    let answered = async { timeout(PATIENCE, read.read_exact(&mut answer)).await.expect("an answer in time").unwrap() };
    tokio::select! {
        _ = answered => {}
        () = dripping => panic!("no answer"),
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(gate.admitted().is_empty());
}

#[tokio::test]
async fn an_answer_that_its_cell_stops_sending_is_cut_off() {
    let (app, given) = hand().await;
    let router = before(impatient(), app).await;
    let mut client = Client::connect(router.address).await;
    client.send(&get("acme", "/")).await;
    let mut tcp = given.await.unwrap();
    tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for _ in 0..6 {
        tcp.write_all(b"4\r\npart\r\n").await.unwrap();
        sleep(STALL / 3).await;
    }
    assert!(client.answer().await.is_none(), "a clean end");
    assert!(is_closed(&mut tcp).await);
}

#[tokio::test]
async fn an_upload_that_moves_keeps_a_silent_answer_alive() {
    let (app, given) = hand().await;
    let router = before(impatient(), app).await;
    let mut client = Client::connect(router.address).await;
    client.send("POST /x HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: 100000\r\n\r\n").await;
    let mut tcp = given.await.unwrap();
    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
    let piece = "x".repeat(10_000);
    for _ in 0..10 {
        client.send(&piece).await;
        tcp.read_exact(&mut [0; 10_000]).await.unwrap();
        sleep(STALL / 3).await;
    }
    tcp.write_all(b"lf").await.unwrap();
    assert_eq!(client.answer().await.unwrap().text(), "half");
}

#[tokio::test]
async fn an_event_stream_may_be_silent() {
    let (app, given) = hand().await;
    let router = before(impatient(), app).await;
    let mut client = Client::connect(router.address).await;
    client.send(&get("acme", "/events")).await;
    let mut tcp = given.await.unwrap();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncontent-length: 9\r\n\r\n";
    tcp.write_all(head.as_bytes()).await.unwrap();
    sleep(STALL * 4).await;
    tcp.write_all(b"data: 1\n\n").await.unwrap();
    assert_eq!(client.answer().await.unwrap().text(), "data: 1\n\n");
}

#[tokio::test]
async fn a_cell_hears_that_the_client_of_a_silent_event_stream_has_left() {
    let (app, given) = hand().await;
    let router = before(impatient(), app).await;
    let mut client = Client::connect(router.address).await;
    client.send(&get("acme", "/events")).await;
    let mut tcp = given.await.unwrap();
    tcp.write_all(EVENTS).await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 200);
    drop(client);
    assert_eq!(timeout(PATIENCE, tcp.read(&mut [0])).await.expect("in time").unwrap(), 0);
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: acme.cells.localhost\r\nupgrade: websocket\r\n\
                       connection: Upgrade\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n";
const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";

#[tokio::test]
async fn a_websocket_may_be_silent() {
    let (app, given) = hand().await;
    let router = before(impatient(), app).await;
    let mut client = Client::connect(router.address).await;
    client.send(UPGRADE).await;
    let mut tcp = given.await.unwrap();
    tcp.write_all(SWITCH).await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 101);
    sleep(STALL * 4).await;
    tcp.write_all(b"frame").await.unwrap();
    let mut frame = [0; 5];
    timeout(PATIENCE, client.tcp.read_exact(&mut frame)).await.unwrap().unwrap();
}

/// Writes until nothing is taken for many stalls; whether the connection broke.
async fn breaks(tcp: &mut TcpStream) -> bool {
    let block = vec![b'x'; 64 * 1024];
    loop {
        match timeout(STALL * 6, tcp.write(&block)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return true,
            Err(_) => return false,
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up_unless_it_is_an_event_stream() {
    for (kind, given_up) in [("text/plain", true), ("text/event-stream", false)] {
        let (app, given) = hand().await;
        let router = before(impatient(), app).await;
        let mut client = Client::connect(router.address).await;
        client.send(&get("acme", "/")).await;
        let mut tcp = given.await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 1000000000\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(breaks(&mut tcp).await, given_up, "{kind}");
        drop(client);
    }
}

/// An app that opens WebSockets at `/ws`, event streams at `/events`, and answers all else at once.
async fn open_handed() -> SocketAddr {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = app.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while let Ok(length @ 1..) = tcp.read(&mut head).await {
                    let answer: &[u8] = match &head[..length] {
                        head if head.starts_with(b"GET /ws") => SWITCH,
                        head if head.starts_with(b"GET /events") => EVENTS,
                        _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                    };
                    tcp.write_all(answer).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn what_lasts_takes_no_place_of_requests_and_a_tenant_has_its_part_of_what_there_is() {
    let app = open_handed().await;
    let events = get("acme", "/events").replace("\r\n\r\n", "\r\naccept: text/event-stream\r\n\r\n");
    for (request, status) in [(UPGRADE, 101), (&events, 200)] {
        let mut config = impatient();
        config.pool.used_per_tenant = 1;
        config.pool.lasting_per_pool = 4;
        config.pool.wait_ms = 100;
        let router = before(config, app).await;
        let opened = async |request: &str| {
            let mut client = Client::connect(router.address).await;
            client.send(request).await;
            (client.head().await.unwrap(), client)
        };
        let mut open = Vec::new();
        for _ in 0..2 {
            let (head, client) = opened(request).await;
            assert_eq!(head.status, status);
            open.push(client);
        }
        let (refused, _) = opened(request).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
        let (head, _other) = opened(&request.replace("acme", "beta")).await;
        assert_eq!(head.status, status);
        drop(open);
        let again = timeout(PATIENCE, async { while opened(request).await.0.status == 503 {} });
        again.await.unwrap_or_else(|_| panic!("what was closed is free again: {request}"));
    }
}

#[tokio::test]
async fn connections_of_one_address_are_bounded_over_all_threads_tunnels_included() {
    let (app, given) = hand().await;
    let mut config = config();
    config.serve.connections_per_address = 1;
    let router = before(config, app).await;
    let mut client = Client::connect(router.address).await;
    client.send(UPGRADE).await;
    given.await.unwrap().write_all(SWITCH).await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 101);
    for _ in 0..8 {
        assert!(Client::connect(router.address).await.is_closed().await);
    }
    drop(client);
    router.until("tunnels_open", |open| open == 0.0).await;
    assert_eq!(ask(router.address, &get("nobody", "/")).await.status, 404);
}

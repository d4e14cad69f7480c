//! Streams that last: WebSockets and server-sent events.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Client, TestRouter, config, origin, placed};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: acme.cells.localhost\r\nupgrade: websocket\r\n\
                       connection: keep-alive, Upgrade\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n";

/// An app that answers an upgrade with `answer` and then echoes.
async fn echo(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let head = read_head(&mut tcp).await;
                assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-key: x"), "{head}");
                assert!(head.contains("x-cellway-tenant: acme"));
                tcp.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn read_head(tcp: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn router(app: SocketAddr) -> TestRouter {
    TestRouter::knowing(config(), &(origin("a", app) + &placed("acme", "a", 5))).await
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                      sec-websocket-accept: y\r\nx-cellway-cost: 1\r\n\r\n";

#[tokio::test]
async fn a_websocket_is_a_tunnel_that_ends_with_either_side() {
    let router = router(echo(SWITCH).await).await;
    let mut client = Client::connect(router.address).await;
    client.send(UPGRADE).await;
    let answer = client.head().await.unwrap();
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some("y")));
    assert_eq!((answer.header("upgrade"), answer.header("x-cellway-cost")), (Some("websocket"), None));
    let mut buffer = [0; 5];
    for _ in 0..3 {
        client.tcp.write_all(b"frame").await.unwrap();
        client.tcp.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"frame");
    }
    assert_eq!(router.metric("tunnels_open"), 1.0);
    drop(client);
    router.until("tunnels_open", |open| open == 0.0).await;
}

#[tokio::test]
async fn a_switch_that_is_not_the_one_asked_for_is_not_passed_on() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
    ] {
        let router = router(echo(answer).await).await;
        assert_eq!(Client::connect(router.address).await.ask(UPGRADE).await.status, 502, "{answer}");
    }
    let router = router(echo("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await).await;
    let mut client = Client::connect(router.address).await;
    assert_eq!(client.ask(UPGRADE).await.status, 403);
}

/// A Close frame that asks to connect again (1012).
const CLOSE: &[u8] = b"\x88\x11\x03\xf4service restart";

async fn expect(client: &mut Client, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    timeout(Duration::from_secs(5), client.tcp.read_exact(&mut read)).await.unwrap().unwrap();
    assert_eq!(read, bytes);
}

/// Sent by the client, and back from the app that echoes.
async fn pass(client: &mut Client, bytes: &[u8]) {
    client.tcp.write_all(bytes).await.unwrap();
    expect(client, bytes).await;
}

#[tokio::test]
async fn a_drain_tells_a_websocket_to_connect_again_between_two_frames() {
    let router = router(echo(SWITCH).await).await;
    let mut client = Client::connect(router.address).await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.unwrap().status, 101);
    pass(&mut client, b"\x82\x05wh").await;
    router.shutdown.cancel();
    // Longer than the moment of its parting may be off.
    sleep(Duration::from_millis(300)).await;
    pass(&mut client, b"o").await;
    client.tcp.write_all(b"le\x82\x04late").await.unwrap();
    expect(&mut client, b"le").await;
    expect(&mut client, CLOSE).await;
    drop(client);
    timeout(Duration::from_secs(5), router.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_cuts_a_websocket_whose_frame_does_not_end() {
    let router = router(echo(SWITCH).await).await;
    let mut client = Client::connect(router.address).await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.unwrap().status, 101);
    pass(&mut client, b"\x82\x05wh").await;
    let began = Instant::now();
    router.shutdown.cancel();
    sleep(Duration::from_millis(100)).await;
    pass(&mut client, b"o").await;
    timeout(Duration::from_secs(5), router.task).await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn events_arrive_as_they_are_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        for number in 0..3 {
            tcp.write_all(format!("9\r\ndata: {number}\n\n\r\n").as_bytes()).await.unwrap();
            sleep(Duration::from_millis(150)).await;
        }
        // The client leaves: the next writes find the connection closed.
        for _ in 0..50 {
            if tcp.write_all(b"9\r\ndata: x\n\n\r\n").await.is_err() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("the app was never told that nobody listens");
    });
    let router = router(address).await;
    let mut client = Client::connect(router.address).await;
    client.send("GET /events HTTP/1.1\r\nhost: acme.cells.localhost\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().header("content-type"), Some("text/event-stream"));
    let mut seen = Vec::new();
    while !seen.windows(7).any(|window| window == b"data: 1") {
        let mut buffer = [0; 256];
        let length = timeout(Duration::from_secs(2), client.tcp.read(&mut buffer)).await.unwrap().unwrap();
        seen.extend_from_slice(&buffer[..length]);
    }
    assert!(!seen.windows(7).any(|window| window == b"data: 2"), "events are gathered");
    drop(client);
    timeout(Duration::from_secs(5), app).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_websocket_counts_while_it_is_open_and_ends_when_its_tenant_is_paused() {
    let router = router(echo(SWITCH).await).await;
    router.change("{\"tenant\":\"acme\",\"limits\":{\"concurrency\":1}}\n").await;
    let mut client = Client::connect(router.address).await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.unwrap().status, 101);
    let mut second = Client::connect(router.address).await;
    second.send(UPGRADE).await;
    assert_eq!(second.head().await.unwrap().status, 429);
    router.change("{\"tenant\":\"beta\",\"limits\":{\"mode\":\"paused\"}}\n").await;
    assert_eq!(router.metric("tunnels_open"), 1.0, "another tenant's pause closes nothing");
    router.change("{\"tenant\":\"acme\",\"limits\":{\"concurrency\":1,\"mode\":\"read_only\"}}\n").await;
    router.until("tunnels_open", |open| open == 0.0).await;
    expect(&mut client, CLOSE).await;
    assert!(client.is_closed().await);
    router.change("{\"tenant\":\"acme\",\"limits\":{\"concurrency\":1}}\n").await;
    let mut third = Client::connect(router.address).await;
    third.send(UPGRADE).await;
    assert_eq!(third.head().await.unwrap().status, 101, "the place was given back");
}

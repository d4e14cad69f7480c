//! Long-lived streams: they tell what changes, and end when the data or the app goes.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::stage::{Operator, PATIENCE, Stage, eventually};

type Socket = WebSocketStream<TcpStream>;

async fn connect(stage: &Stage, tenant: &str, epoch: Option<&'static str>) -> Socket {
    let url = format!("ws://{}/ws", stage.address);
    let mut request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("x-cellway-tenant", tenant.parse().unwrap());
    if let Some(epoch) = epoch {
        headers.insert("x-cellway-epoch", epoch.parse().unwrap());
    }
    let connection = TcpStream::connect(stage.address).await.unwrap();
    let connected = tokio_tungstenite::client_async(request, connection).await;
    connected.unwrap().0
}

async fn next_json(socket: &mut Socket) -> Value {
    loop {
        let message = timeout(PATIENCE, socket.next()).await.unwrap();
        match message.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("not a text: {other:?}"),
        }
    }
}

async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        let message = timeout(PATIENCE, socket.next()).await.unwrap();
        if let Message::Close(frame) = message.unwrap().unwrap() {
            return frame.unwrap().code.into();
        }
    }
}

#[tokio::test]
async fn the_counter_tells_each_change_and_echoes() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let mut socket = connect(&stage, "acme", Some("7")).await;
    let first = json!({ "count": 0, "cell": "cell-<1>", "epoch": 7 });
    assert_eq!(next_json(&mut socket).await, first);

    socket.send(Message::text("say \"it\"")).await.unwrap();
    assert_eq!(next_json(&mut socket).await, json!({ "echo": "say \"it\"" }));

    assert_eq!(stage.add("acme", "a", b"1").await.status, 201);
    assert_eq!(next_json(&mut socket).await["count"], 1);

    let mut plain = connect(&stage, "acme", None).await;
    let frame = json!({ "count": 1, "cell": "cell-<1>" });
    assert_eq!(next_json(&mut plain).await, frame);
    stage.stop().await;
}

#[tokio::test]
async fn a_counter_ends_with_1012_when_its_data_or_the_app_goes() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    operator.give_home("other", "two");
    let stage = Stage::start(&operator);
    let mut moved = connect(&stage, "acme", None).await;
    let mut kept = connect(&stage, "other", None).await;
    next_json(&mut moved).await;
    next_json(&mut kept).await;

    std::fs::remove_file(operator.link("acme")).unwrap();
    assert_eq!(close_code(&mut moved).await, 1012);
    kept.send(Message::text("here")).await.unwrap();
    assert_eq!(next_json(&mut kept).await["echo"], "here");

    let (code, ()) = tokio::join!(close_code(&mut kept), stage.stop());
    assert_eq!(code, 1012);
}

#[tokio::test]
async fn a_counter_without_data_is_refused_before_the_upgrade() {
    let operator = Operator::new();
    let stage = Stage::start(&operator);
    let head = "/ws HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                x-cellway-tenant: acme\r\nhost: a\r\n\r\n";
    let mut connection = TcpStream::connect(stage.address).await.unwrap();
    let request = format!("GET {head}");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut status = String::new();
    let mut lines = BufReader::new(connection);
    lines.read_line(&mut status).await.unwrap();
    assert!(status.starts_with("HTTP/1.1 503"), "{status}");
    drop(lines);
    stage.stop().await;
}

#[tokio::test]
async fn a_stream_whose_client_left_does_not_run_on() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let running = async || stage.get("acme", "/idle").await.json()["running"].as_u64();
    let socket = connect(&stage, "acme", None).await;
    let feed = Events::open(&stage, "/events", "").await;
    eventually("both run", async || running().await == Some(2)).await;
    drop((socket, feed));
    eventually("both ended", async || running().await == Some(0)).await;
    stage.stop().await;
}

/// An SSE client that reads lines past the chunked coding.
struct Events {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

impl Events {
    async fn open(stage: &Stage, path: &str, header: &str) -> Self {
        let mut connection = TcpStream::connect(stage.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-cellway-tenant: acme\r\n{header}\r\n");
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(connection).lines();
        let status = lines.next_line().await.unwrap().unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK");
        Self { lines }
    }

    /// The next line that begins with `start`, without it; `None` at the end of the stream.
    async fn next(&mut self, start: &str) -> Option<String> {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.unwrap();
            let line = line.unwrap()?;
            if let Some(rest) = line.strip_prefix(start) {
                return Some(rest.trim().to_owned());
            }
        }
    }
}

#[tokio::test]
async fn the_feed_goes_on_after_the_last_event_id() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    for id in ["a", "b", "c"] {
        assert_eq!(stage.add("acme", id, b"line\nline").await.status, 201);
    }
    let mut resumed = Events::open(&stage, "/events?after=0", "last-event-id: 1\r\n").await;
    assert_eq!(resumed.next("id:").await.unwrap(), "2");
    let data: Value = serde_json::from_str(&resumed.next("data:").await.unwrap()).unwrap();
    assert_eq!(data["id"], "b");
    assert_eq!(data["preview"], "line\nline");
    assert_eq!(resumed.next("id:").await.unwrap(), "3");

    let mut from_here = Events::open(&stage, "/events", "").await;
    let mut from_start = Events::open(&stage, "/events?after=0", "").await;
    assert_eq!(from_start.next("id:").await.unwrap(), "1");
    assert_eq!(stage.add("acme", "d", b"new").await.status, 201);
    assert_eq!(from_here.next("id:").await.unwrap(), "4");
    assert_eq!(resumed.next("id:").await.unwrap(), "4");
    stage.stop().await;
}

#[tokio::test]
async fn the_feed_pings_while_nothing_happens_and_ends_with_the_app() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let mut feed = Events::open(&stage, "/events", "").await;
    assert_eq!(feed.next(": ").await.unwrap(), "ping");
    let began = std::time::Instant::now();
    let (end, ()) = tokio::join!(feed.next("data:"), stage.stop());
    assert_eq!(end, None);
    assert!(began.elapsed() < Duration::from_secs(4), "it used the grace up");
}

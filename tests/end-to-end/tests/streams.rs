//! WebSocket and server-sent events pass through, and land on the target after a move.

use cellway_end_to_end::dev::Dev;
use cellway_end_to_end::eventually;
use cellway_end_to_end::writer::http;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn connect(dev: &Dev) -> Option<Socket> {
    let mut request = format!("ws://{}/ws", dev.router()).into_client_request().ok()?;
    request.headers_mut().insert("host", "acme.cells.localhost".parse().ok()?);
    tokio_tungstenite::connect_async(request).await.ok().map(|(socket, _)| socket)
}

async fn text(socket: &mut Socket) -> Option<String> {
    match socket.next().await? {
        Ok(Message::Text(text)) => Some(text.to_string()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_told_to_connect_again_and_lands_on_the_target() {
    let dev = Dev::start(&["--tenants", "1"]).await;
    let mut socket = connect(&dev).await.expect("a WebSocket");
    assert!(text(&mut socket).await.expect("a greeting").contains("cell-a"));
    socket.send(Message::text("ping me")).await.unwrap();
    let echo = text(&mut socket).await.expect("an answer");
    assert!(echo.contains("ping me"), "{echo}");
    let moved = dev.cli(&["tenant", "move", "acme", "--to", "cell-b"]);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    let last = loop {
        match socket.next().await {
            Some(Ok(Message::Text(_))) => {}
            other => break other,
        }
    };
    let Some(Ok(Message::Close(Some(close)))) = last else { panic!("no Close frame: {last:?}") };
    assert_eq!(close.code, CloseCode::Restart);
    let greeting = eventually("a new WebSocket at the target", async || text(&mut connect(&dev).await?).await);
    assert!(greeting.await.contains("cell-b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_passes_through_as_it_happens_and_ends_with_the_move() {
    let dev = Dev::start(&["--tenants", "1"]).await;
    let client = cellway_api::http::client_builder(None).build().unwrap();
    let feed = client.get(format!("http://{}/events", dev.router())).header("host", "acme.cells.localhost");
    let mut feed = feed.send().await.unwrap().bytes_stream();
    let post = http().post(format!("http://{}/entries/live", dev.router())).header("host", "acme.cells.localhost");
    assert_eq!(post.body("now").send().await.unwrap().status(), 201);
    let mut seen = String::new();
    while !seen.contains("live") {
        seen.push_str(&String::from_utf8_lossy(&feed.next().await.expect("more").expect("no break")));
    }
    let moved = dev.cli(&["tenant", "move", "acme", "--to", "cell-b"]);
    assert!(moved.status.success());
    while let Some(Ok(_)) = feed.next().await {}
}

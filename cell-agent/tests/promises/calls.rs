//! gRPC calls: a stream of messages is ended between two of them, and a short call is left to end by itself.

use crate::app::read_head;
use crate::stage::{Stage, order};
use bytes::Bytes;
use cellway_api::agent::{FactUp, TaskDown};
use cellway_cell_agent::DriverConfig;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// An app that answers a plain request, and hands the answer to each call over.
async fn app() -> (SocketAddr, mpsc::UnboundedReceiver<SendStream<Bytes>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (calls, called) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp, calls.clone()));
        }
    });
    (address, called)
}

async fn serve(mut tcp: TcpStream, calls: mpsc::UnboundedSender<SendStream<Bytes>>) {
    let mut first = [0; 3];
    while tcp.peek(&mut first).await.is_ok_and(|length| length > 0) {
        if first == *b"PRI" {
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let _ = calls.send(respond.send_response(head, false).unwrap());
            }
            return;
        }
        if read_head(&mut tcp).await.is_none() {
            return;
        }
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    }
}

struct Calls {
    stage: Stage,
    called: mpsc::UnboundedReceiver<SendStream<Bytes>>,
}

impl Calls {
    async fn start() -> Self {
        let (address, called) = app().await;
        let mut stage = Stage::new(|_| DriverConfig::None).await;
        stage.plane.place("acme", "cell-a", 5, "new-5", None);
        stage.start_with(|config| config.app = address);
        stage.until_open(5).await;
        Self { stage, called }
    }

    /// A call: what its client reads, and what the app writes.
    async fn call(&mut self) -> (RecvStream, SendStream<Bytes>) {
        let tcp = TcpStream::connect(self.stage.gate()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://acme.test/Service/Watch")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-cellway-tenant", "acme")
            .header("x-cellway-epoch", "5");
        let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        (response.into_body(), self.called.recv().await.unwrap())
    }
}

fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0], &length[..], text.as_bytes()].concat().into()
}

/// The messages that came, whole, and the status at the end.
async fn rest(mut answer: RecvStream) -> (Vec<String>, String) {
    let mut bytes = Vec::new();
    while let Some(data) = answer.data().await {
        let data = data.unwrap();
        answer.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend(data);
    }
    let trailers = answer.trailers().await.unwrap().expect("an end with trailers");
    let (mut messages, mut left) = (Vec::new(), &bytes[..]);
    while let Some((head, more)) = left.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let (text, more) = more.split_at_checked(length).expect("no message is cut");
        messages.push(String::from_utf8(text.to_vec()).unwrap());
        left = more;
    }
    assert!(left.is_empty(), "no message is cut");
    (messages, trailers["grpc-status"].to_str().unwrap().to_owned())
}

fn is_fenced(fact: &FactUp) -> bool {
    matches!(fact, FactUp::Fenced { .. })
}

fn has_streams(count: u32) -> impl Fn(&FactUp) -> bool {
    move |fact| matches!(fact, FactUp::Watched { open_streams, .. } if *open_streams == count)
}

#[tokio::test]
async fn a_stream_of_messages_ends_between_two_of_them_as_unavailable() {
    let mut calls = Calls::start().await;
    let (answer, mut app) = calls.call().await;
    app.send_data(message("one"), false).unwrap();
    let two = message("two");
    app.send_data(two.slice(..6), false).unwrap();
    calls.stage.plane.order(vec![order(TaskDown::Watch { epoch: 5 })]);
    calls.stage.plane.fact(has_streams(1)).await;
    calls.stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    app.send_data(two.slice(6..), false).unwrap();
    let (messages, status) = rest(answer).await;
    assert_eq!((messages, status.as_str()), (vec!["one".to_owned(), "two".to_owned()], "14"));
    drop(app);
    calls.stage.plane.fact(is_fenced).await;
}

#[tokio::test]
async fn a_call_that_lasts_is_a_stream_and_ends_as_unavailable() {
    let mut calls = Calls::start().await;
    let (answer, mut app) = calls.call().await;
    app.send_data(message("hello"), false).unwrap();
    calls.stage.plane.order(vec![order(TaskDown::Watch { epoch: 5 })]);
    calls.stage.plane.fact(has_streams(1)).await;
    calls.stage.plane.order(vec![order(TaskDown::CloseStreams { epoch: 5 })]);
    let (messages, status) = rest(answer).await;
    assert_eq!((messages, status.as_str()), (vec!["hello".to_owned()], "14"));
    drop(app);
    calls.stage.plane.fact(has_streams(0)).await;
}

#[tokio::test]
async fn a_short_call_ends_by_itself_and_the_fence_waits_for_it() {
    let mut calls = Calls::start().await;
    let (answer, mut app) = calls.call().await;
    calls.stage.plane.order(vec![order(TaskDown::Fence { epoch: 5, cut: false })]);
    app.send_data(message("done"), false).unwrap();
    app.send_trailers([("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect()).unwrap();
    let (messages, status) = rest(answer).await;
    assert_eq!((messages, status.as_str()), (vec!["done".to_owned()], "0"));
    calls.stage.plane.fact(is_fenced).await;
}

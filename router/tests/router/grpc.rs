//! gRPC over connections to a cell that all tenants share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::http2::{answer, body, connect, request, upload};
use crate::support::*;

/// An app that speaks gRPC: one connection, whose calls are answered so.
async fn grpc_app<F: Future<Output = ()> + Send>(
    answer: impl Fn(RecvStream, SendStream<Bytes>) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let (head, incoming) = request.into_parts();
                assert_eq!(head.headers["te"], "trailers");
                assert_eq!(head.uri.authority().unwrap(), "acme.cells.localhost");
                let said = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                answer(incoming, respond.send_response(said, false).unwrap()).await;
            });
        }
    });
    address
}

fn call(path: &str) -> Request<()> {
    let call = request(Method::POST, "acme", path).header("content-type", "application/grpc+proto");
    call.header("te", "trailers").body(()).unwrap()
}

#[tokio::test]
async fn a_burst_of_small_messages_is_no_flood() {
    const MESSAGES: usize = 8_000;
    let address = grpc_app(|mut incoming, mut outgoing| async move {
        let length = body(&mut incoming).await.unwrap().len();
        outgoing.send_data(length.to_string().into(), true).unwrap();
    })
    .await;
    let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
    let mut client = connect(&router).await;
    let (response, mut sending) = client.send_request(call("/count"), false).unwrap();
    for number in 1..=MESSAGES {
        sending.send_data(Bytes::from_static(b"little"), number == MESSAGES).unwrap();
    }
    assert_eq!(answer(response).await.body(), (MESSAGES * 6).to_string().as_bytes());
}

#[tokio::test]
async fn a_client_that_reads_no_small_messages_cuts_nobody_elses_call() {
    const STREAMS: usize = 2;
    // What each takes: the client's window, and the router's towards the cell.
    const UNREAD: usize = STREAMS * (64 + 16) * 1024 / 4 * 9 / 10;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let address = grpc_app(move |mut incoming, mut outgoing| {
        let sent = Arc::clone(&counted);
        async move {
            let wants = incoming.data().await.unwrap().unwrap();
            if wants == "ticks" {
                while upload(&mut outgoing, Bytes::from_static(b"tick"), false).await.is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
            outgoing.send_data(wants, false).unwrap();
            while let Some(Ok(data)) = incoming.data().await {
                outgoing.send_data(data, false).unwrap();
            }
        }
    })
    .await;
    let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
    let mut client = connect(&router).await;
    let (echo, mut asking) = client.send_request(call("/echo"), false).unwrap();
    asking.send_data("hello".into(), false).unwrap();
    let mut echo = timeout(PATIENCE, echo).await.unwrap().unwrap().into_body();
    assert_eq!(timeout(PATIENCE, echo.data()).await.unwrap().unwrap().unwrap(), "hello");
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        let (ticks, mut asking) = client.send_request(call("/ticks"), false).unwrap();
        asking.send_data("ticks".into(), false).unwrap();
        unread.push((timeout(PATIENCE, ticks).await.unwrap().unwrap(), asking));
    }
    let stalled = async {
        let mut before = 0;
        while sent.load(Ordering::Relaxed) < UNREAD || sent.load(Ordering::Relaxed) > before {
            before = sent.load(Ordering::Relaxed);
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, stalled).await.expect("the cell sends until its windows are full");
    for message in ["still", "there"] {
        asking.send_data(message.into(), false).unwrap();
        assert_eq!(timeout(PATIENCE, echo.data()).await.unwrap().unwrap().unwrap(), message);
    }
    let (first, _asking) = &mut unread[0];
    let mut ticks = Vec::new();
    while ticks.len() < 100 * 1024 {
        let data = timeout(PATIENCE, first.body_mut().data()).await.unwrap().unwrap().unwrap();
        first.body_mut().flow_control().release_capacity(data.len()).unwrap();
        ticks.extend_from_slice(&data);
    }
    assert!(ticks.chunks_exact(4).all(|tick| tick == b"tick"), "whole and in order");
}

#[tokio::test]
async fn an_answer_that_its_cell_resets_without_an_error_is_not_taken_for_whole() {
    for (trailers, whole) in [(false, false), (true, true)] {
        let address = grpc_app(move |_incoming, mut outgoing| async move {
            outgoing.send_data("half".into(), false).unwrap();
            if trailers {
                let status = ("grpc-status".parse().unwrap(), "0".parse().unwrap());
                outgoing.send_trailers(HeaderMap::from_iter([status])).unwrap();
            }
            sleep(Duration::from_millis(50)).await;
            outgoing.send_reset(Reason::NO_ERROR);
        })
        .await;
        let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
        let mut client = connect(&router).await;
        let (response, _sending) = client.send_request(call("/call"), false).unwrap();
        let mut stream = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        let read = timeout(PATIENCE, body(&mut stream)).await.unwrap();
        assert_eq!(read.is_ok(), whole, "{read:?}");
    }
}

#[tokio::test]
async fn grpc_goes_both_ways_at_once_and_ends_with_trailers() {
    let address = grpc_app(|mut incoming, mut outgoing| async move {
        while let Some(Ok(data)) = incoming.data().await {
            incoming.flow_control().release_capacity(data.len()).unwrap();
            outgoing.send_data(data, false).unwrap();
        }
        let status = ("grpc-status".parse().unwrap(), "0".parse().unwrap());
        outgoing.send_trailers(HeaderMap::from_iter([status])).unwrap();
    })
    .await;
    let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
    let mut client = connect(&router).await;
    let (response, mut sending) = client.send_request(call("/pkg.Service/Call"), false).unwrap();
    let mut stream =
        timeout(PATIENCE, response).await.expect("the head comes before the body ends").unwrap().into_body();
    for message in ["one", "two"] {
        sending.send_data(message.into(), false).unwrap();
        let data = timeout(PATIENCE, stream.data()).await.expect("in time").unwrap().unwrap();
        assert_eq!(data, message);
    }
    sending.send_data(Bytes::new(), true).unwrap();
    assert!(body(&mut stream).await.unwrap().is_empty());
    assert_eq!(stream.trailers().await.unwrap().expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn a_call_that_its_client_cancels_is_cancelled_for_its_cell() {
    let (told, mut cancelled) = tokio::sync::mpsc::unbounded_channel();
    let address = grpc_app(move |mut incoming, _outgoing| {
        let told = told.clone();
        async move { told.send(body(&mut incoming).await.unwrap_err().reason()).unwrap() }
    })
    .await;
    let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
    let mut client = connect(&router).await;
    let (response, mut sending) = client.send_request(call("/call"), false).unwrap();
    let _stream = timeout(PATIENCE, response).await.unwrap().unwrap();
    sending.send_reset(Reason::CANCEL);
    assert_eq!(timeout(PATIENCE, cancelled.recv()).await.unwrap(), Some(Some(Reason::CANCEL)));
}

//! Answers that leave their connection in an unusual state: early ones, and switches of the protocol.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use cellway_proxy::{Pool, PoolLimits, PooledBody, RequestBody};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{sleep, timeout};

/// More than the sockets on the way take.
const BODY_BYTES: usize = 16 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers at the head with these fields, then reads on: gives how many bytes of the body came.
async fn early_app(fields: &'static str) -> (SocketAddr, JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reading = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
            tcp.read_buf(&mut bytes).await.unwrap();
        }
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        tcp.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\nearly").as_bytes()).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        while bytes.len() - head < BODY_BYTES && tcp.read_buf(&mut bytes).await.unwrap() > 0 {}
        bytes.len() - head
    });
    (address, reading)
}

async fn send(pool: &Pool, app: SocketAddr) -> Response<PooledBody> {
    let body = RequestBody::kept(Bytes::from(vec![b'x'; BODY_BYTES]));
    pool.send(app, Request::post("/").header("host", "a").body(body).unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_rest_of_a_request_is_sent_although_its_answer_has_ended() {
    for fields in ["content-length: 5\r\n", "content-length: 5\r\nconnection: close\r\n"] {
        let (app, reading) = early_app(fields).await;
        LocalSet::new()
            .run_until(async {
                let pool = Pool::new(PoolLimits::default());
                let answer = send(&pool, app).await.into_body().collect().await.unwrap();
                assert_eq!(answer.to_bytes(), "early");
                assert_eq!(timeout(PATIENCE, reading).await.unwrap().unwrap(), BODY_BYTES, "{fields:?}");
            })
            .await;
    }
}

#[tokio::test]
async fn the_rest_of_a_request_is_sent_although_nobody_takes_its_answer() {
    let (app, reading) = early_app("content-length: 500\r\n").await;
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            let answer = send(&pool, app).await;
            assert_eq!(timeout(PATIENCE, reading).await.unwrap().unwrap(), BODY_BYTES);
            drop(answer);
            assert_eq!(pool.open_connections(app), 0);
        })
        .await;
}

#[tokio::test]
async fn a_connection_that_was_switched_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = tcp.read(&mut [0; 1024]).await;
                sleep(Duration::from_millis(30)).await;
                tcp.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n").await.unwrap();
                let _ = tcp.read(&mut [0; 1024]).await;
            });
        }
    });
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            let get = || Request::get("/").header("host", "a").body(RequestBody::empty()).unwrap();
            // Nobody waits for the one, and nobody wants the other: both are drained.
            let unawaited = pool.send_to_the_end(app, get(), || {});
            sleep(Duration::from_millis(10)).await;
            drop(unawaited);
            drop(pool.send_to_the_end(app, get(), || {}).await.unwrap());
            sleep(Duration::from_millis(100)).await;
            assert_eq!(pool.open_connections(app), 0);
        })
        .await;
}

#[tokio::test]
async fn a_connection_is_used_again_after_trailers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        while tcp.read(&mut [0; 1024]).await.unwrap() > 0 {
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n";
            tcp.write_all(answer).await.unwrap();
        }
    });
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            for _ in 0..3 {
                let get = Request::get("/").header("host", "a").body(RequestBody::empty()).unwrap();
                let mut answer = timeout(PATIENCE, pool.send(app, get)).await.unwrap().unwrap().into_body();
                // As one who sends them on reads: nothing is asked for after the trailers.
                while let Some(frame) = answer.frame().await {
                    if frame.unwrap().is_trailers() {
                        break;
                    }
                }
            }
            assert_eq!(pool.open_connections(app), 1);
        })
        .await;
}

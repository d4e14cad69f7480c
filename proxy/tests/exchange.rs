//! Server and pool over real sockets: what is answered, what is reused, what is known about a request that failed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use cellway_proxy::{
    Handler, IncomingBody, OnBreak, OnDrop, Peer, Pool, PoolLimits, RequestBody, ResponseBody, SendError, ServeOptions,
    bind, hygiene, serve, serve::refuse,
};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Echoes a body; `/slow` answers after 200 ms; `/relay` streams the body on to an app.
struct Echo {
    pool: Pool,
    app: Option<SocketAddr>,
    ended: std::sync::Arc<std::sync::atomic::AtomicU32>,
}

impl Handler for Echo {
    async fn handle(self: Rc<Self>, request: Box<Request<IncomingBody>>, peer: Peer) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        if let Err(bad) = hygiene::check_framing(&head, peer.malformed) {
            return refuse(bad.status(), &bad.to_string());
        }
        if head.uri.path() == "/slow" {
            sleep(Duration::from_millis(200)).await;
        }
        if let (Some(app), "/relay") = (self.app, head.uri.path()) {
            let mut onward = Request::new(RequestBody::streamed(body).on_break(OnBreak::HalfClose));
            *onward.method_mut() = head.method;
            onward.headers_mut().insert("host", "app".parse().unwrap());
            if let Some(length) = head.headers.get("content-length") {
                onward.headers_mut().insert("content-length", length.clone());
            }
            let ended = std::sync::Arc::clone(&self.ended);
            let note = move || {
                ended.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            };
            return match self.pool.send_to_the_end(app, onward, note).await {
                Ok(response) => response.map(Into::into),
                Err(error) => refuse(StatusCode::BAD_GATEWAY, &error.to_string()),
            };
        }
        match body.collect().await {
            Ok(body) => Response::new(ResponseBody::full(body.to_bytes())),
            Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
}

struct Running {
    address: SocketAddr,
    ended: std::sync::Arc<std::sync::atomic::AtomicU32>,
    shutdown: CancellationToken,
}

fn start(threads: usize, app: Option<SocketAddr>) -> Running {
    let listeners = bind("127.0.0.1:0".parse().unwrap(), threads).unwrap();
    let address = listeners.local_addr();
    let shutdown = CancellationToken::new();
    let ended = std::sync::Arc::default();
    let (stop, count) = (shutdown.clone(), std::sync::Arc::clone(&ended));
    tokio::spawn(async move {
        let make = move |_| {
            Rc::new(Echo { pool: Pool::new(PoolLimits::default()), app, ended: std::sync::Arc::clone(&count) })
        };
        let options = ServeOptions { drain_ms: 1_000, ..ServeOptions::default() };
        serve(listeners, options, stop, make).await.unwrap();
    });
    Running { address, ended, shutdown }
}

async fn talk(address: SocketAddr, text: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(text.as_bytes()).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await.expect("an answer in time").unwrap();
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> Request<RequestBody> {
    Request::builder().uri(path).header("host", "a").body(RequestBody::empty()).unwrap()
}

async fn text(response: Response<cellway_proxy::PooledBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_client_that_shuts_its_write_side_is_answered() {
    let server = start(2, None);
    let answer = talk(server.address, "POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
}

#[tokio::test]
async fn a_request_that_states_its_length_twice_is_refused_and_the_connection_closed() {
    let server = start(1, None);
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\ncontent-length: 6",
    ] {
        let ok = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let bad = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
        let answer = talk(server.address, &format!("{ok}{bad}{ok}")).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 400").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn an_address_that_is_served_cannot_be_bound_again() {
    let server = start(2, None);
    assert!(bind(server.address, 2).is_err());
    assert!(bind(server.address, 1).is_err());
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_takes_nothing_new() {
    let server = start(1, None);
    let running = tokio::spawn(talk(server.address, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n"));
    sleep(Duration::from_millis(60)).await;
    server.shutdown.cancel();
    assert!(running.await.unwrap().starts_with("HTTP/1.1 200"));
    sleep(Duration::from_millis(50)).await;
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_connection_is_reused_after_its_answer_was_read_to_the_end() {
    let server = start(1, None);
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            for _ in 0..5 {
                let body = RequestBody::kept(Bytes::from_static(b"hello"));
                let request = Request::post("/").header("host", "a").body(body).unwrap();
                assert_eq!(text(pool.send(server.address, request).await.unwrap()).await, "hello");
                assert_eq!(pool.open_connections(server.address), 1);
            }
            let unread = Request::post("/").header("host", "a").body(RequestBody::kept("x".into())).unwrap();
            drop(pool.send(server.address, unread).await.unwrap());
            assert_eq!(pool.open_connections(server.address), 0, "an answer that was not read closes its connection");
        })
        .await;
}

#[tokio::test]
async fn an_answer_that_has_come_whole_gives_its_connection_back_before_it_is_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (go_on, go) = tokio::sync::oneshot::channel();
    let app = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let (mut head, ok) = ([0; 1024], b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        let _ = tcp.read(&mut head).await.unwrap();
        tcp.write_all(&[ok.as_slice(), b"whole"].concat()).await.unwrap();
        // The same connection carries the next request.
        let _ = tcp.read(&mut head).await.unwrap();
        tcp.write_all(&[ok.as_slice(), b"ha"].concat()).await.unwrap();
        go.await.unwrap();
        tcp.write_all(b"lf.").await.unwrap();
    });
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            // Who counts what the answer carried has done so when it is told of its end.
            let (counted, ended) = (Cell::new(0), Rc::new(Cell::new(false)));
            let note = Rc::clone(&ended);
            let mut whole = pool.send_to_the_end(address, get("/"), move || note.set(true)).await.unwrap();
            assert!(!ended.get());
            let count = |bytes| counted.set(if ended.get() { 0 } else { bytes });
            assert_eq!(whole.body_mut().take_whole(count).as_deref(), Some(b"whole".as_slice()));
            assert_eq!((counted.get(), ended.get()), (5, true));
            assert!(whole.body().is_end_stream());
            let mut half = pool.send(address, get("/")).await.unwrap();
            assert_eq!((half.body_mut().take_whole(|_| ()), pool.open_connections(address)), (None, 1));
            go_on.send(()).unwrap();
            assert_eq!(text(half).await, "half.");
            drop(whole);
        })
        .await;
    app.await.unwrap();
}

#[tokio::test]
async fn a_length_without_a_body_never_reaches_a_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let length = tcp.read(&mut head).await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&head[..length]).into_owned()
    });
    LocalSet::new()
        .run_until(async {
            let request = Request::get("/").header("host", "a").header("content-length", "40");
            let sent =
                Pool::new(PoolLimits::default()).send(address, request.body(RequestBody::empty()).unwrap()).await;
            assert!(sent.is_ok());
        })
        .await;
    let head = app.await.unwrap();
    assert!(head.contains("content-length: 0\r\n"), "{head}");
}

#[tokio::test]
async fn connections_are_bounded_and_waiting_for_one_too() {
    let server = start(1, None);
    LocalSet::new()
        .run_until(async {
            let limits = PoolLimits { open_per_endpoint: 1, wait_ms: 50, ..PoolLimits::default() };
            let pool = Pool::new(limits);
            let (slow, other) = (pool.clone(), pool.clone());
            let address = server.address;
            let first = spawn_local(async move { text(slow.send(address, get("/slow")).await.unwrap()).await });
            sleep(Duration::from_millis(20)).await;
            let refused = other.send(address, get("/")).await;
            assert!(matches!(refused, Err(SendError::NotSent { .. })));
            first.await.unwrap();
            assert!(other.send(address, get("/")).await.is_ok());
        })
        .await;
}

#[tokio::test]
async fn an_unreachable_endpoint_leaves_the_request_unsent() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            let result = pool.send(closed, get("/")).await;
            assert!(matches!(result, Err(SendError::NotSent { body, .. }) if body.is_end_stream()));
            assert!(pool.is_shunned(&closed.into()));
        })
        .await;
}

#[tokio::test]
async fn a_peer_that_closes_after_reading_leaves_the_request_possibly_done() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let _ = tcp.read(&mut [0; 1024]).await;
    });
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            assert!(matches!(pool.send(address, get("/")).await, Err(SendError::Failed(_))));
        })
        .await;
}

#[tokio::test]
async fn an_idle_connection_that_the_peer_closed_is_not_used() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.read(&mut [0; 1024]).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    });
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            for _ in 0..50 {
                assert!(pool.send(address, get("/")).await.is_ok());
            }
        })
        .await;
}

#[tokio::test]
async fn after_an_answer_in_an_older_version_its_connection_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = tokio::spawn(async move {
        let mut connections = Vec::new();
        for _ in 0..2 {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let length = tcp.read(&mut head).await.unwrap();
            assert!(head[..length].starts_with(b"GET / HTTP/1.1\r\n"));
            let answer = b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok";
            tcp.write_all(answer).await.unwrap();
            connections.push(tcp);
        }
    });
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            for _ in 0..2 {
                assert_eq!(text(pool.send(address, get("/")).await.unwrap()).await, "ok");
            }
            assert_eq!(pool.open_connections(address), 0);
        })
        .await;
    app.await.unwrap();
}

/// An app that reads what comes, tells what it saw, and answers only when told to.
async fn watched_app() -> (SocketAddr, tokio::sync::oneshot::Receiver<bool>, tokio::sync::oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (saw, seen) = tokio::sync::oneshot::channel();
    let (go, gone) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        let ended = loop {
            let mut buffer = [0; 1024];
            match timeout(Duration::from_millis(500), tcp.read(&mut buffer)).await {
                Ok(Ok(0)) => break true,
                Ok(Ok(length)) => bytes.extend_from_slice(&buffer[..length]),
                _ => break false,
            }
        };
        let _ = saw.send(ended);
        let _ = gone.await;
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    (address, seen, go)
}

#[tokio::test]
async fn a_broken_upload_is_shown_to_the_app_and_its_end_is_waited_for() {
    let (app, seen, go) = watched_app().await;
    let server = start(1, Some(app));
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(b"POST /relay HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    drop(tcp);
    assert!(seen.await.unwrap(), "the app must see that nothing more comes");
    sleep(Duration::from_millis(50)).await;
    assert_eq!(server.ended.load(std::sync::atomic::Ordering::SeqCst), 0, "the app has not ended the request yet");
    go.send(()).unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(server.ended.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_runs_to_its_end_although_the_client_reset_its_connection() {
    let (app, _seen, go) = watched_app().await;
    let server = start(1, Some(app));
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(b"POST /relay HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(server.ended.load(std::sync::atomic::Ordering::SeqCst), 0);
    go.send(()).unwrap();
    sleep(Duration::from_millis(800)).await;
    assert_eq!(server.ended.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn hanging_up_on_an_answer_tells_the_peer_and_waits_for_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let _ = tcp.read(&mut [0; 1024]).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n").await.unwrap();
        assert_eq!(tcp.read(&mut [0; 16]).await.unwrap(), 0);
        sleep(Duration::from_millis(100)).await;
    });
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            let ended = Rc::new(Cell::new(false));
            let note = Rc::clone(&ended);
            let mut response = pool.send_to_the_end(address, get("/"), move || note.set(true)).await.unwrap();
            response.body_mut().on_drop(OnDrop::HangUpAndDrain);
            drop(response);
            sleep(Duration::from_millis(40)).await;
            assert!(!ended.get());
            sleep(Duration::from_millis(300)).await;
            assert!(ended.get());
        })
        .await;
}

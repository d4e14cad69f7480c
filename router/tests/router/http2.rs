//! HTTP/2 in front of a router: the same rules, many requests on one connection.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use cellway_proxy::http2::{HEADS_MAX_BYTES, HELD_UNREAD_MAX_BYTES, STREAM_WINDOW_BYTES};
use cellway_proxy::upgrade;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::*;

pub(crate) async fn connect(router: &TestRouter) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(router.address).await.unwrap();
    // No stream keeps another one waiting for the connection's window.
    let handshake = h2::client::Builder::new().initial_connection_window_size(1024 * 1024).handshake(tcp);
    let (client, connection) = handshake.await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await.unwrap()
}

pub(crate) fn request(method: Method, tenant: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://{tenant}.cells.localhost{path}"))
}

pub(crate) async fn body(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    Ok(all)
}

fn filler(length: usize) -> Bytes {
    Bytes::from(vec![b'x'; length])
}

/// Sends `data` as the window opens.
pub(crate) async fn upload(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(16 * 1024));
        let Some(capacity) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Err(Reason::CANCEL.into());
        };
        let part = data.split_to(capacity?.min(data.len()));
        stream.send_data(part, last && data.is_empty())?;
    }
    Ok(())
}

pub(crate) async fn answer(response: h2::client::ResponseFuture) -> Response<Vec<u8>> {
    let (head, mut stream) = timeout(PATIENCE, response).await.expect("in time").unwrap().into_parts();
    Response::from_parts(head, body(&mut stream).await.unwrap())
}

#[tokio::test]
async fn requests_of_many_tenants_share_a_connection() {
    let (one, two) = (Gate::open().await, Gate::open().await);
    let text = cell("a", &[&one]) + &cell("b", &[&two]) + &placed("acme", "a", 3) + &placed("beta", "b", 4);
    let router = TestRouter::knowing(config(), &text).await;
    let mut client = connect(&router).await;
    let crumbs = request(Method::GET, "acme", "/slow?a=1").header("cookie", "a=1").header("cookie", "b=2");
    let (slow, _) = client.send_request(crumbs.body(()).unwrap(), true).unwrap();
    let post = request(Method::POST, "beta", "/post").header("x-cellway-epoch", "99").header("content-length", "5");
    let (quick, mut sending) = client.send_request(post.body(()).unwrap(), false).unwrap();
    sending.send_data("hello".into(), true).unwrap();
    let quick = answer(quick).await;
    assert_eq!((quick.status().as_u16(), quick.body().as_slice()), (200, b"ok".as_slice()));
    assert!(quick.headers().contains_key("date") && quick.headers().contains_key("x-request-id"));
    assert!(one.admitted().iter().all(|admitted| admitted.line != "GET /post"), "the slow one is still on its way");
    assert_eq!(answer(slow).await.status(), 200);
    let (asked, posted) = (one.admitted().remove(0), two.admitted().remove(0));
    assert_eq!(asked.headers["host"], "acme.cells.localhost");
    assert_eq!(asked.headers["cookie"], "a=1; b=2");
    assert_eq!(asked.line, "GET /slow?a=1");
    assert_eq!((&posted.body[..], &posted.headers["x-cellway-epoch"]), (&b"hello"[..], &"4".parse().unwrap()));
}

#[tokio::test]
async fn held_uploads_leave_the_connection_to_others() {
    let (one, two) = (Gate::saying("fenced").await, Gate::open().await);
    let text = cell("a", &[&one]) + &cell("b", &[&two]);
    let router = TestRouter::knowing(config(), &(text + &held("acme", "a", 1) + &placed("beta", "b", 1))).await;
    let mut client = connect(&router).await;
    let mut uploads = Vec::new();
    for _ in 0..20 {
        client = client.ready().await.unwrap();
        let request = request(Method::POST, "acme", "/post").body(()).unwrap();
        let (response, mut sending) = client.send_request(request, false).unwrap();
        let sent = tokio::spawn(async move { upload(&mut sending, filler(200 * 1024), true).await });
        uploads.push((response, sent));
    }
    let kept = HELD_UNREAD_MAX_BYTES / STREAM_WINDOW_BYTES as usize;
    router.until("held_now", |held| held >= kept as f64).await;
    let length = 8 * 1024 * 1024;
    let (response, mut sending) =
        client.send_request(request(Method::POST, "beta", "/post").body(()).unwrap(), false).unwrap();
    timeout(PATIENCE, upload(&mut sending, filler(length), true))
        .await
        .expect("the window is open for others")
        .unwrap();
    assert_eq!(answer(response).await.status(), 200);
    assert_eq!(two.admitted()[0].body.len(), length);

    one.say(None);
    router.change(&placed("acme", "a", 2)).await;
    let (mut done, mut refused) = (0, 0);
    for (response, _) in uploads {
        match timeout(PATIENCE, response).await.expect("in time") {
            Ok(response) if response.status() == 200 => done += 1,
            Ok(response) => panic!("{}", response.status()),
            Err(error) => {
                assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
                refused += 1;
            }
        }
    }
    assert!(done + 1 >= kept && done + refused == 20, "{done} done, {refused} refused");
    assert_eq!(one.admitted().len(), done, "what was refused was never sent");
}

#[tokio::test]
async fn heads_that_are_too_much_together_are_refused_and_can_be_sent_again() {
    let gate = Gate::saying("fenced").await;
    let text = cell("a", &[&gate]) + &held("acme", "a", 1);
    let router = TestRouter::knowing(config(), &text).await;
    let mut client = connect(&router).await;
    let mut answers = Vec::new();
    let large = "x".repeat(7_000);
    for _ in 0..100 {
        client = client.ready().await.unwrap();
        let head = request(Method::GET, "acme", "/").header("x-a", &large).header("x-b", &large);
        answers.push(client.send_request(head.body(()).unwrap(), true).unwrap().0);
    }
    let fit = HEADS_MAX_BYTES / (2 * (large.len() + 200));
    router.until("held_now", |held| held >= fit as f64).await;
    gate.say(None);
    router.change(&placed("acme", "a", 2)).await;
    let (mut served, mut refused) = (0, 0);
    for response in answers {
        match timeout(PATIENCE, response).await.expect("in time") {
            Ok(response) if response.status() == 200 => served += 1,
            Ok(response) => panic!("{}", response.status()),
            Err(error) => {
                assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
                refused += 1;
            }
        }
    }
    assert!(served >= fit && served + refused == 100, "{served} served, {refused} refused");
    let head = request(Method::GET, "acme", "/").header("x-a", &large).body(()).unwrap();
    let again = client.ready().await.unwrap().send_request(head, true).unwrap().0;
    assert_eq!(answer(again).await.status(), 200, "what was answered is not counted any more");
}

/// An app that answers a request with these bytes, and hangs up so much later.
async fn says(answer: Vec<u8>, hangs_up_after: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            // Who only looks whether somebody listens asks nothing, and an answer that comes before its request is none.
            if tcp.read(&mut [0; 1024]).await.unwrap_or(0) > 0 {
                tcp.write_all(&answer).await.unwrap();
                sleep(hangs_up_after).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn an_answer_that_is_cut_off_never_looks_whole() {
    let cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let address = says(cut.to_vec(), Duration::from_millis(50)).await;
    let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
    let mut client = connect(&router).await;
    let (response, _) = client.send_request(request(Method::GET, "acme", "/").body(()).unwrap(), true).unwrap();
    let mut stream = response.await.unwrap().into_body();
    let error = timeout(PATIENCE, body(&mut stream)).await.unwrap().unwrap_err();
    assert!(error.is_reset() && error.reason() != Some(Reason::NO_ERROR), "{error}");
}

/// An app that answers each connection's first request with what `answer` makes of its key, then echoes.
async fn handshakes(answer: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = tokio::io::AsyncReadExt::read(&mut tcp, &mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            assert!(head.starts_with("GET /chat HTTP/1.1\r\n") && head.contains("upgrade: websocket"), "{head}");
            assert!(head.contains("host: acme.cells.localhost") && !head.contains("content-length"), "{head}");
            let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut tcp, answer(key).as_bytes()).await.unwrap();
            let (mut read, mut write) = tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    address
}

fn switch(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: \
         {accept}\r\n\r\n"
    )
}

async fn chat(
    router: &TestRouter,
    more: &[(&str, &str)],
) -> Result<(Response<RecvStream>, SendStream<Bytes>), h2::Error> {
    let mut client = connect(router).await;
    while !client.is_extended_connect_protocol_enabled() {
        sleep(Duration::from_millis(2)).await;
    }
    let connect = request(Method::CONNECT, "acme", "/chat").header("sec-websocket-version", "13");
    let connect = more.iter().fold(connect, |request, (name, value)| request.header(*name, *value));
    let mut connect = connect.body(()).unwrap();
    connect.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (response, sending) = client.send_request(connect, false).unwrap();
    Ok((timeout(PATIENCE, response).await.unwrap()?, sending))
}

#[tokio::test]
async fn a_websocket_runs_inside_a_stream() {
    let accept = |key: &str| upgrade::accept_of(key.as_bytes()).to_str().unwrap().to_owned();
    let address = handshakes(move |key| switch(&accept(key)) + "first").await;
    let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
    let (response, mut sending) = chat(&router, &[]).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut stream = response.into_body();
    sending.send_data("echo me".into(), true).unwrap();
    assert_eq!(body(&mut stream).await.unwrap(), b"firstecho me");
}

#[tokio::test]
async fn a_websocket_that_the_app_did_not_open_never_seems_open() {
    let plain = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
    for (answer, status) in [
        (plain("200 OK"), 502),
        (plain("204 No Content"), 502),
        (plain("403 Forbidden"), 403),
        (switch("b3RoZXI="), 502),
    ] {
        let address = handshakes(move |_| answer.clone()).await;
        let router = TestRouter::knowing(config(), &(origin("o", address) + &placed("acme", "o", 1))).await;
        assert_eq!(chat(&router, &[]).await.unwrap().0.status(), status);
    }
}

#[tokio::test]
async fn a_websocket_that_announces_a_body_reaches_no_cell() {
    let gate = Gate::open().await;
    let router = TestRouter::knowing(config(), &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    assert_eq!(chat(&router, &[("content-length", "40")]).await.unwrap().0.status(), 400);
    assert!(gate.admitted().is_empty());
}

#[tokio::test]
async fn white_space_around_a_value_is_refused() {
    let gate = Gate::open().await;
    let router = TestRouter::knowing(config(), &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    for (value, status) in [("plain", 200), (" before", 400), ("behind\t", 400)] {
        let mut client = connect(&router).await;
        let asked = request(Method::GET, "acme", "/").header("x-value", value).body(()).unwrap();
        let (response, _) = client.send_request(asked, true).unwrap();
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), status, "{value:?}");
    }
}

#[tokio::test]
async fn an_answer_that_its_client_takes_by_the_byte_is_given_up() {
    let whole = [b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n".as_slice(), &[b'x'; 4000]].concat();
    let address = says(whole, PATIENCE).await;
    let mut config = config();
    config.time_limits.stall_ms = 400;
    let router = TestRouter::knowing(config, &(origin("o", address) + &placed("acme", "o", 1))).await;
    let tcp = TcpStream::connect(router.address).await.unwrap();
    let (client, connection) =
        h2::client::Builder::new().initial_window_size(2).handshake::<_, Bytes>(tcp).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let mut client = client.ready().await.unwrap();
    let (response, _) = client.send_request(request(Method::GET, "acme", "/").body(()).unwrap(), true).unwrap();
    let mut stream = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    let dripping = async {
        loop {
            match stream.data().await.expect("no end") {
                Ok(data) => stream.flow_control().release_capacity(data.len()).unwrap(),
                Err(error) => break error,
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(timeout(PATIENCE, dripping).await.unwrap().reason(), Some(Reason::CANCEL));
}

#[tokio::test]
async fn a_client_that_expects_is_told_to_go_on_when_a_gate_has_admitted() {
    let gate = Gate::saying("fenced").await;
    let text = cell("a", &[&gate]) + &held("acme", "a", 1);
    let router = TestRouter::knowing(config(), &text).await;
    let mut client = connect(&router).await;
    let post = request(Method::POST, "acme", "/post").header("expect", "100-continue").header("content-length", "5");
    let (mut response, mut sending) = client.send_request(post.body(()).unwrap(), false).unwrap();
    let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
    tokio::pin!(interim);
    assert!(timeout(Duration::from_millis(100), interim.as_mut()).await.is_err(), "not while it is held");
    gate.say(None);
    router.change(&placed("acme", "a", 2)).await;
    let told = timeout(PATIENCE, interim).await.expect("in time").unwrap().unwrap();
    assert_eq!(told.status(), 100);
    sending.send_data("hello".into(), true).unwrap();
    assert_eq!(answer(response).await.status(), 200);
    assert_eq!(&gate.admitted()[0].body[..], b"hello");
}

#[tokio::test]
async fn a_flood_of_frames_ends_its_connection_and_no_other() {
    let gate = Gate::open().await;
    let router = TestRouter::knowing(config(), &(cell("a", &[&gate]) + &placed("acme", "a", 1))).await;
    let mut honest = connect(&router).await;
    let mut flood = Client::connect(router.address).await;
    flood.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut bytes = settings.to_vec();
    (0..5_000).for_each(|_| bytes.extend(ping));
    let _ = tokio::io::AsyncWriteExt::write_all(&mut flood.tcp, &bytes).await;
    let ended = timeout(PATIENCE, async {
        while tokio::io::AsyncReadExt::read(&mut flood.tcp, &mut [0; 4096]).await.is_ok_and(|length| length > 0) {}
    });
    ended.await.expect("the flooded connection is closed");
    let (response, _) = honest.send_request(request(Method::GET, "acme", "/").body(()).unwrap(), true).unwrap();
    assert_eq!(answer(response).await.status(), 200);
}

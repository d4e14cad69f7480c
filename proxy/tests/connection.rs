//! A client's HTTP/1.1 connection, byte by byte: what follows what, what is waited for, and how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use cellway_proxy::{Handler, IncomingBody, Peer, ResponseBody, ServeOptions, bind, serve};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);

/// Says the path and the body that it read. `/unread` reads none, `/stream` answers without a length, `/slow` after a
/// while, `/echo` with the body as it comes; `/breaks` begins an answer and breaks it off while another task reads the body.
struct Says {
    /// How the reading of that task has ended.
    broken: mpsc::UnboundedSender<bool>,
}

impl Handler for Says {
    async fn handle(self: Rc<Self>, request: Box<Request<IncomingBody>>, _: Peer) -> Response<ResponseBody> {
        let path = request.uri().path().to_owned();
        if path == "/unread" {
            return Response::new(ResponseBody::full("unread"));
        }
        if path == "/echo" {
            return Response::new(ResponseBody::boxed(request.into_body()));
        }
        if path == "/breaks" {
            tokio::task::spawn_local(async move {
                let read = request.into_body().collect().await;
                self.broken.send(read.is_err()).unwrap();
            });
            tokio::task::yield_now().await;
            let frames = [Ok(Frame::data("a".into())), Err(std::io::Error::other("broken"))];
            return Response::new(ResponseBody::boxed(StreamBody::new(futures_util::stream::iter(frames))));
        }
        if path == "/slow" {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let body = request.into_body().collect().await;
        let Ok(body) = body else {
            return Response::builder().status(StatusCode::BAD_REQUEST).body(ResponseBody::Empty).unwrap();
        };
        if path == "/stream" {
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
            let frames = [Frame::data("a".into()), Frame::data("b".into()), Frame::trailers(trailers)];
            let frames = futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>));
            return Response::new(ResponseBody::boxed(StreamBody::new(frames)));
        }
        Response::new(ResponseBody::full([path.as_bytes(), b":", &body.to_bytes()].concat()))
    }
}

struct Server {
    address: SocketAddr,
    broken: mpsc::UnboundedReceiver<bool>,
    shutdown: CancellationToken,
    ended: JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        Self::with(ServeOptions::default())
    }

    fn with(options: ServeOptions) -> Self {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let (address, shutdown) = (listeners.local_addr(), CancellationToken::new());
        let (told, broken) = mpsc::unbounded_channel();
        let says = move |_| Rc::new(Says { broken: told.clone() });
        let serving = serve(listeners, options, shutdown.clone(), says);
        Self { address, broken, shutdown, ended: tokio::spawn(async move { serving.await.unwrap() }) }
    }

    async fn client(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }
}

struct Client(TcpStream);

impl Client {
    async fn say(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Reads to the end of this text, which must come.
    async fn hear(&mut self, wanted: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(wanted.as_bytes()) {
            let byte = timeout(PATIENCE, self.0.read_u8()).await;
            let byte = byte.unwrap_or_else(|_| panic!("{wanted:?} in {:?}", String::from_utf8_lossy(&heard)));
            heard.push(byte.unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&heard))));
        }
        String::from_utf8(heard).unwrap()
    }

    /// Reads to the end of the connection.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        timeout(PATIENCE, self.0.read_to_string(&mut rest)).await.expect("it ends").unwrap();
        rest
    }
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    let server = Server::start();
    let mut client = server.client().await;
    let post = "POST /two HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let chunks = "POST /three HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n";
    let get = "\r\n\r\nGET /four HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.say(&format!("GET /one HTTP/1.1\r\nhost: a\r\n\r\n{post}{chunks}{get}")).await;
    let said = client.rest().await;
    let bodies: Vec<&str> =
        said.split("HTTP/1.1 200 OK\r\n").filter_map(|answer| answer.split("\r\n\r\n").nth(1)).collect();
    assert_eq!(bodies, ["/one:", "/two:abc", "/three:xyz", "/four:"]);
    assert_eq!(said.matches("connection: close").count(), 1);
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_no_request() {
    let server = Server::start();
    let mut client = server.client().await;
    let hidden = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = hidden.len();
    client.say(&format!("POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{hidden}")).await;
    client.hear("unread").await;
    client.say("GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.hear("/next:").await;
    client.say("POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n").await;
    client.say(hidden).await;
    let said = client.rest().await;
    assert!(said.contains("connection: close") && said.ends_with("unread"), "{said}");
}

#[tokio::test]
async fn a_client_is_told_to_go_on_only_once_its_body_is_wanted() {
    let server = Server::start();
    let mut client = server.client().await;
    client.say("POST /wanted HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(client.hear("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("hi").await;
    client.hear("/wanted:hi").await;
    client.say("POST /unread HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    let said = client.rest().await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("unread"), "{said}");
}

#[tokio::test]
async fn old_clients_get_what_they_can_read() {
    let server = Server::start();
    let mut client = server.client().await;
    client.say("GET /kept HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n").await;
    let said = client.hear("/kept:").await;
    assert!(said.starts_with("HTTP/1.0 200 OK\r\n") && said.contains("connection: keep-alive\r\n"), "{said}");
    client.say("GET /stream HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n").await;
    let said = client.rest().await;
    assert!(said.ends_with("\r\n\r\nab") && !said.contains("chunked"), "without a length it ends with its connection");
    let mut client = server.client().await;
    client.say("GET /once HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(client.rest().await.ends_with("/once:"));
}

#[tokio::test]
async fn trailers_go_to_whom_asks_for_them() {
    let server = Server::start();
    let mut client = server.client().await;
    client.say("GET /stream HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n").await;
    assert!(client.hear("x-sum: 1\r\n\r\n").await.ends_with("2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n"));
    client.say("GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.hear("0\r\n\r\n").await.ends_with("2\r\nab\r\n0\r\n\r\n"));
    client.say("HEAD /head HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.hear("\r\n\r\n").await.contains("content-length: 6\r\n"));
}

#[tokio::test]
async fn who_has_said_that_nothing_more_comes_is_not_waited_for() {
    let server = Server::start();
    let mut client = server.client().await;
    client.say("GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(client.rest().await.ends_with("/last:"));
    // A socket that still reads would take it, and one that is closed resets the connection.
    client.say("x").await;
    let refused = client.0.write_all(b"x").await.expect_err("nobody is there");
    assert!(matches!(refused.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{refused}");
    let mut client = server.client().await;
    client.say("POST /unread HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9\r\n\r\n").await;
    assert!(client.rest().await.ends_with("unread"));
    // The rest of its body is taken and thrown away.
    client.say("x").await;
    client.say("x").await;
}

#[tokio::test]
async fn a_request_that_has_begun_to_come_is_answered_after_the_shutdown() {
    let server = Server::start();
    let (mut begun, mut served, mut idle) = (server.client().await, server.client().await, server.client().await);
    idle.say("GET /idle HTTP/1.1\r\nhost: a\r\n\r\n").await;
    idle.hear("/idle:").await;
    begun.say("GET /before HTTP/1.1\r\nhost: a\r\n\r\nGET /begun HTTP/1.1\r\nhos").await;
    begun.hear("/before:").await;
    served.say("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.shutdown.cancel();
    assert_eq!(idle.rest().await, "");
    begun.say("t: a\r\n\r\n").await;
    let said = begun.rest().await;
    assert!(said.contains("connection: close\r\n") && said.ends_with("/begun:"), "{said}");
    assert!(served.rest().await.ends_with("/slow:"));
    timeout(PATIENCE, server.ended).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_connection_ends_whose_client_was_not_invited_before_the_answer() {
    let server = Server::start();
    let mut client = server.client().await;
    client.say("POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n").await;
    let head = client.hear("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("connection: close"), "{head}");
    client.say("x").await;
    assert_eq!(client.rest().await, "x");
}

#[tokio::test]
async fn whoever_reads_a_body_hears_that_its_connection_is_gone() {
    let mut server = Server::start();
    let mut client = server.client().await;
    client.say("POST /breaks HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n").await;
    assert_eq!(timeout(PATIENCE, server.broken.recv()).await, Ok(Some(true)));
}

#[tokio::test]
async fn the_answer_to_a_head_that_is_too_long_is_not_lost_for_what_still_comes() {
    let server = Server::start();
    let (mut reading, mut writing) = TcpStream::connect(server.address).await.unwrap().into_split();
    let long = "y".repeat(4_000_000);
    let sending = tokio::spawn(async move {
        let head = format!("GET /long HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {long}");
        // Who answers need not read all of it.
        let _ = writing.write_all(head.as_bytes()).await;
        writing
    });
    let mut said = String::new();
    timeout(PATIENCE, reading.read_to_string(&mut said)).await.expect("it ends").unwrap();
    assert!(said.ends_with("/long:"), "{said}");
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_client_that_does_not_begin_is_hung_up_on_in_time_or_with_the_shutdown() {
    let server = Server::with(ServeOptions { opening_ms: 100, connections_per_address: 1, ..ServeOptions::default() });
    for begun in ["", "PRI * HT"] {
        let mut client = server.client().await;
        client.say(begun).await;
        assert_eq!(client.rest().await, "", "nothing is said to who has said nothing");
    }
    let mut next = server.client().await;
    next.say("GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await;
    next.hear("/a:").await;
    drop(next);

    let server = Server::with(ServeOptions { opening_ms: 60_000, ..ServeOptions::default() });
    let mut client = server.client().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.shutdown.cancel();
    assert_eq!(client.rest().await, "");
    server.ended.await.unwrap();
}

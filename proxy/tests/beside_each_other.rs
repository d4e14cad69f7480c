//! How the requests of a client begin beside each other, and end when something else ends: their connection, one of them,
//! the time to drain.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cellway_proxy::{Handler, IncomingBody, Peer, ResponseBody, ServeOptions, bind, serve};
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Came,
    Left,
    /// Other tasks had a turn after it came.
    OthersRan,
}

struct Leaves(mpsc::UnboundedSender<Seen>);

impl Drop for Leaves {
    fn drop(&mut self) {
        // Nobody may listen any more.
        let _ = self.0.send(Seen::Left);
    }
}

/// Answers `/now` at once, `/late` when it is told to, and `/endless` with what has no end; panics at `/panics`, and waits
/// at all others.
struct Waits {
    seen: mpsc::UnboundedSender<Seen>,
    answer: Arc<Notify>,
}

impl Handler for Waits {
    async fn handle(self: Rc<Self>, request: Box<Request<IncomingBody>>, _: Peer) -> Response<ResponseBody> {
        assert_ne!(request.uri().path(), "/panics", "as it was asked to");
        self.seen.send(Seen::Came).unwrap();
        let seen = self.seen.clone();
        if request.uri().path() == "/now" {
            tokio::task::spawn_local(async move { seen.send(Seen::OthersRan).unwrap() });
            return Response::new(ResponseBody::full("answer"));
        }
        let leaves = Leaves(seen);
        match request.uri().path() {
            "/late" => self.answer.notified().await,
            "/endless" => {
                let piece = Bytes::from_static(&[0; 64 * 1024]);
                let pieces = stream::repeat_with(move || {
                    let _ = &leaves;
                    Ok::<_, std::io::Error>(Frame::data(piece.clone()))
                });
                return Response::new(ResponseBody::boxed(StreamBody::new(pieces)));
            }
            _ => pending().await,
        }
        Response::new(ResponseBody::full("answer"))
    }
}

struct Server {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    answer: Arc<Notify>,
    shutdown: CancellationToken,
    ended: JoinHandle<()>,
}

impl Server {
    fn start(options: ServeOptions) -> Self {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let (address, shutdown, answer) = (listeners.local_addr(), CancellationToken::new(), Arc::<Notify>::default());
        let (told, seen) = mpsc::unbounded_channel();
        let told_to = Arc::clone(&answer);
        let waits = move |_| Rc::new(Waits { seen: told.clone(), answer: Arc::clone(&told_to) });
        let serving = serve(listeners, options, shutdown.clone(), waits);
        Self { address, seen, answer, shutdown, ended: tokio::spawn(async move { serving.await.unwrap() }) }
    }

    async fn sees(&mut self, wanted: Seen) {
        let seen = timeout(PATIENCE, self.seen.recv()).await;
        assert_eq!(seen.unwrap_or_else(|_| panic!("{wanted:?} in time")), Some(wanted));
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A client's HTTP/2 connection, and the end of it.
    async fn http2(&self) -> (h2::client::SendRequest<Bytes>, JoinHandle<()>) {
        let (requests, connection) = h2::client::handshake(self.client().await).await.unwrap();
        (requests, tokio::spawn(async move { drop(connection.await) }))
    }
}

fn ask(requests: &mut h2::client::SendRequest<Bytes>, path: &str) -> h2::client::ResponseFuture {
    let request = Request::get(format!("http://a{path}")).body(()).unwrap();
    requests.send_request(request, true).unwrap().0
}

fn reset(tcp: TcpStream) {
    tcp.set_zero_linger().unwrap();
    drop(tcp);
}

#[tokio::test]
async fn what_waits_for_a_client_ends_when_it_resets_its_connection_new_or_not() {
    let mut server = Server::start(ServeOptions::default());
    for age_ms in [0, 50] {
        let mut client = server.client().await;
        client.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        server.sees(Seen::Came).await;
        sleep(Duration::from_millis(age_ms)).await;
        reset(client);
        server.sees(Seen::Left).await;
    }
    let (mut requests, connection) = server.http2().await;
    let waiting = [ask(&mut requests, "/wait"), ask(&mut requests, "/wait")];
    for _ in &waiting {
        server.sees(Seen::Came).await;
    }
    // Its socket is closed with what the server said unread or not: both end the connection.
    connection.abort();
    for _ in &waiting {
        server.sees(Seen::Left).await;
    }
}

#[tokio::test]
async fn a_request_whose_handler_panics_ends_alone() {
    let mut server = Server::start(ServeOptions::default());
    let (mut requests, _connection) = server.http2().await;
    let late = ask(&mut requests, "/late");
    server.sees(Seen::Came).await;
    let error = timeout(PATIENCE, ask(&mut requests, "/panics")).await.unwrap().unwrap_err();
    assert!(error.is_reset(), "{error}");
    server.answer.notify_one();
    assert_eq!(timeout(PATIENCE, late).await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn requests_that_come_together_are_begun_together_whatever_came_before() {
    let mut server = Server::start(ServeOptions::default());
    let (mut requests, _connection) = server.http2().await;
    for together in [3, 8, 8] {
        let asked: Vec<_> = (0..together).map(|_| ask(&mut requests, "/now")).collect();
        for answer in asked {
            assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), StatusCode::OK);
        }
        for wanted in [Seen::Came, Seen::OthersRan] {
            for _ in 0..together {
                server.sees(wanted).await;
            }
        }
    }
}

#[tokio::test]
async fn an_old_connection_answers_what_it_has_and_takes_no_more() {
    let mut server = Server::start(ServeOptions { age_ms: 100, ..ServeOptions::default() });
    let (mut requests, connection) = server.http2().await;
    let late = ask(&mut requests, "/late");
    server.sees(Seen::Came).await;
    let said = async {
        while requests.clone().ready().await.is_ok() && !connection.is_finished() {
            sleep(Duration::from_millis(10)).await
        }
    };
    timeout(PATIENCE, said).await.expect("the client is told");
    server.answer.notify_one();
    assert_eq!(timeout(PATIENCE, late).await.unwrap().unwrap().status(), StatusCode::OK);
    drop(requests);
    timeout(PATIENCE, connection).await.expect("then it ends").unwrap();
}

#[tokio::test]
async fn what_never_ends_is_cut_off_when_the_time_to_drain_is_over() {
    let mut server = Server::start(ServeOptions { drain_ms: 100, ..ServeOptions::default() });
    let (mut requests, _connection) = server.http2().await;
    let _waiting = ask(&mut requests, "/wait");
    server.sees(Seen::Came).await;
    let mut client = server.client().await;
    client.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    server.sees(Seen::Came).await;
    server.shutdown.cancel();
    for _ in 0..2 {
        server.sees(Seen::Left).await;
    }
    timeout(PATIENCE, server.ended).await.expect("nothing is left").unwrap();
    assert!(timeout(PATIENCE, client.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn the_last_answer_of_a_connection_is_given_up_too_if_nobody_reads_it() {
    let mut server = Server::start(ServeOptions { unread_ms: Some(300), ..ServeOptions::default() });
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let mut client = socket.connect(server.address).await.unwrap();
    client.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    server.sees(Seen::Came).await;
    server.sees(Seen::Left).await;
}

//! The end of kept connections: what was on its way is known not to have been taken.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cellway_proxy::{
    Handler, IncomingBody, Peer, Pool, PoolLimits, RequestBody, ResponseBody, SendError, ServeOptions, bind, serve,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const FAREWELL: &str = "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// Clients that send one request after the other …
const CLIENTS: usize = 16;
/// … to a server that is stopped and started this often.
const RESTARTS: usize = 20;

/// Counts what it takes.
struct Counting(Arc<AtomicU64>);

impl Handler for Counting {
    async fn handle(self: Rc<Self>, request: Box<Request<IncomingBody>>, _: Peer) -> Response<ResponseBody> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let _ = request.into_body().collect().await;
        Response::new(ResponseBody::full("ok"))
    }
}

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    ended: JoinHandle<()>,
}

impl Running {
    fn start(address: SocketAddr, taken: &Arc<AtomicU64>) -> Self {
        let listeners = bind(address, 2).unwrap();
        let (address, shutdown, taken) = (listeners.local_addr(), CancellationToken::new(), Arc::clone(taken));
        let options = ServeOptions { drain_ms: 2_000, farewell: FAREWELL.as_bytes(), ..ServeOptions::default() };
        let serving = serve(listeners, options, shutdown.clone(), move |_| Rc::new(Counting(Arc::clone(&taken))));
        Self { address, shutdown, ended: tokio::task::spawn(async move { serving.await.unwrap() }) }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(Duration::from_secs(5), self.ended).await.expect("ends in time").unwrap();
    }
}

#[tokio::test]
async fn a_request_that_crosses_the_end_of_a_kept_connection_finds_the_farewell_for_an_answer() {
    let taken = Arc::default();
    let server = Running::start("127.0.0.1:0".parse().unwrap(), &taken);
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let length = tcp.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK"));
    server.shutdown.cancel();
    assert!(tcp.peek(&mut answer).await.unwrap() > 0, "it is said");
    let comes_again = TcpStream::connect(server.address).await;
    assert!(comes_again.is_err(), "nobody listens any more");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut rest = String::new();
    tcp.read_to_string(&mut rest).await.expect("the connection is not reset");
    assert_eq!(rest, FAREWELL);
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    drop(tcp);
    server.stop().await;
}

/// What became of one client's requests.
#[derive(Debug, Default)]
struct Books {
    answered: u64,
    refused: u64,
    not_sent: u64,
}

async fn ask_until(pool: Pool, server: SocketAddr, stop: CancellationToken) -> Books {
    let mut books = Books::default();
    while !stop.is_cancelled() {
        let body = RequestBody::kept("hello".into());
        let request = Request::builder().method(Method::POST).header("host", "a").header("content-length", "5");
        match pool.send(server, request.body(body).unwrap()).await {
            Ok(answer) => {
                match answer.status() {
                    StatusCode::OK => books.answered += 1,
                    StatusCode::MISDIRECTED_REQUEST => books.refused += 1,
                    other => panic!("{other}"),
                }
                answer.into_body().collect().await.unwrap();
            }
            Err(SendError::NotSent { .. }) => {
                books.not_sent += 1;
                sleep(Duration::from_millis(2)).await;
            }
            Err(error) => panic!("nobody knows what became of a request: {error:?}"),
        }
    }
    books
}

#[tokio::test]
async fn of_each_request_to_a_server_that_is_restarted_it_is_known_whether_it_was_taken() {
    let asking = async {
        let taken = Arc::new(AtomicU64::new(0));
        let mut server = Running::start("127.0.0.1:0".parse().unwrap(), &taken);
        let (address, stop, pool) = (server.address, CancellationToken::new(), Pool::new(PoolLimits::default()));
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| spawn_local(ask_until(pool.clone(), address, stop.clone()))).collect();
        for _ in 0..RESTARTS {
            sleep(Duration::from_millis(30)).await;
            server.stop().await;
            server = Running::start(address, &taken);
        }
        stop.cancel();
        let mut all = Books::default();
        for client in clients {
            let books = client.await.unwrap();
            all.answered += books.answered;
            all.refused += books.refused;
            all.not_sent += books.not_sent;
        }
        server.stop().await;
        assert!(all.answered > 0 && all.refused + all.not_sent > 0, "{all:?}");
        assert_eq!(all.answered, taken.load(Ordering::SeqCst), "{all:?}");
        all
    };
    let all = LocalSet::new().run_until(asking).await;
    println!("{all:?}");
}

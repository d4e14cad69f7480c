//! Keep-alive connections to the router, shared by all tenants: over HTTP/1.1 one request at a time on each, over HTTP/2
//! many at once; in clear or over TLS.

use super::tally::unix_ms;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::header::HOST;
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// A request has failed when it was not answered in full by then.
pub(crate) const REQUEST_TIMEOUT_MS: u64 = 15_000;

/// The longest answer that is read.
const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Connections of HTTP/2, which all requests share.
const SHARED_CONNECTIONS: usize = 4;

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why a request has no good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failed {
    /// Answered with another status than was due.
    Status(u16),
    /// Not answered in time.
    Timeout,
    /// The router ended this connection instead of answering.
    ConnectionClosed(Opened),
    /// No connection could be made.
    CannotConnect,
    /// The answer is not the app's.
    BadAnswer,
}

/// Tells a connection's router, and which of its processes it was if one took the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Opened {
    /// Whom it is to.
    pub(crate) router: SocketAddr,
    /// When it was asked for, in milliseconds of Unix time.
    pub(crate) at_ms: u64,
}

impl Failed {
    /// The connection that the request was on, where that is what failed.
    pub(crate) fn connection(self) -> Option<Opened> {
        match self {
            Self::ConnectionClosed(opened) => Some(opened),
            Self::Status(_) | Self::Timeout | Self::CannotConnect | Self::BadAnswer => None,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Timeout => f.write_str("timeout"),
            Self::ConnectionClosed(_) => f.write_str("connection closed"),
            Self::CannotConnect => f.write_str("cannot connect"),
            Self::BadAnswer => f.write_str("bad answer"),
        }
    }
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The JSON in it, if the status is the one that is due.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, due: StatusCode) -> Result<T, Failed> {
        self.expect_status(due)?;
        serde_json::from_slice(&self.body).map_err(|_| Failed::BadAnswer)
    }

    /// Whether the status is the one that is due.
    pub(crate) fn expect_status(&self, due: StatusCode) -> Result<(), Failed> {
        if self.status == due { Ok(()) } else { Err(Failed::Status(self.status.as_u16())) }
    }
}

/// How the router is spoken to.
#[derive(Clone)]
pub(crate) struct Transport {
    /// `host:port` of each; one at least.
    pub(crate) routers: Vec<String>,
    /// One request at a time on a connection, or many.
    pub(crate) http2: bool,
    /// In clear without it.
    pub(crate) tls: Option<Tls>,
}

/// What TLS takes.
#[derive(Clone)]
pub(crate) struct Tls {
    /// Trusts whom the router's certificate is of.
    pub(crate) config: Arc<ClientConfig>,
    /// A name that the certificate covers, together with those of all tenants.
    pub(crate) server_name: ServerName<'static>,
}

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Transport {
    /// HTTP/1.1 in clear.
    #[cfg(test)]
    fn clear(router: String) -> Self {
        Self { routers: vec![router], http2: false, tls: None }
    }

    /// To a router that takes the connection, beginning with the one of this number.
    async fn connect(&self, number: u64, http2: bool) -> Result<(Box<dyn Duplex>, Opened), Failed> {
        let first = usize::try_from(number).unwrap_or(0) % self.routers.len();
        let (later, earlier) = self.routers.split_at(first);
        let mut reached = Err(Failed::CannotConnect);
        for router in earlier.iter().chain(later) {
            let at_ms = unix_ms(SystemTime::now());
            reached = TcpStream::connect(router).await.map(|stream| (stream, at_ms)).map_err(|_| Failed::CannotConnect);
            if reached.is_ok() {
                break;
            }
        }
        let (stream, at_ms) = reached?;
        let opened = Opened { router: stream.peer_addr().map_err(|_| Failed::CannotConnect)?, at_ms };
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return Ok((Box::new(stream), opened)) };
        let mut config = ClientConfig::clone(&tls.config);
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(tls.server_name.clone(), stream).await.map_err(|_| Failed::CannotConnect)?;
        Ok((Box::new(stream), opened))
    }
}

/// Requests go out on this.
struct Sender {
    opened: Opened,
    kind: Kind,
}

enum Kind {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    async fn ready(&mut self) -> bool {
        match &mut self.kind {
            Kind::Http1(sender) => sender.ready().await.is_ok(),
            Kind::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn try_send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match &mut self.kind {
            Kind::Http1(sender) => sender.try_send_request(request).await,
            Kind::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

/// Connections that can take a request, and how many there were. Whoever sends bounds how many requests are in flight,
/// and by that how many connections are open.
pub(crate) struct Connections {
    transport: Transport,
    idle: Mutex<Vec<Sender>>,
    opened: AtomicU64,
    ended_idle: AtomicU64,
}

impl Connections {
    /// Connections to the router; the first is made when it is needed.
    pub(crate) fn new(transport: Transport) -> Self {
        let (idle, opened, ended_idle) = (Mutex::default(), AtomicU64::default(), AtomicU64::default());
        Self { transport, idle, opened, ended_idle }
    }

    /// How many were asked for.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// How many the router ended while no request was on them.
    pub(crate) fn ended_idle(&self) -> u64 {
        self.ended_idle.load(Ordering::Relaxed)
    }

    /// Sends a request once and reads its answer to the end.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Result<Answer, Failed> {
        if self.transport.http2 {
            name_authority(&mut request, self.transport.tls.is_some())?;
        }
        let limit = Duration::from_millis(REQUEST_TIMEOUT_MS);
        timeout(limit, self.exchange(request)).await.unwrap_or(Err(Failed::Timeout))
    }

    async fn exchange(&self, mut request: Request<Body>) -> Result<Answer, Failed> {
        loop {
            let (mut sender, reused) = match self.reuse().await {
                Some(sender) => (sender, true),
                None => (self.open().await?, false),
            };
            // Others may use a connection of HTTP/2 meanwhile.
            if let Kind::Http2(shared) = &sender.kind {
                self.idle.lock().insert(0, Sender { opened: sender.opened, kind: Kind::Http2(shared.clone()) });
            }
            let closed = Failed::ConnectionClosed(sender.opened);
            match sender.try_send(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
                    let body = body.map_err(|_| closed)?.to_bytes();
                    if let Kind::Http1(_) = sender.kind {
                        self.idle.lock().push(sender);
                    }
                    return Ok(Answer { status: head.status, body });
                }
                // Not a byte of it was written: the connection had ended while it was idle. That is no repetition.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => {
                        self.ended_idle.fetch_add(1, Ordering::Relaxed);
                        request = unsent;
                    }
                    _ => return Err(closed),
                },
            }
        }
    }

    async fn reuse(&self) -> Option<Sender> {
        loop {
            let mut sender = {
                let mut idle = self.idle.lock();
                if self.transport.http2 && idle.len() < SHARED_CONNECTIONS {
                    return None;
                }
                idle.pop()?
            };
            if sender.ready().await {
                return Some(sender);
            }
            self.ended_idle.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn open(&self) -> Result<Sender, Failed> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let (stream, opened) = self.transport.connect(number, self.transport.http2).await?;
        let io = TokioIo::new(stream);
        // A connection ends with the last request on it, and says there how it ended.
        if self.transport.http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.map_err(|_| Failed::CannotConnect)?;
            tokio::spawn(async move { _ = connection.await });
            return Ok(Sender { opened, kind: Kind::Http2(sender) });
        }
        let (sender, connection) = http1::handshake(io).await.map_err(|_| Failed::CannotConnect)?;
        tokio::spawn(async move { _ = connection.await });
        Ok(Sender { opened, kind: Kind::Http1(sender) })
    }

    /// A stream to the router that speaks HTTP/1.1, for what is not one request and one answer.
    pub(crate) async fn stream(&self) -> Result<(Box<dyn Duplex>, Opened), Failed> {
        let limit = Duration::from_millis(REQUEST_TIMEOUT_MS);
        timeout(limit, self.transport.connect(self.opened(), false)).await.unwrap_or(Err(Failed::Timeout))
    }
}

/// Says in the target what HTTP/1.1 says in `Host`.
fn name_authority(request: &mut Request<Body>, tls: bool) -> Result<(), Failed> {
    let host = request.headers_mut().remove(HOST).ok_or(Failed::BadAnswer)?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| Failed::BadAnswer)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Failed::BadAnswer)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    /// A server that answers one request on each connection with `answer` and closes it. Tells how many there were.
    async fn closing_server(answer: &'static str) -> (Connections, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let connections = Connections::new(Transport::clear(listener.local_addr().expect("bound").to_string()));
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (connections, requests)
    }

    fn is_closed(sender: &Sender) -> bool {
        match &sender.kind {
            Kind::Http1(sender) => sender.is_closed(),
            Kind::Http2(sender) => sender.is_closed(),
        }
    }

    fn request() -> Request<Body> {
        Request::builder().uri("/").body(Empty::new().boxed_unsync()).expect("a request")
    }

    #[tokio::test]
    async fn a_connection_that_ended_while_idle_is_replaced_and_counted_apart() {
        let (connections, requests) = closing_server(GOOD).await;
        for _ in 0..3 {
            assert_eq!(connections.send(request()).await.expect("an answer").body, "ok");
            let has_ended = || connections.idle.lock().iter().all(is_closed);
            while !has_ended() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert_eq!((connections.opened(), connections.ended_idle()), (3, 2));
        assert_eq!(requests.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_request_without_a_whole_answer_has_failed_and_is_not_sent_again() {
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"] {
            let (connections, requests) = closing_server(answer).await;
            let failed = connections.send(request()).await.expect_err("no whole answer");
            let router = failed.connection().expect("it was closed").router.to_string();
            assert_eq!(router, connections.transport.routers[0], "it says whose connection that was");
            assert_eq!(requests.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn an_answer_counts_only_with_the_status_that_is_due() {
        let answer = Answer { status: StatusCode::SERVICE_UNAVAILABLE, body: Bytes::from_static(b"{}") };
        assert_eq!(answer.expect_status(StatusCode::OK), Err(Failed::Status(503)));
        let answer = Answer { status: StatusCode::OK, body: Bytes::from_static(b"<html>") };
        assert_eq!(answer.json::<u8>(StatusCode::OK), Err(Failed::BadAnswer));
    }
}

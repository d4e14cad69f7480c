//! Accept loops: one current-thread runtime per listener, HTTP/1.1 on each connection, and a drain with a deadline.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::{Addresses, Counted};
use crate::body::ResponseBody;
use crate::head_tap::HeadTap;
use crate::hygiene;
use crate::socket::{Socket, SocketHandle};

/// How long a client may take for a head, and be idle before one.
pub const HEAD_TIMEOUT_MS: u64 = 30_000;
/// How long connections and tunnels may go on after the shutdown began.
pub const DRAIN_MS: u64 = 10_000;
/// The longest head of a request.
pub const HEAD_MAX_BYTES: usize = 32 * 1024;
/// Connections per thread; further ones are closed at once.
pub const CONNECTIONS_PER_THREAD_MAX: usize = 20_000;
/// Bytes of a connection kept in memory each way.
const CONNECTION_BUFFER_BYTES: usize = 128 * 1024;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4_096;
/// How long to wait when accepting fails, mostly for want of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 50;
/// How long tasks may take to notice that they were stopped.
const STOP_MS: u64 = 500;

/// Listeners on one address, one per thread.
pub struct Listeners {
    address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// The address, with the port that was chosen if port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// Opens `threads` listeners that share `address`. An address that another process serves is refused.
pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Listeners> {
    // Only the first bind goes without SO_REUSEPORT, so that it fails where anyone else listens; set afterwards, the
    // flag lets its siblings in.
    let first = open(address, false)?;
    let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    let mut raw = vec![first];
    if threads > 1 {
        raw[0].set_reuse_port(true)?;
    }
    for _ in 1..threads {
        raw.push(open(address, true)?);
    }
    for socket in &raw {
        socket.listen(BACKLOG)?;
    }
    Ok(Listeners { address, sockets: raw.into_iter().map(Into::into).collect() })
}

fn open(address: SocketAddr, reuse_port: bool) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The bounds of [`serve()`].
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// How long a client may take for a head, and be idle before one.
    pub head_timeout_ms: u64,
    /// How long connections and tunnels may go on after the shutdown began.
    pub drain_ms: u64,
    /// Connections per thread.
    pub connections_per_thread: usize,
    /// Connections per client address, over all threads.
    pub connections_per_address: usize,
    /// How long a client may take nothing of an answer that waits for it. Tunnels and event streams have no limit.
    pub unread_ms: Option<u64>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            head_timeout_ms: HEAD_TIMEOUT_MS,
            drain_ms: DRAIN_MS,
            connections_per_thread: CONNECTIONS_PER_THREAD_MAX,
            connections_per_address: usize::MAX,
            unread_ms: None,
        }
    }
}

/// What a thread offers its handler.
#[derive(Clone)]
pub struct ThreadContext {
    /// Which of the threads it is, from 0.
    pub thread: usize,
    /// For what must go on after a request was answered (tunnels): the drain waits for these.
    pub tasks: TaskTracker,
    /// Fires when the shutdown begins.
    pub shutdown: CancellationToken,
    /// Fires when the time to drain is over: what listens ends now.
    pub stop: CancellationToken,
}

/// Who sent a request.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The other end of the connection.
    pub address: SocketAddr,
    /// Whether the request states its length twice, which hyper hides: for [`crate::hygiene::check_framing`].
    pub two_lengths: bool,
}

/// Answers requests on one thread.
pub trait Handler: 'static {
    /// Answers one request. The future is dropped when the client resets its connection.
    fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<ResponseBody>> + 'static;
}

/// A thread could not be started, or ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No thread.
    #[error("cannot start a thread to serve {address}")]
    Start {
        /// What it should have served.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It panicked.
    #[error("a thread that served {address} has died")]
    Died {
        /// What it served.
        address: SocketAddr,
    },
}

/// Serves until `shutdown` fires and all connections have ended, or the time to drain is over. `make` runs once on
/// each thread. Dropping the future begins the shutdown.
pub async fn serve<H: Handler>(
    listeners: Listeners,
    options: ServeOptions,
    shutdown: CancellationToken,
    make: impl Fn(ThreadContext) -> Rc<H> + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let address = listeners.address;
    let shutdown = shutdown.child_token();
    let _shutdown_on_drop = shutdown.clone().drop_guard();
    let make = Arc::new(make);
    let addresses = Addresses::new(options.connections_per_address);
    let mut threads = Vec::new();
    for (thread, socket) in listeners.sockets.into_iter().enumerate() {
        let (done, ended) = oneshot::channel();
        let (make, shutdown, addresses) = (Arc::clone(&make), shutdown.clone(), Arc::clone(&addresses));
        let spawned = std::thread::Builder::new().name(format!("serve-{thread}")).spawn(move || {
            let result = run_thread(socket, options, thread, shutdown, &addresses, &*make);
            let _ = done.send(result);
        });
        spawned.map_err(|source| ServeError::Start { address, source })?;
        threads.push(ended);
    }
    for ended in threads {
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(ServeError::Start { address, source }),
            Err(_) => return Err(ServeError::Died { address }),
        }
    }
    Ok(())
}

fn run_thread<H: Handler>(
    socket: std::net::TcpListener,
    options: ServeOptions,
    thread: usize,
    shutdown: CancellationToken,
    addresses: &Arc<Addresses>,
    make: &impl Fn(ThreadContext) -> Rc<H>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let listener = TcpListener::from_std(socket)?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let context = ThreadContext { thread, tasks: tasks.clone(), shutdown: shutdown.clone(), stop: stop.clone() };
        let handler = make(context.clone());
        tokio::select! {
            () = accept(&listener, options, &context, addresses, &handler) => {}
            () = shutdown.cancelled() => {}
        }
        drop(listener);
        tasks.close();
        if timeout(Duration::from_millis(options.drain_ms), tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "the time to drain is over, closing what is left");
            stop.cancel();
            let _ = timeout(Duration::from_millis(STOP_MS), tasks.wait()).await;
        }
        Ok(())
    })
}

async fn accept<H: Handler>(
    listener: &TcpListener,
    options: ServeOptions,
    context: &ThreadContext,
    addresses: &Arc<Addresses>,
    handler: &Rc<H>,
) {
    let builder = protocol(options);
    let patience = options.unread_ms.map(Duration::from_millis);
    loop {
        match listener.accept().await {
            // The tunnels of connections that were upgraded count as connections.
            Ok(_) if context.tasks.len() >= options.connections_per_thread => {
                tracing::debug!("too many connections, closing a new one");
            }
            Ok((tcp, address)) => {
                let Some(counted) = addresses.count(address.ip()) else {
                    tracing::debug!(%address, "too many connections of one address, closing a new one");
                    continue;
                };
                let accepted = Accepted { tcp, address, counted, patience };
                context.tasks.spawn_local(drive(builder.clone(), accepted, context.clone(), Rc::clone(handler)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

fn protocol(options: ServeOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(options.head_timeout_ms))
        .max_header_size(HEAD_MAX_BYTES)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .half_close(true)
        .keep_alive(true);
    builder
}

struct Accepted {
    tcp: TcpStream,
    address: SocketAddr,
    counted: Counted,
    patience: Option<Duration>,
}

async fn drive<H: Handler>(builder: http1::Builder, accepted: Accepted, context: ThreadContext, handler: Rc<H>) {
    let Accepted { tcp, address, counted, patience } = accepted;
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let (socket, handle) = Socket::new(tcp);
    let first_unclear = Arc::new(AtomicU64::new(u64::MAX));
    let tap = HeadTap::new();
    let io = TappedSocket { socket, tap, first_unclear: Arc::clone(&first_unclear), _counted: counted };
    let patience = Rc::new(Patience { socket: handle.clone(), limit: patience, set: Cell::new(false) });
    let number = Cell::new(0);
    let service = service_fn(move |request| {
        let two_lengths = number.replace(number.get() + 1) >= first_unclear.load(Ordering::Relaxed);
        let answer = Rc::clone(&handler).handle(request, Peer { address, two_lengths });
        let patience = Rc::clone(&patience);
        async move {
            let answer = answer.await;
            patience.fit(&answer);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    run_connection(pin!(connection), &handle, &context).await;
}

async fn run_connection<C>(mut connection: Pin<&mut C>, socket: &SocketHandle, context: &ThreadContext)
where
    C: Future<Output = Result<(), hyper::Error>> + GracefulShutdown,
{
    let mut reset = pin!(socket.reset());
    tokio::select! {
        biased;
        result = connection.as_mut() => return log_end(result),
        () = reset.as_mut() => return,
        () = context.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        result = connection.as_mut() => log_end(result),
        () = reset.as_mut() => {}
        () = context.stop.cancelled() => {}
    }
}

/// Bounds how long a client may leave an answer unread.
struct Patience {
    socket: SocketHandle,
    limit: Option<Duration>,
    set: Cell<bool>,
}

impl Patience {
    /// Asks the kernel only where one answer differs from the one before it.
    fn fit(&self, answer: &Response<ResponseBody>) {
        let lasting = answer.status() == StatusCode::SWITCHING_PROTOCOLS || hygiene::is_event_stream(answer.headers());
        let wanted = self.limit.filter(|_| !lasting);
        if self.set.replace(wanted.is_some()) != wanted.is_some() {
            self.socket.give_up_after(wanted);
        }
    }
}

fn log_end(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended with an error");
    }
}

/// The one thing about hyper's connection that [`run_connection`] needs, without its type parameters.
trait GracefulShutdown {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, B, S> GracefulShutdown for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http1::UpgradeableConnection::graceful_shutdown(self);
    }
}

/// A plain answer made here, which ends the connection: for requests after which nothing on it can be trusted.
pub fn refuse(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(format!("{text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

struct TappedSocket {
    socket: Socket,
    tap: HeadTap,
    first_unclear: Arc<AtomicU64>,
    /// Goes with the connection into a tunnel.
    _counted: Counted,
}

impl AsyncRead for TappedSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        if let Some(number) = self.tap.feed(&buf.filled()[before..]) {
            self.first_unclear.fetch_min(number, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for TappedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

//! Accept loops: one current-thread runtime per listener, a task per connection, and a drain with a deadline.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cellway_machine::{Bound, TcpListener};
use futures_util::future::join_all;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::body::ResponseBody;
use crate::boxed::pinned;
use crate::clock::InTurns;
pub use crate::connection::http1::{NoRequest, ReadRequest, read_request};
use crate::connection::{Accepted, drive};
use crate::http2::{Hold, HoldSlot, Room};
use crate::hygiene::BadRequest;
use crate::incoming::IncomingBody;
use crate::listeners::{BACKLOG, Given, Listeners};
use crate::nursery::Nursery;
use crate::pool::Lasting;
use crate::proxy_protocol::ProxyProtocol;
use crate::tls::{PeerTls, ServerTls};

/// How long a client may take for a head, and be idle before one.
pub const HEAD_TIMEOUT_MS: u64 = 30_000;
/// How long a client may take for what comes before its first request: the TLS handshake, HTTP/2's preface, or the first
/// byte in clear.
pub const OPENING_MS: u64 = 15_000;
/// How long an HTTP/2 connection may be without a request.
pub const IDLE_MS: u64 = 60_000;
/// How long a connection takes new requests. One that lives for ever never sees another router.
pub const AGE_MS: u64 = 3_600_000;
/// How long connections and tunnels may go on after the shutdown began.
pub const DRAIN_MS: u64 = 10_000;
/// The longest head of a request.
pub const HEAD_MAX_BYTES: usize = 32 * 1024;
/// Connections per thread; further ones are closed at once.
pub const CONNECTIONS_PER_THREAD_MAX: usize = 20_000;
/// Connections that are accepted in a row before those that are open have a turn: a crowd that comes at once waits in the
/// kernel's queue instead of making everybody wait.
const ACCEPTED_IN_A_ROW: u64 = 16;
/// How long to wait when accepting fails, mostly for want of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 50;
/// The longest time over which the tunnels of a thread are told to end when it shuts down.
const PARTING_SPREAD_MAX_MS: u64 = 5_000;
/// How long tasks may take to notice that they were stopped.
const STOP_MS: u64 = 500;

/// The bounds of [`serve()`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How long a client may take for a head, and be idle before one.
    pub head_timeout_ms: u64,
    /// How long a client may take for what comes before its first request.
    pub opening_ms: u64,
    /// How long an HTTP/2 connection may be without a request.
    pub idle_ms: u64,
    /// How long a connection takes new requests.
    pub age_ms: u64,
    /// How long connections and tunnels may go on after the shutdown began.
    pub drain_ms: u64,
    /// Connections of clients per thread, and beside them those to peers with WebSockets and event streams.
    pub connections_per_thread: usize,
    /// Connections per client address, over all threads.
    pub connections_per_address: usize,
    /// How long a client may take nothing of an answer that waits for it. Tunnels and event streams have no limit.
    pub unread_ms: Option<u64>,
    /// Answers what may cross the end of a kept HTTP/1.1 connection that is ended here: a whole answer, which says that the
    /// request was not taken. Only for clients that expect it.
    pub farewell: &'static [u8],
    /// Demands the PROXY protocol of load balancers in front.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How TLS is spoken; in clear without it.
    pub tls: Option<ServerTls>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            head_timeout_ms: HEAD_TIMEOUT_MS,
            opening_ms: OPENING_MS,
            idle_ms: IDLE_MS,
            age_ms: AGE_MS,
            drain_ms: DRAIN_MS,
            connections_per_thread: CONNECTIONS_PER_THREAD_MAX,
            connections_per_address: usize::MAX,
            unread_ms: None,
            farewell: &[],
            proxy_protocol: None,
            tls: None,
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
    /// Fires when the shutdown has begun, and no thread listens any more.
    pub shutdown: CancellationToken,
    /// Fires when the time to drain is over: what listens ends now.
    pub stop: CancellationToken,
    /// Fires when another process accepts in the place of this one: what can be told so without a loss is.
    pub(crate) given: Arc<Given>,
    /// Whose connections are new.
    pub(crate) nursery: Rc<Nursery>,
    /// Connections to peers with WebSockets and event streams.
    pub(crate) lasting: Lasting,
    /// The time to drain.
    drain_ms: u64,
}

impl ThreadContext {
    /// Waits until it is time for one tunnel to end for the shutdown. Each has its own moment in the first half of the
    /// time to drain, so that not all of their clients come back at once.
    pub async fn parting(&self) {
        self.shutdown.cancelled().await;
        let spread_ms = (self.drain_ms / 2).min(PARTING_SPREAD_MAX_MS);
        sleep(Duration::from_millis(rand::random_range(0..=spread_ms))).await;
    }
}

/// Which HTTP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Its name in a TLS handshake (ALPN).
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Who sent a request.
#[derive(Clone)]
pub struct Peer {
    /// The other end of the connection, or whom the load balancer there speaks for.
    pub address: SocketAddr,
    /// What the connection speaks.
    pub protocol: Protocol,
    /// What the TLS handshake told; `None` in clear.
    pub tls: Option<Rc<PeerTls>>,
    /// What is wrong with the request's bytes, which hyper hides: for [`crate::hygiene::check_framing`].
    pub malformed: Option<BadRequest>,
    pub(crate) hold: Option<HoldSlot>,
    pub(crate) room: Option<Room>,
}

impl Peer {
    /// `https` or `http`.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// What the connection may keep in memory, where its requests share it: for [`crate::RequestBody::within`].
    pub fn room(&self) -> Option<Room> {
        self.room.clone()
    }

    /// Says that the request is held, its body unread, for as long as the result lives.
    pub fn hold(&self) -> Hold {
        self.hold.as_ref().map_or_else(Hold::alone, Hold::of)
    }
}

/// Stands in the extensions of an answer in place of it: the stream of the request is reset. HTTP/2 only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResetStream(pub(crate) h2::Reason);

/// In place of an answer, for a request whose [`Hold`] was refused: nobody saw it, and the client may send it again.
pub fn refuse_stream() -> Response<ResponseBody> {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "too much waits on this connection");
    response.extensions_mut().insert(ResetStream(h2::Reason::REFUSED_STREAM));
    response
}

/// Answers requests on one thread.
pub trait Handler: 'static {
    /// Answers one request, boxed as it is handed on. The future is dropped when the client resets its connection.
    fn handle(
        self: Rc<Self>,
        request: Box<Request<IncomingBody>>,
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
/// each thread. Dropping the future begins the shutdown. Listeners that are given away ([`crate::Copies::give_away`]) are
/// left; connections go on until the shutdown.
pub async fn serve<H: Handler>(
    listeners: Listeners,
    options: ServeOptions,
    shutdown: CancellationToken,
    make: impl Fn(ThreadContext) -> Rc<H> + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let address = listeners.local_addr();
    let shutdown = shutdown.child_token();
    let _shutdown_on_drop = shutdown.clone().drop_guard();
    let closed = CancellationToken::new();
    let given = listeners.given();
    let ending = Ending { shutdown, given, listening: Arc::new(closed.clone().drop_guard()), closed };
    let make = Arc::new(make);
    let addresses = Addresses::new(options.connections_per_address);
    let mut threads = Vec::new();
    for (thread, sockets) in listeners.into_threads().into_iter().enumerate() {
        let (done, ended) = oneshot::channel();
        let (make, ending, addresses) = (Arc::clone(&make), ending.clone(), Arc::clone(&addresses));
        let options = options.clone();
        if cellway_machine::is_replaced() {
            let served = async move { done.send(run(sockets, options, thread, ending, &addresses, &*make).await) };
            tokio::task::spawn_local(served);
            threads.push(ended);
            continue;
        }
        let spawned = std::thread::Builder::new().name(format!("serve-{thread}")).spawn(move || {
            let result = run_thread(sockets, options, thread, ending, &addresses, &*make);
            let _ = done.send(result);
        });
        spawned.map_err(|source| ServeError::Start { address, source })?;
        threads.push(ended);
    }
    drop(ending);
    for ended in threads {
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(ServeError::Start { address, source }),
            Err(_) => return Err(ServeError::Died { address }),
        }
    }
    Ok(())
}

/// How threads end: all listeners first. Who was told that its connection ends, and comes again, then finds none.
#[derive(Clone)]
struct Ending {
    /// Fires when the shutdown begins.
    shutdown: CancellationToken,
    /// Fires when another process accepts from the same sockets.
    given: Arc<Given>,
    /// Fires when nobody listens any more.
    closed: CancellationToken,
    /// Held by each thread that listens.
    listening: Arc<DropGuard>,
}

fn run_thread<H: Handler>(
    sockets: Vec<Bound>,
    options: ServeOptions,
    thread: usize,
    ending: Ending,
    addresses: &Arc<Addresses>,
    make: &impl Fn(ThreadContext) -> Rc<H>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(run(sockets, options, thread, ending, addresses, make))
}

/// What a thread does. It spawns tasks that stay on it.
async fn run<H: Handler>(
    sockets: Vec<Bound>,
    options: ServeOptions,
    thread: usize,
    ending: Ending,
    addresses: &Arc<Addresses>,
    make: &impl Fn(ThreadContext) -> Rc<H>,
) -> io::Result<()> {
    let Ending { shutdown, given, closed, listening } = ending;
    let listeners = sockets.into_iter().map(Bound::start).collect::<io::Result<Vec<_>>>()?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let drain_ms = options.drain_ms;
    let context = ThreadContext {
        thread,
        tasks: tasks.clone(),
        nursery: Nursery::new(closed.clone()),
        lasting: Lasting::beside(tasks.clone(), options.connections_per_thread),
        shutdown: closed,
        stop: stop.clone(),
        given: Arc::clone(&given),
        drain_ms,
    };
    let handler = make(context.clone());
    let door = Door { options: Rc::new(options), context: Rc::new(context), addresses: Arc::clone(addresses), handler };
    tokio::select! {
        _ = join_all(listeners.iter().map(|listener| door.accept(listener))) => {}
        () = given.fired() => {}
        () = shutdown.cancelled() => {}
    }
    for listener in listeners {
        // Where another process accepts, closing resets nothing.
        if !given.lives_on() {
            door.close(listener);
        }
    }
    shutdown.cancelled().await;
    drop(listening);
    tasks.close();
    if timeout(Duration::from_millis(drain_ms), tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "the time to drain is over, closing what is left");
        stop.cancel();
        let _ = timeout(Duration::from_millis(STOP_MS), tasks.wait()).await;
    }
    Ok(())
}

/// What is behind a listener.
struct Door<H> {
    options: Rc<ServeOptions>,
    context: Rc<ThreadContext>,
    addresses: Arc<Addresses>,
    handler: Rc<H>,
}

impl<H: Handler> Door<H> {
    async fn accept(&self, listener: &TcpListener) {
        for number in 1_u64.. {
            if number % ACCEPTED_IN_A_ROW == 0 {
                tokio::task::yield_now().await;
            }
            match listener.accept_unwatched().await {
                Ok((accepted, address)) => self.serve(accepted, address),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    }

    /// Closes the listener, which would reset what the kernel has for it: those are accepted first.
    fn close(&self, listener: TcpListener) {
        listener.into_waiting(BACKLOG as usize).into_iter().for_each(|(tcp, address)| self.serve(tcp, address));
    }

    fn serve(&self, tcp: cellway_machine::Accepted, address: SocketAddr) {
        let Self { options, context, addresses, handler } = self;
        // The tunnels of connections that were upgraded count as connections, and what lasts has a file towards its peer.
        if context.lasting.leaves_no_file() {
            return tracing::debug!("too many connections, closing a new one");
        }
        let accepted = Accepted { tcp, address, addresses: Arc::clone(addresses) };
        let (handler, options, tasks) = (Rc::clone(handler), Rc::clone(options), &context.tasks);
        // Boxed, as it is large, and would be moved on its way into a task.
        tasks.spawn_local(InTurns(pinned(|| drive(accepted, handler, options, Rc::clone(context)))));
    }
}

/// A plain answer made here, which ends the connection: for requests after which nothing on it can be trusted.
pub fn refuse(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(format!("{text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    response
}

//! A pool of HTTP/1.1 connections to cells or apps, one pool per thread.
//!
//! A connection carries one request at a time and goes back to the pool only after the whole answer was read and
//! hyper says that both sides stand at the start of a message. Everything is bounded: connections per endpoint, how
//! long to wait for one, how long one may lie idle, how long connecting may take.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, timeout, timeout_at};

use crate::body::RequestBody;
use crate::socket::{Idleness, Socket, SocketHandle};

mod limits;
mod pooled_body;
mod share;

pub use limits::{
    ABANDONED_MS, CONNECT_MS, HUNG_UP_MS, IDLE_MS, IDLE_PER_ENDPOINT_MAX, OPEN_PER_ENDPOINT_MAX, PoolLimits,
    USED_PER_TENANT_MAX, WAIT_MS,
};
pub use pooled_body::{OnDrop, PooledBody, Silent};
use share::{Share, Shares};

/// How long an endpoint that could not be reached is tried last.
pub const SHUNNED_MS: u64 = 1_000;
/// How long a connection may take, after its answer was read, until it can be used again.
const SETTLE_MS: u64 = 1_000;
/// How often idle connections are looked at.
const SWEEP_MS: u64 = 5_000;
/// The longest head of an answer.
const RESPONSE_HEAD_MAX_BYTES: usize = 64 * 1024;
/// Bytes of an answer read ahead of who takes them.
const READ_AHEAD_MAX_BYTES: usize = 128 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No byte of the request was written: it can be sent elsewhere, whatever its method.
    #[error("the request was not sent")]
    NotSent {
        /// The request, its body untouched.
        request: Box<Request<RequestBody>>,
        /// What was in the way.
        #[source]
        cause: NotSent,
    },
    /// The request may have been received, and acted on.
    #[error("the connection failed after the request was sent")]
    Failed(#[source] hyper::Error),
}

/// What kept a request from being sent.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// The endpoint cannot be reached.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// All connections that are allowed, altogether or to one tenant, were in use for too long.
    #[error("all {0} connections that are allowed are in use")]
    Exhausted(usize),
    /// The connection closed before the request was written.
    #[error("the connection closed before the request was written")]
    Closed(#[source] hyper::Error),
}

/// The pool. Clones share it. It must be made and used inside a `LocalSet`.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    limits: PoolLimits,
    endpoints: RefCell<HashMap<SocketAddr, Rc<Endpoint>>>,
    chores: mpsc::UnboundedSender<Chore>,
}

struct Endpoint {
    address: SocketAddr,
    limits: PoolLimits,
    idle: RefCell<VecDeque<(Connection, Instant)>>,
    open: Cell<usize>,
    shares: Shares,
    freed: Notify,
    shunned_until: Cell<Option<Instant>>,
}

/// A connection of a pool. Dropped without being given back, it is closed.
struct Connection {
    sender: SendRequest<RequestBody>,
    socket: SocketHandle,
    driver: AbortHandle,
    chores: mpsc::UnboundedSender<Chore>,
    /// It has carried a request before, so the peer may be closing it for having been idle.
    reused: bool,
    /// Of who uses it now, if its use is counted.
    share: Option<Share>,
    _slot: Slot,
}

/// The right to have one connection open. It is the last field of its connection, so that who waits for it finds
/// the connection closed.
struct Slot(Rc<Endpoint>);

/// What outlives the request it comes from.
enum Chore {
    /// Wait until the connection can be used again.
    Settle(Connection),
    /// Read an answer that nobody takes any more to its end, or for this long.
    Drain(PooledBody, Duration),
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: PoolLimits) -> Self {
        let (chores, mut taken) = mpsc::unbounded_channel();
        let inner = Rc::new(Inner { limits, endpoints: RefCell::default(), chores });
        spawn_local(async move {
            while let Some(chore) = taken.recv().await {
                spawn_local(run_chore(chore));
            }
        });
        spawn_local(sweep(Rc::downgrade(&inner)));
        Self { inner }
    }

    /// Sends a request and waits for the head of the answer. The body that comes with it gives the connection back
    /// when it was read to its end. Dropping either before that closes the connection.
    pub async fn send(
        &self,
        endpoint: SocketAddr,
        request: Request<RequestBody>,
    ) -> Result<Response<PooledBody>, SendError> {
        self.send_for(None, endpoint, request).await
    }

    /// Like [`Pool::send`]. The connection counts as used by `tenant` until the exchange, or the tunnel that comes of
    /// it, has ended; a tenant that uses as many as it may waits as if all were in use.
    pub async fn send_for(
        &self,
        tenant: Option<&str>,
        endpoint: SocketAddr,
        mut request: Request<RequestBody>,
    ) -> Result<Response<PooledBody>, SendError> {
        *request.version_mut() = Version::HTTP_11;
        let endpoint = self.endpoint(endpoint);
        loop {
            let mut connection = match self.obtain(tenant, &endpoint).await {
                Ok(connection) => connection,
                Err(cause) => return Err(SendError::NotSent { request: Box::new(request), cause }),
            };
            let reused = connection.reused;
            request.body_mut().attach(connection.socket.clone());
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(PooledBody::of_response(response.map(Into::into), connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(unsent) => {
                        let cause = NotSent::Closed(error.into_error());
                        return Err(SendError::NotSent { request: Box::new(unsent), cause });
                    }
                    None => return Err(SendError::Failed(error.into_error())),
                },
            }
        }
    }

    /// Like [`Pool::send`], in a task of its own that runs until the peer has ended the request, whatever becomes
    /// of the caller. `ended` is called exactly once, when the answer was read to its end, the connection failed,
    /// or the request could not be sent. The body of the answer is drained when it is dropped ([`OnDrop::Drain`]);
    /// a body to be sent should break off with [`crate::OnBreak::HalfClose`]. Without a caller it goes on for
    /// [`PoolLimits::abandoned_ms`] at most.
    pub fn send_to_the_end<F: FnOnce() + 'static>(
        &self,
        endpoint: SocketAddr,
        request: Request<RequestBody>,
        ended: F,
    ) -> impl Future<Output = Result<Response<PooledBody>, SendError>> + use<F> {
        self.send_to_the_end_for(None, endpoint, request, ended)
    }

    /// [`Pool::send_to_the_end`] as [`Pool::send_for`].
    pub fn send_to_the_end_for<F: FnOnce() + 'static>(
        &self,
        tenant: Option<&str>,
        endpoint: SocketAddr,
        request: Request<RequestBody>,
        ended: F,
    ) -> impl Future<Output = Result<Response<PooledBody>, SendError>> + use<F> {
        let (mut answer, answered) = tokio::sync::oneshot::channel();
        let pool = self.clone();
        let tenant: Option<Box<str>> = tenant.map(Into::into);
        let ended = Ended::new(ended);
        let abandoned = Duration::from_millis(self.inner.limits.abandoned_ms);
        spawn_local(async move {
            let mut sending = pin!(pool.send_for(tenant.as_deref(), endpoint, request));
            let sent = tokio::select! {
                biased;
                sent = sending.as_mut() => Some(sent),
                () = answer.closed() => timeout(abandoned, sending).await.ok(),
            };
            let Some(sent) = sent else { return };
            let result = sent.map(|response| {
                response.map(|mut body| {
                    body.on_end(ended);
                    body.on_drop(OnDrop::Drain);
                    body
                })
            });
            // If nobody waits any more, the body is dropped here and so drained.
            let _ = answer.send(result);
        });
        async move {
            match answered.await {
                Ok(result) => result,
                // The task ends without an answer only with its runtime.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Whether the endpoint could not be reached a moment ago: better tried after others.
    pub fn is_shunned(&self, endpoint: SocketAddr) -> bool {
        let endpoints = self.inner.endpoints.borrow();
        endpoints
            .get(&endpoint)
            .and_then(|endpoint| endpoint.shunned_until.get())
            .is_some_and(|until| Instant::now() < until)
    }

    /// Connections that are open to `endpoint` from this pool, idle ones included.
    pub fn open_connections(&self, endpoint: SocketAddr) -> usize {
        self.inner.endpoints.borrow().get(&endpoint).map_or(0, |endpoint| endpoint.open.get())
    }

    fn endpoint(&self, address: SocketAddr) -> Rc<Endpoint> {
        let mut endpoints = self.inner.endpoints.borrow_mut();
        let new = || Rc::new(Endpoint::new(address, self.inner.limits));
        Rc::clone(endpoints.entry(address).or_insert_with(new))
    }

    /// A connection to use: an idle one, or a new one.
    async fn obtain(&self, tenant: Option<&str>, endpoint: &Rc<Endpoint>) -> Result<Connection, NotSent> {
        let limits = self.inner.limits;
        let deadline = Instant::now() + Duration::from_millis(limits.wait_ms);
        let share = match tenant {
            Some(tenant) => {
                let share = endpoint.shares.take(tenant, deadline).await;
                Some(share.ok_or(NotSent::Exhausted(limits.used_per_tenant))?)
            }
            None => None,
        };
        let mut connection = match endpoint.take_idle() {
            Some(connection) => connection,
            None => self.connect(endpoint, deadline).await?,
        };
        connection.share = share;
        Ok(connection)
    }

    async fn connect(&self, endpoint: &Rc<Endpoint>, deadline: Instant) -> Result<Connection, NotSent> {
        let limits = self.inner.limits;
        let slot = loop {
            if let Some(slot) = Slot::take(endpoint) {
                break slot;
            }
            if timeout_at(deadline, endpoint.freed.notified()).await.is_err() {
                return Err(NotSent::Exhausted(limits.open_per_endpoint));
            }
            if let Some(connection) = endpoint.take_idle() {
                return Ok(connection);
            }
        };
        let connect = TcpStream::connect(endpoint.address);
        let connected = timeout(Duration::from_millis(limits.connect_ms), connect).await;
        let tcp = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(tcp) => tcp,
            Err(error) => {
                endpoint.shunned_until.set(Some(Instant::now() + Duration::from_millis(SHUNNED_MS)));
                return Err(NotSent::Connect(error));
            }
        };
        endpoint.shunned_until.set(None);
        self.handshake(tcp, slot).await
    }

    async fn handshake(&self, tcp: TcpStream, slot: Slot) -> Result<Connection, NotSent> {
        tcp.set_nodelay(true).map_err(NotSent::Connect)?;
        let (socket, handle) = Socket::new(tcp);
        let mut builder = http1::Builder::new();
        builder.max_header_size(RESPONSE_HEAD_MAX_BYTES).max_buf_size(READ_AHEAD_MAX_BYTES);
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.map_err(NotSent::Closed)?;
        let driver = spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a cell ended with an error");
            }
        });
        let chores = self.inner.chores.clone();
        let driver = driver.abort_handle();
        Ok(Connection { sender, socket: handle, driver, chores, reused: false, share: None, _slot: slot })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Idle connections hold their endpoint, which holds them.
        for endpoint in self.endpoints.borrow().values() {
            let idle = std::mem::take(&mut *endpoint.idle.borrow_mut());
            drop(idle);
        }
    }
}

/// Calls back when a request has ended, at the latest when it is dropped.
struct Ended(Option<Box<dyn FnOnce()>>);

impl Ended {
    fn new(call: impl FnOnce() + 'static) -> Self {
        Self(Some(Box::new(call)))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

impl Endpoint {
    fn new(address: SocketAddr, limits: PoolLimits) -> Self {
        Self {
            address,
            limits,
            idle: RefCell::default(),
            open: Cell::new(0),
            shares: Shares::new(limits.used_per_tenant),
            freed: Notify::new(),
            shunned_until: Cell::new(None),
        }
    }

    /// The connection used last, so that those that are not needed grow old.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let (connection, since) = self.idle.borrow_mut().pop_back()?;
            let old = since.elapsed() >= Duration::from_millis(self.limits.idle_ms);
            let usable = !old && connection.sender.is_ready() && connection.socket.idleness() == Idleness::Quiet;
            if usable {
                return Some(connection);
            }
        }
    }

    fn drop_old(&self) {
        let limit = Duration::from_millis(self.limits.idle_ms);
        let young = |since: &Instant| since.elapsed() < limit;
        let mut old = Vec::new();
        {
            let mut idle = self.idle.borrow_mut();
            while idle.front().is_some_and(|(connection, since)| !young(since) || connection.sender.is_closed()) {
                old.extend(idle.pop_front());
            }
        }
        // Closing calls back into the endpoint, so it must not be borrowed.
        drop(old);
    }
}

impl Connection {
    fn limits(&self) -> &PoolLimits {
        &self._slot.0.limits
    }

    /// The answer was read to its end.
    fn give_back(self) {
        if self.sender.is_ready() {
            self.settle();
        } else if !self.sender.is_closed() {
            let chores = self.chores.clone();
            let _ = chores.send(Chore::Settle(self));
        }
    }

    fn settle(mut self) {
        self.reused = true;
        self.share = None;
        let endpoint = Rc::clone(&self._slot.0);
        let excess = {
            let mut idle = endpoint.idle.borrow_mut();
            idle.push_back((self, Instant::now()));
            if idle.len() > endpoint.limits.idle_per_endpoint { idle.pop_front() } else { None }
        };
        drop(excess);
        endpoint.freed.notify_one();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // After an upgrade the driver has ended and the connection belongs to the tunnel: this does nothing then.
        self.driver.abort();
    }
}

impl Slot {
    fn take(endpoint: &Rc<Endpoint>) -> Option<Self> {
        let open = endpoint.open.get();
        (open < endpoint.limits.open_per_endpoint).then(|| {
            endpoint.open.set(open + 1);
            Self(Rc::clone(endpoint))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.freed.notify_one();
    }
}

async fn run_chore(chore: Chore) {
    match chore {
        Chore::Settle(mut connection) => {
            if let Ok(Ok(())) = timeout(Duration::from_millis(SETTLE_MS), connection.sender.ready()).await {
                connection.settle();
            }
        }
        Chore::Drain(body, limit) => {
            if timeout(limit, body.drain()).await.is_err() {
                tracing::warn!("a peer has not ended an answer that nobody takes, closing its connection");
            }
        }
    }
}

async fn sweep(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(Duration::from_millis(SWEEP_MS)).await;
        let Some(pool) = pool.upgrade() else { return };
        let endpoints: Vec<Rc<Endpoint>> = pool.endpoints.borrow().values().cloned().collect();
        for endpoint in &endpoints {
            endpoint.drop_old();
            endpoint.shares.forget_absent();
        }
        drop(endpoints);
        pool.endpoints.borrow_mut().retain(|_, endpoint| endpoint.open.get() > 0 || Rc::strong_count(endpoint) > 1);
    }
}

fn switches(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

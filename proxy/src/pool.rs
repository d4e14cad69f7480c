//! A pool of connections to cells or apps, one pool per thread.
//!
//! HTTP/2 connections are shared (`pool/http2.rs`). An HTTP/1.1 connection carries one request at a time and goes back to
//! the pool only after the whole answer was read, when both sides stand at the start of a message (`pool/http1`).
//! Everything is bounded: connections per endpoint, how long to wait for one, how many lie idle and how long, how long
//! connecting may take.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::body::RequestBody;
use crate::boxed::pinned;
use crate::clock;
use crate::hashes::Hashes;
use crate::http2::Room;
use crate::hygiene;
use crate::io::Io;
use crate::serve::{Protocol, ThreadContext};
use crate::socket::SocketHandle;

mod breaker;
mod chores;
mod connection;
mod destination;
mod dial;
mod freed;
mod head;
mod http1;
mod http2;
mod idle;
mod lasting;
mod limits;
mod places;
mod pooled_body;
mod send_error;
mod share;
mod to_the_end;

use breaker::Breaker;
pub use breaker::{FAILED_IN_A_ROW, SHUNNED_MAX_MS, SHUNNED_MS};
use chores::{Chore, Chores, run_chore, sweep};
use connection::{Connection, Slot};
pub use destination::Destination;
use freed::Freed;
pub use head::Head;
pub use http1::{Broken, Malformed, ReadAnswer, read_answer};
use http1::{Unanswered, Wire};
use http2::{NARROW_WINDOW_BYTES, SharedConnections, Ticket, WIDE_WINDOW_BYTES};
pub use http2::{SHARED_PER_ENDPOINT_MAX, STREAMS_PER_CONNECTION_MAX};
use idle::Idle;
pub(crate) use lasting::Lasting;
pub use limits::{
    ABANDONED_MS, CONNECT_MS, HUNG_UP_MS, IDLE_MS, IDLE_PER_ENDPOINT_MAX, IDLE_PER_PROCESS_MAX, LASTING_PER_POOL_MAX,
    OPEN_PER_ENDPOINT_MAX, PoolLimits, USED_PER_TENANT_MAX, WAIT_MS,
};
use places::Places;
use pooled_body::Carrier;
pub use pooled_body::{OnDrop, PooledBody, Silent, TooLong};
pub use send_error::{NotSent, SendError};
use share::{Share, Shares};
use to_the_end::{Ended, Exchange, ToTheEnd};

/// What is read at once of an answer of which nothing is known.
const FIRST_READ_BYTES: usize = 16 * 1024;

/// The pool. Clones share it. It must be made and used where tasks can be spawned that stay on their
/// thread: in a `LocalRuntime` or a `LocalSet`.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    limits: PoolLimits,
    tls: Option<Arc<rustls::ClientConfig>>,
    endpoints: RefCell<HashMap<Destination, Rc<Endpoint>, Hashes>>,
    idle: Places,
    lasting: Lasting,
    chores: Chores,
}

struct Endpoint {
    destination: Destination,
    limits: PoolLimits,
    shared: SharedConnections,
    /// For answers to clients that have many others under way: see [`Room::keep_window`].
    shared_narrow: SharedConnections,
    idle: Idle,
    open: Cell<usize>,
    shares: Shares,
    /// Where connections are counted that are not `open` for requests.
    lasting: Lasting,
    freed: Freed,
    breaker: RefCell<Breaker>,
    in_use: Cell<usize>,
}

impl Pool {
    /// An empty pool, which speaks in clear.
    pub fn new(limits: PoolLimits) -> Self {
        Self::with(limits, None, Lasting::beside(TaskTracker::new(), usize::MAX))
    }

    /// An empty pool for what a thread serves, which reaches destinations with a server name by `tls`.
    pub fn of_thread(thread: &ThreadContext, limits: PoolLimits, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self::with(limits, tls, thread.lasting.clone())
    }

    fn with(limits: PoolLimits, tls: Option<Arc<rustls::ClientConfig>>, lasting: Lasting) -> Self {
        let (chores, mut taken) = mpsc::unbounded_channel();
        let inner =
            Rc::new(Inner { limits, tls, endpoints: RefCell::default(), idle: Places::default(), lasting, chores });
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
        endpoint: impl Into<Destination>,
        request: Request<RequestBody>,
    ) -> Result<Response<PooledBody>, SendError> {
        let (head, body) = request.into_parts();
        self.send_for(None, endpoint, Head::of(&head), Box::new(body), Instant::now()).await.map(|answer| *answer)
    }

    /// Like [`Pool::send`]. The connection counts as used by `tenant` until the exchange has ended, or has left the
    /// requests ([`PooledBody::leave_requests`]); a tenant that uses as many as it may waits as if all were in use. What
    /// says that it would last, and may not, is not sent. The answer is boxed, as it lies in the futures of all who wait for it.
    pub async fn send_for(
        &self,
        tenant: Option<&str>,
        endpoint: impl Into<Destination>,
        head: Head<'_>,
        body: Box<RequestBody>,
        now: Instant,
    ) -> Result<Box<Response<PooledBody>>, SendError> {
        let endpoint = self.endpoint(endpoint.into());
        let deadline = now + Duration::from_millis(self.inner.limits.wait_ms);
        if self.has_no_room_to_last(tenant, &endpoint.destination, &head) {
            return Err(SendError::NotSent { body, cause: NotSent::Exhausted(self.inner.limits.lasting_per_pool) });
        }
        let share = match tenant {
            Some(tenant) => {
                let max = endpoint.share_max();
                let Some(share) = endpoint.shares.take(tenant, max, deadline).await else {
                    let cause = NotSent::Exhausted(max);
                    return Err(SendError::NotSent { body, cause });
                };
                Some(share)
            }
            None => None,
        };
        let _in_use = InUse::new(&endpoint);
        let sent = match endpoint.destination.protocol {
            Protocol::Http1 => self.send_alone(&endpoint, share, now, head, body).await,
            Protocol::Http2 => pinned(|| self.send_shared(&endpoint, share, deadline, head, body)).await,
        };
        match &sent {
            Ok(_) => endpoint.breaker.borrow_mut().answered(),
            Err(error) if error.is_of_request_body() => {}
            Err(SendError::Failed(_)) => endpoint.breaker.borrow_mut().failed(Instant::now()),
            Err(SendError::NotSent { .. } | SendError::Lost(_)) => {}
        }
        sent
    }

    /// Whether the request asks for what would last, as far as it says so, and there is no place for that.
    fn has_no_room_to_last(&self, tenant: Option<&str>, destination: &Destination, head: &Head<'_>) -> bool {
        let (lasting, max) = (&self.inner.lasting, self.inner.limits.lasting_per_pool);
        lasting.is_crowded(max)
            && destination.protocol == Protocol::Http1
            && hygiene::asks_to_last(head.headers)
            && !lasting.has_room(tenant, max)
    }

    async fn send_alone(
        &self,
        endpoint: &Rc<Endpoint>,
        mut share: Option<Share>,
        now: Instant,
        head: Head<'_>,
        mut body: Box<RequestBody>,
    ) -> Result<Box<Response<PooledBody>>, SendError> {
        loop {
            let mut connection = match self.obtain(endpoint, now).await {
                Ok(connection) => connection,
                Err(cause) => return Err(SendError::NotSent { body, cause }),
            };
            let (reused, room) = (connection.reused, body.room());
            body.attach(&connection.socket);
            let read_bytes = room.as_ref().map_or(FIRST_READ_BYTES, Room::first_read_bytes);
            match connection.wire.send(head, body, read_bytes).await {
                Ok(answer) => {
                    connection.share = share.take();
                    return Ok(PooledBody::of_answer(answer, Carrier::Http1(connection), room));
                }
                Err(Unanswered::NotSent(unsent, _)) if reused => body = unsent,
                Err(Unanswered::NotSent(body, error)) => {
                    return Err(SendError::NotSent { body, cause: NotSent::Closed(error.into()) });
                }
                Err(Unanswered::Lost(error)) if reused => return Err(SendError::Lost(error.into())),
                Err(Unanswered::Lost(error) | Unanswered::Failed(error)) => {
                    return Err(SendError::Failed(error.into()));
                }
            }
        }
    }

    async fn send_shared(
        &self,
        endpoint: &Rc<Endpoint>,
        share: Option<Share>,
        deadline: Instant,
        head: Head<'_>,
        mut body: Box<RequestBody>,
    ) -> Result<Box<Response<PooledBody>>, SendError> {
        let room = body.room();
        let window = room.as_ref().map(|room| room.keep_window(WIDE_WINDOW_BYTES as usize));
        let crowded = window.as_ref().is_some_and(Option::is_none);
        let connections = if crowded { &endpoint.shared_narrow } else { &endpoint.shared };
        let window = window.flatten();
        loop {
            let (ticket, reused) = match self.board(endpoint, connections, deadline).await {
                Ok(boarded) => boarded,
                Err(cause) => return Err(SendError::NotSent { body, cause }),
            };
            match http2::send(&ticket, &endpoint.destination, head, body).await {
                Ok((head, answer)) => {
                    let (limits, chores) = (self.inner.limits, self.inner.chores.clone());
                    let carrier =
                        Carrier::Http2 { answer, _ticket: ticket, _share: share, _window: window, limits, chores };
                    return Ok(PooledBody::of_answer(head, carrier, room));
                }
                Err(Ok((unsent, _))) if reused => body = unsent,
                Err(Ok((body, error))) => {
                    return Err(SendError::NotSent { body, cause: NotSent::Closed(error.into()) });
                }
                Err(Err(failed)) => return Err(failed),
            }
        }
    }

    /// Like [`Pool::send`], but it runs until the peer has ended the request, whatever becomes of the caller: dropped before
    /// the answer has come, even before it was polled, it goes on in a task of its own. `ended` is called exactly once, when the answer was read to
    /// its end, the connection failed, or the request could not be sent. The body of the answer is drained when it is
    /// dropped ([`OnDrop::Drain`]); a body to be sent should break off with [`crate::OnBreak::HalfClose`]. Without a
    /// caller it goes on for [`PoolLimits::abandoned_ms`] at most.
    pub fn send_to_the_end<F: FnOnce() + 'static, D: Into<Destination>>(
        &self,
        endpoint: D,
        request: Request<RequestBody>,
        ended: F,
    ) -> impl Future<Output = Result<Box<Response<PooledBody>>, SendError>> + use<F, D> {
        let (head, body) = request.into_parts();
        self.send_to_the_end_for(None, endpoint, Box::new(head), Box::new(body), ended)
    }

    /// [`Pool::send_to_the_end`] as [`Pool::send_for`], of a request whose parts are where they stay.
    pub fn send_to_the_end_for<F: FnOnce() + 'static, D: Into<Destination>>(
        &self,
        tenant: Option<&str>,
        endpoint: D,
        head: Box<Parts>,
        body: Box<RequestBody>,
        ended: F,
    ) -> impl Future<Output = Result<Box<Response<PooledBody>>, SendError>> + use<F, D> {
        let (pool, endpoint) = (self.clone(), endpoint.into());
        let tenant: Option<Box<str>> = tenant.map(Into::into);
        let ended = Ended::new(ended);
        let exchange = pinned(|| async move {
            let sent = pool.send_for(tenant.as_deref(), endpoint, Head::of(&head), body, clock::now()).await;
            sent.map(|mut response| {
                response.body_mut().on_end(ended);
                response.body_mut().on_drop(OnDrop::Drain);
                response
            })
        });
        let limit = Duration::from_millis(self.inner.limits.abandoned_ms);
        ToTheEnd::new(exchange, limit, self.inner.chores.clone())
    }

    /// Whether the endpoint has failed a moment ago: better tried after others.
    pub fn is_shunned(&self, endpoint: &Destination) -> bool {
        let endpoints = self.inner.endpoints.borrow();
        endpoints.get(endpoint).is_some_and(|endpoint| endpoint.breaker.borrow().is_open(Instant::now()))
    }

    /// Requests that wait for an endpoint's answer.
    pub fn in_use(&self, endpoint: &Destination) -> usize {
        self.inner.endpoints.borrow().get(endpoint).map_or(0, |endpoint| endpoint.in_use.get())
    }

    /// The endpoint fell silent within an exchange, as its caller found.
    pub fn fell_silent(&self, endpoint: &Destination) {
        if let Some(endpoint) = self.inner.endpoints.borrow().get(endpoint) {
            endpoint.breaker.borrow_mut().failed(Instant::now());
        }
    }

    /// Connections for requests that are open to `endpoint` from this pool, idle ones included.
    pub fn open_connections(&self, endpoint: impl Into<Destination>) -> usize {
        let endpoint = endpoint.into();
        self.inner
            .endpoints
            .borrow()
            .get(&endpoint)
            .map_or(0, |endpoint| endpoint.open.get() + endpoint.shared.len() + endpoint.shared_narrow.len())
    }

    fn endpoint(&self, destination: Destination) -> Rc<Endpoint> {
        let mut endpoints = self.inner.endpoints.borrow_mut();
        if let Some(endpoint) = endpoints.get(&destination) {
            return Rc::clone(endpoint);
        }
        let endpoint =
            Rc::new(Endpoint::new(destination.clone(), self.inner.limits, &self.inner.idle, &self.inner.lasting));
        endpoints.insert(destination, Rc::clone(&endpoint));
        endpoint
    }

    /// A connection to use: an idle one, or a new one.
    async fn obtain(&self, endpoint: &Rc<Endpoint>, now: Instant) -> Result<Connection, NotSent> {
        match endpoint.idle.take(now) {
            Some(connection) => Ok(connection),
            // Boxed, as it is seldom, and large in the futures of all who send.
            None => Box::pin(self.connect(endpoint, now + Duration::from_millis(self.inner.limits.wait_ms))).await,
        }
    }

    async fn connect(&self, endpoint: &Rc<Endpoint>, deadline: Instant) -> Result<Connection, NotSent> {
        let slot = loop {
            if let Some(slot) = Slot::take(endpoint) {
                break slot;
            }
            if timeout_at(deadline, endpoint.freed.wait()).await.is_err() {
                return Err(NotSent::Exhausted(self.inner.limits.open_per_endpoint));
            }
            if let Some(connection) = endpoint.idle.take(Instant::now()) {
                return Ok(connection);
            }
        };
        let (io, socket) = self.dial(endpoint).await?;
        let chores = self.inner.chores.clone();
        Ok(Connection { wire: Wire::new(io), socket, chores, reused: false, share: None, slot })
    }

    /// A place on a shared connection, and whether the connection was there before.
    async fn board(
        &self,
        endpoint: &Endpoint,
        connections: &SharedConnections,
        deadline: Instant,
    ) -> Result<(Ticket, bool), NotSent> {
        loop {
            if let Some(ticket) = connections.take() {
                return Ok((ticket, true));
            }
            if let Some(connecting) = connections.connect() {
                let (io, _) = self.dial(endpoint).await?;
                let ticket = connecting.begin(io).await;
                return Ok((ticket.map_err(|error| NotSent::Closed(error.into()))?, false));
            }
            if timeout_at(deadline, connections.freed.wait()).await.is_err() {
                return Err(NotSent::Exhausted(SHARED_PER_ENDPOINT_MAX * STREAMS_PER_CONNECTION_MAX));
            }
        }
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<(Io, SocketHandle), NotSent> {
        let limit = Duration::from_millis(self.inner.limits.connect_ms);
        // Boxed: it is large, rare, and would lie in the future of every request.
        let dial = || Box::pin(dial::dial(&endpoint.destination, self.inner.tls.as_ref(), limit));
        let mut dialled = dial().await.map_err(NotSent::from);
        if matches!(dialled, Err(NotSent::Starved(_))) && self.shed_idle() > 0 {
            dialled = dial().await.map_err(NotSent::from);
        }
        if matches!(dialled, Err(NotSent::Connect(_))) {
            endpoint.breaker.borrow_mut().unreachable(Instant::now());
        }
        dialled
    }

    /// Closes what lies idle, to whichever endpoint, and says how many that were.
    fn shed_idle(&self) -> usize {
        let endpoints: Vec<Rc<Endpoint>> = self.inner.endpoints.borrow().values().cloned().collect();
        endpoints.iter().map(|endpoint| endpoint.idle.clear()).sum()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Idle connections hold their endpoint, which holds them.
        for endpoint in self.endpoints.borrow().values() {
            endpoint.idle.clear();
        }
    }
}

/// Counts as a request under way for as long as it lives.
struct InUse<'a>(&'a Endpoint);

impl<'a> InUse<'a> {
    fn new(endpoint: &'a Endpoint) -> Self {
        endpoint.in_use.set(endpoint.in_use.get() + 1);
        Self(endpoint)
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.in_use.set(self.0.in_use.get() - 1);
    }
}

impl Endpoint {
    fn new(destination: Destination, limits: PoolLimits, idle: &Places, lasting: &Lasting) -> Self {
        Self {
            destination,
            limits,
            idle: Idle::within(idle.clone()),
            shared: SharedConnections::new(WIDE_WINDOW_BYTES),
            shared_narrow: SharedConnections::new(NARROW_WINDOW_BYTES),
            open: Cell::new(0),
            shares: lasting.shares_of_requests(),
            lasting: lasting.clone(),
            freed: Freed::default(),
            breaker: RefCell::default(),
            in_use: Cell::new(0),
        }
    }

    /// Whether there may be one more connection for requests: it is counted then.
    fn open_one(&self) -> bool {
        let has_room = self.open.get() < self.limits.open_per_endpoint;
        if has_room {
            self.open.set(self.open.get() + 1);
        }
        has_room
    }

    fn open_one_less(&self) {
        self.open.set(self.open.get() - 1);
        self.freed.tell_one();
    }

    /// What one tenant may use: of few places no more than half, so that it cannot keep all others waiting.
    fn share_max(&self) -> usize {
        match self.destination.protocol {
            Protocol::Http1 => self.limits.used_per_tenant,
            Protocol::Http2 => self.limits.used_per_tenant.min(self.shared.places() / 2).max(1),
        }
    }

    fn drop_old(&self) {
        let limit = Duration::from_millis(self.limits.idle_ms);
        if let Some(before) = Instant::now().checked_sub(limit) {
            self.shared.drop_idle(before);
            self.shared_narrow.drop_idle(before);
        }
        self.idle.drop_old();
    }
}

fn switches(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

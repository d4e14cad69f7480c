//! HTTP/2 connections to one destination: a few, each shared by many requests.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version, header, uri};
use http_body::Body;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use super::{Destination, SendError};
use crate::body::RequestBody;
use crate::http2::{Bounds, Received, Sender, send_body};
use crate::hygiene;
use crate::io::Io;

/// Requests at a time on one connection.
pub const STREAMS_PER_CONNECTION_MAX: usize = 64;
/// Connections per destination and thread: a fault on one cuts no more than its share of the requests.
pub const SHARED_PER_ENDPOINT_MAX: usize = 4;
/// What the peer may send on a stream before it is read: a client that stalls all of its answers pins no more of each.
const STREAM_WINDOW_BYTES: u32 = 16 * 1024;
/// What the peer may send on a connection before it is read: every stream's window, so that an answer that nobody takes
/// keeps no other one waiting.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * 64;
/// The longest head of an answer.
const HEAD_MAX_BYTES: u32 = 64 * 1024;

/// The connections of one destination.
#[derive(Default)]
pub(super) struct SharedConnections {
    open: RefCell<Vec<Rc<SharedConnection>>>,
    connecting: Cell<usize>,
}

pub(super) struct SharedConnection {
    sender: SendRequest<Bytes>,
    streams: Cell<usize>,
    closed: Rc<Cell<bool>>,
    idle_since: Cell<Instant>,
    driver: AbortHandle,
}

/// One request's place on a connection.
pub(super) struct Ticket {
    connection: Rc<SharedConnection>,
    freed: Rc<Notify>,
}

impl SharedConnections {
    /// A place on the connection with the most room.
    pub(super) fn take(&self, freed: &Rc<Notify>) -> Option<Ticket> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| !connection.closed.get());
        let emptiest = open.iter().min_by_key(|connection| connection.streams.get())?;
        let room = emptiest.sender.current_max_send_streams().min(STREAMS_PER_CONNECTION_MAX);
        (emptiest.streams.get() < room).then(|| Ticket::new(emptiest, freed))
    }

    /// Whether one more connection may be opened; counts it until [`SharedConnections::add`] or
    /// [`SharedConnections::give_up`].
    pub(super) fn may_connect(&self) -> bool {
        let allowed = self.open.borrow().len() + self.connecting.get() < SHARED_PER_ENDPOINT_MAX;
        self.connecting.set(self.connecting.get() + usize::from(allowed));
        allowed
    }

    pub(super) fn give_up(&self) {
        self.connecting.set(self.connecting.get() - 1);
    }

    pub(super) fn add(&self, connection: Rc<SharedConnection>, freed: &Rc<Notify>) -> Ticket {
        self.give_up();
        let ticket = Ticket::new(&connection, freed);
        self.open.borrow_mut().push(connection);
        ticket
    }

    pub(super) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Closes connections that have carried nothing since `before`.
    pub(super) fn drop_idle(&self, before: Instant) {
        let used = |connection: &Rc<SharedConnection>| {
            !connection.closed.get() && (connection.streams.get() > 0 || connection.idle_since.get() > before)
        };
        self.open.borrow_mut().retain(used);
    }
}

impl Ticket {
    fn new(connection: &Rc<SharedConnection>, freed: &Rc<Notify>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self { connection: Rc::clone(connection), freed: Rc::clone(freed) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
        self.connection.idle_since.set(Instant::now());
        self.freed.notify_one();
    }
}

impl Drop for SharedConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Begins HTTP/2 on a connection.
pub(super) async fn begin(io: Io, freed: Rc<Notify>) -> Result<Rc<SharedConnection>, h2::Error> {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEAD_MAX_BYTES)
        .enable_push(false);
    let (sender, connection) = builder.handshake(io).await?;
    let closed = Rc::new(Cell::new(false));
    let closing = Rc::clone(&closed);
    let driver = spawn_local(async move {
        let ended = connection.await;
        closing.set(true);
        freed.notify_waiters();
        if let Err(error) = ended {
            tracing::debug!(%error, "a shared connection to a cell ended with an error");
        }
    });
    let idle_since = Cell::new(Instant::now());
    Ok(Rc::new(SharedConnection { sender, streams: Cell::new(0), closed, idle_since, driver: driver.abort_handle() }))
}

/// Sends a request on the ticket's connection and waits for the head of its answer. `Err(Ok(request))` if no byte of it
/// was written.
pub(super) async fn send(
    ticket: &Ticket,
    destination: &Destination,
    request: Request<RequestBody>,
) -> Result<(http::response::Parts, Received), Result<(Request<RequestBody>, h2::Error), SendError>> {
    let mut sender = ticket.connection.sender.clone();
    if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
        ticket.connection.closed.set(true);
        return Err(Ok((request, error)));
    }
    let (mut head, body) = request.into_parts();
    let asks = head.headers.contains_key(header::EXPECT).then(|| body.held_handle()).flatten();
    let at_end = body.is_end_stream();
    let kept = (head.version, head.uri.clone(), head.headers.clone());
    to_http2(&mut head, destination);
    let (answer, mut outgoing) = match sender.send_request(Request::from_parts(head.clone(), ()), at_end) {
        Ok(sent) => sent,
        Err(error) => {
            (head.version, head.uri, head.headers) = kept;
            return Err(Ok((Request::from_parts(head, body), error)));
        }
    };
    if !at_end {
        spawn_local(async move {
            if let Err(error) = send_body(pin!(body), &mut outgoing, Bounds::default()).await {
                tracing::debug!(%error, "a request's body was not sent to its end");
            }
        });
    }
    let answer = wait(answer, || {
        if let Some(handle) = &asks {
            handle.release();
        }
    });
    let (mut head, incoming) = answer.await.map_err(|error| Err(SendError::Failed(error.into())))?.into_parts();
    head.version = Version::HTTP_2;
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    Ok((head, Received::new(incoming, Sender::Server, length)))
}

/// Waits for the head of an answer, telling of `100 Continue` before it.
async fn wait(mut answer: ResponseFuture, goes_on: impl Fn()) -> Result<Response<h2::RecvStream>, h2::Error> {
    poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            if interim.status() == StatusCode::CONTINUE {
                goes_on();
            }
        }
        std::pin::Pin::new(&mut answer).poll(cx)
    })
    .await
}

fn to_http2(head: &mut http::request::Parts, destination: &Destination) {
    let trailers = asks_for_trailers(&head.headers);
    let expects = head.headers.remove(header::EXPECT);
    hygiene::strip_hop_by_hop(&mut head.headers);
    if let Some(expects) = expects {
        head.headers.insert(header::EXPECT, expects);
    }
    if trailers {
        head.headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
    }
    let scheme = if destination.server_name.is_some() { uri::Scheme::HTTPS } else { uri::Scheme::HTTP };
    let host = head.headers.remove(header::HOST);
    let authority =
        host.and_then(|host| uri::Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).ok());
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = authority.or_else(|| destination.address.to_string().parse().ok());
    parts.path_and_query.get_or_insert_with(|| uri::PathAndQuery::from_static("/"));
    // Scheme, authority and path are all there.
    head.uri = Uri::from_parts(parts).unwrap_or_default();
    head.version = Version::HTTP_2;
}

fn asks_for_trailers(headers: &HeaderMap) -> bool {
    headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

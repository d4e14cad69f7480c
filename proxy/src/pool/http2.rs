//! HTTP/2 connections to one destination: a few, each shared by many requests.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri};
use http_body::{Body, Frame, SizeHint};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use super::freed::Freed;
use super::limits::OPEN_PER_ENDPOINT_MAX;
use super::{Destination, Head, SendError};
use crate::body::{BodyError, RequestBody};
use crate::connection::{Tap, Tapped};
use crate::http2::{Bounds, FramePart, FrameReader, Received, SMALL_DATA_BUDGET_BYTES, Sender, send_body};
use crate::hygiene;
use crate::io::Io;

/// Requests at a time on one connection.
pub const STREAMS_PER_CONNECTION_MAX: usize = 64;
/// Connections per destination and thread: a fault on one cuts no more than its share of the requests. Together they
/// carry as many requests as there may be over HTTP/1.1, of which one tenant has half.
pub const SHARED_PER_ENDPOINT_MAX: usize = OPEN_PER_ENDPOINT_MAX / STREAMS_PER_CONNECTION_MAX;
/// What the peer may send on a stream before it is taken: so much does a client pin that takes nothing of its answer. A
/// frame of that size and its header fit into 16 KiB.
pub(super) const WIDE_WINDOW_BYTES: u32 = 15 * 1024;
/// The same for an answer whose client has others under way on its connection ([`Room::keep_window`]).
pub(super) const NARROW_WINDOW_BYTES: u32 = 1024;
/// Small frames that may lie unread until all answers are soaked: each takes some hundreds of bytes, whatever is in it.
const UNREAD_MAX: u32 = 128;
/// An answer is soaked from the round on that follows the one in which it began.
const UNSOAKED_ROUNDS: usize = 2;
/// DATA frames that say nothing (or may, for all that their headers tell) over the life of a connection, after which it
/// takes no new requests: `h2` ends one at twice as many.
const EMPTY_FRAMES_MAX: usize = 50;
/// The longest head of an answer.
const HEAD_MAX_BYTES: u32 = 64 * 1024;

/// The connections of one destination, all with windows of one size.
pub(super) struct SharedConnections {
    window_bytes: u32,
    open: RefCell<Vec<Rc<SharedConnection>>>,
    connecting: Cell<usize>,
    /// Told of each place, or connection, that may be had.
    pub(super) freed: Rc<Freed>,
    /// What the peer has last said that it takes on a connection.
    streams_each: Cell<Option<usize>>,
}

/// The right to open one more connection. Dropped, it tells who waits that there is another one, or room for it.
pub(super) struct Connecting<'a>(&'a SharedConnections);

pub(super) struct SharedConnection {
    sender: SendRequest<Bytes>,
    streams: Cell<usize>,
    closed: Rc<Cell<bool>>,
    idle_since: Cell<Instant>,
    answers: Rc<Answers>,
    driver: AbortHandle,
}

/// The answers that are being read.
#[derive(Default)]
struct Answers(RefCell<Vec<Weak<SharedAnswer>>>);

/// An answer on a shared connection. Whoever takes it may take it slowly; small frames that pile up meanwhile are read by
/// the connection's driver, or `h2` would end the connection, and with it the answers of all others.
pub(super) struct SharedAnswer(RefCell<Taken>);

struct Taken {
    received: Received,
    /// Who waits for more of it.
    waiting: Option<Waker>,
}

/// Sees the small frames that come, before `h2` does.
struct SmallFrames {
    reader: FrameReader,
    small: Rc<Cell<u32>>,
    empty: usize,
    closed: Rc<Cell<bool>>,
    freed: Rc<Freed>,
}

/// One request's place on a connection.
pub(super) struct Ticket {
    connection: Rc<SharedConnection>,
    freed: Rc<Freed>,
}

impl SharedConnections {
    pub(super) fn new(window_bytes: u32) -> Self {
        Self {
            window_bytes,
            open: RefCell::default(),
            connecting: Cell::new(0),
            freed: Rc::default(),
            streams_each: Cell::new(None),
        }
    }

    /// A place on the connection with the most room.
    pub(super) fn take(&self) -> Option<Ticket> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| !connection.closed.get());
        let emptiest = open.iter().min_by_key(|connection| connection.streams.get())?;
        let room = emptiest.sender.current_max_send_streams().min(STREAMS_PER_CONNECTION_MAX);
        (emptiest.streams.get() < room).then(|| Ticket::new(emptiest, &self.freed))
    }

    /// Whether one more connection may be opened.
    pub(super) fn connect(&self) -> Option<Connecting<'_>> {
        let allowed = self.open.borrow().len() + self.connecting.get() < SHARED_PER_ENDPOINT_MAX;
        allowed.then(|| {
            self.connecting.set(self.connecting.get() + 1);
            Connecting(self)
        })
    }

    /// How many requests there may be at a time, as far as the peer has said.
    pub(super) fn places(&self) -> usize {
        let open = self.open.borrow();
        let said = open.iter().map(|connection| connection.sender.current_max_send_streams()).min();
        if let Some(each) = said.filter(|each| *each != usize::MAX) {
            self.streams_each.set(Some(each));
        }
        SHARED_PER_ENDPOINT_MAX * self.streams_each.get().unwrap_or(usize::MAX).min(STREAMS_PER_CONNECTION_MAX)
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

impl Connecting<'_> {
    /// Begins HTTP/2 on a new connection, and takes a place on it.
    pub(super) async fn begin(self, io: Io) -> Result<Ticket, h2::Error> {
        let Self(connections) = &self;
        let connection = begin(io, connections.window_bytes, Rc::clone(&connections.freed)).await?;
        let ticket = Ticket::new(&connection, &connections.freed);
        connections.open.borrow_mut().push(connection);
        Ok(ticket)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(self.0.connecting.get() - 1);
        self.0.freed.tell_all();
    }
}

impl Ticket {
    fn new(connection: &Rc<SharedConnection>, freed: &Rc<Freed>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self { connection: Rc::clone(connection), freed: Rc::clone(freed) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
        self.connection.idle_since.set(Instant::now());
        self.freed.tell_one();
    }
}

impl Drop for SharedConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Answers {
    fn add(&self, received: Received) -> Rc<SharedAnswer> {
        let answer = Rc::new(SharedAnswer(RefCell::new(Taken { received, waiting: None })));
        let mut answers = self.0.borrow_mut();
        answers.retain(|answer| answer.strong_count() > 0);
        answers.push(Rc::downgrade(&answer));
        answer
    }

    /// Reads what has come of all answers.
    fn soak(&self) {
        let answers: Vec<_> = self.0.borrow().iter().filter_map(Weak::upgrade).collect();
        answers.iter().for_each(|answer| answer.soak());
    }
}

impl SharedAnswer {
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut taken = self.0.borrow_mut();
        let polled = taken.received.poll_frame(cx);
        taken.waiting = polled.is_pending().then(|| cx.waker().clone());
        polled
    }

    fn soak(&self) {
        let mut taken = self.0.borrow_mut();
        // `h2` remembers one waker: that of who waits, if anybody does.
        let waiting = taken.waiting.take();
        let waker = waiting.as_ref().unwrap_or(Waker::noop());
        let came = taken.received.soak(&mut Context::from_waker(waker));
        if came {
            drop(taken);
            waiting.into_iter().for_each(Waker::wake);
        } else {
            taken.waiting = waiting;
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.0.borrow().received.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.0.borrow().received.size_hint()
    }
}

impl Tap for SmallFrames {
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let FramePart::Header(header) = self.reader.next(&mut bytes) else { continue };
            self.small.set(self.small.get() + u32::from(header.is_small_data() || header.is_padded()));
            self.empty += usize::from(header.is_empty_data() || header.is_padded());
        }
        if self.empty >= EMPTY_FRAMES_MAX && !self.closed.replace(true) {
            self.freed.tell_all();
        }
        true
    }

    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.small.get() < UNREAD_MAX {
            return Poll::Ready(());
        }
        // The driver soaks what is there, and comes back.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The connection's own window is every stream's, so that an answer that nobody takes keeps no other one waiting.
async fn begin(io: Io, window_bytes: u32, freed: Rc<Freed>) -> Result<Rc<SharedConnection>, h2::Error> {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window_bytes)
        .initial_connection_window_size(window_bytes * STREAMS_PER_CONNECTION_MAX as u32)
        .max_header_list_size(HEAD_MAX_BYTES)
        .data_frame_budget(UNSOAKED_ROUNDS * SMALL_DATA_BUDGET_BYTES)
        .enable_push(false);
    let (closed, small, answers) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)), Rc::new(Answers::default()));
    let reader = FrameReader::after(0);
    let (seen, closes, tells) = (Rc::clone(&small), Rc::clone(&closed), Rc::clone(&freed));
    let tap = SmallFrames { reader, small: seen, empty: 0, closed: closes, freed: tells };
    let (sender, connection) = builder.handshake(Tapped { io, tap }).await?;
    let (closing, soaked) = (Rc::clone(&closed), Rc::clone(&answers));
    let driver = spawn_local(async move {
        let mut connection = pin!(connection);
        let ended = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            if small.get() >= UNREAD_MAX {
                small.set(0);
                soaked.soak();
            }
            polled
        });
        let ended = ended.await;
        closing.set(true);
        freed.tell_all();
        if let Err(error) = ended {
            tracing::debug!(%error, "a shared connection to a cell ended with an error");
        }
    });
    let idle_since = Cell::new(Instant::now());
    let (streams, driver) = (Cell::new(0), driver.abort_handle());
    Ok(Rc::new(SharedConnection { sender, streams, closed, idle_since, answers, driver }))
}

/// Sends a request on the ticket's connection and waits for the head of its answer. `Err(Ok(request))` if no byte of it
/// was written.
pub(super) async fn send(
    ticket: &Ticket,
    destination: &Destination,
    head: Head<'_>,
    body: Box<RequestBody>,
) -> Result<(http::response::Parts, Rc<SharedAnswer>), Result<(Box<RequestBody>, h2::Error), SendError>> {
    let mut sender = ticket.connection.sender.clone();
    if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
        ticket.connection.closed.set(true);
        return Err(Ok((body, error)));
    }
    let asks = head.expects.then(|| body.held_handle()).flatten();
    let at_end = body.is_end_stream();
    let (mut head, ()) = head.to_request().into_parts();
    to_http2(&mut head, destination);
    if at_end && let Some(length) = head.headers.get_mut(header::CONTENT_LENGTH) {
        *length = HeaderValue::from_static("0");
    }
    let (answer, mut outgoing) = match sender.send_request(Request::from_parts(head, ()), at_end) {
        Ok(sent) => sent,
        Err(error) => return Err(Ok((body, error))),
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
    Ok((head, ticket.connection.answers.add(Received::new(incoming, Sender::Server, length))))
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
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
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

//! One client's HTTP/2 connection: its requests run side by side, in its task. What they have answered goes out before
//! other connections have their turn, instead of after everybody's answers are read.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::batch::{Batched, Batches};
use super::exchanges::{Exchange, Exchanges};
use super::frames::{Fault, FrameTap, SMALL_DATA_BUDGET_BYTES, Unread};
use super::hold::{HoldSlot, Holding};
use super::received::{Received, Sender};
use super::room::{Room, RoomShare};
use super::send::{Bounds, send_body};
use super::tunnel::Tunnel;
use super::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX, translate};
use crate::ResponseBody;
use crate::alarm::Alarm;
use crate::boxed::{boxed, pinned};
use crate::connection::{Served, Tap, Tapped};
use crate::hygiene;
use crate::incoming::IncomingBody;
use crate::io::Io;
use crate::serve::{HEAD_MAX_BYTES, Handler, Peer, Protocol, ResetStream, refuse};
use crate::upgrade::Promise;

/// Requests that are begun, and answers that end, before other connections have a turn: a hundred that come together would
/// keep everybody waiting.
const AT_ONCE: usize = 8;
/// Streams reset before a handler saw them, beyond which the connection is closed.
const RESET_UNSEEN_MAX: usize = 20;
/// Streams that the client's faults made us reset, beyond which the connection is closed.
const RESET_FAULTY_MAX: usize = 100;
/// Bytes that wait for the socket per stream.
const SEND_BUFFER_BYTES: usize = 32 * 1024;
/// How often it is looked whether the many small frames of a connection have been read, before more of it is …
const BREAK_MS: u64 = 2;
/// … and how many times, before it is up to `h2` how many are too many.
const BREAKS_MAX: u32 = 500;
/// What is read before the requests in it are taken: else the heads of a hundred would be here before the first is counted.
const UNSEEN_MAX_BYTES: usize = 32 * 1024;
/// How long a client that was cut off may take to read why.
const FAREWELL_MS: u64 = 500;

type Wire = Tapped<Batched<Io>, FrameWatch>;

struct FrameWatch {
    tap: FrameTap,
    rest: Option<Pin<Box<Sleep>>>,
    breaks: u32,
    fault: Rc<Cell<Option<Fault>>>,
    unseen: Rc<Cell<usize>>,
}

impl Tap for FrameWatch {
    fn take(&mut self, bytes: &[u8]) -> bool {
        let fault = self.tap.feed(bytes, Instant::now);
        self.fault.set(fault);
        self.unseen.set(self.unseen.get() + bytes.len());
        fault.is_none()
    }

    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unseen.get() >= UNSEEN_MAX_BYTES {
            // The driver takes what is there, and comes back.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while self.tap.unread().is_full() {
            let rest = self.rest.get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(BREAK_MS))));
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
            self.breaks += 1;
            if self.breaks == BREAKS_MAX {
                self.tap.unread().forget();
            }
        }
        self.breaks = 0;
        Poll::Ready(())
    }
}

/// What a connection wants next.
enum Event {
    Request(Box<Request<RecvStream>>, SendResponse<Bytes>),
    /// Others are to have a turn.
    Turn,
    /// The client has reset the connection, or the time to drain is over.
    Gone,
    /// No more requests: the shutdown has begun, or the connection is old.
    Parting,
    /// No request for a long time.
    Idle,
    /// Frames that no honest client sends, or too many of them.
    Faulty(Fault),
    Ended(Result<(), h2::Error>),
}

struct Driver<H> {
    served: Served<H>,
    connection: Connection<Wire, Bytes>,
    batches: Batches<Io>,
    fault: Rc<Cell<Option<Fault>>>,
    /// Bytes read since there was last no request to be taken.
    unseen: Rc<Cell<usize>>,
    holding: Holding,
    room: Room,
    unread: Unread,
    exchanges: Exchanges,
    /// Requests that have come since others had a turn.
    in_a_row: usize,
    was_busy: bool,
    idle: Pin<Box<Sleep>>,
    closing: bool,
}

/// Serves the connection until it ends.
pub(crate) async fn serve<H: Handler>(io: Io, served: Served<H>) {
    let (fault, unseen) = (Rc::default(), Rc::default());
    let tap = FrameTap::new(Instant::now());
    let tap = FrameWatch { tap, rest: None, breaks: 0, fault: Rc::clone(&fault), unseen: Rc::clone(&unseen) };
    let unread = tap.tap.unread().clone();
    let (io, batches) = Batched::new(io);
    let wire = Tapped { io, tap };
    let idle_for = Duration::from_millis(served.options.idle_ms);
    let handshake = builder().handshake(wire);
    let opened = timeout(Duration::from_millis(served.options.opening_ms), handshake).await;
    let connection = match opened {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return log_end(Err(error)),
        Err(_) => return,
    };
    batches.begin();
    let driver = Driver {
        served,
        connection,
        batches,
        fault,
        unseen,
        holding: Holding::default(),
        room: Room::default(),
        unread,
        exchanges: Exchanges::default(),
        in_a_row: 0,
        was_busy: false,
        idle: Box::pin(sleep(idle_for)),
        closing: false,
    };
    driver.run().await;
}

fn builder() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_MAX_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        .max_local_error_reset_streams(Some(RESET_FAULTY_MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .data_frame_budget(SMALL_DATA_BUDGET_BYTES)
        .enable_connect_protocol();
    builder
}

impl<H: Handler> Driver<H> {
    async fn run(mut self) {
        let context = self.served.context.clone();
        let socket = self.served.socket.clone();
        socket.give_up_after(self.served.options.unread_ms.map(Duration::from_millis));
        let (mut reset, mut stop) = (pin!(socket.reset()), pin!(context.stop.cancelled()));
        // GOAWAY loses nothing, so it need not wait for an answer to say that the connection ends.
        let mut shutdown = pin!(async {
            tokio::select! {
                () = context.shutdown.cancelled() => {}
                () = context.given.fired() => {}
            }
        });
        let mut age = pin!(sleep(Duration::from_millis(self.served.options.age_ms)));
        // Rung by these four, which are looked at only then.
        let mut alarm = Alarm::default();
        loop {
            let event = poll_fn(|cx| {
                let event = self.poll_event(cx);
                if event.is_ready() || !alarm.has_rung(cx) {
                    return event;
                }
                let waker = alarm.waker();
                let cx = &mut Context::from_waker(&waker);
                if reset.as_mut().poll(cx).is_ready() || stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Gone);
                }
                let parts =
                    !self.closing && (shutdown.as_mut().poll(cx).is_ready() || age.as_mut().poll(cx).is_ready());
                if parts { Poll::Ready(Event::Parting) } else { Poll::Pending }
            });
            match event.await {
                Event::Request(request, respond) => {
                    if let Some(exchange) = self.begin(*request, respond) {
                        self.exchanges.begin(exchange);
                    }
                    if self.others_are_due() {
                        self.in_a_row = 0;
                        yield_now().await;
                    }
                }
                Event::Turn => yield_now().await,
                Event::Gone => return,
                Event::Idle if self.closing => return,
                Event::Idle | Event::Parting => self.go_away(),
                Event::Faulty(fault) => return self.cut_off(fault).await,
                Event::Ended(result) => return log_end(result),
            }
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let more = self.exchanges.poll(cx, AT_ONCE);
        let accepted = self.connection.poll_accept(cx);
        if let Some(fault) = self.fault.get() {
            return Poll::Ready(Event::Faulty(fault));
        }
        self.holding.check();
        let is_request = matches!(accepted, Poll::Ready(Some(Ok(_))));
        self.in_a_row = if is_request { self.in_a_row + 1 } else { 0 };
        // Also at the end, which may leave what was gathered.
        if (!is_request || self.others_are_due())
            && let Poll::Ready(Err(error)) = self.batches.poll_write(cx)
        {
            tracing::debug!(%error, "a client's connection ended with an error");
            return Poll::Ready(Event::Ended(Ok(())));
        }
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => {
                return Poll::Ready(Event::Request(Box::new(request), respond));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Ended(Err(error))),
            Poll::Ready(None) => return Poll::Ready(Event::Ended(Ok(()))),
            Poll::Pending => self.unseen.set(0),
        }
        if more {
            return Poll::Ready(Event::Turn);
        }
        let busy = !self.exchanges.is_empty();
        if std::mem::replace(&mut self.was_busy, busy) && !busy {
            self.rest();
        }
        if busy { Poll::Pending } else { self.idle.as_mut().poll(cx).map(|()| Event::Idle) }
    }

    fn others_are_due(&self) -> bool {
        self.in_a_row > AT_ONCE
    }

    fn rest(&mut self) {
        self.exchanges.rest();
        self.idle.as_mut().reset(Instant::now() + Duration::from_millis(self.served.options.idle_ms));
    }

    /// Takes no new requests; those that run go on.
    fn go_away(&mut self) {
        self.closing = true;
        self.connection.graceful_shutdown();
        self.rest();
    }

    async fn cut_off(mut self, fault: Fault) {
        tracing::debug!(peer = %self.served.address, ?fault, "a client's frames are refused; closing its connection");
        self.exchanges = Exchanges::default();
        self.connection.abrupt_shutdown(match fault {
            Fault::Flood => Reason::ENHANCE_YOUR_CALM,
            Fault::Malformed => Reason::PROTOCOL_ERROR,
            Fault::Size => Reason::FRAME_SIZE_ERROR,
        });
        let closed = poll_fn(|cx| self.connection.poll_closed(cx));
        let _ = timeout(Duration::from_millis(FAREWELL_MS), closed).await;
    }

    /// A request's exchange, if it is not refused.
    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<Exchange> {
        let (mut head, mut incoming) = request.into_parts();
        let Some(share) = self.room.keep_head(&head) else {
            tracing::debug!(peer = %self.served.address, "a connection's heads are too large together; refusing a request");
            respond.send_reset(Reason::REFUSED_STREAM);
            return None;
        };
        let malformed = hygiene::check_http2(&head).err();
        let websocket = translate::request(&mut head);
        let slot: HoldSlot = self.holding.slot(incoming.flow_control().clone());
        let peer = Peer {
            protocol: Protocol::Http2,
            malformed,
            hold: Some(slot),
            room: Some(self.room.clone()),
            ..self.served.peer()
        };
        let stream = Stream {
            respond,
            is_head: head.method == Method::HEAD,
            continues: head.headers.get(header::EXPECT).is_some().then(Arc::default),
            patience: self.served.options.unread_ms.map(Duration::from_millis),
            room: self.room.clone(),
            head: Some(share),
        };
        let handler = Rc::clone(&self.served.handler);
        // The handler's future is in a box of its own: it is dropped before the answer's body is sent, which may take long.
        Some(if let Some(key) = websocket {
            let (promised, promise) = Promise::<Tunnel>::new();
            head.extensions.insert(promise);
            let request = boxed(|| Request::from_parts(head, IncomingBody::empty()));
            let answer = pinned(|| handler.handle(request, peer));
            pinned(|| stream.answer_websocket(answer, key, incoming, promised))
        } else {
            let length = content_length(&head.headers);
            let mut body = Received::new(incoming, Sender::Client, length).counted_by(self.unread.clone());
            if let Some(wanted) = &stream.continues {
                body = body.tell(Arc::clone(wanted));
            }
            let request = boxed(|| Request::from_parts(head, body.into()));
            let answer = pinned(|| handler.handle(request, peer));
            pinned(|| stream.answer(answer))
        })
    }
}

/// One request's way back.
struct Stream {
    respond: SendResponse<Bytes>,
    is_head: bool,
    /// Told when the body is wanted by a handler whose client waits for `100 Continue`.
    continues: Option<Arc<Notify>>,
    patience: Option<Duration>,
    room: Room,
    /// What its head takes until it is answered.
    head: Option<RoomShare>,
}

impl Stream {
    /// Waits for the handler; `None` if the client resets the stream before.
    async fn wait(&mut self, answer: impl Future<Output = Response<ResponseBody>>) -> Option<Response<ResponseBody>> {
        let mut answer = pin!(answer);
        loop {
            let continues = self.continues.clone();
            tokio::select! {
                biased;
                answer = answer.as_mut() => {
                    self.head = None;
                    return Some(answer);
                }
                () = told(continues.as_deref()) => {
                    self.continues = None;
                    let mut interim = Response::new(());
                    *interim.status_mut() = StatusCode::CONTINUE;
                    // A stream that is over needs none.
                    let _ = self.respond.send_informational(interim);
                }
                _ = poll_fn(|cx| self.respond.poll_reset(cx)) => return None,
            }
        }
    }

    async fn answer(mut self, answer: impl Future<Output = Response<ResponseBody>>) {
        let Some(answer) = self.wait(answer).await else { return };
        let Some((body, mut outgoing, patience)) = self.send_head(answer) else { return };
        self.send_body(pin!(body), &mut outgoing, patience).await;
    }

    async fn answer_websocket(
        mut self,
        answer: impl Future<Output = Response<ResponseBody>>,
        key: HeaderValue,
        incoming: RecvStream,
        promised: tokio::sync::oneshot::Sender<Tunnel>,
    ) {
        let Some(answer) = self.wait(answer).await else { return };
        if !translate::opens(&answer, &key) {
            // Any success would tell the client that its WebSocket is open.
            let seems_open = answer.status().is_success() || answer.status() == StatusCode::SWITCHING_PROTOCOLS;
            let not_opened = || refuse(StatusCode::BAD_GATEWAY, "the app did not open the WebSocket");
            let sent = self.send_head(if seems_open { not_opened() } else { answer });
            let Some((body, mut outgoing, patience)) = sent else { return };
            return self.send_body(pin!(body), &mut outgoing, patience).await;
        }
        let (mut head, _) = answer.into_parts();
        translate::response(&mut head);
        match self.respond.send_response(Response::from_parts(head, ()), false) {
            // A handler that does not want its tunnel any more resets the stream by dropping it.
            Ok(outgoing) => drop(promised.send(Tunnel::new(incoming, outgoing))),
            Err(error) => tracing::debug!(%error, "a WebSocket's stream was over before it began"),
        }
    }

    async fn send_body(
        &self,
        body: Pin<&mut ResponseBody>,
        outgoing: &mut SendStream<Bytes>,
        patience: Option<Duration>,
    ) {
        if let Err(error) = send_body(body, outgoing, Bounds { patience, room: Some(&self.room) }).await {
            tracing::debug!(%error, "an answer was not sent to its end");
        }
    }

    /// Sends the head; gives the body, if there is one, and how long the client may take none of it.
    fn send_head(
        &mut self,
        answer: Response<ResponseBody>,
    ) -> Option<(ResponseBody, SendStream<Bytes>, Option<Duration>)> {
        let (mut head, body) = answer.into_parts();
        if let Some(ResetStream(reason)) = head.extensions.get() {
            self.respond.send_reset(*reason);
            return None;
        }
        let patience = self.patience.filter(|_| !hygiene::is_event_stream(&head.headers));
        translate::response(&mut head);
        let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !bodiless
            && let Some(length) = body.size_hint().exact()
            && !(self.is_head && length == 0)
            && !head.headers.contains_key(header::CONTENT_LENGTH)
        {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let at_end = bodiless || self.is_head || body.is_end_stream();
        match self.respond.send_response(Response::from_parts(head, ()), at_end) {
            Ok(_) if at_end => None,
            Ok(outgoing) => Some((body, outgoing, patience)),
            Err(error) => {
                tracing::debug!(%error, "an answer was not sent");
                None
            }
        }
    }
}

async fn told(notify: Option<&Notify>) {
    match notify {
        Some(notify) => notify.notified().await,
        None => std::future::pending().await,
    }
}

/// The length that the head announces; `h2` has refused what is no number.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn log_end(result: Result<(), h2::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended with an error");
    }
}

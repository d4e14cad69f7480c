//! The life of a request at the gate: admitted or refused on its head, then forwarded to the app and counted until
//! the app has ended it.

use crate::gate::answer::AnswerBody;
use crate::gate::cut::Upload;
use crate::gate::lease::{Abandoned, Ending, Lease, Patience, Waiting};
use crate::gate::stream_edge::StreamEdge;
use crate::gate::table::GateTable;
use crate::metrics::GateMetrics;
use cellway_core::admission::RequestKind;
use cellway_core::ids::{Epoch, TenantId};
use cellway_core::verdict::Verdict;
use cellway_proxy::hygiene::{self, EPOCH, TENANT, VERDICT};
use cellway_proxy::pool::NotSent;
use cellway_proxy::serve::refuse;
use cellway_proxy::upgrade::{self, TunnelBytes, TunnelEnd};
use cellway_proxy::{
    ClientHalf, Destination, Handler, IncomingBody, OnBreak, Peer, Pool, PoolLimits, PooledBody, Protocol, RequestBody,
    ResponseBody, SendError, ThreadContext, Timers, clock,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::timeout;

/// How much longer than the app's own limit its head is waited for.
const HEAD_GRACE_MS: u64 = 1_000;

/// How long a connection to the app is kept: common app servers close an idle one after 5 s, and what is sent at that
/// very moment is lost.
const APP_IDLE_MS: u64 = 4_000;

/// A refused request's body up to this size is on its way already: it is read, so that the connection can go on.
const SMALL_BODY_BYTES: usize = 64 * 1024;

/// How long it may take to arrive.
const SMALL_BODY_MS: u64 = 1_000;

/// What a kept connection of a router's is told as the gate ends it, for the request that may be on its way: the answer
/// of [`refused`] with [`Verdict::Behind`], as bytes.
pub(crate) const FAREWELL: &[u8] = b"HTTP/1.1 421 Misdirected Request\r\nx-cellway-verdict: behind\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// What all threads of the gate share.
#[derive(Clone)]
pub(crate) struct GateParts {
    pub(crate) table: Arc<GateTable>,
    pub(crate) app: SocketAddr,
    pub(crate) longest_request_ms: u64,
    pub(crate) metrics: GateMetrics,
    /// Set when the drain was over before the app had ended every request.
    pub(crate) cut: Arc<AtomicBool>,
}

/// The gate on one thread.
pub(crate) struct GateHandler {
    parts: GateParts,
    context: ThreadContext,
    pool: Pool,
    abandoned: Abandoned,
    timers: Timers,
}

impl GateHandler {
    pub(crate) fn new(parts: GateParts, context: ThreadContext, limits: PoolLimits) -> Rc<Self> {
        let pool = Pool::of_thread(&context, PoolLimits { idle_ms: APP_IDLE_MS, ..limits }, None);
        Rc::new(Self { parts, context, pool, abandoned: Abandoned::start(), timers: Timers::default() })
    }
}

/// Whose request it is, by the word of a router.
struct Stamp {
    tenant: TenantId,
    epoch: Epoch,
    kind: RequestKind,
    websocket: bool,
}

impl Stamp {
    fn read(head: &Parts) -> Result<Self, &'static str> {
        let one = |name: HeaderName| {
            let mut values = head.headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
        };
        let missing = "this is a gate: only routers may talk to it (x-cellway-tenant and x-cellway-epoch are needed)";
        let tenant = one(TENANT).and_then(|text| text.parse().ok()).ok_or(missing)?;
        let epoch = one(EPOCH).and_then(|text| text.parse().ok()).map(Epoch).ok_or(missing)?;
        let websocket = hygiene::asks_for_websocket(head);
        // An event stream is known for sure by its answer; a browser's `EventSource` asks for one and nothing else.
        let events = hygiene::asks_for_event_stream(&head.headers);
        let kind = if websocket || events { RequestKind::Stream } else { RequestKind::Ordinary };
        Ok(Self { tenant, epoch, kind, websocket })
    }
}

impl Handler for GateHandler {
    async fn handle(self: Rc<Self>, request: Box<Request<IncomingBody>>, peer: Peer) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        // Boxed before it lies in the futures of all who work on it.
        let head = Box::new(head);
        if let Err(bad) = hygiene::check_framing(&head, peer.malformed) {
            self.parts.metrics.malformed.inc();
            return refuse(bad.status(), &bad.to_string());
        }
        let stamp = match Stamp::read(&head) {
            Ok(stamp) => stamp,
            Err(why) => {
                self.parts.metrics.malformed.inc();
                return refuse(StatusCode::BAD_REQUEST, why);
            }
        };
        match self.parts.table.admit(&stamp.tenant, stamp.epoch, stamp.kind).await {
            Ok(admission) => {
                self.parts.metrics.admitted.inc();
                let stamp = Stamp { epoch: admission.epoch(), ..stamp };
                let lease = Lease::new(admission, self.context.tasks.token());
                self.forward(head, body, &stamp, lease).await
            }
            Err(verdict) => {
                self.parts.metrics.refused(&verdict);
                finish_small_body(&head.headers, body).await;
                refused(&verdict)
            }
        }
    }
}

impl GateHandler {
    async fn forward(
        &self,
        mut head: Box<Parts>,
        body: IncomingBody,
        stamp: &Stamp,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let client = stamp.websocket.then(|| upgrade::client_half(&mut head.extensions));
        let limit = Duration::from_millis(self.parts.longest_request_ms + HEAD_GRACE_MS);
        let waiting = Waiting::new(lease.clone(), self.abandoned.clone(), Patience::FromAdmission(limit));
        let ending = Ending { lease: lease.clone(), stop: self.context.stop.clone(), cut: Arc::clone(&self.parts.cut) };
        let grpc = hygiene::is_grpc(&head.headers);
        write_towards_app(&mut head.headers, stamp);
        let (body, upload) = body_towards_app(body, &lease);
        let mut app = Destination::from(self.parts.app);
        if grpc {
            app = app.over(Protocol::Http2);
            head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        let tenant = Some(stamp.tenant.as_str());
        let exchange = self.pool.send_to_the_end_for(tenant, app, head, body, move || ending.ended());
        let cut = async {
            match upload {
                Some(upload) => upload.was_cut().await,
                None => std::future::pending().await,
            }
        };
        let mut timer = self.timers.take(clock::now() + limit);
        let answered = tokio::select! {
            biased;
            answered = exchange => Some(answered),
            () = &mut timer => None,
            () = cut => return upload_cut(&lease),
        };
        self.timers.give_back(timer);
        let response = match answered {
            Some(Ok(response)) => response,
            Some(Err(error)) => return self.app_failed(&lease, &error),
            None => {
                lease.failed();
                self.parts.metrics.app_errors.inc();
                return refuse(StatusCode::GATEWAY_TIMEOUT, "the app did not answer in time");
            }
        };
        self.parts.metrics.head_seconds.observe(lease.age().as_secs_f64());
        if response.status().is_server_error() {
            lease.failed();
        }
        match (client, response.status()) {
            (Some(client), _) if upgrade::is_switch(response.status(), response.headers()) => {
                self.tunnel(client, *response, waiting)
            }
            (_, StatusCode::SWITCHING_PROTOCOLS) => {
                refuse(StatusCode::BAD_GATEWAY, "the app switched to a protocol that nobody asked for")
            }
            _ => towards_router(response, waiting),
        }
    }

    fn app_failed(&self, lease: &Lease, error: &SendError) -> Response<ResponseBody> {
        lease.failed();
        self.parts.metrics.app_errors.inc();
        match error {
            SendError::NotSent { cause: NotSent::Exhausted(_) | NotSent::Starved(_), .. } => {
                let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "all connections to the app are in use");
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
            SendError::NotSent { cause, .. } => {
                tracing::warn!(app = %self.parts.app, error = %cause, "the app cannot be reached");
                refuse(StatusCode::BAD_GATEWAY, "the app cannot be reached")
            }
            SendError::Failed(cause) | SendError::Lost(cause) => {
                tracing::warn!(app = %self.parts.app, error = %cause, "the app broke off");
                refuse(StatusCode::BAD_GATEWAY, "the app broke off before it answered")
            }
        }
    }

    /// Joins both sides until either ends, or the tenant's streams have to end: then the client is told to connect
    /// again, and the app is hung up on if it does not close with it. The lease lasts until the app has closed its side
    /// too, within its own time limit.
    fn tunnel(&self, client: ClientHalf, response: Response<PooledBody>, waiting: Waiting) -> Response<ResponseBody> {
        let bytes = Rc::new(TunnelBytes::default());
        let stop = self.context.stop.clone();
        let end = TunnelEnd { goodbye: waiting.lease().end().unwrap_or_else(|| stop.clone()), stop };
        let patience = Duration::from_millis(self.parts.longest_request_ms);
        let counted = Rc::clone(&bytes);
        let (answer, run) = upgrade::tunnel_to_the_end(client, response, counted, end, patience);
        self.context.tasks.spawn_local(async move {
            if !run.await {
                tracing::warn!("the app has not closed a WebSocket within its own time limit");
            }
            waiting.lease().add_down(bytes.up.get() + bytes.down.get());
            waiting.lease().finish();
        });
        answer
    }
}

/// What the app may know: no word of cellway's but the tenant and the epoch.
fn write_towards_app(headers: &mut HeaderMap, stamp: &Stamp) {
    hygiene::strip_routed(headers);
    if stamp.websocket {
        hygiene::write_websocket(headers);
    }
    headers.insert(EPOCH, HeaderValue::from(stamp.epoch.0));
}

/// The body as the app gets it, with the upload if it may have to be cut.
fn body_towards_app(body: IncomingBody, lease: &Lease) -> (Box<RequestBody>, Option<Upload>) {
    // Asking for the body is what answers `100 Continue`: it happens here, after the admission.
    let upload = if body.is_end_stream() { None } else { Upload::of(lease) };
    let body = match (&upload, body.is_end_stream()) {
        (_, true) => RequestBody::empty(),
        (Some(upload), false) => RequestBody::streamed(body).until(upload.end()),
        (None, false) => RequestBody::streamed(body),
    };
    let body = body.on_break(OnBreak::HalfClose).counted_by(lease.up_counter());
    (Box::new(body), upload)
}

/// No word of trying again: what the app has done with the first half is not known here.
fn upload_cut(lease: &Lease) -> Response<ResponseBody> {
    lease.was_cut();
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the upload was cut: its tenant moves to another cell")
}

fn towards_router(response: Box<Response<PooledBody>>, waiting: Waiting) -> Response<ResponseBody> {
    let (mut head, mut body) = response.into_parts();
    if !hygiene::check_response(&head) {
        waiting.lease().failed();
        return refuse(StatusCode::BAD_GATEWAY, "the app's answer has no clear length");
    }
    hygiene::strip_response(&mut head.headers);
    let edge = StreamEdge::of(&head.headers);
    if edge.is_some() {
        // It may be ended before.
        head.headers.remove(header::CONTENT_LENGTH);
    } else if let Some(whole) = body.take_whole(|bytes| waiting.lease().add_down(bytes)) {
        return Response::from_parts(head, ResponseBody::full(whole));
    }
    let body = AnswerBody::new(body, edge, waiting);
    Response::from_parts(head, ResponseBody::boxed(body))
}

#[expect(clippy::expect_used, reason = "a verdict prints as plain ASCII: a word, a cell's label, digits")]
fn refused(verdict: &Verdict) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    let text = verdict.to_string();
    response.headers_mut().insert(VERDICT, HeaderValue::from_str(&text).expect("a verdict is plain ASCII"));
    response
}

/// A small body that came with its head. Leaving it unread would reset the connection, and might take the verdict
/// with it. A body that waits for `100 Continue`, or is large or of unknown length, is never touched.
async fn finish_small_body(headers: &HeaderMap, body: IncomingBody) {
    let small = body.size_hint().exact().is_some_and(|length| length > 0 && length <= SMALL_BODY_BYTES as u64);
    if small && !headers.contains_key(header::EXPECT) {
        let read = Limited::new(body, SMALL_BODY_BYTES).collect();
        let _ = timeout(Duration::from_millis(SMALL_BODY_MS), read).await;
    }
}

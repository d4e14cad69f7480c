//! The life of a request in a router: whose it is, where that tenant is, the attempts to deliver it, the answer.
//!
//! [`Forwarder::route`] reads the head; [`Forwarder::deliver`] is the loop of attempts and holds; [`Forwarder::attempt`]
//! tries the endpoints of one cell, each as `exchange.rs` says. What a gate refused was never seen by the app, so it is
//! sent again whatever its method; what may have been admitted is never sent again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cellway_core::cell::CellKind;
use cellway_core::hostname::Hostname;
use cellway_core::ids::TenantId;
use cellway_core::route::{self, Owner};
use cellway_core::verdict::Verdict;
use cellway_proxy::hygiene::{self, BadRequest};
use cellway_proxy::upgrade::{self, TunnelBytes, TunnelEnd};
use cellway_proxy::{
    Destination, FieldLines, Handler, HeldHandle, IncomingBody, Peer, Pool, PooledBody, Protocol, ResponseBody,
    ThreadContext, Timers, boxed,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::errand::{Errand, Outcome, OwnLines, request_id};
use crate::failure::Failure;
use crate::failure::page::Asker;
use crate::hold::Place;
use crate::journey::Journey;
use crate::limits::{Slot, SlotBody};
use crate::metrics::CellCounters;
use crate::resolve;
use crate::shared::Shared;
use crate::table::{Cell, Found, Target};
use crate::under_way::Tally;
use crate::upload::{Lent, Upload};

/// How long a cell may take to begin its answer, from the last byte of the request that moved.
pub const ANSWER_MS: u64 = 60_000;
/// How long an ordinary exchange may stand still, once it is under way: the client sends nothing more of its body, the
/// cell nothing more of its answer, or the client takes nothing of it.
pub const STALL_MS: u64 = 60_000;

/// How long an ordinary exchange may take altogether.
pub const TOTAL_MS: u64 = 3_600_000;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Forwards the requests of one thread.
pub(crate) struct Forwarder {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) thread: ThreadContext,
    pub(crate) timers: Timers,
}

impl Handler for Forwarder {
    async fn handle(self: Rc<Self>, request: Box<Request<IncomingBody>>, peer: Peer) -> Response<ResponseBody> {
        self.answer(request, &peer).await
    }
}

impl Forwarder {
    async fn answer(&self, request: Box<Request<IncomingBody>>, peer: &Peer) -> Response<ResponseBody> {
        let metrics = &self.shared.metrics;
        let _open = crate::errand::Counted::new(&metrics.requests_open);
        let mut asker = Asker::of(request.headers(), request_id(request.headers()));
        let mut journey = Journey::begin(self.shared.settings.load_full(), &request, peer, &asker.id);
        let has_tls = peer.tls.is_some();
        let delivered = match self.route(request, peer, &mut asker, &mut journey) {
            Ok(Order::Deliver(errand, Some((tenant, tally)))) => self.to_tenant(&tenant, tally, errand, peer).await,
            Ok(Order::Deliver(errand, None)) => self.to_origin(errand).await,
            Ok(Order::Answer(response)) => Ok(*response),
            Err(failure) => Err(failure),
        };
        let mut response = match delivered {
            Ok(response) => response,
            Err(failure) => {
                journey.failed(failure.name());
                metrics.failed(failure.name());
                failure.answer(&asker)
            }
        };
        response.headers_mut().insert(hygiene::REQUEST_ID, asker.id);
        if has_tls {
            self.shared.https.mark(response.headers_mut());
        }
        if self.shared.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // HTTP/2 knows no such field: it is left out there.
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        metrics.answered(response.status());
        let elapsed = journey.elapsed();
        metrics.request_seconds.observe(elapsed.as_secs_f64());
        journey.answer(response, elapsed)
    }
}

/// What is to be done for a request.
enum Order<'j> {
    /// To deliver it: to the cell of this tenant, or to the origin of what belongs to none. Boxed, as it lies in the
    /// futures of all who work on it.
    Deliver(Box<Errand<'j>>, Option<(TenantId, Tally)>),
    /// To answer it.
    Answer(Box<Response<ResponseBody>>),
}

impl Forwarder {
    fn route<'j>(
        &self,
        mut request: Box<Request<IncomingBody>>,
        peer: &Peer,
        asker: &mut Asker,
        journey: &'j mut Journey,
    ) -> Result<Order<'j>, Failure> {
        let settings = &*journey.settings;
        let client_half = upgrade::client_half(request.extensions_mut());
        let (mut head, body) = request.into_parts();
        hygiene::check_framing(&head, peer.malformed)?;
        check_target(&head)?;
        let authority = hygiene::authority(&head)?;
        if peer.tls.as_ref().is_some_and(|tls| !tls.covers(&authority.host)) {
            return Err(Failure::Misdirected);
        }
        let forwarding = &settings.forwarding;
        let client = forwarding.client(&head.headers, peer.address.ip(), peer.scheme());
        // What the client spoke, not what a trusted proxy in front speaks to this router: or it would never end.
        if client.scheme == Scheme::HTTP
            && let Some(elsewhere) = self.shared.https.redirected(&authority.host, &head.uri)
        {
            return Ok(Order::Answer(Box::new(elsewhere)));
        }
        let found = resolve::tenant_of(&self.shared, settings, &mut head, &authority.host, peer.address.ip())?;
        let opens_websocket = hygiene::asks_for_websocket(&head);
        let (tenant, target) = match found {
            Some((Found { tenant, limited, target }, tally)) => {
                asker.limited = limited;
                (Some((tenant, tally)), target)
            }
            None => (None, None),
        };
        let slot = self.slot(&head, opens_websocket, asker)?;

        let upload = Upload::of(body, head.headers.contains_key(header::EXPECT));
        let websocket = opens_websocket.then_some(client_half);
        hygiene::strip_request(&mut head.headers);
        if websocket.is_some() {
            hygiene::write_websocket(&mut head.headers);
        }
        if hygiene::is_grpc(&head.headers) {
            head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        head.headers.remove(header::HOST);
        head.headers.remove(hygiene::REQUEST_ID);
        let mut lines = FieldLines::default();
        lines.put(&header::HOST, |to| authority.put(to));
        lines.put(&hygiene::REQUEST_ID, |to| to.value(&asker.id));
        client.write(&mut lines, &authority, forwarding.x_forwarded);
        let errand = boxed(|| Errand {
            host: authority.host,
            found: target,
            method: head.method,
            target: origin_form(&head.uri),
            headers: head.headers,
            lines: OwnLines::new(lines),
            upload,
            websocket,
            slot,
            room: peer.room(),
            sent: Rc::default(),
            began: journey.began(),
            journey,
        });
        Ok(Order::Deliver(errand, tenant))
    }

    async fn to_tenant(
        &self,
        tenant: &TenantId,
        tally: Tally,
        mut errand: Box<Errand<'_>>,
        peer: &Peer,
    ) -> Result<Response<ResponseBody>, Failure> {
        errand.journey.belongs_to(tenant, tally);
        let _in_flight = self.shared.under_way.admit(tally).ok_or_else(|| {
            self.shared.metrics.limited_overload.inc();
            Failure::Overload
        })?;
        self.deliver(tenant, &mut errand, peer).await
    }

    /// Asks the tenant's limits, if it has any, for a slot. It is asked once per request, however often that is tried.
    fn slot(&self, head: &Parts, opens_websocket: bool, asker: &Asker) -> Result<Option<Slot>, Failure> {
        let Some(limited) = &asker.limited else { return Ok(None) };
        let limits = self.shared.table.limits();
        // Read anew: threads share buckets, and one whose time is behind would refill them for the others.
        limits.enter(limited, &head.method, opens_websocket, Instant::now(), &self.shared.metrics).map(Some)
    }

    /// Tries until a cell answers, holding the request in between.
    async fn deliver(
        &self,
        tenant: &TenantId,
        errand: &mut Errand<'_>,
        peer: &Peer,
    ) -> Result<Response<ResponseBody>, Failure> {
        let holds = &self.shared.holds;
        let mut place: Option<Place> = None;
        let mut hops = 0;
        self.shared.retries.earn();
        loop {
            let Some(target) = errand.found.take().or_else(|| self.shared.table.target(tenant)) else {
                let exists = self.shared.table.tenant(tenant.as_str()).is_some();
                return Err(if exists { Failure::NoRoutesYet } else { Failure::UnknownHost });
            };
            let outcome = if place.is_none() && (target.held || holds.is_holding(tenant)) {
                Outcome::Refused
            } else {
                self.attempt(tenant, &target, errand).await?
            };
            match outcome {
                Outcome::Answered(mut response) => {
                    if let Some(place) = place {
                        place.admitted();
                    }
                    self.keep_cookies(tenant, errand, response.headers_mut());
                    return self.pass_on(Some(tenant), errand, response);
                }
                Outcome::Elsewhere(hint) if self.follow(tenant, &target, &hint, hops) => {
                    hops += 1;
                    continue;
                }
                Outcome::Elsewhere(_) | Outcome::Refused => {}
            }
            let place = match &mut place {
                Some(place) => {
                    place.refused();
                    place
                }
                empty => empty.insert(holds.enter(tenant)?),
            };
            if self.shared.table.has_changed(tenant, &target) {
                place.feed_has_changed();
            }
            let hold = peer.hold();
            let waiting = Instant::now();
            let turn = tokio::select! {
                biased;
                turn = place.turn() => turn.map_err(Failure::from),
                () = hold.refused() => Err(Failure::StreamRefused),
            };
            errand.journey.held(waiting.elapsed());
            turn?;
            #[cfg(feature = "test-faults")]
            if self.shared.faults.lose_replay && errand.method == http::Method::POST {
                return Ok(Response::new(ResponseBody::Empty));
            }
            hops = 0;
        }
    }

    /// Tries the endpoints of the tenant's cell, one after the other.
    async fn attempt(&self, tenant: &TenantId, target: &Target, errand: &mut Errand<'_>) -> Result<Outcome, Failure> {
        let Some(cell) = target.cell() else { return Ok(Outcome::Refused) };
        if !target.held {
            errand.upload.settle(&self.shared.replay, errand.room.as_ref(), self.shared.limits).await?;
        }
        for destination in self.in_order(cell, errand.protocol()) {
            let (answer, lent) = self.ask(destination, cell.route.kind, Some((tenant, target)), errand).await;
            let response = match answer {
                Ok(Some(response)) => response,
                not_answered => {
                    let whole = errand.upload.take_back(lent);
                    if not_answered.is_err() {
                        self.counters(cell).failures.inc();
                    }
                    match not_answered {
                        Err(Failure::CellFailed) if whole && self.may_repeat(errand) => continue,
                        Err(failure) => return Err(failure),
                        Ok(_) if whole => continue,
                        Ok(_) => return Err(Failure::CellFailed),
                    }
                }
            };
            let Some(verdict) = self.verdict(cell.route.kind, &response) else {
                self.counters(cell).answers.inc();
                return Ok(Outcome::Answered(response));
            };
            take_back_refused(errand, lent)?;
            match verdict {
                Verdict::Behind => {}
                Verdict::Fenced => return Ok(Outcome::Refused),
                Verdict::Elsewhere { cell, epoch } => return Ok(Outcome::Elsewhere(Owner { cell, epoch })),
            }
        }
        Ok(Outcome::Refused)
    }

    fn counters<'c>(&self, cell: &'c Cell) -> &'c CellCounters {
        cell.counters.get_or_init(|| self.shared.metrics.by_cell.of(&cell.route.name))
    }

    /// The cell's endpoints: the less busy of two first, those last that are away or have failed a moment ago.
    fn in_order(&self, cell: &Cell, protocol: Protocol) -> impl Iterator<Item = Destination> + use<> {
        let named = self.shared.gates_have_tls && cell.route.kind == CellKind::Agent;
        let server_name = named.then(|| cell.server_name());
        let to = |address| Destination { address, protocol, server_name: server_name.clone() };
        let mut in_turn = cell.endpoints_in_turn().map(to);
        // Most cells have one, for which no memory is taken.
        let mut alone = in_turn.next();
        let mut endpoints: Vec<Destination> = in_turn.collect();
        if let Some(first) = alone.take_if(|_| !endpoints.is_empty()) {
            endpoints.insert(0, first);
            let other = if endpoints.len() == 2 { 1 } else { rand::random_range(1..endpoints.len()) };
            let is_away =
                |endpoint: &Destination| self.pool.is_shunned(endpoint) || self.shared.health.is_away(endpoint.address);
            route::in_order(&mut endpoints, other, |endpoint| self.pool.in_use(endpoint), is_away);
        }
        alone.into_iter().chain(endpoints)
    }

    fn may_repeat(&self, errand: &Errand<'_>) -> bool {
        let may = self.shared.retries.spend(&errand.method);
        if may {
            self.shared.metrics.sent_again.inc();
        }
        may
    }

    /// What a gate says instead of admitting the request. An app's own 421 has no verdict: gates strip that header
    /// from apps, and a plain origin is no gate.
    fn verdict(&self, kind: CellKind, response: &Response<PooledBody>) -> Option<Verdict> {
        if kind == CellKind::Origin || response.status() != StatusCode::MISDIRECTED_REQUEST {
            return None;
        }
        let text = response.headers().get(hygiene::VERDICT)?;
        let metrics = &self.shared.metrics;
        // A verdict of a later version is a refusal all the same.
        let verdict = text.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(Verdict::Fenced);
        match verdict {
            Verdict::Fenced => metrics.fenced.inc(),
            Verdict::Elsewhere { .. } => metrics.elsewhere.inc(),
            Verdict::Behind => metrics.behind.inc(),
        }
        Some(verdict)
    }

    fn follow(&self, tenant: &TenantId, target: &Target, hint: &Owner, hops: u32) -> bool {
        let followed = self.shared.table.take_hint(tenant, target, hint.clone(), hops);
        let metrics = &self.shared.metrics;
        if followed {
            metrics.hints_followed.inc()
        } else {
            metrics.hints_ignored.inc()
        }
        followed
    }

    /// Keeps the cookies that the tenant's app sets within the tenant's own hosts.
    fn keep_cookies(&self, tenant: &TenantId, errand: &Errand<'_>, headers: &mut HeaderMap) {
        let shared = &self.shared;
        let is_own = |host: &Hostname| shared.table.tenant_of_host(host).as_ref() == Some(tenant);
        let changed = errand.journey.settings.cookies.apply(headers, &errand.host, is_own);
        if changed > 0 {
            shared.metrics.cookies_changed.inc_by(changed as u64);
        }
    }

    /// The base domain and its reserved labels belong to no tenant: one attempt, at the configured origin.
    async fn to_origin(&self, mut errand: Box<Errand<'_>>) -> Result<Response<ResponseBody>, Failure> {
        let origin = errand.journey.settings.origin.ok_or(Failure::UnknownHost)?;
        let destination = Destination::from(origin).over(errand.protocol());
        let (answer, _) = self.ask(destination, CellKind::Origin, None, &mut errand).await;
        let response = answer?.ok_or(Failure::CellFailed)?;
        self.pass_on(None, &mut errand, response)
    }

    /// Turns a cell's answer into the client's.
    fn pass_on(
        &self,
        tenant: Option<&TenantId>,
        errand: &mut Errand<'_>,
        response: Box<Response<PooledBody>>,
    ) -> Result<Response<ResponseBody>, Failure> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(tenant, errand, response);
        }
        let (mut head, mut body) = response.into_parts();
        if !hygiene::check_response(&head) {
            return Err(Failure::BadAnswer);
        }
        let whole = body.take_whole(|_| ());
        let lasts = whole.is_none() && hygiene::is_event_stream(&head.headers);
        if lasts {
            body.leave_requests();
        } else if whole.is_none() {
            let limits = self.shared.limits;
            body.limit_silence(Duration::from_millis(limits.stall_ms), Rc::clone(&errand.sent));
            body.limit_time(errand.began.checked_add(Duration::from_millis(limits.total_ms)));
        }
        hygiene::strip_response(&mut head.headers);
        head.version = Version::HTTP_11;
        let body = whole.map_or_else(|| body.into(), ResponseBody::full);
        let Some(slot) = errand.slot.take() else { return Ok(Response::from_parts(head, body)) };
        slot.tell(&mut head.headers);
        Ok(Response::from_parts(head, SlotBody::of(body, slot)))
    }

    fn switch(
        &self,
        tenant: Option<&TenantId>,
        errand: &mut Errand<'_>,
        response: Box<Response<PooledBody>>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let client = errand.websocket.take().filter(|_| upgrade::is_switch(response.status(), response.headers()));
        let client = client.ok_or(Failure::BadAnswer)?;
        let bytes = Rc::new(TunnelBytes::default());
        let end = TunnelEnd { goodbye: CancellationToken::new(), stop: self.thread.stop.clone() };
        let (response, tunnel) = upgrade::tunnel(client, *response, Rc::clone(&bytes), end.clone());
        let told = errand.journey.through(&response, &bytes);
        let open = (crate::errand::Counted::new(self.shared.metrics.tunnels_open.clone()), errand.slot.take(), told);
        let (shared, tenant) = (Arc::clone(&self.shared), tenant.cloned());
        let thread = self.thread.clone();
        self.thread.tasks.spawn_local(async move {
            // A WebSocket may write: it ends with its tenant's time of being open.
            let not_open = async {
                match &tenant {
                    Some(tenant) => shared.table.limits().until_not_open(tenant).await,
                    None => std::future::pending().await,
                }
            };
            let parting = async {
                tokio::select! {
                    () = not_open => {}
                    () = thread.parting() => {}
                }
                end.goodbye.cancel();
                std::future::pending().await
            };
            tokio::select! {
                () = tunnel => {}
                () = parting => {}
            }
            drop(open);
        });
        Ok(response)
    }
}

/// Takes the body back after a verdict. A gate that asked for the body has admitted the request, whatever it says
/// after that.
fn take_back_refused(errand: &mut Errand<'_>, lent: Lent) -> Result<(), Failure> {
    let asked_for = lent.as_ref().is_some_and(HeldHandle::is_released);
    if asked_for || !errand.upload.take_back(lent) {
        return Err(Failure::BadAnswer);
    }
    Ok(())
}

/// `*` is the target of OPTIONS alone, and TRACE would show the client what cells are told.
fn check_target(head: &Parts) -> Result<(), Failure> {
    match head.method {
        Method::TRACE => Err(Failure::Trace),
        Method::OPTIONS => Ok(()),
        _ if head.uri.path() == "*" => Err(BadRequest::Target.into()),
        _ => Ok(()),
    }
}

fn origin_form(uri: &Uri) -> Uri {
    // A path of which nothing is left reads as "/", and would be written as nothing.
    let path = uri.path_and_query().filter(|path| path.as_str() != "/").cloned();
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}

//! The life of a request in a router: whose it is, where that tenant is, the attempts to deliver it, the answer.
//!
//! [`Forwarder::route`] reads the head; [`Forwarder::deliver`] is the loop of attempts and holds; [`Forwarder::attempt`]
//! tries the endpoints of one cell. What a gate refused was never seen by the app, so it is sent again whatever its
//! method; what may have been admitted is never sent again.

use std::cell::Cell as Counter;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cellway_core::cell::CellKind;
use cellway_core::ids::TenantId;
use cellway_core::route::{HostMeaning, Owner};
use cellway_core::verdict::Verdict;
use cellway_proxy::hygiene::{self, Authority};
use cellway_proxy::pool::NotSent;
use cellway_proxy::upgrade::{self, TunnelBytes};
use cellway_proxy::{
    Destination, Handler, HeldHandle, IncomingBody, Peer, Pool, PooledBody, Protocol, RequestBody, ResponseBody,
    SendError, ThreadContext,
};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use tokio::time::{Instant, sleep};

use crate::errand::{Errand, Outcome, request_id};
use crate::failure::Failure;
use crate::hold::Place;
use crate::shared::Shared;
use crate::table::{Cell, Target};
use crate::upload::{Lent, Upload};

/// How long a cell may take to begin its answer, from the last byte of the request that moved.
pub const ANSWER_MS: u64 = 60_000;
/// How long an ordinary exchange may stand still, once it is under way: the client sends nothing more of its body, the
/// cell nothing more of its answer, or the client takes nothing of it.
pub const STALL_MS: u64 = 60_000;

/// Forwards the requests of one thread.
pub(crate) struct Forwarder {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) thread: ThreadContext,
}

impl Handler for Forwarder {
    async fn handle(self: Rc<Self>, request: Request<IncomingBody>, peer: Peer) -> Response<ResponseBody> {
        let metrics = &self.shared.metrics;
        let _open = crate::errand::Counted::new(&metrics.requests_open);
        let began = Instant::now();
        let id = request_id(request.headers());
        let has_tls = peer.tls.is_some();
        let mut response = match self.route(request, peer, &id).await {
            Ok(response) => response,
            Err(failure) => failure.page(&id),
        };
        if has_tls {
            self.shared.https.mark(response.headers_mut());
        }
        metrics.answered(response.status());
        metrics.request_seconds.observe(began.elapsed().as_secs_f64());
        response
    }
}

impl Forwarder {
    async fn route(
        &self,
        mut request: Request<IncomingBody>,
        peer: Peer,
        id: &HeaderValue,
    ) -> Result<Response<ResponseBody>, Failure> {
        let client_half = upgrade::client_half(&mut request);
        let (mut head, body) = request.into_parts();
        hygiene::check_framing(&head, peer.two_lengths)?;
        let authority = hygiene::authority(&head)?;
        if peer.tls.as_ref().is_some_and(|tls| !tls.covers(&authority.host)) {
            return Err(Failure::Misdirected);
        }
        if peer.tls.is_none()
            && let Some(elsewhere) = self.shared.https.redirected(&authority.host, &head.uri)
        {
            return Ok(elsewhere);
        }
        let tenant = self.tenant_of(&authority)?;

        let upload = Upload::of(body, head.headers.contains_key(header::EXPECT));
        let websocket = hygiene::asks_for_websocket(&head).then_some(client_half);
        hygiene::strip_request(&mut head.headers);
        head.headers.insert(header::HOST, authority.to_value());
        head.headers.insert(hygiene::REQUEST_ID, id.clone());
        hygiene::write_forwarded(&mut head.headers, peer.address.ip(), &authority, peer.scheme());
        let errand = Errand {
            method: head.method,
            target: origin_form(&head.uri),
            headers: head.headers,
            upload,
            websocket,
            sent: Rc::default(),
        };
        match tenant {
            Some(tenant) => self.deliver(&tenant, errand, &peer).await,
            None => self.to_origin(errand).await,
        }
    }

    /// Whose host it is; `None` for the base domain itself and its reserved labels.
    fn tenant_of(&self, authority: &Authority) -> Result<Option<TenantId>, Failure> {
        let shared = &self.shared;
        let tenant = match shared.domains.meaning(&authority.host) {
            HostMeaning::Origin => return Ok(None),
            // A name below the base domain that is no tenant's own may be claimed: that is how a tenant is renamed.
            HostMeaning::Tenant(label) => {
                shared.table.tenant(label).or_else(|| shared.table.tenant_of_host(&authority.host))
            }
            HostMeaning::Custom => shared.table.tenant_of_host(&authority.host),
        };
        match tenant {
            Some(tenant) => Ok(Some(tenant)),
            None if shared.is_loaded() => Err(Failure::UnknownHost),
            None => Err(Failure::NoRoutesYet),
        }
    }

    /// Tries until a cell answers, holding the request in between.
    async fn deliver(
        &self,
        tenant: &TenantId,
        mut errand: Errand,
        peer: &Peer,
    ) -> Result<Response<ResponseBody>, Failure> {
        let holds = &self.shared.holds;
        let mut place: Option<Place> = None;
        let mut hops = 0;
        loop {
            let target = self.shared.table.target(tenant).ok_or(Failure::UnknownHost)?;
            let outcome = if place.is_none() && (target.held || holds.is_holding(tenant)) {
                Outcome::Refused
            } else {
                self.attempt(tenant, &target, &mut errand).await?
            };
            match outcome {
                Outcome::Answered(response) => {
                    if let Some(place) = place {
                        place.admitted();
                    }
                    return self.pass_on(&mut errand, response);
                }
                Outcome::Elsewhere(hint) if self.follow(&target, &hint, hops) => {
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
            tokio::select! {
                biased;
                turn = place.turn() => turn?,
                () = hold.refused() => return Err(Failure::StreamRefused),
            }
            #[cfg(feature = "test-faults")]
            if self.shared.faults.lose_replay && errand.method == http::Method::POST {
                return Ok(Response::new(ResponseBody::Empty));
            }
            hops = 0;
        }
    }

    /// Tries the endpoints of the tenant's cell, one after the other.
    async fn attempt(&self, tenant: &TenantId, target: &Target, errand: &mut Errand) -> Result<Outcome, Failure> {
        let Some(cell) = &target.cell else { return Ok(Outcome::Refused) };
        if !target.held {
            errand.upload.settle(&self.shared.replay).await?;
        }
        for destination in self.in_order(cell, errand.protocol()) {
            let (request, lent) = errand.request(cell.route.kind, Some((tenant, target.owner.epoch)));
            let underway = Underway { tenant: Some(tenant), lent: &lent, sent: &errand.sent };
            let response = match self.exchange(destination, request, underway).await? {
                Some(response) => response,
                None if errand.upload.take_back(lent) => continue,
                None => return Err(Failure::CellFailed),
            };
            let Some(verdict) = self.verdict(cell.route.kind, &response) else {
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

    /// The cell's endpoints, those last that could not be reached a moment ago.
    fn in_order(&self, cell: &Cell, protocol: Protocol) -> Vec<Destination> {
        let named = self.shared.gates_have_tls && cell.route.kind == CellKind::Agent;
        let server_name = named.then(|| cell.server_name());
        let to = |address| Destination { address, protocol, server_name: server_name.clone() };
        let mut endpoints: Vec<Destination> = cell.endpoints_in_turn().map(to).collect();
        if endpoints.len() > 1 {
            endpoints.sort_by_key(|endpoint| self.pool.is_shunned(endpoint.clone()));
        }
        endpoints
    }

    /// Sends a request and waits for the head of the answer; `None` if it was not sent.
    async fn exchange(
        &self,
        endpoint: Destination,
        request: Request<RequestBody>,
        underway: Underway<'_>,
    ) -> Result<Option<Response<PooledBody>>, Failure> {
        let shown = endpoint.address;
        let mut answer = pin!(self.pool.send_for(underway.tenant.map(TenantId::as_str), endpoint, request));
        let look_ms = self.shared.stall_ms.min(ANSWER_MS);
        let (mut sent_before, mut still_ms) = (0, 0);
        loop {
            let answer = tokio::select! {
                answer = answer.as_mut() => answer,
                () = sleep(Duration::from_millis(look_ms)) => {
                    still_ms = if underway.sent.get() == sent_before { still_ms + look_ms } else { 0 };
                    sent_before = underway.sent.get();
                    underway.check(still_ms, self.shared.stall_ms)?;
                    continue;
                }
            };
            return match answer {
                Ok(response) => Ok(Some(response)),
                Err(SendError::NotSent { cause: NotSent::Exhausted(_), .. }) => Err(Failure::Busy),
                Err(SendError::NotSent { cause, .. }) => {
                    self.shared.metrics.not_sent.inc();
                    tracing::debug!(endpoint = %shown, %cause, "an endpoint was not reached");
                    Ok(None)
                }
                Err(SendError::Failed(error)) => {
                    tracing::debug!(endpoint = %shown, %error, "a cell failed after the request was sent");
                    Err(Failure::CellFailed)
                }
            };
        }
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

    fn follow(&self, target: &Target, hint: &Owner, hops: u32) -> bool {
        let followed = self.shared.table.take_hint(target, hint.clone(), hops);
        let metrics = &self.shared.metrics;
        if followed {
            metrics.hints_followed.inc()
        } else {
            metrics.hints_ignored.inc()
        }
        followed
    }

    /// The base domain and its reserved labels belong to no tenant: one attempt, at the configured origin.
    async fn to_origin(&self, mut errand: Errand) -> Result<Response<ResponseBody>, Failure> {
        let origin = self.shared.origin.ok_or(Failure::UnknownHost)?;
        let (request, lent) = errand.request(CellKind::Origin, None);
        let underway = Underway { tenant: None, lent: &lent, sent: &errand.sent };
        let destination = Destination::from(origin).over(errand.protocol());
        let response = self.exchange(destination, request, underway).await?.ok_or(Failure::CellFailed)?;
        self.pass_on(&mut errand, response)
    }

    /// Turns a cell's answer into the client's.
    fn pass_on(&self, errand: &mut Errand, response: Response<PooledBody>) -> Result<Response<ResponseBody>, Failure> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(errand, response);
        }
        let (mut head, mut body) = response.into_parts();
        if !hygiene::check_response(&head) {
            return Err(Failure::BadAnswer);
        }
        if !hygiene::is_event_stream(&head.headers) {
            body.limit_silence(Duration::from_millis(self.shared.stall_ms), Rc::clone(&errand.sent));
        }
        hygiene::strip_response(&mut head.headers);
        head.headers.insert(hygiene::REQUEST_ID, errand.headers[hygiene::REQUEST_ID].clone());
        head.version = Version::HTTP_11;
        Ok(Response::from_parts(head, ResponseBody::Pooled(body)))
    }

    fn switch(&self, errand: &mut Errand, response: Response<PooledBody>) -> Result<Response<ResponseBody>, Failure> {
        let client = errand.websocket.take().filter(|_| upgrade::is_switch(response.status(), response.headers()));
        let client = client.ok_or(Failure::BadAnswer)?;
        let bytes = Rc::new(TunnelBytes::default());
        let (response, tunnel) = upgrade::tunnel(client, response, bytes, self.thread.stop.clone());
        let open = crate::errand::Counted::new(&self.shared.metrics.tunnels_open);
        self.thread.tasks.spawn_local(async move {
            tunnel.await;
            drop(open);
        });
        Ok(response)
    }
}

/// What is watched while the head of an answer is waited for.
struct Underway<'a> {
    tenant: Option<&'a TenantId>,
    lent: &'a Lent,
    sent: &'a Counter<u64>,
}

impl Underway<'_> {
    /// Whether to go on after this long without a byte of the request having been sent.
    fn check(&self, still_ms: u64, stall_ms: u64) -> Result<(), Failure> {
        if still_ms >= stall_ms && self.lent.as_ref().is_some_and(HeldHandle::is_starved) {
            return Err(Failure::BodyTimeout);
        }
        if still_ms >= ANSWER_MS { Err(Failure::CellTimeout) } else { Ok(()) }
    }
}

/// Takes the body back after a verdict. A gate that asked for the body has admitted the request, whatever it says
/// after that.
fn take_back_refused(errand: &mut Errand, lent: Lent) -> Result<(), Failure> {
    let asked_for = lent.as_ref().is_some_and(HeldHandle::is_released);
    if asked_for || !errand.upload.take_back(lent) {
        return Err(Failure::BadAnswer);
    }
    Ok(())
}

fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::from(path)
}

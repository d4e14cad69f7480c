//! The admin listener: `/healthz`, `/readyz`, `/metrics`, `/status`, and an operator's word about refused routes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cellway_proxy::{Handler, IncomingBody, Peer, ResponseBody};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use prometheus::{Registry, TextEncoder};
use tokio::time::timeout;

use crate::feed::guard::Word;
use crate::shared::Shared;
use crate::status::Status;

pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Registry,
}

/// The largest body that is read.
const BODY_MAX_BYTES: usize = 16 * 1024;
/// How long a body may take.
const BODY_MS: u64 = 5_000;

impl Handler for Admin {
    async fn handle(self: Rc<Self>, request: Box<Request<IncomingBody>>, _: Peer) -> Response<ResponseBody> {
        let shared = Arc::clone(&self.shared);
        let mut answer = self.answer(request).await;
        if shared.is_draining() {
            // Whoever asks on a kept connection would not see the router that serves in its place.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl Admin {
    async fn answer(self: Rc<Self>, request: Box<Request<IncomingBody>>) -> Response<ResponseBody> {
        match (request.method().clone(), request.uri().path()) {
            (Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
            (Method::GET, "/readyz") => self.readiness(),
            (Method::GET, "/metrics") => self.metrics(),
            (Method::GET, "/status") => json(StatusCode::OK, &Status::of(&self.shared)),
            (Method::POST, "/routes/accept") => self.accept(*request).await,
            (_, "/healthz" | "/readyz" | "/metrics" | "/status" | "/routes/accept") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "this is not the method; only /routes/accept is posted to\n")
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz, /metrics, /status, and /routes/accept to post to\n",
            ),
        }
    }

    fn readiness(&self) -> Response<ResponseBody> {
        let (loaded, synced) = (self.shared.is_loaded(), self.shared.is_synced());
        let revision = self.shared.revision();
        if self.shared.is_draining() {
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("draining, at revision {revision}\n"));
        }
        match (loaded, synced, self.shared.refused.current()) {
            (true, _, Some(refusal)) => text(
                StatusCode::OK,
                format!(
                    "ready, stale at revision {revision}: what the feed tells is refused ({refusal}); if it is meant, \
                     `cellway router accept-routes`\n"
                ),
            ),
            (true, true, None) => text(StatusCode::OK, format!("ready at revision {revision}\n")),
            (true, false, None) => text(StatusCode::OK, format!("ready, stale at revision {revision}\n")),
            (false, ..) => text(StatusCode::SERVICE_UNAVAILABLE, "no routes yet\n"),
        }
    }

    /// Takes an operator's word about refused routes. JSON, and said to be: no page in a browser can send that here
    /// unasked.
    async fn accept(&self, request: Request<IncomingBody>) -> Response<ResponseBody> {
        let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if !is_json {
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content-type is not application/json\n");
        }
        let read = Limited::new(request.into_body(), BODY_MAX_BYTES).collect();
        let Ok(Ok(body)) = timeout(Duration::from_millis(BODY_MS), read).await else {
            return text(StatusCode::BAD_REQUEST, "the body is too long, or did not come\n");
        };
        let word: Word = match serde_json::from_slice(&body.to_bytes()) {
            Ok(word) => word,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("not an acceptance of routes: {error}\n")),
        };
        if self.shared.refused.accept(word.clone()) {
            tracing::warn!(?word, "an operator accepts routes that were refused");
            return json(StatusCode::ACCEPTED, &Status::of(&self.shared));
        }
        match self.shared.refused.current() {
            Some(refusal) => text(StatusCode::CONFLICT, format!("other routes are refused now: {refusal}\n")),
            None => text(StatusCode::CONFLICT, "no routes are refused\n"),
        }
    }

    fn metrics(&self) -> Response<ResponseBody> {
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(metrics) => text(StatusCode::OK, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<ResponseBody> {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => {
            let mut response = text(status, body);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

//! The API: thin handlers, one file per noun, over what [`crate::operate`] does.

mod agents;
mod callers;
mod certificates;
mod fleet;
mod limits;
mod listen;
mod stream;

use crate::Replica;
use crate::operate::NotDone;
use anyhow::Context;
use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use callers::Caller;
use cellway_api::identity::{Callers, LiveIdentity};
use cellway_api::problem::{PROBLEM_MEDIA_TYPE, Problem};
use cellway_machine::Bound;
use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The largest request body.
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// How long open requests may go on after a shutdown was asked for.
const DRAIN_MS: u64 = 2_000;

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct Ctx {
    pub(crate) replica: Arc<Replica>,
    registry: prometheus::Registry,
    shutdown: CancellationToken,
}

/// Serves the API until `shutdown`: over TLS with an identity, else in clear.
pub(crate) async fn serve(
    replica: Arc<Replica>,
    registry: prometheus::Registry,
    listener: Bound,
    identity: Option<Arc<LiveIdentity>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let ctx = Ctx { replica, registry, shutdown: shutdown.clone() };
    let app = Router::new()
        .merge(fleet::routes())
        .merge(limits::routes())
        .merge(certificates::routes())
        .merge(agents::routes())
        .route("/healthz", axum::routing::get(|| async { "ok\n" }))
        .route("/readyz", axum::routing::get(ready))
        .route("/metrics", axum::routing::get(metrics))
        .fallback(|| async { Failure(NotDone::NotFound("there is no such path in this API".into())) })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(axum::middleware::from_fn(callers::check))
        .with_state(ctx)
        .into_make_service_with_connect_info::<Caller>();
    let listener = listener.start().context("cannot use the listener")?;
    let stopped = shutdown.clone().cancelled_owned();
    let served = match identity {
        None => axum::serve(listen::Clear(listener), app).with_graceful_shutdown(stopped).into_future().left_future(),
        Some(identity) => {
            let config = Arc::new(identity.server_config(Callers::Anyone));
            let listener = listen::Tls::start(listener, config).context("cannot use the listener")?;
            axum::serve(listener, app).with_graceful_shutdown(stopped).into_future().right_future()
        }
    };
    tokio::select! {
        served = served => served.context("the API stopped serving"),
        () = async { shutdown.cancelled().await; tokio::time::sleep(std::time::Duration::from_millis(DRAIN_MS)).await } => Ok(()),
    }
}

/// Ready: the store is in view, and somebody leads.
async fn ready(State(ctx): State<Ctx>) -> Response {
    let view = ctx.replica.view.read();
    let why = match (view.synced, ctx.replica.view.is_in_sight(), view.leader.is_some()) {
        (true, true, true) => return "ready\n".into_response(),
        (true, true, false) => "no replica leads yet\n",
        (true, false, _) => "the store is out of sight, or nobody leads\n",
        (false, ..) => "the store is not in view yet\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn metrics(State(ctx): State<Ctx>) -> Response {
    ctx.replica.metrics.show_certificates(&ctx.replica.view.read());
    match prometheus::TextEncoder::new().encode_to_string(&ctx.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// An action that was not done, as problem details.
pub(crate) struct Failure(pub(crate) NotDone);

impl From<NotDone> for Failure {
    fn from(error: NotDone) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = self.0.problem();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        problem_response(status, &problem)
    }
}

fn problem_response(status: StatusCode, problem: &Problem) -> Response {
    let mut response = (status, axum::Json(problem)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

/// A JSON body; what is wrong with it is said in the problem, with line and column.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|error| Failure(NotDone::Invalid(format!("the body cannot be read: {error}"))))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| Failure(NotDone::Invalid(format!("the body is not as expected: {error}"))))
    }
}

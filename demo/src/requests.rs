//! What every request brings and obeys: its tenant, its time limit, and how it is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep_until, timeout_at};

use crate::App;
use crate::tenant_file::StoreError;

const TENANT_HEADER: HeaderName = HeaderName::from_static("x-cellway-tenant");
const EPOCH_HEADER: HeaderName = HeaderName::from_static("x-cellway-epoch");
const LABEL_MAX_BYTES: usize = 63;
/// Kept free before a request's time is over, for the commit itself.
const COMMIT_RESERVE_MS: u64 = 50;
/// For very short limits the reserve is at most this part of them.
const COMMIT_RESERVE_DIVISOR: u64 = 4;
const RETRY_AFTER_S: &str = "1";

/// A tenant's name: one DNS label, so that it is safe in a file name.
#[derive(Debug, Clone)]
pub(crate) struct TenantName(String);

impl TenantName {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=LABEL_MAX_BYTES).contains(&text.len());
        let plain = text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
        (fits && plain).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// How many requests run, streams included.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<AtomicUsize>);

impl Running {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn enter(&self) -> Arc<Entered> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Arc::new(Entered(self.clone()))
    }
}

#[derive(Debug)]
struct Entered(Running);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Says how long a request may take. The request counts as running while a copy exists.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) answer_by: Instant,
    pub(crate) write_by: Instant,
    max_request_ms: u64,
    _entered: Arc<Entered>,
}

impl Ticket {
    fn issue(app: &App) -> Self {
        Self::starting_now(app.max_request_ms, app.running.enter())
    }

    /// The same request with its time counted anew: a stream's next look at its data.
    pub(crate) fn renewed(&self) -> Self {
        Self::starting_now(self.max_request_ms, Arc::clone(&self._entered))
    }

    fn starting_now(max_request_ms: u64, entered: Arc<Entered>) -> Self {
        let reserve_ms = COMMIT_RESERVE_MS.min(max_request_ms / COMMIT_RESERVE_DIVISOR);
        let now = Instant::now();
        Self {
            answer_by: now + Duration::from_millis(max_request_ms),
            write_by: now + Duration::from_millis(max_request_ms - reserve_ms),
            max_request_ms,
            _entered: entered,
        }
    }
}

/// Who asks: read from the headers.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantName,
    /// An opaque number that is recorded and shown.
    pub(crate) epoch: Option<i64>,
    pub(crate) ticket: Ticket,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let tenant = the_only(&parts.headers, &TENANT_HEADER).and_then(TenantName::parse);
        let epoch = the_only(&parts.headers, &EPOCH_HEADER).and_then(|text| text.parse().ok());
        let ticket = parts.extensions.get::<Ticket>().cloned();
        Ok(Self {
            tenant: tenant.ok_or(Refusal::NoTenant)?,
            epoch,
            ticket: ticket.unwrap_or_else(|| Ticket::issue(app)),
        })
    }
}

fn the_only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{TENANT_HEADER} must name one tenant: a DNS label in lower case")]
    NoTenant,
    #[error("an entry's id is 1 to 64 characters out of A-Z a-z 0-9 . _ -")]
    BadId,
    #[error("last-event-id must be a number")]
    BadEventId,
    #[error("no such entry")]
    NoEntry,
    #[error("the body is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
    #[error("the body ended early")]
    Incomplete,
    #[error("the request took too long")]
    TimedOut,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoTenant | Self::BadId | Self::BadEventId | Self::Incomplete => StatusCode::BAD_REQUEST,
            Self::NoEntry => StatusCode::NOT_FOUND,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Store(error @ (StoreError::Broken(_) | StoreError::Look(_))) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::error!(%error, cause, "request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::TimedOut | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = (status, format!("{self}\n")).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let retry_after = header::HeaderValue::from_static(RETRY_AFTER_S);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, retry_after);
        }
        response
    }
}

/// Cuts a request off when its time is over, reading its body included.
pub(crate) async fn timed(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let ticket = Ticket::issue(&app);
    request.extensions_mut().insert(ticket.clone());
    match timeout_at(ticket.answer_by.into(), next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::TimedOut.into_response(),
    }
}

/// Counts a stream, which has no time limit.
pub(crate) async fn untimed(State(app): State<App>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Ticket::issue(&app));
    next.run(request).await
}

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/count", get(count)).route("/slow", get(slow))
}

/// What an operator asks: neither counted as running nor bound to a tenant.
pub(crate) fn operator_routes() -> Router<App> {
    Router::new().route("/healthz", get(async || "ok")).route("/idle", get(idle))
}

async fn count(State(app): State<App>, caller: Caller) -> Result<Response, Refusal> {
    let store = &app.store;
    let count = store.with(&caller.tenant, &caller.ticket, |file, _| file.count()).await?;
    let answer = json!({
        "count": count, "cell": *app.name, "epoch": caller.epoch, "version": *app.version,
    });
    Ok(Json(answer).into_response())
}

async fn idle(State(app): State<App>) -> Response {
    Json(json!({ "running": app.running.count() })).into_response()
}

#[derive(Deserialize)]
struct SlowQuery {
    ms: u64,
}

async fn slow(State(app): State<App>, caller: Caller, Query(query): Query<SlowQuery>) -> String {
    let wait_ms = query.ms.min(app.max_request_ms);
    let until = Instant::now() + Duration::from_millis(wait_ms);
    sleep_until(until.min(caller.ticket.answer_by).into()).await;
    format!("answered after {wait_ms} ms by {}\n", app.name)
}

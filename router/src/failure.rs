//! What a router answers by itself when it cannot pass on a cell's answer.

use cellway_proxy::hygiene::BadRequest;
use cellway_proxy::{ResponseBody, serve::refuse_stream};
use http::{HeaderValue, Response, StatusCode, header};

use crate::hold::{Overflow, TimedOut};
use crate::limits::Quota;
use page::Asker;

pub(crate) mod page;

/// When to come again, in seconds, unless something is known of it.
const RETRY_AFTER_S: u64 = 1;

/// Beside these, any method but TRACE and CONNECT passes.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Why there is no cell's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request's head is refused.
    Refused(BadRequest),
    /// The certificate of the connection does not stand for this host: another connection has to be made.
    Misdirected,
    /// TRACE would show the client what cells are told.
    Trace,
    /// Nobody is served under this host.
    UnknownHost,
    /// The router has no routes yet.
    NoRoutesYet,
    /// Too many requests are held.
    Overflow,
    /// The request was held too long.
    Patience,
    /// Too much of held requests waits on the client's connection.
    StreamRefused,
    /// All connections to the cell are in use.
    Busy,
    /// The client did not send its body in time.
    BodyTimeout,
    /// The client broke off its body.
    BodyBroken,
    /// The connection to the cell failed after the request was sent.
    CellFailed,
    /// The cell's answer is not one.
    BadAnswer,
    /// The cell did not answer in time.
    CellTimeout,
    /// The operator has paused the tenant.
    Paused {
        /// When to come again.
        retry_after_s: u32,
    },
    /// The operator lets the tenant's users only read.
    ReadOnly {
        /// When to come again.
        retry_after_s: u32,
    },
    /// The tenant has more requests per second than it may.
    OverRate(Quota),
    /// The tenant has more requests at a time than it may.
    OverConcurrency(Option<Quota>),
    /// The router has too many requests, and the tenant more than its part of them.
    Overload,
}

impl From<BadRequest> for Failure {
    fn from(bad: BadRequest) -> Self {
        Self::Refused(bad)
    }
}

impl From<Overflow> for Failure {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

impl From<TimedOut> for Failure {
    fn from(_: TimedOut) -> Self {
        Self::Patience
    }
}

impl Failure {
    /// What it is called in the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Misdirected => "misdirected",
            Self::Trace => "trace",
            Self::UnknownHost => "unknown_host",
            Self::NoRoutesYet => "no_routes_yet",
            Self::Overflow => "hold_overflow",
            Self::Patience => "hold_timeout",
            Self::StreamRefused => "stream_refused",
            Self::Busy => "busy",
            Self::BodyTimeout => "body_timeout",
            Self::BodyBroken => "body_broken",
            Self::CellFailed => "cell_failed",
            Self::BadAnswer => "bad_answer",
            Self::CellTimeout => "cell_timeout",
            Self::Paused { .. } => "paused",
            Self::ReadOnly { .. } => "read_only",
            Self::OverRate(_) => "over_rate",
            Self::OverConcurrency(_) => "over_concurrency",
            Self::Overload => "overload",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Refused(bad) => bad.status(),
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownHost => StatusCode::NOT_FOUND,
            Self::NoRoutesYet | Self::Overflow | Self::Patience | Self::Busy | Self::Overload | Self::StreamRefused => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Paused { .. } | Self::ReadOnly { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::OverRate(_) | Self::OverConcurrency(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::CellFailed | Self::BadAnswer => StatusCode::BAD_GATEWAY,
            Self::CellTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn sentence(self) -> String {
        match self {
            Self::Refused(bad) => format!("This request cannot be served: {bad}."),
            Self::Misdirected => "This connection does not lead to this address. Please try again.".into(),
            Self::Trace => "TRACE is not served.".into(),
            Self::UnknownHost => "There is nothing at this address.".into(),
            Self::NoRoutesYet => "The service is starting. Please try again.".into(),
            Self::Overflow | Self::Patience | Self::Busy | Self::Overload | Self::StreamRefused => {
                "The service is busy. Please try again.".into()
            }
            Self::Paused { .. } => "This service is paused.".into(),
            Self::ReadOnly { .. } => "This service can only be read at the moment; nothing was changed.".into(),
            Self::OverRate(_) => "There were too many requests. Please try again later.".into(),
            Self::OverConcurrency(_) => "There are too many requests at a time. Please try again.".into(),
            Self::BodyTimeout => "The request did not arrive in time.".into(),
            Self::BodyBroken => "The request did not arrive completely.".into(),
            Self::CellFailed | Self::BadAnswer => "The service failed to answer.".into(),
            Self::CellTimeout => "The service did not answer in time.".into(),
        }
    }

    /// When to come again, if that makes sense.
    fn retry_after_s(self) -> Option<u64> {
        match self {
            Self::Paused { retry_after_s } | Self::ReadOnly { retry_after_s } => Some(retry_after_s.into()),
            Self::OverRate(quota) => Some(quota.retry_after_s()),
            Self::OverConcurrency(_) => Some(RETRY_AFTER_S),
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_S),
        }
    }

    /// The answer that says so.
    pub(crate) fn answer(self, asker: &Asker) -> Response<ResponseBody> {
        if self == Self::StreamRefused {
            return refuse_stream();
        }
        let status = self.status();
        let is_maintenance = matches!(self, Self::Paused { .. } | Self::ReadOnly { .. });
        let mut response = asker.answer(status, &self.sentence(), is_maintenance);
        let headers = response.headers_mut();
        if let Some(retry_after_s) = self.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, ALLOW);
        }
        if let Self::OverRate(quota) | Self::OverConcurrency(Some(quota)) = self {
            quota.tell(headers);
        }
        if let Self::Refused(_) = self {
            // After a head that is unclear, nothing on the connection can be trusted.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

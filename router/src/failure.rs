//! What a router answers by itself when it cannot pass on a cell's answer.

use cellway_proxy::hygiene::{self, BadRequest};
use cellway_proxy::{ResponseBody, serve::refuse, serve::refuse_stream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::hold::{Overflow, TimedOut};

/// When to come again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

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
    fn status(self) -> StatusCode {
        match self {
            Self::Refused(bad) => bad.status(),
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownHost => StatusCode::NOT_FOUND,
            Self::NoRoutesYet | Self::Overflow | Self::Patience | Self::Busy | Self::StreamRefused => {
                StatusCode::SERVICE_UNAVAILABLE
            }
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
            Self::Overflow | Self::Patience | Self::Busy | Self::StreamRefused => {
                "The service is busy. Please try again.".into()
            }
            Self::BodyTimeout => "The request did not arrive in time.".into(),
            Self::BodyBroken => "The request did not arrive completely.".into(),
            Self::CellFailed | Self::BadAnswer => "The service failed to answer.".into(),
            Self::CellTimeout => "The service did not answer in time.".into(),
        }
    }

    /// The page that says so.
    pub(crate) fn page(self, request_id: &HeaderValue) -> Response<ResponseBody> {
        let status = self.status();
        if self == Self::StreamRefused {
            return refuse_stream();
        }
        if let Self::Refused(_) = self {
            let mut response = refuse(status, &self.sentence());
            mark(response.headers_mut(), status, request_id);
            return response;
        }
        let id = request_id.to_str().unwrap_or_default();
        let page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{status}</title>\
             <style>body{{font:1rem/1.5 system-ui;max-width:36rem;margin:15vh auto;padding:0 1rem}}\
             small{{color:#777}}</style><h1>{}</h1><p>{}</p><p><small>Request {id}</small></p></html>\n",
            status.as_u16(),
            self.sentence(),
        );
        let mut response = Response::new(ResponseBody::full(page));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        mark(headers, status, request_id);
        response
    }
}

/// What every answer of the router's own has.
fn mark(headers: &mut HeaderMap, status: StatusCode, request_id: &HeaderValue) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(hygiene::REQUEST_ID, request_id.clone());
    match status {
        StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(header::RETRY_AFTER, RETRY_AFTER)),
        StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(header::ALLOW, ALLOW)),
        _ => {}
    }
}

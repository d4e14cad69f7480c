//! What is checked and stripped on every head that passes: authority, framing, hop-by-hop fields, the reserved
//! `x-cellway-*` fields, what clients say of themselves ([`crate::forwarded`] writes that anew).

use cellway_core::hostname::{Hostname, InvalidHostname};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Version, response};

use crate::connection::http1::{FIELD_MAX_BYTES, TARGET_MAX_BYTES};
use crate::field_lines::FieldText;
use crate::http1::fields;

/// Towards the cell: whose request it is.
pub const TENANT: HeaderName = HeaderName::from_static("x-cellway-tenant");
/// Towards the cell: the epoch of the placement by which the request was routed.
pub const EPOCH: HeaderName = HeaderName::from_static("x-cellway-epoch");
/// From a gate: why it did not admit the request.
pub const VERDICT: HeaderName = HeaderName::from_static("x-cellway-verdict");
/// From an app: what the request cost.
pub const COST: HeaderName = HeaderName::from_static("x-cellway-cost");
/// Names a request across router, gate and app.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const REAL_IP: &str = "x-real-ip";
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Fields that never belong into trailers, whoever sends them (RFC 9110, 6.5.1).
static NEVER_TRAILERS: [HeaderName; 12] = [
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::TRAILER,
    header::CONNECTION,
    header::AUTHORIZATION,
    header::SET_COOKIE,
    header::COOKIE,
    header::TE,
];

/// Fields of a request's head: as many as hyper takes over HTTP/1.1.
const FIELDS_MAX: usize = 100;

/// The most bytes of an authority's text that are looked at.
const AUTHORITY_MAX_BYTES: usize = 300;

/// Why a request's head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// HTTP/1.1 asks for exactly one.
    #[error("the request has no Host")]
    NoHost,
    /// Two, even of the same value.
    #[error("the request has more than one Host")]
    ManyHosts,
    /// `Host` is no text.
    #[error("the Host is not readable")]
    UnreadableHost,
    /// `Host` and the target disagree.
    #[error("the Host is not the one of the request target")]
    OtherHost,
    /// Not a host name.
    #[error("the Host is refused: {0}")]
    Hostname(#[from] InvalidHostname),
    /// A target that is neither `/path` nor `http(s)://host/path`.
    #[error("the request target has a form that is not served")]
    Target,
    /// A tunnel has no body.
    #[error("a request for a tunnel states a length, and has no body")]
    TunnelLength,
    /// `Content-Length` beside `Transfer-Encoding`.
    #[error("the request states its length twice")]
    TwoLengths,
    /// Anything but `chunked`.
    #[error("only the transfer coding \"chunked\" is served")]
    TransferCoding,
    /// `CONNECT` makes no sense to a reverse proxy.
    #[error("CONNECT is not served")]
    Connect,
    /// A name with a character that no field name has.
    #[error("the request has a field with an impossible name")]
    FieldName,
    /// `PRI` begins connections, and is no method.
    #[error("the method PRI is not served")]
    Preface,
    /// HTTP/2 has no white space around a value.
    #[error("the request has a field with white space around its value")]
    FieldValue,
    /// The target is too long.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The fields are, one or all.
    #[error("the request's fields are too large")]
    HeadTooLarge,
}

impl BadRequest {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Whom a request is for, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The normalised name: the only thing that routing looks at.
    pub host: Hostname,
    /// The port, where the client named one.
    pub port: Option<u16>,
}

impl Authority {
    fn parse(text: &str) -> Result<Self, BadRequest> {
        if text.len() > AUTHORITY_MAX_BYTES {
            return Err(InvalidHostname::TooLong.into());
        }
        let host = Hostname::from_authority(text)?;
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Ok(Self { host, port })
    }

    /// Appends it as a `host` field says it.
    pub fn put(&self, to: &mut FieldText<'_>) {
        to.host(&self.host);
        if let Some(port) = self.port {
            to.words(":");
            to.number(port);
        }
    }
}

/// The one authority of a request: its `Host`, which an absolute target must agree with.
pub fn authority(head: &Parts) -> Result<Authority, BadRequest> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BadRequest::ManyHosts);
    }
    let host = match host {
        Some(value) => Some(Authority::parse(value.to_str().map_err(|_| BadRequest::UnreadableHost)?)?),
        None => None,
    };
    let target = match (head.uri.scheme_str(), head.uri.authority()) {
        (Some("http" | "https"), Some(target)) => Some(Authority::parse(target.as_str())?),
        (None, None) => None,
        _ => return Err(BadRequest::Target),
    };
    match (host, target) {
        (Some(host), Some(target)) if host != target => Err(BadRequest::OtherHost),
        (Some(host), _) => Ok(host),
        // HTTP/2 says it in `:authority`; HTTP/1.0 need not say it twice.
        (None, Some(target)) if head.version != Version::HTTP_11 => Ok(target),
        (None, _) => Err(BadRequest::NoHost),
    }
}

/// Whether the request's length can be understood in one way only. `malformed` is what [`crate::Peer`] says
/// of it.
pub fn check_framing(head: &Parts, malformed: Option<BadRequest>) -> Result<(), BadRequest> {
    if let Some(fault) = malformed {
        return Err(fault);
    }
    if head.method == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    check_coding(head.version, &head.headers)
}

/// Whether the fields of a request say in one way only where its body ends.
pub(crate) fn check_coding(version: Version, headers: &HeaderMap) -> Result<(), BadRequest> {
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    if coded && headers.contains_key(header::CONTENT_LENGTH) {
        return Err(BadRequest::TwoLengths);
    }
    if coded && (version < Version::HTTP_11 || !only_chunked(headers)) {
        return Err(BadRequest::TransferCoding);
    }
    Ok(())
}

/// What `h2` lets pass of a request's head, and the tap of HTTP/1.1 does not.
pub(crate) fn check_http2(head: &Parts) -> Result<(), BadRequest> {
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    if target.len() > TARGET_MAX_BYTES {
        return Err(BadRequest::TargetTooLong);
    }
    let path = head.uri.path();
    let whole = target.starts_with('/') || target == "*" || head.method == Method::CONNECT;
    if !whole || !target.is_ascii() || path.contains('\\') {
        return Err(BadRequest::Target);
    }
    if head.method.as_str() == "PRI" {
        return Err(BadRequest::Preface);
    }
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some() && lengths.next().is_some() {
        return Err(BadRequest::TwoLengths);
    }
    // Crumbs of a cookie become one field.
    let crumbs = head.headers.get_all(header::COOKIE).iter().count();
    if head.headers.len() - crumbs.saturating_sub(1) > FIELDS_MAX {
        return Err(BadRequest::HeadTooLarge);
    }
    for (name, value) in &head.headers {
        if name.as_str().contains('"') {
            return Err(BadRequest::FieldName);
        }
        if name.as_str().len() + value.len() > FIELD_MAX_BYTES {
            return Err(BadRequest::HeadTooLarge);
        }
        if value.as_bytes() != value.as_bytes().trim_ascii() {
            return Err(BadRequest::FieldValue);
        }
    }
    if head.method == Method::CONNECT && head.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(BadRequest::TunnelLength);
    }
    Ok(())
}

/// Whether a cell's answer has a length that can be understood in one way only, and a status that exists.
pub fn check_response(head: &response::Parts) -> bool {
    let coded = head.headers.contains_key(header::TRANSFER_ENCODING);
    let unclear = coded && (head.headers.contains_key(header::CONTENT_LENGTH) || !only_chunked(&head.headers));
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let plain = lengths.next().is_none_or(|length| length.as_bytes().iter().all(u8::is_ascii_digit));
    !unclear && plain && lengths.next().is_none() && head.status.as_u16() <= 599
}

fn only_chunked(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = values.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && values.next().is_none()
}

/// Whether a client says that its request is the last of its connection, and that nothing follows its head.
pub(crate) fn asks_to_close(headers: &HeaderMap) -> bool {
    let has_body = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    !has_body && headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Whether hyper may switch the connection to another protocol after this request.
pub(crate) fn asks_to_switch(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether the head asks for a WebSocket: the one upgrade that is forwarded. With a body, nobody could tell what of it is
/// the tunnel's.
pub fn asks_for_websocket(head: &Parts) -> bool {
    let length = head.headers.get(header::CONTENT_LENGTH);
    let has_body = head.headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0");
    let asks = head.method == Method::GET && head.version == Version::HTTP_11 && !has_body;
    asks && switches_to_websocket(&head.headers)
}

/// Whether the fields switch to a WebSocket: `Upgrade: websocket` alone, and `Connection` names it.
pub fn switches_to_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let websocket = upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let names_it = || fields::lists(headers, &header::CONNECTION, header::UPGRADE.as_str());
    websocket && upgrades.next().is_none() && names_it()
}

/// Puts the two fields of a WebSocket's upgrade back, which stripping took away.
pub fn write_websocket(headers: &mut HeaderMap) {
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

/// Whether a request asks for a WebSocket, as it is sent on, or for an event stream.
pub fn asks_to_last(headers: &HeaderMap) -> bool {
    switches_to_websocket(headers) || asks_for_event_stream(headers)
}

/// Whether a request asks for an event stream and nothing else, as a browser's `EventSource` does. Whether it gets one, the
/// answer says.
pub fn asks_for_event_stream(headers: &HeaderMap) -> bool {
    let mut wanted = headers.get_all(header::ACCEPT).iter();
    let is_one = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(EVENT_STREAM);
    wanted.next().is_some_and(is_one) && wanted.next().is_none()
}

/// Whether an answer is an event stream, which may be silent for as long as it likes.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii_start();
    let (kind, rest) = kind.split_at(kind.len().min(EVENT_STREAM.len()));
    kind.eq_ignore_ascii_case(EVENT_STREAM) && matches!(rest.trim_ascii_start().first(), None | Some(b';'))
}

/// Whether a request or an answer is gRPC, which only HTTP/2 carries.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc".as_slice());
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Takes from a client's request what concerns its connection alone, what only cellway may say, and what would let
/// it speak in another client's name. `Expect` goes too: whoever answers the client answers that.
pub fn strip_request(headers: &mut HeaderMap) {
    strip(headers, is_not_for_clients);
}

/// [`strip_request`] behind a router, which has written of tenant, epoch and client what the app is to know.
pub fn strip_routed(headers: &mut HeaderMap) {
    strip(headers, |name| is_not_for_clients(name) && !is_written(name));
}

/// Takes from a request what concerns one connection alone, and leaves the fields of cellway: between router and app.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip(headers, |_| false);
}

/// Takes from an answer what concerns one connection alone and what only cellway may say to cellway.
pub fn strip_response(headers: &mut HeaderMap) {
    strip(headers, is_reserved);
}

fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let is_unwanted = |name: &&HeaderName| is_hop_by_hop(name.as_str()) || unwanted(name.as_str());
    let mut names: Vec<HeaderName> = headers.keys().filter(is_unwanted).cloned().collect();
    if names.contains(&header::CONNECTION) {
        // What frames the message or names its host is not the sender's to hide.
        let is_kept = |name: &HeaderName| *name == header::HOST || *name == header::CONTENT_LENGTH;
        let named = fields::listed(headers, &header::CONNECTION).filter_map(|name| std::str::from_utf8(name).ok());
        let found = named.filter(|name| headers.contains_key(*name)).filter_map(|name| name.parse().ok());
        names.extend(found.filter(|name| !is_kept(name)));
    }
    remove(headers, names);
}

/// Takes from trailers what may only stand in a head.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_response(trailers);
    let never = |name: &&HeaderName| {
        let text = name.as_str();
        text.contains('"') || is_forwarding(text) || NEVER_TRAILERS.contains(name)
    };
    let names: Vec<HeaderName> = trailers.keys().filter(never).cloned().collect();
    remove(trailers, names);
}

/// Fields that concern one connection only, beside those that `Connection` names.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "http2-settings"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "expect"
    )
}

/// What routers say to gates of tenant, epoch and client: [`TENANT`], [`EPOCH`] and [`crate::forwarded::WRITTEN`].
fn is_written(name: &str) -> bool {
    matches!(
        name,
        "x-cellway-tenant"
            | "x-cellway-epoch"
            | "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
    )
}

/// What clients may not say.
fn is_not_for_clients(name: &str) -> bool {
    is_reserved(name) || is_forwarding(name) || is_twin(name)
}

/// `x-cellway-*`, with any mix of `-` and `_`: many apps cannot tell these apart.
fn is_reserved(name: &str) -> bool {
    begins_like(name, "x-cellway-")
}

/// What says who the client is, with the same mixes.
fn is_forwarding(name: &str) -> bool {
    name == header::FORWARDED.as_str()
        || begins_like(name, "x-forwarded-")
        || (name.len() == REAL_IP.len() && begins_like(name, REAL_IP))
}

/// What many apps take for a field that frames or names the request, and that was checked under its real name only.
fn is_twin(name: &str) -> bool {
    let real = ["content-length", "transfer-encoding", "x-request-id"];
    real.iter().any(|real| name.len() == real.len() && begins_like(name, real)) && name.contains('_')
}

/// Whether the name begins with `prefix`, `_` standing for `-` anywhere.
fn begins_like(name: &str, prefix: &str) -> bool {
    let same = |(byte, wanted): (u8, u8)| byte == wanted || (wanted == b'-' && byte == b'_');
    name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(same)
}

fn remove(headers: &mut HeaderMap, names: Vec<HeaderName>) {
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;

//! The head of a request, and what follows from it for its connection.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use httparse::ParserConfig;

use crate::boxed::boxed;
use crate::http1::{Chunks, FIELDS_MAX, Length, fields};
use crate::hygiene;
use crate::incoming::IncomingBody;

/// A head that was read.
pub(super) struct RequestHead {
    /// Without its body. Boxed where it is made, as it is large, and handed on from one to the next.
    pub(super) request: Box<Request<IncomingBody>>,
    pub(super) length: Length,
    pub(super) facts: Facts,
}

/// What is known of a request once its handler has it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    pub(super) is_http10: bool,
    pub(super) is_head: bool,
    /// The client would send another one on this connection.
    pub(super) keeps_alive: bool,
    /// The client has said that this one is its last.
    pub(super) is_last: bool,
    /// The client waits for `100 Continue`.
    pub(super) expects: bool,
    pub(super) asks_to_switch: bool,
    pub(super) takes_trailers: bool,
}

/// Reads a head that is whole. What is wrong with it gives the status to answer with.
pub(super) fn read(bytes: &Bytes) -> Result<RequestHead, StatusCode> {
    let mut parsed = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut head, bytes, &mut parsed) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Ok(httparse::Status::Partial) | Err(_) => return Err(StatusCode::BAD_REQUEST),
    }
    let bad = |_| StatusCode::BAD_REQUEST;
    let fields = head.headers.iter().map(|field| (field.name.as_bytes(), bytes.slice_ref(field.value)));
    let headers = fields::collect(fields).map_err(bad)?;
    let (method, target) = head.method.zip(head.path).ok_or(StatusCode::BAD_REQUEST)?;
    let mut request = boxed(|| Request::new(IncomingBody::empty()));
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| StatusCode::BAD_REQUEST)?;
    let target = bytes.slice_ref(target.as_bytes());
    *request.uri_mut() = Uri::from_maybe_shared(target).map_err(|_| StatusCode::BAD_REQUEST)?;
    *request.version_mut() = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    *request.headers_mut() = headers;
    let (length, facts) = (length_of(&request), Facts::of(&request));
    Ok(RequestHead { request, facts: Facts { expects: facts.expects && !length.is_over(), ..facts }, length })
}

/// How long the body is. [`hygiene::check_framing`] refuses what is not taken for a length here.
fn length_of(request: &Request<IncomingBody>) -> Length {
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Length::Chunked(Chunks::new());
    }
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.trim().parse().ok());
    stated.filter(|length| *length > 0).map_or(Length::Over, Length::Known)
}

impl Facts {
    fn of(request: &Request<IncomingBody>) -> Self {
        let headers = request.headers();
        let is_http10 = request.version() == Version::HTTP_10;
        let (asks_to_keep, asks_to_close) = match headers.contains_key(header::CONNECTION) {
            true => (connection_says(headers, "keep-alive"), connection_says(headers, "close")),
            false => (false, false),
        };
        let is = |name, wanted: &str| headers.get(name).is_some_and(|value: &HeaderValue| is_text(value, wanted));
        Self {
            is_http10,
            is_head: request.method() == Method::HEAD,
            keeps_alive: !asks_to_close
                && (asks_to_keep || !is_http10)
                && hygiene::check_coding(request.version(), headers).is_ok(),
            is_last: hygiene::asks_to_close(headers),
            expects: !is_http10 && is(header::EXPECT, "100-continue"),
            asks_to_switch: hygiene::asks_to_switch(headers),
            takes_trailers: fields::lists(headers, &header::TE, "trailers"),
        }
    }
}

fn connection_says(headers: &HeaderMap, wanted: &str) -> bool {
    fields::lists(headers, &header::CONNECTION, wanted)
}

fn is_text(value: &HeaderValue, wanted: &str) -> bool {
    value.as_bytes().eq_ignore_ascii_case(wanted.as_bytes())
}

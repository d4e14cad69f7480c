//! The head of an answer on its way to a client.

use bytes::{BufMut, BytesMut};
use http::response::Parts;
use http::{StatusCode, Version, header};
use http_body::Body;

use super::request::Facts;
use crate::body::ResponseBody;
use crate::clock;
use crate::field_lines::put_number;
use crate::http1::{COPIED_MAX_BYTES, Framing, Outgoing, Reason, fields, write_field};

/// How much of an answer goes out at once if it is there, and a frame: what the kernel queues towards a client takes about as
/// much. What follows goes frame by frame, so that a client that takes nothing pins no more than that here.
const GATHERED_MAX_BYTES: usize = 112 * 1024;
/// What a field takes in a head, roughly.
const FIELD_BYTES: usize = 48;

/// An answer to be written, and whether the connection takes another request after it.
pub(super) fn begin(head: &Parts, body: &ResponseBody, facts: Facts, keeps_alive: bool) -> (Outgoing, bool) {
    let framing = framing(head, body, facts);
    let keeps_alive = keeps_alive
        && !matches!(framing, Framing::ToTheEnd)
        && !fields::lists(&head.headers, &header::CONNECTION, "close");
    let copied = body.size_hint().exact().map_or(0, |length| length.min(COPIED_MAX_BYTES as u64));
    let capacity = FIELD_BYTES * (head.headers.len() + 4) + usize::try_from(copied).unwrap_or(0);
    let mut to = BytesMut::with_capacity(capacity);
    write_status(&mut to, head, facts);
    for (name, value) in &head.headers {
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            write_field(&mut to, name.as_str(), value.as_bytes());
        }
    }
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        write_framing(&mut to, head, body, &framing, facts);
        match (keeps_alive, facts.is_http10) {
            (false, false) if !head.headers.contains_key(header::CONNECTION) => to.put_slice(b"connection: close\r\n"),
            (true, true) => to.put_slice(b"connection: keep-alive\r\n"),
            _ => {}
        }
    }
    if !head.headers.contains_key(header::DATE) {
        to.put_slice(b"date: ");
        clock::with_date(|date| to.put_slice(date.as_bytes()));
        to.put_slice(b"\r\n");
    }
    to.put_slice(b"\r\n");
    let mut outgoing = Outgoing::new(to, framing);
    outgoing.gather(GATHERED_MAX_BYTES);
    if !facts.takes_trailers {
        outgoing.drop_trailers();
    }
    (outgoing, keeps_alive)
}

/// How the client is told where the body ends (RFC 9112, section 6.3).
fn framing(head: &Parts, body: &ResponseBody, facts: Facts) -> Framing {
    let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if facts.is_head || bodiless || head.status.is_informational() || body.is_end_stream() {
        return Framing::Length(0);
    }
    let stated = || head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    match body.size_hint().exact().or_else(stated) {
        Some(length) => Framing::Length(length),
        None if facts.is_http10 => Framing::ToTheEnd,
        None => Framing::Chunked,
    }
}

fn write_framing(to: &mut BytesMut, head: &Parts, body: &ResponseBody, framing: &Framing, facts: Facts) {
    let without_length = head.status.is_informational() || head.status == StatusCode::NO_CONTENT;
    match framing {
        _ if without_length => {}
        Framing::Chunked => write_field(to, header::TRANSFER_ENCODING.as_str(), b"chunked"),
        Framing::ToTheEnd => {}
        // Such an answer states the length of a body that does not come.
        Framing::Length(0) if facts.is_head || head.status == StatusCode::NOT_MODIFIED => {
            match (head.headers.get(header::CONTENT_LENGTH), body.size_hint().exact()) {
                (Some(length), _) => write_field(to, header::CONTENT_LENGTH.as_str(), length.as_bytes()),
                (None, Some(length)) if length > 0 => write_length(to, length),
                (None, _) => {}
            }
        }
        Framing::Length(length) => write_length(to, *length),
    }
}

fn write_length(to: &mut BytesMut, length: u64) {
    to.put_slice(b"content-length: ");
    put_number(to, length);
    to.put_slice(b"\r\n");
}

fn write_status(to: &mut BytesMut, head: &Parts, facts: Facts) {
    let version = if facts.is_http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    to.put_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    to.put_slice(head.status.as_str().as_bytes());
    to.put_slice(b" ");
    match head.extensions.get::<Reason>() {
        Some(Reason(reason)) => to.put_slice(reason),
        None => to.put_slice(head.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    to.put_slice(b"\r\n");
}

/// A whole answer without a body, after which nothing on the connection can be trusted.
pub(super) fn refusal(status: StatusCode) -> BytesMut {
    let mut to = BytesMut::with_capacity(4 * FIELD_BYTES);
    to.put_slice(b"HTTP/1.1 ");
    to.put_slice(status.as_str().as_bytes());
    to.put_slice(b" ");
    to.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    to.put_slice(b"\r\nconnection: close\r\ncontent-length: 0\r\ndate: ");
    clock::with_date(|date| to.put_slice(date.as_bytes()));
    to.put_slice(b"\r\n\r\n");
    to
}

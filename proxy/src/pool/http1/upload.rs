//! A request on its way out.

use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use http::header;
use http_body::Body;
use tokio::io::AsyncWrite;

use crate::body::RequestBody;
use crate::field_lines::FieldLines;
use crate::http1::{Framing, Outgoing, Stuck, write_field};
use crate::pool::head::Head;

/// What a field takes in a head, roughly.
const FIELD_BYTES: usize = 48;

/// The request, as far as it is not written.
pub(super) struct Upload {
    body: Box<RequestBody>,
    outgoing: Outgoing,
}

impl Upload {
    pub(super) fn new(head: Head<'_>, body: Box<RequestBody>) -> Self {
        let Head { method, target, headers, lines, .. } = head;
        let is_empty = body.is_end_stream();
        let stated = headers.get(header::CONTENT_LENGTH);
        let length = match stated.and_then(|length| length.to_str().ok()?.parse().ok()) {
            _ if is_empty => Some(0),
            Some(length) => Some(length),
            None => body.size_hint().exact(),
        };
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        let lines = lines.map_or(&[][..], FieldLines::as_bytes);
        let mut before = BytesMut::with_capacity(FIELD_BYTES * (headers.len() + 2) + lines.len());
        before.put_slice(method.as_str().as_bytes());
        before.put_slice(b" ");
        let target = target.path_and_query().map_or("/", |target| target.as_str());
        if !target.starts_with(['/', '*']) {
            // Of a target that named a host and no path.
            before.put_slice(b"/");
        }
        before.put_slice(target.as_bytes());
        before.put_slice(b" HTTP/1.1\r\n");
        // What frames the message is written by what is sent of it: a length of which nothing comes would take the next
        // request on its connection for the body.
        let frames = |name| name == header::TRANSFER_ENCODING || name == header::CONTENT_LENGTH;
        let fields = headers.iter().filter(|(name, _)| !frames(*name));
        fields.for_each(|(name, value)| write_field(&mut before, name.as_str(), value.as_bytes()));
        before.put_slice(lines);
        match framing {
            Framing::Chunked => write_field(&mut before, header::TRANSFER_ENCODING.as_str(), b"chunked"),
            Framing::Length(length) if stated.is_some() || !is_empty => {
                write_field(
                    &mut before,
                    header::CONTENT_LENGTH.as_str(),
                    itoa::Buffer::new().format(length).as_bytes(),
                );
            }
            Framing::Length(_) | Framing::ToTheEnd => {}
        }
        before.put_slice(b"\r\n");
        Self { body, outgoing: Outgoing::new(before, framing) }
    }

    /// The body, if nothing was done with it.
    pub(super) fn into_untouched(self) -> Option<Box<RequestBody>> {
        self.outgoing.is_untouched().then_some(self.body)
    }

    /// Writes what there is, and is ready once all was written.
    pub(super) fn poll(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        self.outgoing.poll(&mut *self.body, io, cx)
    }
}

#[cfg(test)]
mod tests;

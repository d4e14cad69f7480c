//! The head of an answer, and how long its body is (RFC 9112, section 6.3).

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode, Version, header};
use httparse::ParserConfig;

use crate::http1::chunk_line::BODY_MAX_BYTES;
use crate::http1::{Chunks, FIELDS_MAX, Input, Length, Malformed, Reason, fields};

/// A head, and what follows from it.
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) length: Length,
    /// Whether the peer would take another request on this connection.
    pub(super) keeps_alive: bool,
}

/// Takes a head out of `input`, once it is whole. `to_head` says that the request was a HEAD.
pub(super) fn take_head(input: &mut Input, to_head: bool) -> Result<Option<Head>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut answer, input, &mut fields);
    let length = match parsed.map_err(Malformed::Head)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed::Head(httparse::Error::Status))?;
    let version = if answer.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let reason = answer.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.map(|reason| Reason(Bytes::copy_from_slice(reason.as_bytes())));
    let begin = input.as_ptr().addr();
    let place = |part: &[u8]| part.as_ptr().addr() - begin..part.as_ptr().addr() - begin + part.len();
    let fields = answer.headers.iter().map(|field| (place(field.name.as_bytes()), place(field.value)));
    let places: Vec<(Range<usize>, Range<usize>)> = fields.collect();
    let bytes = input.split(length);
    let fields = places.iter().map(|(name, value)| (&bytes[name.clone()], bytes.slice(value.clone())));
    let headers = fields::collect(fields).map_err(Malformed::Head)?;

    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.version, parts.headers) = (status, version, headers);
    if let Some(reason) = reason {
        parts.extensions.insert(reason);
    }
    let length = body_length(&parts, to_head)?;
    let keeps_alive = version == Version::HTTP_11 && !fields::lists(&parts.headers, &header::CONNECTION, "close");
    Ok(Some(Head { parts, length, keeps_alive }))
}

fn body_length(head: &Parts, to_head: bool) -> Result<Length, Malformed> {
    let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if head.status.is_informational() || bodiless || to_head {
        return Ok(Length::Over);
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter().peekable();
    if codings.peek().is_some() {
        let last = codings.last().and_then(|value| value.to_str().ok()?.rsplit(',').next());
        let chunked = last.is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"));
        return match chunked {
            _ if head.version == Version::HTTP_10 => Err(Malformed::Coding),
            true => Ok(Length::Chunked(Chunks::new())),
            false => Ok(Length::ToTheEnd),
        };
    }
    Ok(match content_length(&head.headers)? {
        Some(0) => Length::Over,
        Some(length) => Length::Known(length),
        None => Length::ToTheEnd,
    })
}

/// The one length that the fields state, however often.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for number in value.to_str().map_err(|_| Malformed::Length)?.split(',') {
            let number = number.trim();
            let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let number = number.parse().ok().filter(|number| plain && *number <= BODY_MAX_BYTES);
            if number.is_none() || length.is_some_and(|length| Some(length) != number) {
                return Err(Malformed::Length);
            }
            length = number;
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(bytes: &[u8]) -> Input {
        let mut input = Input::default();
        input.append(bytes);
        input
    }

    fn take(text: &str) -> Result<Option<Head>, Malformed> {
        take_head(&mut input(text.as_bytes()), false)
    }

    fn shown(head: &Head) -> String {
        match &head.length {
            Length::Over => "over".into(),
            Length::Known(length) => length.to_string(),
            Length::Chunked(_) => "chunked".into(),
            Length::ToTheEnd | Length::Lost(_) => "to the end".into(),
        }
    }

    #[test]
    fn the_body_is_as_long_as_the_standard_says() {
        for (head, length, keeps_alive) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "5", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "over", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\n", "5", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "chunked", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 5\r\n\r\n", "chunked", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", "to the end", true),
            ("HTTP/1.1 200 OK\r\n\r\n", "to the end", true),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "over", true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "over", true),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "over", true),
            ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\n", "5", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", "5", false),
        ] {
            let head = take(head).unwrap().unwrap();
            assert_eq!((shown(&head).as_str(), head.keeps_alive), (length, keeps_alive), "{:?}", head.parts);
        }
        let to_head = take_head(&mut input(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), true);
        assert_eq!(shown(&to_head.unwrap().unwrap()), "over");
    }

    #[test]
    fn a_head_that_makes_no_sense_is_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
        ] {
            assert!(take(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_follows_a_head_stays() {
        let mut input = input(b"HTTP/1.1 299 Fine\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi");
        let head = take_head(&mut input, false).unwrap().unwrap();
        assert_eq!((&input[..], head.parts.status.as_u16()), (b"hi".as_slice(), 299));
        assert_eq!(head.parts.headers["x-a"], "b");
        assert_eq!(head.parts.extensions.get::<Reason>().unwrap().0, "Fine");
        assert!(take("HTTP/1.1 200 OK\r\nX-A: b\r\n").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_head_or_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = take_head(&mut input(&bytes), false);
            let mut begun = input(b"HTTP/1.1 200 OK\r\n");
            begun.append(&bytes);
            let _ = take_head(&mut begun, false);
        }
    }
}

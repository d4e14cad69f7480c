//! Between HTTP/2's heads and the form that the rest of the proxy works with.
//!
//! Cookies come as one field. A WebSocket (RFC 8441: an extended CONNECT) becomes the GET with `Upgrade` that it would
//! be in HTTP/1.1, and its `101` becomes a 200 again.

use bytes::{BufMut, BytesMut};
use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version, response};

use crate::body::ResponseBody;
use crate::clock;
use crate::hygiene;
use crate::upgrade::{accept_of, new_key};

/// Makes a request's head what it would be in HTTP/1.1, except for its version. Gives the key of the WebSocket that it
/// asks for.
pub(super) fn request(head: &mut Parts) -> Option<HeaderValue> {
    join_cookies(&mut head.headers);
    let protocol = head.extensions.remove::<Protocol>();
    if head.method != Method::CONNECT || protocol.is_none_or(|protocol| protocol.as_str() != "websocket") {
        return None;
    }
    head.method = Method::GET;
    head.version = Version::HTTP_11;
    if let (false, Some(authority)) = (head.headers.contains_key(header::HOST), head.uri.authority())
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(header::HOST, host);
    }
    hygiene::write_websocket(&mut head.headers);
    let key = new_key();
    head.headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    Some(key)
}

/// Whether an answer opens the WebSocket that was asked for with this key.
pub(super) fn opens(head: &Response<ResponseBody>, key: &HeaderValue) -> bool {
    head.status() == StatusCode::SWITCHING_PROTOCOLS
        && head.headers().get(header::SEC_WEBSOCKET_ACCEPT) == Some(&accept_of(key.as_bytes()))
}

/// Makes an answer's head fit for HTTP/2.
pub(super) fn response(head: &mut response::Parts) {
    hygiene::strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_2;
    if !head.headers.contains_key(header::DATE) {
        head.headers.insert(header::DATE, clock::with_date(HeaderValue::clone));
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        head.status = StatusCode::OK;
        head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        head.headers.remove(header::CONTENT_LENGTH);
    }
}

/// Clients may cut a cookie field into crumbs, which most HTTP/1.1 apps take for several fields (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(header::COOKIE).iter().count();
    if crumbs < 2 {
        return;
    }
    let mut joined = BytesMut::new();
    for crumb in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.put_slice(b"; ");
        }
        joined.put_slice(crumb.as_bytes());
    }
    // Field values joined by a separator are one.
    if let Ok(value) = HeaderValue::from_maybe_shared(joined.freeze()) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, Request};

    fn head(request: Request<()>) -> Parts {
        request.into_parts().0
    }

    #[test]
    fn crumbs_of_a_cookie_come_as_one_field() {
        let request = Request::get("https://a.example/").header("cookie", "a=1").header("cookie", "b=2; c=3");
        let mut head = head(request.body(()).unwrap());
        assert_eq!(self::request(&mut head), None);
        let cookies: Vec<_> = head.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn an_extended_connect_reads_as_an_upgrade() {
        let mut head = head(Request::builder().method("CONNECT").uri("https://a.example/chat").body(()).unwrap());
        head.version = Version::HTTP_2;
        head.extensions.insert(Protocol::from_static("websocket"));
        let key = self::request(&mut head).unwrap();
        assert_eq!(head.headers[header::SEC_WEBSOCKET_KEY], key);
        assert!(hygiene::asks_for_websocket(&head));
        assert_eq!(head.headers["host"], "a.example");
        assert_eq!(head.uri.path(), "/chat");
    }

    #[test]
    fn other_protocols_and_plain_connects_stay_what_they_are() {
        for protocol in [None, Some("connect-udp"), Some("WebSocket")] {
            let mut head = head(Request::builder().method("CONNECT").uri("https://a.example/").body(()).unwrap());
            if let Some(protocol) = protocol {
                head.extensions.insert(Protocol::from_static(protocol));
            }
            assert_eq!(self::request(&mut head), None);
            assert_eq!(head.method, Method::CONNECT);
        }
    }

    #[test]
    fn fields_of_one_connection_do_not_reach_a_stream() {
        let answer = http::Response::builder().status(101).header("connection", "upgrade, x-own").header("x-own", "1");
        let answer = answer.header("upgrade", "websocket").header("sec-websocket-accept", "abc").header("x-app", "2");
        let mut head = answer.body(()).unwrap().into_parts().0;
        response(&mut head);
        assert_eq!(head.status, 200);
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-app", "date"]);
    }
}

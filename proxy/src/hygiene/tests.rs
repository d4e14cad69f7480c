//! What passes and what does not, field by field.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::field_lines::FieldLines;
use http::Request;

fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn host(target: &str, fields: &[(&str, &str)]) -> Result<String, BadRequest> {
    let authority = authority(&head("GET", target, fields))?;
    let mut lines = FieldLines::default();
    lines.put(&header::HOST, |to| authority.put(to));
    let line = str::from_utf8(lines.as_bytes()).unwrap();
    Ok(line.strip_prefix("host: ").and_then(|line| line.strip_suffix("\r\n")).unwrap().to_owned())
}

#[test]
fn an_app_is_told_what_a_router_has_written_and_nothing_else_of_the_kind() {
    let fields = |names: &[&str]| {
        let fields: Vec<(&str, &str)> = names.iter().map(|name| (*name, "1")).collect();
        head("GET", "/", &fields).headers
    };
    let written = [
        "x-cellway-tenant",
        "x-cellway-epoch",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    ];
    let passed = [&written[..], &["x-request-id", "accept"]].concat();
    let others = [
        "x-cellway-verdict",
        "x_cellway_tenant",
        "x-cellway_epoch",
        "x-forwarded_for",
        "x-forwarded-port",
        "x-real-ip",
        "content_length",
        "x_request_id",
        "te",
        "expect",
    ];
    let names = [TENANT, EPOCH].into_iter().chain(crate::forwarded::WRITTEN);
    assert!(names.eq(written), "all that is written is passed on, and no more");
    let mut headers = fields(&[&passed[..], &others].concat());
    strip_routed(&mut headers);
    assert_eq!(headers, fields(&passed));
}

#[test]
fn a_request_has_exactly_one_authority() {
    assert_eq!(host("/", &[("host", "Acme.Example.")]), Ok("acme.example".into()));
    assert_eq!(host("/", &[("host", "acme.example:8080")]), Ok("acme.example:8080".into()));
    assert_eq!(host("http://acme.example/a", &[("host", "ACME.example")]), Ok("acme.example".into()));
    assert_eq!(host("/", &[]), Err(BadRequest::NoHost));
    assert_eq!(host("http://acme.example/", &[]), Err(BadRequest::NoHost));
    assert_eq!(host("/", &[("host", "a.example"), ("host", "a.example")]), Err(BadRequest::ManyHosts));
    assert_eq!(host("http://a.example/", &[("host", "b.example")]), Err(BadRequest::OtherHost));
    assert_eq!(host("http://a.example:81/", &[("host", "a.example")]), Err(BadRequest::OtherHost));
    assert_eq!(host("ftp://a.example/", &[("host", "a.example")]), Err(BadRequest::Target));
    assert_eq!(host("a.example", &[("host", "a.example")]), Err(BadRequest::Target));
    for bad in ["a.example:80@b.example", "u@a.example", "a.example, b.example", "127.0.0.1", "", "a.example:x"] {
        assert!(matches!(host("/", &[("host", bad)]), Err(BadRequest::Hostname(_))), "{bad}");
    }
    assert!(host("http://u@a.example/", &[("host", "a.example")]).is_err());
}

#[test]
fn a_length_stated_in_two_ways_is_refused() {
    let framing = |method: &str, fields: &[(&str, &str)]| check_framing(&head(method, "/", fields), None);
    assert_eq!(framing("POST", &[("content-length", "3")]), Ok(()));
    assert_eq!(framing("POST", &[("transfer-encoding", "Chunked")]), Ok(()));
    assert_eq!(check_framing(&head("POST", "/", &[]), Some(BadRequest::TwoLengths)), Err(BadRequest::TwoLengths));
    let both = [("content-length", "3"), ("transfer-encoding", "chunked")];
    assert_eq!(framing("POST", &both), Err(BadRequest::TwoLengths));
    for coding in [",chunked", "chunked,", "chunked, chunked", "gzip, chunked", "identity", "xchunked", "\"chunked\""] {
        assert_eq!(framing("POST", &[("transfer-encoding", coding)]), Err(BadRequest::TransferCoding), "{coding}");
    }
    let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
    assert_eq!(framing("POST", &twice), Err(BadRequest::TransferCoding));
    let mut old = head("POST", "/", &[("transfer-encoding", "chunked")]);
    old.version = Version::HTTP_10;
    assert_eq!(check_framing(&old, None), Err(BadRequest::TransferCoding));
    assert_eq!(check_framing(&head("CONNECT", "a.example:443", &[]), None), Err(BadRequest::Connect));
    assert_eq!(BadRequest::Connect.status(), StatusCode::METHOD_NOT_ALLOWED);
}

/// Such names are looked up by other means than short ones.
const LONG_NAME: &str = "X-Of-More-Than-Sixty-Four-Bytes-0123456789-0123456789-0123456789-0123456789";

#[test]
fn a_client_cannot_speak_as_cellway_nor_for_others() {
    let mut headers = head(
        "GET",
        "/",
        &[
            ("host", "a.example"),
            ("x-cellway-tenant", "other"),
            ("x_cellway_tenant", "other"),
            ("x-cellway_epoch", "9"),
            ("x_cellway-verdict", "fenced"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_host", "b"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("connection", "X-Secret, host, content-length, keep-alive"),
            ("connection", "close,x-other"),
            ("x-other", "1"),
            ("connection", LONG_NAME),
            (LONG_NAME, "1"),
            ("content-length", "0"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("x-cellwayish", "kept"),
            ("x-request-id", "kept"),
        ],
    )
    .headers;
    strip_request(&mut headers);
    let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-length", "host", "x-cellwayish", "x-request-id"]);
}

#[test]
fn only_a_whole_websocket_upgrade_is_one() {
    let asks = |fields: &[(&str, &str)]| asks_for_websocket(&head("GET", "/", fields));
    assert!(asks(&[("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")]));
    assert!(!asks(&[("upgrade", "websocket")]));
    assert!(!asks(&[("upgrade", "h2c"), ("connection", "upgrade")]));
    assert!(!asks(&[("upgrade", "websocket, h2c"), ("connection", "upgrade")]));
    assert!(!asks_for_websocket(&head("POST", "/", &[("upgrade", "websocket"), ("connection", "upgrade")])));
    let with = |name, value| asks(&[("upgrade", "websocket"), ("connection", "upgrade"), (name, value)]);
    assert!(with("content-length", "0"));
    assert!(!with("content-length", "5") && !with("transfer-encoding", "chunked"), "a body is no tunnel");
}

#[test]
fn no_spelling_of_a_forwarding_field_passes() {
    let mixes = |name: &str| {
        let dashes: Vec<usize> = name.match_indices('-').map(|(at, _)| at).collect();
        (0..1_usize << dashes.len())
            .map(|mix| {
                let mut bytes = name.as_bytes().to_vec();
                for (bit, at) in dashes.iter().enumerate() {
                    bytes[*at] = if mix >> bit & 1 == 1 { b'_' } else { b'-' };
                }
                String::from_utf8(bytes).unwrap()
            })
            .collect::<Vec<_>>()
    };
    for name in ["x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-cellway-tenant"] {
        for mix in mixes(name) {
            let mut headers = head("GET", "/", &[(&mix, "1"), ("x-real-ipv6", "kept")]).headers;
            strip_request(&mut headers);
            assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-real-ipv6"], "{mix}");
        }
    }
}

#[test]
fn a_cells_answer_with_two_lengths_is_no_answer() {
    let answer = |status: u16, fields: &[(&str, &str)]| {
        let mut response = http::Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        check_response(&response.body(()).unwrap().into_parts().0)
    };
    assert!(answer(200, &[("transfer-encoding", "chunked")]));
    assert!(!answer(200, &[("transfer-encoding", "chunked"), ("content-length", "1")]));
    assert!(!answer(200, &[("transfer-encoding", "gzip, chunked")]));
    assert!(!answer(600, &[]));
}

#[test]
fn only_a_request_without_a_body_that_asks_for_the_close_is_surely_the_last() {
    let asks = |fields: &[(&str, &str)]| asks_to_close(&head("GET", "/", fields).headers);
    assert!(asks(&[("connection", "Close")]));
    assert!(!asks(&[]) && !asks(&[("connection", "keep-alive")]));
    assert!(!asks(&[("connection", "close"), ("content-length", "1")]), "its body may be unread");
    assert!(!asks(&[("connection", "close"), ("transfer-encoding", "chunked")]), "its body may be unread");
}

#[test]
fn an_event_stream_is_known_by_its_type_alone() {
    for (kind, is) in [
        ("text/event-stream", true),
        (" Text/Event-Stream ; charset=utf-8", true),
        ("text/event-stream;charset=utf-8", true),
        ("text/event-stream; x=\u{e4}", true),
        ("text/event-streams", false),
        ("text/event", false),
        ("text/html; text/event-stream", false),
        ("", false),
    ] {
        assert_eq!(is_event_stream(&head("GET", "/", &[("content-type", kind)]).headers), is, "{kind:?}");
    }
    assert!(!is_event_stream(&HeaderMap::new()));
}

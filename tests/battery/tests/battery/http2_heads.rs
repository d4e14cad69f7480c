//! Heads over HTTP/2, and what they become at a cell that speaks HTTP/1.1.

use std::time::Duration;

use cellway_battery::frames::{Http2, block, data, flag, frame, headers, kind};
use cellway_battery::{Family, Step};

use crate::http2_case::Want::{Anything, ConnectionError, Refused, Served};
use crate::http2_case::{case, plain, post};

/// A GET with one pseudo field as given, or without it.
fn with(name: &str, value: Option<&str>) -> Vec<u8> {
    let fields: Vec<(&str, &str)> = plain("GET", "/x")
        .into_iter()
        .filter_map(|(field, text)| if field == name { value.map(|value| (field, value)) } else { Some((field, text)) })
        .collect();
    headers(1, true, &block(&fields))
}

/// A GET with more fields.
fn and(more: &[(&str, &str)]) -> Vec<u8> {
    headers(1, true, &block(&[plain("GET", "/x"), more.to_vec()].concat()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pseudo_fields_are_complete_and_come_first() {
    let mut family = Family::start("h2 pseudo fields").await;
    let late = [&[("x-first", "1")][..], &plain("GET", "/x")].concat();
    for (name, frames, want) in [
        ("as it should be", and(&[]), Served("GET /x", "")),
        ("no method", with(":method", None), Refused),
        ("no scheme", with(":scheme", None), Refused),
        ("no path", with(":path", None), Refused),
        ("no authority and no host", with(":authority", None), Refused),
        ("two methods", and(&[(":method", "GET")]), Refused),
        ("two paths", and(&[(":path", "/y")]), Refused),
        ("two schemes", and(&[(":scheme", "http")]), Refused),
        ("two authorities", and(&[(":authority", "beta.cells.localhost")]), Refused),
        ("after a field", headers(1, true, &block(&late)), Refused),
        ("an unknown one", and(&[(":version", "2")]), Refused),
        ("one of answers", and(&[(":status", "200")]), Refused),
        ("an empty name", and(&[("", "x")]), Refused),
        ("a colon as name", and(&[(":", "x")]), Refused),
        ("protocol without CONNECT", and(&[(":protocol", "websocket")]), Refused),
        ("in trailers", trailers(&[(":path", "/y")]), Refused),
        ("a status in trailers", trailers(&[(":status", "200")]), Refused),
        ("an empty method", with(":method", Some("")), Refused),
        ("a method with a blank", with(":method", Some("GET /y HTTP/1.1")), Refused),
        ("a method with CR LF", with(":method", Some("GET /y HTTP/1.1\r\nHost: beta\r\n\r\nGET")), Refused),
        ("a scheme of another kind", with(":scheme", Some("ftp")), Refused),
        ("a scheme with a path", with(":scheme", Some("http://beta.cells.localhost/")), Refused),
        ("an empty scheme", with(":scheme", Some("")), Refused),
        ("a scheme with CR LF", with(":scheme", Some("http\r\nx: y")), Refused),
        ("https", with(":scheme", Some("https")), Anything),
    ] {
        case(&mut family, name, &frames, want).await;
    }
    family.finish();
}

fn trailers(fields: &[(&str, &str)]) -> Vec<u8> {
    [headers(1, false, &post(&[])), data(1, false, "hi"), headers(1, true, &block(fields))].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_has_one_meaning() {
    let mut family = Family::start("h2 paths").await;
    for path in [
        "",
        "*",
        "x",
        "?x",
        "x/y",
        "http://acme.cells.localhost/x",
        "http://beta.cells.localhost/",
        "/a b",
        "/a\tb",
        "/a\r\nX: y",
        "/a\nX: y",
        "/a\0",
        "/ HTTP/1.1\r\nHost: beta.cells.localhost\r\n\r\n",
        "/a\x7f",
        "/\u{e9}",
        "/a\\b",
        "\\",
        "//",
        "@",
        " /a",
    ] {
        if path != "//" {
            case(&mut family, path, &with(":path", Some(path)), Refused).await;
        }
    }
    // What is dropped with the `#` reaches nobody.
    for path in ["/a#b", "#"] {
        case(&mut family, path, &with(":path", Some(path)), Anything).await;
    }
    for path in ["/", "//", "/%0d%0a", "/a?b=c?d", "/../x", "/a;b", "/%", "/a?x=\\"] {
        let line: &'static str = Box::leak(format!("GET {path}").into_boxed_str());
        case(&mut family, path, &with(":path", Some(path)), Served(line, "")).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_has_one_meaning() {
    let mut family = Family::start("h2 authorities").await;
    for authority in [
        "",
        "acme.cells.localhost, beta.cells.localhost",
        "acme.cells.localhost:80@beta.cells.localhost",
        "user@acme.cells.localhost",
        "user:secret@acme.cells.localhost",
        "acme.cells.localhost/x",
        "acme.cells.localhost?x",
        "acme.cells.localhost#x",
        "acme.cells.localhost\\x",
        "acme cells.localhost",
        "acme.cells.localhost:x",
        "127.0.0.1",
        "[::1]",
        "acme.cells.localhost\r\nX: y",
        "acme.cells.localhost\0",
        "acme..cells.localhost",
        "http://acme.cells.localhost",
        " ",
        "@",
        "acme.cells.localhost:80:80",
        "\u{e4}cme.cells.localhost",
        "acme%2ecells.localhost",
        ":80",
    ] {
        case(&mut family, authority, &with(":authority", Some(authority)), Refused).await;
    }
    for authority in ["ACME.cells.localhost", "acme.cells.localhost.", "acme.cells.localhost:8080"] {
        case(&mut family, authority, &with(":authority", Some(authority)), Served("GET /x", "")).await;
    }
    for (name, frames, want) in [
        ("the same host", and(&[("host", "acme.cells.localhost")]), Served("GET /x", "")),
        ("the same host in capitals", and(&[("host", "ACME.cells.localhost")]), Served("GET /x", "")),
        ("another host", and(&[("host", "beta.cells.localhost")]), Refused),
        ("an empty host", and(&[("host", "")]), Refused),
        ("two hosts", and(&[("host", "acme.cells.localhost"), ("host", "beta.cells.localhost")]), Refused),
        ("two hosts alike", and(&[("host", "acme.cells.localhost"), ("host", "acme.cells.localhost")]), Refused),
        ("a host in trailers", trailers(&[("host", "beta.cells.localhost")]), Anything),
    ] {
        case(&mut family, name, &frames, want).await;
    }
    let hosted = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "acme.cells.localhost")];
    case(&mut family, "a host and no authority", &headers(1, true, &block(&hosted)), Served("GET /x", "")).await;
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_cannot_become_others_on_the_way_down() {
    let mut family = Family::start("h2 fields").await;
    for (name, value) in [
        ("X-Upper", "1"),
        ("x-Upper", "1"),
        ("connection", "close"),
        ("connection", "x-cellway-tenant"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", "chunked"),
        ("x-bad", "a\r\nX-Injected: 1"),
        ("x-bad", "a\nX-Injected: 1"),
        ("x-bad", "a\rX-Injected: 1"),
        ("x-bad", "a\0b"),
        ("x-bad", "a\x0bb"),
        ("x-bad", "\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: beta.cells.localhost\r\n\r\n"),
        ("x-bad: 1\r\nx-injected", "1"),
        ("x-bad\r\nx-injected", "1"),
        ("x bad", "1"),
        ("x-bad:", "1"),
        ("x-bad:1", "1"),
        ("x\0bad", "1"),
        ("x\tbad", "1"),
        ("host: beta.cells.localhost\r\nx", "1"),
        ("content-length: 5\r\nx", "1"),
        ("transfer-encoding: chunked\r\nx", "1"),
        ("x\u{e9}", "1"),
        ("x(", "1"),
        ("x\"", "1"),
        ("x/y", "1"),
    ] {
        case(&mut family, &format!("{name}: {value}"), &and(&[(name, value)]), Refused).await;
    }
    for (name, value) in [(" x", "1"), ("x ", "1")] {
        case(&mut family, name, &and(&[(name, value)]), Refused).await;
    }
    // RFC 9113, 8.2.1: blanks around a value are a fault, which a recipient may let pass.
    for value in [" a", "a ", "\ta", "a\t"] {
        case(&mut family, &format!("x: {value}"), &and(&[("x", value)]), Anything).await;
    }
    for (name, value) in [
        ("te", "trailers"),
        ("x-app", ""),
        ("x-app", "a: b, \"c\""),
        ("x_app", "1"),
        ("x-cellway-tenant", "beta"),
        ("x_cellway_tenant", "beta"),
        ("expect", "100-continue"),
        ("http2-settings", "AAMAAABk"),
    ] {
        case(&mut family, &format!("{name}: {value}"), &and(&[(name, value)]), Served("GET /x", "")).await;
    }
    for name in
        ["transfer-encoding", "content-length", "connection", "x-cellway-tenant", "te", "upgrade", "X-Upper", "x\r\ny"]
    {
        case(&mut family, &format!("trailer {name}"), &trailers(&[(name, "2")]), Anything).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_at_a_cell_is_plain_http_1() {
    let mut family = Family::start("h2 to h1").await;
    let fields = [
        ("cookie", "a=1"),
        ("x-app", "1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("x-cellway-tenant", "beta"),
        ("x_cellway_epoch", "9"),
        ("forwarded", "for=9.9.9.9"),
        ("x-forwarded-for", "9.9.9.9"),
        ("trailer", "x-sum, host"),
        ("content_length", "7"),
    ];
    let mut client = Http2::open(family.world.address).await;
    let sum = block(&[
        ("x-sum", "1"),
        ("host", "beta.cells.localhost"),
        ("x-cellway-tenant", "beta"),
        ("content-length", "9"),
    ]);
    client.send(&[headers(1, false, &post(&fields)), data(1, false, "hi"), headers(1, true, &sum)].concat()).await;
    let back = client.read_until(|back| back.stream(1).is_over()).await;
    let (mut acme, beta) = family.world.received().await.unwrap();
    let requests: Vec<_> = acme.drain(..).flat_map(|one| one.requests).collect();
    let result = match &requests[..] {
        [request] if beta.is_empty() => {
            let said = |name: &str, value: &str| request.values(name) == [value];
            let good = said("cookie", "a=1; b=2")
                && said("x-cellway-tenant", "acme")
                && said("host", "acme.cells.localhost")
                && said("transfer-encoding", "chunked")
                && request.body == b"hi"
                && request.values("te").is_empty()
                && request.values("content_length").is_empty()
                && request.fields.iter().all(|(name, value)| !name.starts_with(':') && !value.contains("9.9.9.9"))
                && request.trailers.iter().all(|(name, _)| name == "x-sum");
            if good { Ok(()) } else { Err(format!("{request:?}")) }
        }
        _ => Err(format!("{back:?} {requests:?} {beta:?}")),
    };
    family.by_hand("cookies, trailers and what is not the client's to say", result).await;
    for (name, frames, want) in [
        ("CONNECT", connect(&[]), Refused),
        ("CONNECT with a path", with(":method", Some("CONNECT")), Refused),
        (
            "an extended CONNECT of another protocol",
            connect(&[(":scheme", "http"), (":path", "/"), (":protocol", "connect-udp")]),
            Refused,
        ),
        ("an extended CONNECT without a path", connect(&[(":scheme", "http"), (":protocol", "websocket")]), Refused),
        ("an extended CONNECT without a scheme", connect(&[(":path", "/"), (":protocol", "websocket")]), Refused),
        ("TRACE", with(":method", Some("TRACE")), Refused),
        ("PRI", with(":method", Some("PRI")), Anything),
        ("an unknown method", with(":method", Some("QUERY")), Served("QUERY /x", "")),
    ] {
        case(&mut family, name, &frames, want).await;
    }
    family.finish();
}

fn connect(more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&[(":method", "CONNECT"), (":authority", "acme.cells.localhost")], more].concat();
    headers(1, false, &block(&fields))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_block_is_well_formed_and_bounded() {
    let mut family = Family::start("h2 header blocks").await;
    let end = flag::END_HEADERS | flag::END_STREAM;
    let raw = |bytes: &[u8]| frame(kind::HEADERS, end, 1, bytes);
    let behind = |bytes: &[u8]| frame(kind::HEADERS, end, 1, &[&block(&plain("GET", "/x"))[..], bytes].concat());
    for (name, frames, want) in [
        ("an index of 0", behind(&[0x80]), ConnectionError),
        ("an index that is not there", behind(&[0xff, 0x50]), ConnectionError),
        ("an index without end", behind(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), ConnectionError),
        ("a literal cut off", behind(&[0x00, 0x05, b'x']), ConnectionError),
        ("bad Huffman padding", behind(&[0x00, 0x01, b'x', 0x81, 0x00]), ConnectionError),
        ("Huffman with its end in it", behind(&[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]), ConnectionError),
        ("a table size update at the end", behind(&[0x20]), ConnectionError),
        (
            "a table size over the limit",
            raw(&[&[0x3f, 0xff, 0xff, 0x7f][..], &block(&plain("GET", "/x"))].concat()),
            ConnectionError,
        ),
        ("nothing", raw(&[]), Refused),
        ("a field of 20 KiB", and(&[("x-large", &"y".repeat(20 << 10))]), Refused),
        ("fields of 60 KiB", and(&vec![("x-large", "y".repeat(6 << 10).as_str()); 10]), Refused),
        ("a path of 20 KiB", with(":path", Some(&format!("/{}", "y".repeat(20 << 10)))), Refused),
        ("2,000 fields", and(&vec![("x", "y"); 2_000]), Refused),
        ("cookies of 100 crumbs", and(&vec![("cookie", "a=b"); 80]), Served("GET /x", "")),
    ] {
        case(&mut family, name, &frames, want).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_off_resets_its_stream() {
    let mut family = Family::start("h2 answers").await;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for (number, (answer, whole, statuses)) in [
        (format!("{chunked}5\r\nhel"), false, [200, 502]),
        (format!("{chunked}5\r\nhello\r\n"), false, [200, 502]),
        (format!("{chunked}5\r\nhello\r\n0\r\n"), false, [200, 502]),
        (format!("{chunked}5\r\nhello\r\nzz\r\n\r\n"), false, [200, 502]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel".into(), false, [200, 502]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello".into(), true, [502, 502]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello".into(), true, [502, 502]),
        ("HTTP/1.1 99 Odd\r\nContent-Length: 2\r\n\r\nok".into(), true, [502, 502]),
        ("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".into(), true, [502, 502]),
        (format!("{chunked}5\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: x\r\n\r\n"), true, [200, 200]),
        (format!("HTTP/1.1 103 Early\r\nLink: x\r\n\r\n{ok}"), true, [200, 200]),
        (format!("{ok}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), true, [200, 200]),
        ("HTTP/1.1 204 No\r\n\r\n".into(), true, [204, 204]),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: x\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok"
                .into(),
            true,
            [200, 200],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/h2-answer-{number}");
        let steps = vec![Step::say(&answer), Step::Pause(Duration::from_millis(10)), Step::Close];
        family.world.acme.answer(&target, steps);
        let mut client = Http2::open(family.world.address).await;
        client.send(&headers(1, true, &block(&plain("GET", &target)))).await;
        let back = client.read_until(|back| back.stream(1).is_over() || back.is_refused()).await;
        let stream = back.stream(1);
        let ended = stream.ended && stream.reset.is_none();
        let said = stream.status.is_none_or(|status| statuses.contains(&status));
        let good = !back.is_refused() && said && if whole { ended } else { !ended || stream.status == Some(502) };
        let _ = family.world.received().await;
        family.by_hand(&answer, if good { Ok(()) } else { Err(format!("{back:?}")) }).await;
    }
    family.finish();
}

//! Frames that do not belong where they stand: each ends its stream or its connection, and none reaches a cell.

use cellway_battery::Family;
use cellway_battery::frames::{PREFACE, block, data, flag, frame, headers, kind, ping, reset, settings, window};

use crate::http2_case::Want::{Anything, ConnectionError, Nothing, Refused, Served, StreamError};
use crate::http2_case::{case, case_from_the_start, get, plain, post};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_begins_with_its_preface_and_settings() {
    let mut family = Family::start("h2 openings").await;
    let good = headers(1, true, &get("/o"));
    for (name, bytes, want) in [
        ("as it should be", [PREFACE, &settings(&[(1, 0)]), &good].concat(), Served("GET /o", "")),
        ("a request before SETTINGS", [PREFACE, &good].concat(), ConnectionError),
        ("PING before SETTINGS", [PREFACE, &ping(&[1; 8]), &good].concat(), ConnectionError),
        (
            "an ack before SETTINGS",
            [PREFACE, &frame(kind::SETTINGS, flag::ACK, 0, &[]), &good].concat(),
            ConnectionError,
        ),
        ("garbage after the preface", [PREFACE, &[b'x'; 64]].concat(), ConnectionError),
        ("SETTINGS on a stream", [PREFACE, &frame(kind::SETTINGS, 0, 1, &[]), &good].concat(), ConnectionError),
        ("a preface of HTTP/1.1", b"GET / HTTP/2.0\r\nHost: acme.cells.localhost\r\n\r\nSM\r\n\r\n".to_vec(), Anything),
        ("a preface with another ending", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), Anything),
        ("a preface with bare LF", b"PRI * HTTP/2.0\n\nSM\n\n".to_vec(), Anything),
    ] {
        case_from_the_start(&mut family, name, &bytes, want).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_windows_have_their_bounds() {
    let mut family = Family::start("h2 settings and windows").await;
    let good = headers(1, true, &get("/s"));
    let ack = |payload: &[u8]| frame(kind::SETTINGS, flag::ACK, 0, payload);
    let open = headers(1, false, &post(&[]));
    for (name, frames, want) in [
        ("push of 2", settings(&[(2, 2)]), ConnectionError),
        ("a window of 2^31", settings(&[(4, 1 << 31)]), ConnectionError),
        ("a frame size of 16383", settings(&[(5, 16_383)]), ConnectionError),
        ("a frame size of 2^24", settings(&[(5, 1 << 24)]), ConnectionError),
        ("connect protocol of 2", settings(&[(8, 2)]), ConnectionError),
        ("a length of 5", frame(kind::SETTINGS, 0, 0, &[0; 5]), ConnectionError),
        ("on a stream", frame(kind::SETTINGS, 0, 1, &[]), ConnectionError),
        ("an ack with a payload", ack(&[0; 6]), ConnectionError),
        ("unknown settings", [settings(&[(0xff, 1), (0x1a2a, 7)]), good.clone()].concat(), Served("GET /s", "")),
        ("settings again", [settings(&[(3, 5), (6, 9_000)]), good.clone()].concat(), Served("GET /s", "")),
        ("a window update of 0", window(0, 0), ConnectionError),
        ("a window update of 2^31", [window(0, 1 << 31), good.clone()].concat(), ConnectionError),
        ("a window over 2^31-1", window(0, 0x7fff_ffff), ConnectionError),
        ("a window update of 3 bytes", frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1]), ConnectionError),
        ("a window update of 0 on a stream", [open.clone(), window(1, 0)].concat(), Refused),
        ("a stream's window over 2^31-1", [open.clone(), window(1, 0x7fff_ffff)].concat(), Refused),
        (
            "a window made too large by settings",
            [open.clone(), window(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])].concat(),
            Refused,
        ),
        ("a window update on an idle stream", window(1, 1), ConnectionError),
        (
            "a window of 0 and then more",
            [settings(&[(4, 0)]), good.clone(), window(1, 1_000)].concat(),
            Served("GET /s", ""),
        ),
        ("PING of 7 bytes", frame(kind::PING, 0, 0, &[0; 7]), ConnectionError),
        ("PING on a stream", frame(kind::PING, 0, 1, &[0; 8]), ConnectionError),
        ("an ack of no PING", frame(kind::PING, flag::ACK, 0, &[0; 8]), Nothing),
        ("PRIORITY of 4 bytes", frame(kind::PRIORITY, 0, 1, &[0; 4]), Refused),
        ("PRIORITY on 0", frame(kind::PRIORITY, 0, 0, &[0; 5]), ConnectionError),
        ("PRIORITY on itself", [frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 9]), good.clone()].concat(), Anything),
        (
            "PRIORITY on an idle stream",
            [frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), good.clone()].concat(),
            Served("GET /s", ""),
        ),
        ("an unknown frame", [frame(0xbe, 0xff, 0, b"what"), good.clone()].concat(), Served("GET /s", "")),
        ("an unknown frame on a stream", [frame(0xbe, 0xff, 7, b"what"), good.clone()].concat(), Served("GET /s", "")),
        (
            "PUSH_PROMISE",
            [good.clone(), frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2])].concat(),
            Anything,
        ),
        ("PUSH_PROMISE alone", frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2]), ConnectionError),
        ("GOAWAY on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), ConnectionError),
        ("GOAWAY of 7 bytes", frame(kind::GOAWAY, 0, 0, &[0; 7]), ConnectionError),
        ("a frame over the limit", frame(0xbe, 0, 0, &[0; 16_385]), ConnectionError),
        ("DATA over the limit", [open, data(1, true, [0; 16_385])].concat(), Refused),
    ] {
        case(&mut family, name, &frames, want).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_keep_to_the_life_of_a_stream() {
    let mut family = Family::start("h2 streams").await;
    let good = |stream: u32| headers(stream, true, &get("/t"));
    let open = headers(1, false, &post(&[]));
    let block = get("/t");
    let (first, rest) = block.split_at(20);
    let begun = frame(kind::HEADERS, flag::END_STREAM, 1, first);
    let continued = |stream: u32| frame(kind::CONTINUATION, flag::END_HEADERS, stream, rest);
    let shut = [open.clone(), data(1, true, "hi")].concat();
    for (name, frames, want) in [
        ("DATA on an idle stream", data(1, true, "hi"), ConnectionError),
        ("RST_STREAM on an idle stream", reset(1, 8), ConnectionError),
        ("DATA on 0", data(0, true, "hi"), ConnectionError),
        ("HEADERS on 0", good(0), ConnectionError),
        ("RST_STREAM on 0", reset(0, 8), ConnectionError),
        ("RST_STREAM of 3 bytes", [open.clone(), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(), ConnectionError),
        ("CONTINUATION on 0", continued(0), ConnectionError),
        ("an even stream", good(2), ConnectionError),
        ("streams that go back", [good(5), good(3)].concat(), Anything),
        ("a stream twice", [good(1), good(1)].concat(), Anything),
        ("a stray CONTINUATION", continued(1), ConnectionError),
        ("CONTINUATION after the end", [good(1), continued(1)].concat(), Anything),
        ("a head in parts", [begun.clone(), continued(1)].concat(), Served("GET /t", "")),
        (
            "a head in parts, with a ping between",
            [begun.clone(), ping(&[1; 8]), continued(1)].concat(),
            ConnectionError,
        ),
        (
            "a head in parts, with DATA between",
            [begun.clone(), data(1, true, ""), continued(1)].concat(),
            ConnectionError,
        ),
        (
            "a head in parts, with another head between",
            [begun.clone(), good(3), continued(1)].concat(),
            ConnectionError,
        ),
        (
            "a head in parts, with an unknown frame between",
            [begun.clone(), frame(0xbe, 0, 1, b"x"), continued(1)].concat(),
            ConnectionError,
        ),
        ("a head in parts of another stream", [begun.clone(), continued(3)].concat(), ConnectionError),
        (
            "an empty CONTINUATION",
            [begun, frame(kind::CONTINUATION, 0, 1, &[]), continued(1)].concat(),
            Served("GET /t", ""),
        ),
        ("DATA after the end", [shut.clone(), data(1, true, "more")].concat(), Anything),
        ("HEADERS after the end", [shut, headers(1, true, &block)].concat(), Anything),
        ("DATA after a reset", [open.clone(), reset(1, 8), data(1, true, "hi")].concat(), Anything),
        ("a window update after a reset", [good(1), reset(1, 8), window(1, 5)].concat(), Anything),
        ("a body", [open.clone(), data(1, false, "h"), data(1, true, "i")].concat(), Served("POST /p", "hi")),
        (
            "an empty last DATA",
            [open.clone(), data(1, false, "hi"), data(1, true, "")].concat(),
            Served("POST /p", "hi"),
        ),
        ("a head that depends on itself", priority(1, 1), Anything),
        ("a head with a priority", priority(1, 3), Served("GET /t", "")),
        ("more streams than allowed", many_streams(), Anything),
    ] {
        case(&mut family, name, &frames, want).await;
    }
    family.finish();
}

fn priority(stream: u32, on: u32) -> Vec<u8> {
    let payload = [&on.to_be_bytes()[..], &[200], &get("/t")].concat();
    frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS | flag::PRIORITY, stream, &payload)
}

fn many_streams() -> Vec<u8> {
    (0..400).flat_map(|number| headers(number * 2 + 1, false, &post(&[]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn padding_is_no_part_of_anything() {
    let mut family = Family::start("h2 padding").await;
    let padded = |kind: u8, flags: u8, padding: u8, inner: &[u8], zeros: usize| {
        let payload = [&[padding], inner, &vec![0; zeros]].concat();
        frame(kind, flags | flag::PADDED, 1, &payload)
    };
    let end = flag::END_HEADERS | flag::END_STREAM;
    let open = headers(1, false, &post(&[("content-length", "2")]));
    let block = block(&plain("GET", "/pad"));
    for (name, frames, want) in [
        ("a padded head", padded(kind::HEADERS, end, 9, &block, 9), Served("GET /pad", "")),
        ("a head with padding of 0", padded(kind::HEADERS, end, 0, &block, 0), Served("GET /pad", "")),
        ("a head of padding only", padded(kind::HEADERS, end, 9, &[], 8), ConnectionError),
        ("a head with padding over its end", padded(kind::HEADERS, end, 255, &block, 0), ConnectionError),
        ("padded DATA", [open.clone(), padded(kind::DATA, 1, 200, b"hi", 200)].concat(), Served("POST /p", "hi")),
        (
            "DATA with padding of 0",
            [open.clone(), padded(kind::DATA, 1, 0, b"hi", 0)].concat(),
            Served("POST /p", "hi"),
        ),
        (
            "DATA of padding only",
            [open.clone(), padded(kind::DATA, 0, 9, b"", 9), data(1, true, "hi")].concat(),
            Served("POST /p", "hi"),
        ),
        (
            "DATA with padding over its end",
            [open.clone(), padded(kind::DATA, 1, 9, b"hi", 0)].concat(),
            ConnectionError,
        ),
        (
            "DATA with a padding flag and nothing",
            [open, frame(kind::DATA, flag::PADDED, 1, &[])].concat(),
            ConnectionError,
        ),
    ] {
        case(&mut family, name, &frames, want).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_as_long_as_its_head_says() {
    let mut family = Family::start("h2 lengths").await;
    let with = |length: &str| headers(1, false, &post(&[("content-length", length)]));
    for (name, frames, want) in [
        ("right", [with("2"), data(1, true, "hi")].concat(), Served("POST /p", "hi")),
        ("too short", [with("3"), data(1, true, "hi")].concat(), StreamError),
        ("too long", [with("1"), data(1, true, "hi")].concat(), StreamError),
        ("too long in the second", [with("2"), data(1, false, "h"), data(1, true, "ii")].concat(), StreamError),
        ("none of some", headers(1, true, &post(&[("content-length", "3")])), StreamError),
        ("some of none", [with("0"), data(1, true, "hi")].concat(), StreamError),
        (
            "ended by trailers too early",
            [with("3"), data(1, false, "hi"), trailers(&[("x-sum", "1")])].concat(),
            StreamError,
        ),
        ("negative", [with("-2"), data(1, true, "hi")].concat(), StreamError),
        ("a sign", [with("+2"), data(1, true, "hi")].concat(), StreamError),
        ("a list", [with("2, 2"), data(1, true, "hi")].concat(), StreamError),
        ("a list without a blank", [with("2,2"), data(1, true, "hi")].concat(), StreamError),
        ("hexadecimal", [with("0x2"), data(1, true, "hi")].concat(), StreamError),
        ("empty", [with(""), data(1, true, "hi")].concat(), StreamError),
        ("2^64", [with("18446744073709551616"), data(1, true, "hi")].concat(), StreamError),
        ("2^63", [with("9223372036854775808"), data(1, true, "hi")].concat(), StreamError),
        ("two that differ", two_lengths("2", "3"), StreamError),
        ("two alike", two_lengths("2", "2"), Anything),
    ] {
        case(&mut family, name, &frames, want).await;
    }
    family.finish();
}

fn two_lengths(one: &str, two: &str) -> Vec<u8> {
    [headers(1, false, &post(&[("content-length", one), ("content-length", two)])), data(1, true, "hi")].concat()
}

fn trailers(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, true, &block(fields))
}

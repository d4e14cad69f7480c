//! Where the tap stops, however the bytes are cut.

use proptest::prelude::*;

use super::*;

/// What hyper is given of `bytes`, and the fault.
fn fed(bytes: &[u8], step: usize) -> (Vec<u8>, Option<Stop>) {
    let mut tap = HeadTap::new();
    let mut passed = Vec::new();
    for part in bytes.chunks(step) {
        match tap.feed(part) {
            None => passed.extend_from_slice(part),
            Some(stop) => {
                passed.extend_from_slice(&part[..stop.keep]);
                return (passed, Some(stop));
            }
        }
    }
    (passed, None)
}

const STEPS: [usize; 6] = [1, 2, 3, 7, 64, 1_000_000];
const PLAIN: &str = "GET /a?b=\\c HTTP/1.1\r\nHost: a\r\n\r\n";
const LENGTH: &str = "POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nContent-Length: 1\r\n\n012345678X";
const CHUNKS: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1B ;x=y\r\nTransfer-Encoding: chunked\n\r\n\
                      0\r\nContent-Length: 1\r\n\r\n";

#[test]
fn a_request_with_two_lengths_is_found_wherever_it_stands() {
    let both = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-encoding: chunked\r\n\r\n";
    let turned = "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\ncontent-length: 0\r\n\r\n";
    for step in STEPS {
        for (text, number) in [
            (both.to_owned(), 0),
            (turned.to_owned(), 0),
            (format!("{PLAIN}{both}"), 1),
            (format!("{LENGTH}{CHUNKS}\r\n{PLAIN}{turned}"), 3),
        ] {
            let stop = fed(format!("{text}after").as_bytes(), step).1;
            let fault = stop.and_then(|stop| stop.fault);
            assert_eq!(fault, Some((number, BadRequest::TwoLengths)), "{text:?} by {step}");
        }
    }
}

#[test]
fn good_requests_pass_untouched() {
    for step in STEPS {
        let text = format!("{PLAIN}{LENGTH}{CHUNKS}{PLAIN}\r\n\r\n{PLAIN}");
        assert_eq!(fed(text.as_bytes(), step), (text.into_bytes(), None), "by {step}");
        let tunnel = "GET /t HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\n\n\0 anything \n\n";
        assert_eq!(fed(tunnel.as_bytes(), step), (tunnel.as_bytes().to_vec(), None), "by {step}");
    }
}

#[test]
fn what_has_two_meanings_is_cut_off_and_spoilt() {
    for step in STEPS {
        for (bad, keep) in [
            ("\nGET / HTTP/1.1\r\n\r\n", 0),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", 14),
            ("GET / HTTP/1.1\r\nX: c\r\r\n", 21),
            ("GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 21),
            ("GET / HTTP/1.1\r\n\r\r\n", 17),
            ("GET /#a HTTP/1.1\r\n\r\n", 5),
            ("GET /\\a HTTP/1.1\r\n\r\n", 5),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", 5),
            ("GET / HTTP/1.1\r\nX: y\n\r\n", 20),
            ("GET / HTTP/1.1\r\nX: y\r\n\n", 22),
            ("GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n", 22),
            ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 35),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 53),
            ("GET / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n", 52),
        ] {
            let (passed, stop) = fed(bad.as_bytes(), step);
            let stop = stop.unwrap_or_else(|| panic!("{bad:?} by {step}"));
            assert_eq!((passed.as_slice(), stop.ending), (&bad.as_bytes()[..keep], SPOIL_HEAD), "{bad:?} by {step}");
        }
        for bad in ["1\nx\r\n", "1;a\nx\r\n", "-1\r\n", " 1\r\n", "\r\n", "1x\r\n", "ffffffffffffffff\r\n", "1\0\r\n"] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{bad}");
            let stop = fed(text.as_bytes(), step).1;
            assert_eq!(stop.map(|stop| stop.ending), Some(SPOIL_CHUNK), "{bad:?} by {step}");
        }
    }
}

#[test]
fn a_head_that_is_too_large_is_ended_early() {
    let long = "x".repeat(HEAD_MAX_BYTES * 2);
    for step in STEPS {
        for (text, why, limit) in [
            (format!("GET /{long}"), BadRequest::TargetTooLong, TARGET_MAX_BYTES + 4),
            (format!("GET / HTTP/1.1\r\nX: {long}"), BadRequest::HeadTooLarge, FIELD_MAX_BYTES + 16),
            (format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(20_000)), BadRequest::HeadTooLarge, HEAD_MAX_BYTES),
        ] {
            let (mut passed, stop) = fed(text.as_bytes(), step);
            let stop = stop.unwrap_or_else(|| panic!("{why:?} by {step}"));
            assert_eq!(stop.fault, Some((0, why)));
            passed.extend_from_slice(stop.ending);
            assert!(passed.len() <= limit + ENDING_MAX_BYTES && passed.ends_with(b"\r\n\r\n"), "{why:?} by {step}");
        }
    }
}

#[test]
fn bytes_that_are_no_requests_keep_no_memory() {
    let mut tap = HeadTap::new();
    assert!(tap.feed(&[b'x'; 4096]).is_some());
    let mut tap = HeadTap::new();
    assert_eq!(tap.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1"), None);
    while tap.feed(&[b'0'; 512]).is_none() {}
    assert!(tap.field.capacity() <= 2 * FIELD_KEPT_BYTES);
}

/// Pieces of requests, good and bad, as they may follow each other.
const PIECES: [&str; 24] = [
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Upgrade: websocket\r\n",
    "\r\n",
    "\n",
    "\r",
    "hello",
    "5\r\n",
    "0\r\n",
    "5;a=b\r\n",
    "\0",
    " ",
    "\t",
    ":",
    "x",
    "#",
    "GET ",
    "HTTP/1.1",
    "X: y\r\n",
    "12345\r\n",
];

proptest! {
    #[test]
    fn how_the_bytes_are_cut_changes_nothing(
        pieces in prop::collection::vec(0..PIECES.len(), 0..40), step in 1_usize..9, noise in prop::collection::vec(any::<u8>(), 0..20)
    ) {
        let mut bytes: Vec<u8> = pieces.iter().flat_map(|at| PIECES[*at].bytes()).collect();
        bytes.extend(noise);
        let whole = fed(&bytes, bytes.len().max(1));
        let (passed, stop) = fed(&bytes, step);
        prop_assert_eq!(&passed, &whole.0);
        let end = |stop: Option<Stop>| stop.map(|stop| (stop.ending, stop.fault));
        prop_assert_eq!(end(stop), end(whole.1));
        prop_assert!(bytes.starts_with(&passed));
    }
}

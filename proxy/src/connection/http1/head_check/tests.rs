//! Where the check stops, however the bytes are cut.

use proptest::prelude::*;

use super::*;

/// What comes of bytes that arrive in parts, and how many had come by then.
fn checked(bytes: &[u8], step: usize) -> (Result<Option<usize>, Refused>, usize) {
    let mut check = HeadCheck::new();
    for end in (step..bytes.len()).step_by(step).chain([bytes.len()]) {
        let found = check.check(&bytes[..end]);
        if found != Ok(None) {
            return (found, end);
        }
    }
    (Ok(None), bytes.len())
}

const STEPS: [usize; 6] = [1, 2, 3, 7, 64, 1_000_000];

#[test]
fn a_good_head_ends_where_its_empty_line_does() {
    for step in STEPS {
        for head in [
            "GET /a?b=\\c HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            let text = format!("{head}Content-Length: 1\r\n\n\0 what follows");
            assert_eq!(checked(text.as_bytes(), step).0, Ok(Some(head.len())), "{head:?} by {step}");
        }
    }
}

#[test]
fn a_request_with_two_lengths_is_told_so() {
    for step in STEPS {
        for head in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\ncontent-length: 0\r\n\r\n",
        ] {
            let cut = Cut { keep: head.len(), ending: b"", why: BadRequest::TwoLengths };
            assert_eq!(checked(format!("{head}after").as_bytes(), step).0, Err(Refused::Fault(cut)), "{head:?}");
        }
    }
}

#[test]
fn what_has_two_meanings_is_refused_as_soon_as_it_is_there() {
    for (bad, by) in [
        ("\nGET / HTTP/1.1\r\n\r\n", 1),
        (" GET / HTTP/1.1\r\n\r\n", 1),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", 15),
        ("GET / HTTP/1.1\r\nX: c\r\r\n", 22),
        ("GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 22),
        ("GET / HTTP/1.1\r\n\r\r\n", 18),
        ("GET /#a HTTP/1.1\r\n\r\n", 6),
        ("GET /\\a HTTP/1.1\r\n\r\n", 6),
        ("GET /\u{e9} HTTP/1.1\r\n\r\n", 6),
        ("GET / HTTP/1.1\r\nX: y\n\r\n", 21),
        ("GET / HTTP/1.1\r\nX: y\r\n\n", 23),
        ("GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n", 23),
        ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 36),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 54),
        ("GET / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n", 53),
        ("GET / HTTP/1.1\r\nContent-Length: 00000000000000000000000000000000000000001\r\n\r\n", 75),
    ] {
        for step in STEPS {
            let (found, came) = checked(bad.as_bytes(), step);
            assert_eq!(found, Err(Refused::Nonsense), "{bad:?} by {step}");
            assert!(came < by + step, "{bad:?} by {step}: after {came}");
        }
    }
}

#[test]
fn a_head_that_is_too_large_is_answered_before_its_end() {
    let long = "x".repeat(HEAD_MAX_BYTES * 2);
    for step in STEPS {
        for (text, why, limit) in [
            (format!("GET /{long}"), BadRequest::TargetTooLong, TARGET_MAX_BYTES + 4),
            (format!("GET / HTTP/1.1\r\nX: {long}"), BadRequest::HeadTooLarge, FIELD_MAX_BYTES + 18),
            (format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(20_000)), BadRequest::HeadTooLarge, HEAD_MAX_BYTES),
        ] {
            let (found, came) = checked(text.as_bytes(), step);
            let Err(Refused::Fault(cut)) = found else { panic!("{why:?} by {step}: {found:?}") };
            assert_eq!(cut.why, why);
            assert!(came <= limit + step, "{why:?} by {step}: after {came}");
            let head = [&text.as_bytes()[..cut.keep], cut.ending].concat();
            assert_eq!(checked(&head, 1_000_000).0, Ok(Some(head.len())), "{why:?} by {step}");
        }
    }
}

/// Pieces of requests, good and bad, as they may follow each other.
const PIECES: [&str; 20] = [
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
    "\0",
    " ",
    "\t",
    ":",
    "x",
    "#",
    "GET ",
    "HTTP/1.1",
    "X: y\r\n",
];

proptest! {
    #[test]
    fn how_the_bytes_are_cut_changes_nothing(
        pieces in prop::collection::vec(0..PIECES.len(), 0..40), step in 1_usize..9, noise in prop::collection::vec(any::<u8>(), 0..20)
    ) {
        let mut bytes: Vec<u8> = pieces.iter().flat_map(|at| PIECES[*at].bytes()).collect();
        bytes.extend(noise);
        prop_assert_eq!(checked(&bytes, step).0, checked(&bytes, bytes.len().max(1)).0);
    }
}

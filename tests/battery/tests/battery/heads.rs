//! Line ends, control characters, folds and sizes of a head.

use cellway_battery::{Expect, Family, Seen};

const START: &str = "GET /h HTTP/1.1\r\n";
const HOST: &str = "Host: acme.cells.localhost\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_a_head_that_has_two_meanings_is_refused() {
    let mut family = Family::start("h1 bytes of a head").await;
    let head = format!("{START}{HOST}X-One: a b\r\nX-Two: c\r\n\r\n");
    family.case("as it should be", &head, Expect::served("GET /h")).await;
    // Each CR LF in turn loses its CR, or its LF; each place in turn gets what no head has.
    for (at, _) in head.match_indices("\r\n") {
        let mut bare = head.clone();
        bare.replace_range(at..at + 2, "\n");
        family.case(&format!("a bare LF at {at}"), &bare, Expect::refused(&[400])).await;
        let mut bare = head.clone();
        bare.replace_range(at..at + 2, "\r");
        // The last one is only unfinished.
        let expect = if at + 2 == head.len() { continue } else { Expect::refused(&[400]) };
        family.case(&format!("a bare CR at {at}"), &bare, expect).await;
        for (what, text) in [("CR CR LF", "\r\r\n"), ("LF CR", "\n\r"), ("fold", "\r\n "), ("tab fold", "\r\n\t")] {
            let mut odd = head.clone();
            odd.replace_range(at..at + 2, text);
            if at + 2 < head.len() {
                family.case(&format!("{what} at {at}"), &odd, Expect::refused(&[400])).await;
            }
        }
    }
    for at in 0..head.len() - 2 {
        for (what, byte) in [("NUL", "\0"), ("CR", "\r"), ("VT", "\x0b")] {
            let before = &head[..at];
            if before.ends_with('\r') || (what == "CR" && (head[at..].starts_with("\r\n") || at == 0)) {
                continue;
            }
            let odd = format!("{before}{byte}{}", &head[at..]);
            family.case(&format!("{what} before {at}"), &odd, Expect::refused(&[400])).await;
        }
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_are_written_in_one_way() {
    let mut family = Family::start("h1 forms of fields").await;
    for bad in [
        "X : y\r\n",
        "X\t: y\r\n",
        ": y\r\n",
        "X\r\n",
        " X: y\r\n",
        "\tX: y\r\n",
        "X Y: z\r\n",
        "X(: y\r\n",
        "X@Y: z\r\n",
        "X{}: z\r\n",
        "X[]: z\r\n",
        "\"X\": z\r\n",
        "X/Y: z\r\n",
        "X,Y: z\r\n",
        "X;Y: z\r\n",
        "X=Y: z\r\n",
        "X?: z\r\n",
        "X<: z\r\n",
        "X\\: z\r\n",
        "X: y\x01\r\n",
        "X: y\x7f\r\n",
        "X: y\x1b[0m\r\n",
        "X: y\r\n folded\r\n",
        "X: y\r\n\tfolded\r\n",
        "X:\r\n folded\r\n",
        "X: y\n folded\r\n",
    ] {
        family.case(bad, format!("{START}{HOST}{bad}\r\n"), Expect::refused(&[400])).await;
        family.case(bad, format!("{START}{bad}{HOST}\r\n"), Expect::refused(&[400])).await;
    }
    let mut bytes = format!("{START}{HOST}X").into_bytes();
    bytes.extend_from_slice(b"\xe9: y\r\n\r\n");
    family.case("a name that is no text", bytes, Expect::refused(&[400])).await;
    for good in
        ["X:y\r\n", "X:  y  \r\n", "X:\ty\t\r\n", "X:\r\n", "X: a\tb\r\n", "!#$%&'*+-.^_`|~0: y\r\n", "X: \"\r\n"]
    {
        family.case(good, format!("{START}{HOST}{good}\r\n"), Expect::served("GET /h")).await;
    }
    family.case("an empty line before", format!("\r\n{START}{HOST}\r\n"), Expect::served("GET /h")).await;
    family.case("a bare LF before", format!("\n{START}{HOST}\r\n"), Expect::refused(&[400])).await;
    family.case("a blank before", format!(" {START}{HOST}\r\n"), Expect::refused(&[400])).await;
    let two = format!("{START}{HOST}\r\n\r\n{START}{HOST}\r\n");
    family.case("an empty line between", two, Expect::Exactly(vec![Seen::line("GET /h"); 2], &[])).await;
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_has_a_size() {
    let mut family = Family::start("h1 sizes of a head").await;
    let request = |line: &str, fields: &str| format!("{line}{HOST}{fields}\r\n");
    let long = |length: usize| "a".repeat(length);
    for (name, bytes, expect) in [
        ("a field of 7 KiB", request(START, &format!("X: {}\r\n", long(7 << 10))), Expect::served("GET /h")),
        ("a field of 9 KiB", request(START, &format!("X: {}\r\n", long(9 << 10))), Expect::refused(&[431])),
        ("a field of 256 KiB", request(START, &format!("X: {}\r\n", long(256 << 10))), Expect::refused(&[431])),
        ("a field of 2 MiB", request(START, &format!("X: {}\r\n", long(2 << 20))), Expect::refused(&[431])),
        ("a name of 9 KiB", request(START, &format!("{}: y\r\n", long(9 << 10))), Expect::refused(&[431, 400])),
        ("a name of 256 KiB", request(START, &format!("{}: y\r\n", long(256 << 10))), Expect::refused(&[431, 400])),
        ("30 KiB in all", request(START, &format!("X: {}\r\n", long(6 << 10)).repeat(5)), Expect::served("GET /h")),
        ("42 KiB in all", request(START, &format!("X: {}\r\n", long(6 << 10)).repeat(7)), Expect::refused(&[431])),
        ("600 KiB in all", request(START, &format!("X: {}\r\n", long(6 << 10)).repeat(100)), Expect::refused(&[431])),
        ("90 fields", request(START, &"X: y\r\n".repeat(90)), Expect::served("GET /h")),
        ("120 fields", request(START, &"X: y\r\n".repeat(120)), Expect::refused(&[431])),
        ("20,000 fields", request(START, &"X: y\r\n".repeat(20_000)), Expect::refused(&[431])),
        ("a target of 17 KiB", request(&format!("GET /{} HTTP/1.1\r\n", long(17 << 10)), ""), Expect::refused(&[414])),
        ("a target of 60 KiB", request(&format!("GET /{} HTTP/1.1\r\n", long(60 << 10)), ""), Expect::refused(&[414])),
        ("a target of 1 MiB", request(&format!("GET /{} HTTP/1.1\r\n", long(1 << 20)), ""), Expect::refused(&[414])),
        ("a query of 17 KiB", request(&format!("GET /?{} HTTP/1.1\r\n", long(17 << 10)), ""), Expect::refused(&[414])),
        ("a method of 1 KiB", request(&format!("{} / HTTP/1.1\r\n", long(1 << 10)), ""), Expect::refused(&[400, 501])),
        (
            "a method of 64 KiB",
            request(&format!("{} / HTTP/1.1\r\n", long(64 << 10)), ""),
            Expect::refused(&[400, 501]),
        ),
        ("no line end at all", long(200 << 10), Expect::refused(&[400, 431, 414, 501])),
    ] {
        family.case(name, bytes, expect).await;
    }
    let target = format!("GET /{}", long(15 << 10));
    let bytes = request(&format!("{target} HTTP/1.1\r\n"), "");
    family.case("a target of 15 KiB", bytes, Expect::served(&target)).await;
    family.finish();
}

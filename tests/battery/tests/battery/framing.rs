//! How long a request is: `Content-Length`, `Transfer-Encoding`, both, and everything that only looks like them.

use cellway_battery::{Expect, Family, Seen};

const HOST: &str = "Host: acme.cells.localhost\r\n";
/// A second request, smuggled where a body ends for one reader and not for another.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: beta.cells.localhost\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /p HTTP/1.1\r\n{HOST}{fields}\r\n{body}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_stated_twice_is_refused() {
    let mut family = Family::start("h1 CL and TE").await;
    let chunked = "0\r\n\r\n";
    for (first, second) in [
        ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"),
        ("Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n"),
        ("Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"),
        ("Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n"),
        ("Content-Length: 5\r\n", "Transfer-Encoding: identity\r\n"),
        ("Content-Length: 5\r\n", "Transfer-Encoding: xchunked\r\n"),
        ("Content-Length: 5\r\n", "Transfer-Encoding:\r\n"),
        ("Content-Length: 5\r\n", "Transfer-Encoding : chunked\r\n"),
        ("Content-Length: 5\r\n", " Transfer-Encoding: chunked\r\n"),
        ("Content-Length: 5\r\n", "\tTransfer-Encoding: chunked\r\n"),
        ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\n"),
        ("Content-Length: 5\n", "Transfer-Encoding: chunked\r\n"),
        ("Content-Length: 5\r\n", "X: y\nTransfer-Encoding: chunked\r\n"),
        ("Content-Length: 5\r\n", "X: y\rTransfer-Encoding: chunked\r\n"),
        ("Content-Length: 5\r\n", "transfer-encoding: CHUNKED\r\n"),
        ("Content-Length: 5\r\n", "X: y\r\n Transfer-Encoding: chunked\r\n"),
        ("Content-Length : 5\r\n", "Transfer-Encoding: chunked\r\n"),
        ("Content-Length: +5\r\n", "Transfer-Encoding: chunked\r\n"),
        ("Transfer-Encoding: chunked\r\n", "Content-Length: abc\r\n"),
    ] {
        for body in [format!("{chunked}{SMUGGLED}"), format!("5{SMUGGLED}")] {
            let fields = format!("{first}{second}");
            family.case(&fields, post(&fields, &body), Expect::refused(&[400])).await;
        }
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_one_transfer_coding_is_served() {
    let mut family = Family::start("h1 TE forms").await;
    let coded = |value: &str| format!("Transfer-Encoding:{value}\r\n");
    for good in [" chunked", "chunked", " Chunked", " CHUNKED", "\tchunked", "  chunked ", " chunked\t", " chunked \t "]
    {
        let expect = Expect::served_with("POST /p", "hi");
        family.case(good, post(&coded(good), "2\r\nhi\r\n0\r\n\r\n"), expect).await;
    }
    for bad in [
        " chunked,",
        " ,chunked",
        " ,",
        " chunked, chunked",
        " gzip, chunked",
        " chunked, gzip",
        " identity, chunked",
        " chunked, identity",
        " identity",
        " gzip",
        " deflate",
        " xchunked",
        " chunkedx",
        " x chunked",
        " chunked x",
        " chunked;q=1",
        " chunked;",
        " \"chunked\"",
        " 'chunked'",
        " \x0bchunked",
        " chunked\x0b",
        " \x0cchunked",
        " \0chunked",
        " chunked\0",
        " \x08chunked",
        " \x7fchunked",
        " chun\tked",
        " chun ked",
        " chunk",
        " chunke",
        "",
        " ",
        " trailers",
        " chunked\r\n\t",
        " chunked\r\n , gzip",
        " chunked\r\n\x20x",
    ] {
        family.case(bad, post(&coded(bad), &format!("0\r\n\r\n{SMUGGLED}")), Expect::refused(&[400, 501])).await;
    }
    for value in
        [b" \xa0chunked".as_slice(), b" chunked\xa0", b" \xc2\xa0chunked", b" \xef\xbb\xbfchunked", b" \x85chunked"]
    {
        let mut bytes = format!("POST /p HTTP/1.1\r\n{HOST}Transfer-Encoding:").into_bytes();
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(format!("\r\n\r\n0\r\n\r\n{SMUGGLED}").as_bytes());
        family.case("a blank that is none", bytes, Expect::refused(&[400, 501])).await;
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: x\r\n",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding\x0b: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding chunked\r\n",
        "Transfer-Encoding\r\n : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\n",
        "Transfer\0-Encoding: chunked\r\n",
        "\"Transfer-Encoding\": chunked\r\n",
    ] {
        let bytes = post(fields, &format!("0\r\n\r\n{SMUGGLED}"));
        family.case(fields, bytes, Expect::refused(&[400, 501])).await;
    }
    let old = format!("POST /p HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}");
    family.case("HTTP/1.0", old, Expect::refused(&[400])).await;
    let old =
        format!("POST /p HTTP/1.0\r\n{HOST}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    family.case("HTTP/1.0 that stays", old, Expect::refused(&[400])).await;
    for twin in ["Transfer_Encoding: chunked\r\n", "Content_Length: 5\r\n", "transfer_encoding: chunked\r\n"] {
        family.case(twin, post(twin, ""), Expect::served("POST /p")).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_length_is_one_plain_number() {
    let mut family = Family::start("h1 CL forms").await;
    let length = |value: &str| format!("Content-Length:{value}\r\n");
    for good in [" 2", "2", "\t2", " 2 ", " 002", " 0000000000000000000000000002"] {
        family.case(good, post(&length(good), "hi"), Expect::served_with("POST /p", "hi")).await;
    }
    family.case("zero", post(&length(" 0"), ""), Expect::served("POST /p")).await;
    for bad in [
        " +5",
        " -5",
        " -0",
        " 0x5",
        " 5,",
        " ,5",
        " 5, 5",
        " 5,5",
        " 5, 6",
        " 5;",
        " 5 5",
        " 5.0",
        " 5e0",
        " 1_0",
        "",
        " ",
        " five",
        " 0b1",
        " 5\0",
        " \x0b5",
        " 5\x0b",
        " 5\r\n 6",
        " 5\r\n ",
        " 9223372036854775808",
        " 18446744073709551615",
        " 18446744073709551616",
        " 99999999999999999999999",
        " 5\n",
        " \"5\"",
        " '5'",
        " -9223372036854775808",
        " 4294967296000000000",
    ] {
        let bytes = post(&length(bad), &format!("hello{SMUGGLED}"));
        family.case(bad, bytes, Expect::refused(&[400, 413])).await;
    }
    for value in [b" \xb2".as_slice(), b" \xc2\xb2", b" \xd9\xa5", b" \xa05"] {
        let mut bytes = format!("POST /p HTTP/1.1\r\n{HOST}Content-Length:").into_bytes();
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(format!("\r\n\r\nhello{SMUGGLED}").as_bytes());
        family.case("digits of other scripts", bytes, Expect::refused(&[400])).await;
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 6\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 05\r\n",
        "Content-Length: 5\r\nX: y\r\nContent-Length:\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        " Content-Length: 5\r\n",
        "X: y\r\n Content-Length: 5\r\n",
        "X: y\nContent-Length: 5\r\n",
        "Content-Length\0: 5\r\n",
    ] {
        let bytes = post(fields, &format!("hello{SMUGGLED}"));
        family.case(fields, bytes, Expect::refused(&[400])).await;
    }
    let get = format!("GET /g HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\nhi");
    family.case("a GET with a body", get, Expect::served_with("GET /g", "hi")).await;
    let get = format!("GET /g HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    family.case("a GET with chunks", get, Expect::served_with("GET /g", "hi")).await;
    let two = post("", "") + &post("Content-Length: 2\r\n", "hi");
    let seen = vec![Seen::line("POST /p"), Seen::with("POST /p", "hi")];
    family.case("a POST without a length has no body", two, Expect::Exactly(seen, &[])).await;
    family.finish();
}

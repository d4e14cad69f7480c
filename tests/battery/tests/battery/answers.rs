//! Answers of a hostile cell: nobody but who asked it gets them, and what is cut off or doubtful looks like it.

use std::time::Duration;

use cellway_battery::world::get;
use cellway_battery::{Client, End, Family, Step};

/// What the client must get.
enum Want {
    /// The router's own 502.
    Bad,
    /// This status and body, whole.
    Passes(u16, &'static str),
    /// Either.
    BadOr(u16, &'static str),
    /// An answer that is visibly not whole, or a 502.
    Cut,
}
use Want::{Bad, BadOr, Cut, Passes};

/// Asks for `/x`, which the cell answers so, and then for something else over the same connection, if it is left.
async fn ask(family: &mut Family, name: &str, method: &str, steps: Vec<Step>, want: Want) {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let target = format!("/hostile-{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    family.world.acme.answer(&target, steps);
    let mut client = Client::connect(family.world.address).await;
    client.send(get("acme", &target).replacen("GET", method, 1).as_bytes()).await;
    let heads = [method == "HEAD"];
    let first = client.read(1, &heads).await;
    let text = first.answers.first().map(|answer| (answer.status, answer.text(), answer.whole));
    let bad = matches!(text, Some((502, _, true)));
    let passes = |status: u16, body: &str| text == Some((status, body.to_owned(), true));
    let good = match want {
        Bad => bad,
        Passes(status, body) => passes(status, body),
        BadOr(status, body) => bad || passes(status, body),
        Cut => bad || (first.end != End::Open && text.is_none_or(|(_, _, whole)| !whole)),
    };
    let mut result = if good && first.rest.is_empty() { Ok(()) } else { Err(format!("{first:?}")) };
    family.world.acme.settle().await;
    if result.is_ok() && first.end == End::Open {
        client.send(get("acme", "/next").as_bytes()).await;
        let next = client.read(2, &heads).await;
        let answer = next.answers.get(1).map(|answer| answer.text());
        if next.answers.len() != 2 || answer != Some("a|acme|GET /next|0".into()) {
            result = Err(format!("the next request was answered {next:?}"));
        }
    }
    let _ = family.world.received().await;
    family.by_hand(name, result).await;
}

async fn say(family: &mut Family, answer: &str, want: Want) {
    ask(family, answer, "GET", vec![Step::say(answer)], want).await;
}

async fn say_and_close(family: &mut Family, answer: &str, want: Want) {
    ask(family, answer, "GET", vec![Step::say(answer), Step::Close], want).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_unclear_length_is_no_answer() {
    let mut family = Family::start("h1 answers' lengths").await;
    for value in [
        "-5",
        "+2",
        "0x2",
        "2, 2",
        "2,2",
        "2, 3",
        "2;",
        "two",
        "",
        "18446744073709551616",
        "18446744073709551615",
        "9223372036854775808",
        "2 2",
        "2.0",
        "\"2\"",
        "-0",
        " 2\r\n 3",
    ] {
        let want = if value.len() > 18 && value.starts_with(['1', '9']) { Cut } else { Bad };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nok");
        say_and_close(&mut family, &answer, want).await;
    }
    for fields in [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:",
        "Content-Length : 2",
        "Content-Length:\x0b2",
    ] {
        for body in ["ok", "2\r\nok\r\n0\r\n\r\n"] {
            say_and_close(&mut family, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}"), Bad).await;
        }
    }
    say_and_close(&mut family, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad).await;
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_no_http_is_no_answer() {
    let mut family = Family::start("h1 answers' heads").await;
    let line = |line: &str| format!("{line}\r\nContent-Length: 2\r\n\r\nok");
    for start in [
        "HTTP/1.1 99 x",
        "HTTP/1.1 099 x",
        "HTTP/1.1 000 x",
        "HTTP/1.1 600 x",
        "HTTP/1.1 999 x",
        "HTTP/1.1 1000 x",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 -200 OK",
        "HTTP/1.1 OK",
        "HTTP/1.1",
        "HTTP/2.0 200 OK",
        "HTTP/2 200 OK",
        "HTTP/3.0 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "SSH-2.0-x",
        "200 OK",
        "ok",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        " HTTP/1.1 200 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "GET / HTTP/1.1",
    ] {
        say_and_close(&mut family, &line(start), Bad).await;
    }
    for fields in [
        "X: a\0b",
        "X: a\rb",
        "X\0: a",
        "X : a",
        "X",
        ": a",
        " X: a",
        "X: a\r\n folded",
        "X Y: a",
        "X: a\x7f",
        "X: a\x01",
        "X: a\r\n\tfolded",
        "\u{e9}: a",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 2\r\n\r\nok");
        say_and_close(&mut family, &answer, Bad).await;
    }
    // Line ends in LF alone have one meaning here, for what goes on is written anew.
    say_and_close(&mut family, "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", BadOr(200, "ok")).await;
    say_and_close(&mut family, "HTTP/1.0 200 OK\r\n\r\nok", Passes(200, "ok")).await;
    say_and_close(&mut family, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Passes(200, "ok")).await;
    say_and_close(&mut family, "HTTP/1.1 200 OK\r\n\r\nok", Passes(200, "ok")).await;
    say_and_close(&mut family, "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", BadOr(200, "ok")).await;
    say_and_close(&mut family, "HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok", Passes(299, "ok")).await;
    say_and_close(&mut family, "", Bad).await;
    say_and_close(&mut family, "HTTP/1.1 200 OK\r\nContent-Len", Bad).await;
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X: y\r\n".repeat(5_000));
    ask(&mut family, "5,000 fields", "GET", vec![Step::say(&many), Step::Close], Bad).await;
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2\r\n\r\nok", "y".repeat(300_000));
    ask(&mut family, "a field of 300 KB", "GET", vec![Step::say(&large), Step::Close], Bad).await;
    let endless =
        vec![Step::say("HTTP/1.1 200 OK\r\n"), Step::Flood(b"X-Endless: yyyyyyyyyyyyyyyy\r\n".repeat(100), 1_000)];
    ask(&mut family, "an endless head", "GET", endless, Bad).await;
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_off_does_not_look_whole() {
    let mut family = Family::start("h1 answers cut off").await;
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let tails = [
        "",
        "5",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhelloXX0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 x\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
    ];
    for tail in tails {
        say_and_close(&mut family, &format!("{head}{tail}"), Cut).await;
        let steps = vec![Step::say(&format!("{head}{tail}")), Step::Pause(Duration::from_millis(5)), Step::Reset];
        ask(&mut family, &format!("{tail}, by reset"), "GET", steps, Cut).await;
    }
    for body in ["", "hel", "hell"] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}");
        say_and_close(&mut family, &answer, Cut).await;
        let steps = vec![Step::say(&answer), Step::Pause(Duration::from_millis(5)), Step::Reset];
        ask(&mut family, &format!("{body}, by reset"), "GET", steps, Cut).await;
    }
    let steps = vec![Step::say("HTTP/1.1 200 OK\r\n\r\nhel"), Step::Pause(Duration::from_millis(20)), Step::Reset];
    ask(&mut family, "until the connection breaks", "GET", steps, Cut).await;
    for good in ["5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", "1\r\nh\r\n4\r\nello\r\n000\r\n\r\n"]
    {
        say(&mut family, &format!("{head}{good}"), Passes(200, "hello")).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_an_answer_reaches_nobody() {
    let mut family = Family::start("h1 answers too many").await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for garbage in [evil, "\r\n", "x", "HTTP/1.1 100 Continue\r\n\r\n", "\0\0\0\0", "HTTP/1.1 101 Switching\r\n\r\n"] {
        say(&mut family, &format!("{ok}{garbage}"), Passes(200, "ok")).await;
        let late = vec![Step::say(ok), Step::Pause(Duration::from_millis(5)), Step::say(garbage)];
        ask(&mut family, &format!("{garbage}, later"), "GET", late, Passes(200, "ok")).await;
    }
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    say(&mut family, &format!("{chunked}{evil}"), Passes(200, "ok")).await;
    let bodies = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", 200),
        ("GET", "HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nevil", 204),
        ("GET", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", 204),
        ("GET", "HTTP/1.1 304 No\r\nContent-Length: 4\r\n\r\nevil", 304),
        ("GET", "HTTP/1.1 304 No\r\n\r\nevil", 304),
    ];
    for (method, answer, status) in bodies {
        ask(&mut family, answer, method, vec![Step::say(answer)], BadOr(status, "")).await;
    }
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    say(&mut family, &format!("{interim}{ok}"), Passes(200, "ok")).await;
    say(&mut family, &format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\n{ok}"), Passes(200, "ok")).await;
    say(&mut family, &format!("HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\n{ok}"), Passes(200, "ok")).await;
    let flood = vec![Step::Flood(interim.repeat(100).into_bytes(), 2_000), Step::say(ok)];
    ask(&mut family, "a flood of early hints", "GET", flood, BadOr(200, "ok")).await;
    for switch in [
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    ] {
        say(&mut family, &format!("{switch}{evil}"), Bad).await;
    }
    family.finish();
}

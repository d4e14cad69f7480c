//! Requests in a row, bodies on the way, clients that wait, leave or close half.

use std::time::Duration;

use cellway_battery::world::get;
use cellway_battery::{Client, Ended, Expect, Family, Seen, Step, Transcript, World};

const HOST: &str = "Host: acme.cells.localhost\r\n";

fn post(target: &str, fields: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\n{HOST}{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn texts(transcript: &Transcript) -> Vec<String> {
    transcript.answers.iter().map(|answer| answer.text()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_a_row_are_answered_in_their_order() {
    let mut family = Family::start("h1 pipelining").await;
    let lines: Vec<String> = (0..5).map(|number| format!("/{number}")).collect();
    let bytes: String = lines.iter().map(|line| get("acme", line)).collect();
    let seen = lines.iter().map(|line| Seen::line(&format!("GET {line}"))).collect();
    family.case("five at once", bytes, Expect::Exactly(seen, &[])).await;
    let inner = get("beta", "/smuggled");
    let bytes = post("/p", "", &inner) + &get("acme", "/after");
    let seen = vec![Seen::with("POST /p", &inner), Seen::line("GET /after")];
    family.case("a request inside a body", bytes, Expect::Exactly(seen, &[])).await;
    let chunked = format!("POST /c HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nGET\r\n0\r\n\r\n");
    let bytes = chunked.clone() + &get("acme", "/after") + &chunked;
    let seen = vec![Seen::with("POST /c", "GET"), Seen::line("GET /after"), Seen::with("POST /c", "GET")];
    family.case("chunks and others", bytes, Expect::Exactly(seen, &[])).await;
    for bad in [
        "GET /x HTTP/1.1\nHost: acme.cells.localhost\r\n\r\n".to_owned(),
        format!("GET /x HTTP/1.1\r\n{HOST}{HOST}\r\n"),
        format!("POST /x HTTP/1.1\r\n{HOST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "BAD\r\n\r\n".into(),
        "\0".repeat(30),
        format!("GET /x HTTP/1.1\r\n{HOST}X: \0\r\n\r\n"),
    ] {
        let bytes = get("acme", "/first") + &bad + &get("acme", "/never");
        let expect = Expect::Exactly(vec![Seen::line("GET /first")], &[400]);
        family.case(&format!("a fault behind a good one: {bad:?}"), bytes, expect).await;
    }
    let close = format!("GET /last HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n") + &get("acme", "/never");
    family.case("nothing after a close", close, Expect::Exactly(vec![Seen::line("GET /last")], &[])).await;
    let mut client = Client::connect(family.world.address).await;
    client.send((get("acme", "/1") + &get("beta", "/2") + &get("acme", "/3")).as_bytes()).await;
    let transcript = client.read(3, &[]).await;
    let _ = family.world.received().await;
    let good = texts(&transcript) == ["a|acme|GET /1|0", "b|beta|GET /2|0", "a|acme|GET /3|0"];
    family.by_hand("two tenants on one connection", if good { Ok(()) } else { Err(format!("{transcript:?}")) }).await;
    family.finish();
}

async fn expecting(world: &World, expect: &str, wait: bool) -> Result<(), String> {
    let mut client = Client::connect(world.address).await;
    let head = format!("POST /e HTTP/1.1\r\n{HOST}{expect}Content-Length: 2\r\n\r\n");
    client.send(head.as_bytes()).await;
    if wait {
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        while !client.read(0, &[]).await.interim.contains(&100) {
            if tokio::time::Instant::now() > until {
                return Err("no 100 came".into());
            }
        }
    }
    client.send(b"hi").await;
    let transcript = client.read(1, &[]).await;
    let (acme, _) = world.received().await?;
    let requests: Vec<_> = acme.iter().flat_map(|one| &one.requests).collect();
    match (&transcript.statuses()[..], &requests[..]) {
        ([200], [request]) if request.body == b"hi" && request.values("expect").is_empty() => Ok(()),
        ([417], []) if !wait => Ok(()),
        _ => Err(format!("{transcript:?} {acme:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_is_told_to_go_on() {
    let mut family = Family::start("h1 Expect").await;
    for (expect, wait) in [
        ("Expect: 100-continue\r\n", true),
        ("Expect: 100-Continue\r\n", true),
        ("Expect:100-continue\r\n", true),
        ("Expect: 100-continue\r\n", false),
        ("Expect: something\r\n", false),
        ("Expect: 100-continue, something\r\n", false),
        ("Expect:\r\n", false),
        ("Expect: 100-continue\r\nExpect: 100-continue\r\n", false),
    ] {
        let result = expecting(&family.world, expect, wait).await;
        family.by_hand(expect, result).await;
    }
    let get = format!("GET /e HTTP/1.1\r\n{HOST}Expect: 100-continue\r\n\r\n");
    family.case("without a body", get, Expect::served("GET /e")).await;
    family.finish();
}

/// Breaks off a request after `bytes`; the cell must not take it for a whole one.
async fn broken_off(world: &World, bytes: &[u8], reset: bool) -> Result<(), String> {
    let mut client = Client::connect(world.address).await;
    client.send(bytes).await;
    client.pause(Duration::from_millis(30)).await;
    if reset {
        client.reset()
    } else {
        drop(client)
    }
    client_gone().await;
    let (acme, beta) = world.received().await?;
    let whole = acme.iter().any(|one| !one.requests.is_empty());
    let cut = acme.iter().all(|one| one.recording.ended == Ended::ByPeer);
    if whole || !cut || !beta.is_empty() { Err(format!("{acme:?} {beta:?}")) } else { Ok(()) }
}

async fn client_gone() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_broken_off_is_never_taken_for_a_whole_one() {
    let mut family = Family::start("h1 broken off").await;
    let long = format!("POST /b HTTP/1.1\r\n{HOST}Content-Length: 200000\r\n\r\n{}", "x".repeat(150_000));
    let short = format!("POST /b HTTP/1.1\r\n{HOST}Content-Length: 200\r\n\r\nxxx");
    let chunked = format!("POST /b HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let in_chunk = format!("POST /b HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n30\r\nabc");
    let last = format!("POST /b HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n");
    let head = format!("POST /b HTTP/1.1\r\n{HOST}Content-Length: 20");
    for (name, bytes) in [
        ("long", long),
        ("short", short),
        ("after a chunk", chunked),
        ("in a chunk", in_chunk),
        ("in the last", last),
        ("in a head", head),
    ] {
        for reset in [false, true] {
            let result = broken_off(&family.world, bytes.as_bytes(), reset).await;
            family.by_hand(&format!("{name}, by reset: {reset}"), result).await;
        }
    }
    family.finish();
}

async fn half_closed(world: &World, bytes: &str, wanted: u16) -> Result<(), String> {
    let mut client = Client::connect(world.address).await;
    client.send(bytes.as_bytes()).await;
    client.half_close().await;
    let transcript = client.read(1, &[]).await;
    let _ = world.received().await?;
    if transcript.statuses() == [wanted] { Ok(()) } else { Err(format!("{transcript:?}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_says_nothing_more_gets_its_answer() {
    let mut family = Family::start("h1 half closed").await;
    family
        .world
        .acme
        .answer("/slow", vec![Step::Pause(Duration::from_millis(80)), Step::say("HTTP/1.1 204 No\r\n\r\n")]);
    for (bytes, wanted) in [
        (get("acme", "/h"), 200),
        (get("acme", "/slow"), 204),
        (post("/h", "", "hi"), 200),
        (post("/h", "", &"x".repeat(100_000)), 200),
        (format!("POST /h HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), 200),
        (format!("GET /h HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n"), 200),
        (format!("GET /h HTTP/1.1\n{HOST}\r\n"), 400),
        (get("nobody", "/h"), 404),
    ] {
        let result = half_closed(&family.world, &bytes, wanted).await;
        family.by_hand(bytes.lines().next().unwrap_or_default(), result).await;
    }
    family.finish();
}

/// The cell answers before it has the body, of which `length` bytes are sent.
async fn early(world: &World, target: &str, length: usize, chunked: bool) -> Result<(), String> {
    let mut client = Client::connect(world.address).await;
    let framing = if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {length}") };
    client.send(format!("POST {target} HTTP/1.1\r\n{HOST}{framing}\r\n\r\n").as_bytes()).await;
    client.pause(Duration::from_millis(20)).await;
    let part = "y".repeat(8_192);
    for _ in 0..length / part.len() {
        let part = if chunked { format!("2000\r\n{part}\r\n") } else { part.clone() };
        client.send(part.as_bytes()).await;
    }
    let transcript = client.read(1, &[]).await;
    // What is still on its way to the cell is no part of what comes next.
    world.received().await?;
    let good = transcript.statuses() == [413] && transcript.answers[0].text() == "no" && transcript.answers[0].whole;
    if good { Ok(()) } else { Err(format!("{transcript:?}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_the_request_arrives() {
    let mut family = Family::start("h1 early answers").await;
    let no = "HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno";
    family.world.acme.answer_early("/early", vec![Step::say(no)]);
    family.world.acme.answer_early("/closes", vec![Step::say(no), Step::Close]);
    for target in ["/early", "/closes"] {
        for length in [100 * 8_192, 1_000 * 8_192] {
            for chunked in [false, true] {
                let result = early(&family.world, target, length, chunked).await;
                family.by_hand(&format!("{target}, {length} bytes, chunked: {chunked}"), result).await;
            }
        }
    }
    // An error of the router's own, too.
    let mut client = Client::connect(family.world.address).await;
    client.send(b"POST /e HTTP/1.1\r\nHost: a, b\r\nContent-Length: 900000\r\n\r\n").await;
    client.send("z".repeat(900_000).as_bytes()).await;
    let transcript = client.read(1, &[]).await;
    let good = transcript.statuses() == [400] && transcript.answers[0].whole;
    family.by_hand("refused with a body under way", if good { Ok(()) } else { Err(format!("{transcript:?}")) }).await;
    family.finish();
}

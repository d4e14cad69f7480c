//! Floods over HTTP/2: the connection is ended, or serves on within bounds; others never notice, and memory stays flat.

use std::time::Duration;

use cellway_battery::Family;
use cellway_battery::frames::{Http2, block, data, flag, frame, headers, kind, ping, reset, settings, window};

use crate::http2_case::{get, plain, post};

/// The most that the process may grow by during a flood, of which its own bytes are a part.
const GROWTH_MAX_BYTES: usize = 48 * 1024 * 1024;
/// How long a flood may last; what is not taken by then was held back.
const FLOOD: Duration = Duration::from_millis(1_500);

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Sends `opening`, then `wave(number)` again and again.
async fn flood(family: &mut Family, name: &str, must_end: bool, opening: Vec<u8>, wave: impl Fn(u32) -> Vec<u8>) {
    let before = resident_bytes();
    let mut client = Http2::open(family.world.address).await;
    client.send(&opening).await;
    let until = tokio::time::Instant::now() + FLOOD;
    let mut number = 0;
    let mut ended = false;
    while tokio::time::Instant::now() < until && !ended && number < 400 {
        let taken = client.send_within(&wave(number), Duration::from_millis(300)).await;
        number += 1;
        ended = client.read_for(Duration::from_millis(1), |back| back.is_refused()).await.is_refused();
        if !taken {
            break;
        }
    }
    let back =
        client.read_for(Duration::from_millis(if must_end { 1_500 } else { 50 }), |back| back.is_refused()).await;
    let grown = resident_bytes().saturating_sub(before);
    drop(client);
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Requests that a flood carried may have reached the cell of their tenant, whole or cut off.
    family.world.acme.take();
    let result = if grown > GROWTH_MAX_BYTES {
        Err(format!("memory grew by {grown} bytes"))
    } else if must_end && !back.is_refused() {
        Err(format!("the connection serves on after {number} waves"))
    } else if back.goaway.is_some_and(|code| !matches!(code, 0 | 1 | 11)) {
        Err(format!("the connection was ended with code {:?}", back.goaway))
    } else {
        Ok(())
    };
    family.by_hand(name, result).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_their_own_connection_only() {
    let mut family = Family::start("h2 floods").await;
    let many = |one: Vec<u8>| move |_: u32| one.repeat(200);
    let none = Vec::new;
    flood(&mut family, "PING", true, none(), many(ping(&[7; 8]))).await;
    flood(&mut family, "PING acks", true, none(), many(frame(kind::PING, flag::ACK, 0, &[7; 8]))).await;
    flood(&mut family, "SETTINGS", true, none(), many(settings(&[(3, 100)]))).await;
    flood(&mut family, "empty SETTINGS", true, none(), many(settings(&[]))).await;
    flood(&mut family, "PRIORITY", true, none(), many(frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 9]))).await;
    flood(&mut family, "unknown frames", true, none(), many(frame(0xbe, 0, 0, b"x"))).await;
    let open = headers(1, false, &post(&[]));
    flood(&mut family, "empty DATA", true, open.clone(), many(data(1, false, ""))).await;
    let padding = frame(kind::DATA, flag::PADDED, 1, &[[200].as_slice(), &[0; 200]].concat());
    flood(&mut family, "DATA of padding only", false, open.clone(), many(padding)).await;
    flood(&mut family, "DATA of one byte", false, open, many(data(1, false, "x"))).await;
    flood(&mut family, "window updates", false, none(), many(window(0, 1))).await;
    flood(&mut family, "CONTINUATION", true, frame(kind::HEADERS, 0, 1, &get("/x")), |_| {
        frame(kind::CONTINUATION, 0, 1, &block(&[("x-a", "y".repeat(1_000))])).repeat(50)
    })
    .await;
    let empty = frame(kind::CONTINUATION, 0, 1, &[]);
    flood(&mut family, "empty CONTINUATION", true, frame(kind::HEADERS, 0, 1, &get("/x")), many(empty)).await;
    flood(&mut family, "rapid reset", true, none(), |number| {
        let pair = |at: u32| [headers(at, true, &get("/reset")), reset(at, 8)].concat();
        (0..100).flat_map(|one| pair((number * 100 + one) * 2 + 1)).collect()
    })
    .await;
    flood(&mut family, "made you reset", true, none(), |number| {
        let pair = |at: u32| [headers(at, true, &get("/made")), window(at, 0)].concat();
        (0..100).flat_map(|one| pair((number * 100 + one) * 2 + 1)).collect()
    })
    .await;
    flood(&mut family, "malformed requests", false, none(), |number| {
        let bad = block(&[plain("GET", "/x"), vec![("connection", "x")]].concat());
        (0..100).flat_map(|one| headers((number * 100 + one) * 2 + 1, true, &bad)).collect()
    })
    .await;
    flood(&mut family, "HPACK bomb", false, bomb_seed(), |number| {
        // Each index of one byte stands for a field of 4 KB.
        let fields = [&get("/bomb")[..], &[0xbe; 4_000]].concat();
        headers(number * 2 + 3, true, &fields)
    })
    .await;
    family.finish();
}

/// Puts one large field into the table of the other side.
fn bomb_seed() -> Vec<u8> {
    let value = "b".repeat(3_900);
    let literal = block(&[("x-bomb", value)]);
    // The first byte says that it is to be remembered.
    let remembered = [&[0x40], &literal[1..]].concat();
    headers(1, true, &[&get("/seed")[..], &remembered].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_pins_little() {
    let mut family = Family::start("h2 clients that read nothing").await;
    let body = "z".repeat(4 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    family.world.acme.answer("/large", vec![cellway_battery::Step::say(&answer)]);
    let before = resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Http2::open(family.world.address).await;
        client.send(&[settings(&[(4, 0x7fff_ffff)]), window(0, 0x7fff_0000)].concat()).await;
        for stream in 0..8 {
            client.send(&headers(stream * 2 + 1, true, &block(&plain("GET", "/large")))).await;
        }
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let grown = resident_bytes().saturating_sub(before);
    family.world.acme.take();
    // The cells of this test keep a copy of each answer that they are about to send.
    let own = 4 * 8 * answer.len();
    let result = if grown > own + 24 * 1024 * 1024 { Err(format!("memory grew by {grown} bytes")) } else { Ok(()) };
    drop(clients);
    family.by_hand("32 answers of 4 MiB that nobody takes", result).await;
    family.finish();
}

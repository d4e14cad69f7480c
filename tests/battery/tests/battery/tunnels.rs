//! Switching to a WebSocket, and everything that only asks to.

use std::time::Duration;

use cellway_battery::world::get;
use cellway_battery::{Client, End, Expect, Family, Step};

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn upgrade(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: acme.cells.localhost\r\n{UPGRADE}\r\n")
}

async fn tunnelled(family: &Family, early: &str) -> Result<(), String> {
    let mut client = Client::connect(family.world.address).await;
    client.send((upgrade("/ws") + early).as_bytes()).await;
    let first = client.read(1, &[]).await;
    client.send(b"\n\0late\n").await;
    client.pause(Duration::from_millis(60)).await;
    let all = client.read(1, &[]).await;
    let recordings = family.world.acme.take();
    let text: Vec<String> = recordings.iter().map(|one| String::from_utf8_lossy(&one.bytes).into_owned()).collect();
    let switched = first.statuses() == [101] && all.rest == b"\r\n\0from the cell";
    let arrived = text.len() == 1 && text[0].ends_with(&format!("\r\n\r\n{early}\n\0late\n"));
    if switched && arrived { Ok(()) } else { Err(format!("{first:?} {all:?} {text:?}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_carries_any_bytes_after_the_switch_only() {
    let mut family = Family::start("h1 tunnels").await;
    let quiet = Step::ReadOn(Duration::from_millis(100));
    let steps = vec![
        Step::Pause(Duration::from_millis(20)),
        Step::say(SWITCH),
        Step::say("\r\n\0from the cell"),
        quiet.clone(),
        Step::Close,
    ];
    family.world.acme.answer("/ws", steps);
    for early in ["", "early", "GET /smuggled HTTP/1.1\nHost: beta.cells.localhost\n\n"] {
        let result = tunnelled(&family, early).await;
        family.by_hand(&format!("with {early:?} before the switch"), result).await;
    }
    // A cell that declines: what stands behind the request was meant for a tunnel, and is nobody's.
    for (number, answer) in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 426 No\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/declined-{number}");
        family.world.acme.answer(&target, vec![Step::say(answer), quiet.clone()]);
        let mut client = Client::connect(family.world.address).await;
        client.send((upgrade(&target) + &get("beta", "/smuggled")).as_bytes()).await;
        let transcript = client.read(1, &[]).await;
        let received = family.world.received().await;
        let declined = matches!(transcript.statuses()[..], [200 | 426 | 502]) && transcript.end == End::Closed;
        let alone = received.as_ref().is_ok_and(|(acme, beta)| acme.len() == 1 && beta.is_empty());
        let result = if declined && alone { Ok(()) } else { Err(format!("{transcript:?} {received:?}")) };
        family.by_hand(answer, result).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_looks_like_an_upgrade_is_a_plain_request() {
    let mut family = Family::start("h1 upgrades that are none").await;
    let host = "Host: acme.cells.localhost\r\n";
    for (line, fields) in [
        ("GET /u HTTP/1.1", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"),
        ("GET /u HTTP/1.1", "Upgrade: HTTP/2.0\r\nConnection: Upgrade\r\n"),
        ("GET /u HTTP/1.1", "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n"),
        ("GET /u HTTP/1.1", "Upgrade: websocket2\r\nConnection: Upgrade\r\n"),
        ("GET /u HTTP/1.1", "Upgrade:\r\nConnection: Upgrade\r\n"),
        ("GET /u HTTP/1.1", "Connection: Upgrade\r\n"),
        ("GET /u HTTP/1.1", "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n"),
    ] {
        family.case(fields, format!("{line}\r\n{host}{fields}\r\n"), Expect::served("GET /u")).await;
    }
    for (line, fields) in [
        ("GET /u HTTP/1.1", "Upgrade: websocket\r\n"),
        ("POST /u HTTP/1.1", UPGRADE),
        ("GET /u HTTP/1.0", UPGRADE),
        ("GET /u HTTP/1.1", "Content-Length: 2\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"),
        ("GET /u HTTP/1.1", "Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"),
    ] {
        let mut client = Client::connect(family.world.address).await;
        client.send(format!("{line}\r\n{host}{fields}\r\n{}", get("beta", "/smuggled")).as_bytes()).await;
        let transcript = client.read(1, &[]).await;
        let received = family.world.received().await;
        let plain = received.as_ref().is_ok_and(|(acme, beta)| {
            let requests: Vec<_> = acme.iter().flat_map(|one| &one.requests).collect();
            beta.is_empty() && requests.len() == 1 && requests[0].values("upgrade").is_empty()
        });
        let good = transcript.statuses() == [200] && transcript.end == End::Closed && plain;
        let result = if good { Ok(()) } else { Err(format!("{transcript:?} {received:?}")) };
        family.by_hand(&format!("{line} {fields}"), result).await;
    }
    family.finish();
}

//! Floods, slow crowds and honest load at once (scenario 26).

use super::super::cells::{Cell, Manner};
use super::super::crowd::Crowd;
use super::super::ground::{Ground, Needs, Scale, Shown, hostile_host};
use super::super::report::Row;
use super::floods::{Flood, rage};
use super::slow_readers::{self, Window};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Members of each slow crowd; a new one comes as the router has ended the last.
const CROWD: usize = 500;
/// HTTP/2 connections that stall all their answers.
const STALLED: usize = 5;
/// Each of their answers.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Between two bytes of a slow client.
const DRIP_MS: u64 = 500;

/// All of it.
pub async fn everything(scale: Scale) -> Row {
    let cell = Cell::start(Manner::Large(ANSWER_BYTES)).await;
    let ground = Ground::prepare(scale, Needs { hostile: vec![cell.address; slow_readers::CELLS], ..Needs::default() });
    ground.await.under("everything", async |ground| {
        let (address, lasts) = (ground.address(), scale.long);
        let count = scale.of(CROWD);
        let head = format!("GET / HTTP/1.1\r\nhost: {}\r\nx-slow: ", hostile_host(0));
        let body = format!("POST / HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000\r\n\r\n", hostile_host(1));
        let large = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", hostile_host(2));
        let (cut, heads, bodies, readers, streams) = tokio::join!(
            rage(address, &Flood::ALL, lasts),
            drip(address, count, head, lasts),
            drip(address, count, body, lasts),
            drip(address, count / 10, large, lasts),
            slow_readers::stall_for(address, scale.of(STALLED), Window::Stops, lasts),
        );
        let done = format!(
            "for {} s: floods of {} kinds, {heads} slow heads, {bodies} slow bodies, {readers} slow readers, {streams} HTTP/2 connections of stalled answers",
            lasts.as_secs(),
            Flood::ALL.len(),
        );
        (Shown { done, bounds: vec![cut.bound()], settles_closely: true, ..Shown::default() }, cell)
    })
    .await
}

/// Crowds that say this and then a byte now and then; says how many members there were.
async fn drip(router: SocketAddr, count: usize, words: String, lasts: Duration) -> usize {
    let (until, mut members) = (Instant::now() + lasts, 0);
    while Instant::now() < until {
        let crowd = Crowd::gather(router, count).await;
        members += crowd.members.len();
        crowd.say(words.as_bytes());
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(DRIP_MS)).await;
            if crowd.say(b"x") > count / 2 {
                break;
            }
        }
    }
    members
}

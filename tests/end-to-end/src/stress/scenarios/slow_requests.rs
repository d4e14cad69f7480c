//! Slow heads (slowloris) and slow bodies: requests that come byte by byte.

use super::super::cells::{Cell, Manner};
use super::super::crowd::Crowd;
use super::super::ground::{Ground, LIMIT_MS, Needs, Scale, Shown, hostile_host};
use super::super::report::{Bound, Row};
use std::time::{Duration, Instant};

/// Clients of each kind.
const CLIENTS: usize = 2_000;
/// Cells of the slow uploads' tenants, so that all of them are under way at once.
const CELLS: usize = 8;
/// Between two bytes.
const DRIP_MS: u64 = 250;
/// How long bodies drip before they stop.
const DRIPPING_MS: u64 = 2_500;
/// Beyond a deadline, what a crowd of this size may take.
const SLACK_MS: u64 = 3_000;
/// What a client may cost that sends its head, or its body, slowly.
const HEAD_MAX_KIB: f64 = 48.0;
const BODY_MAX_KIB: f64 = 96.0;

/// Heads.
pub async fn heads(scale: Scale) -> Row {
    let cell = Cell::start(Manner::Whole).await;
    let needs = Needs { hostile: vec![cell.address], ..Needs::default() };
    Ground::prepare(scale, needs)
        .await
        .under("slow heads", async |ground| {
            let begun = Instant::now();
            let crowd = Crowd::gather(ground.address(), scale.of(CLIENTS)).await;
            crowd.say(format!("GET / HTTP/1.1\r\nhost: {}\r\nx-slow: ", hostile_host(0)).as_bytes());
            let limit = Duration::from_millis(LIMIT_MS + SLACK_MS);
            let mut closed = 0;
            while closed < crowd.members.len() && begun.elapsed() < limit {
                tokio::time::sleep(Duration::from_millis(DRIP_MS)).await;
                crowd.say(b"x");
                closed = crowd.closed();
            }
            let count = crowd.members.len();
            let took = begun.elapsed();
            let done = format!("{count} connections sent a byte of a head every {DRIP_MS} ms; head_ms {LIMIT_MS}");
            let bounds = vec![
                Bound::new(
                    format!("{closed} of {count} were ended, after {:.1} s", took.as_secs_f64()),
                    closed == count,
                ),
                costs(ground, count, HEAD_MAX_KIB),
            ];
            (Shown { done, connections: Some(count), bounds, ..Shown::default() }, (crowd, cell))
        })
        .await
}

/// Bodies.
pub async fn bodies(scale: Scale) -> Row {
    let mut cells = Vec::new();
    for _ in 0..CELLS {
        cells.push(Cell::start(Manner::Whole).await);
    }
    let needs = Needs { hostile: cells.iter().map(|cell| cell.address).collect(), ..Needs::default() };
    Ground::prepare(scale, needs)
        .await
        .under("slow bodies", async |ground| {
            let crowd = Crowd::gather(ground.address(), scale.of(CLIENTS)).await;
            for (number, member) in crowd.members.iter().enumerate() {
                let head = format!(
                    "POST /upload HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000\r\nconnection: close\r\n\r\n",
                    hostile_host(number % CELLS)
                );
                let _ = member.try_write(head.as_bytes());
            }
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(DRIPPING_MS) {
                tokio::time::sleep(Duration::from_millis(DRIP_MS)).await;
                crowd.say(b"x");
            }
            let (stopped, count) = (Instant::now(), crowd.members.len());
            let early = crowd.closed();
            let closed = crowd.closed_within(Duration::from_millis(LIMIT_MS * 2 + SLACK_MS)).await;
            let took = stopped.elapsed();
            let done = format!("{count} uploads sent a byte every {DRIP_MS} ms, then nothing; stall_ms {LIMIT_MS}");
            let bounds = vec![
                Bound::new(
                    format!("{early} of {count} were ended while they moved (at most 1 %)"),
                    early * 100 <= count,
                ),
                Bound::new(
                    format!("{closed} of {count} were ended, {:.1} s after they stopped", took.as_secs_f64()),
                    closed == count,
                ),
                costs(ground, count, BODY_MAX_KIB),
            ];
            (Shown { done, connections: Some(count), bounds, ..Shown::default() }, (crowd, cells))
        })
        .await
}

fn costs(ground: &Ground, count: usize, max_kib: f64) -> Bound {
    let each = ground.grown_kib() as f64 / count.max(1) as f64;
    Bound::new(format!("a connection cost {each:.1} KiB at the peak (at most {max_kib} KiB)"), each <= max_kib)
}

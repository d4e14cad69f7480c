//! One cell becomes slow, then stalls, then hears nothing any more (scenario 12).

use super::super::asker::{ask_at_rate, statuses, times_ms};
use super::super::cells::{Cell, Manner};
use super::super::ground::{Ground, LIMIT_MS, Needs, Scale, Shown, hostile_host};
use super::super::report::{Bound, Row};
use std::time::Duration;

/// How slow it becomes at first: below the router's limit.
const SLOWER_MS: u64 = 2_000;
/// Its tenant's requests per second.
const PER_SECOND: u32 = 100;
/// How early and how late 504 may come, in percent.
const OFF_PERCENT: u64 = 10;
/// What the router may take for it.
const MEMORY_MAX_KIB: u64 = 64 * 1024;
/// Connections to a cell: a router's own bound, of two threads.
const CONNECTIONS_MAX: usize = 2 * 512;

/// The three, one after the other.
pub async fn slow(scale: Scale) -> Row {
    let cell = Cell::start(Manner::Whole).await;
    let ground = Ground::prepare(scale, Needs { hostile: vec![cell.address], ..Needs::default() }).await;
    ground
        .under("slow cell", async |ground| {
            let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", hostile_host(0));
            let (lasts, mut bounds) = (scale.attack / 3, Vec::new());
            let steps = [
                ("2 s slower", Manner::After(Duration::from_millis(SLOWER_MS)), 200, SLOWER_MS),
                ("stalled", Manner::HeadNever, 504, LIMIT_MS),
                ("a black hole", Manner::Deaf, 504, LIMIT_MS),
            ];
            for (what, manner, status, due_ms) in steps {
                cell.behave(manner);
                let came = ask_at_rate(ground.address(), request.clone(), PER_SECOND, lasts).await;
                let (first, last) = times_ms(&came, status);
                let near = |ms: u128| ms.abs_diff(u128::from(due_ms)) <= u128::from(due_ms * OFF_PERCENT / 100);
                let as_said = came.iter().all(|one| one.status == Some(status));
                let said =
                    format!("{what}: {} after {first} to {last} ms ({due_ms} ± {OFF_PERCENT} %)", statuses(&came));
                bounds.push(Bound::new(said, as_said && near(first) && near(last)));
            }
            let grown = ground.grown_kib();
            let most = cell.connections_most();
            bounds.push(Bound::new(
                format!("the router grew by {grown} KiB (at most {MEMORY_MAX_KIB})"),
                grown <= MEMORY_MAX_KIB,
            ));
            bounds.push(Bound::new(
                format!("{most} connections to the cell at most (bound {CONNECTIONS_MAX})"),
                most <= CONNECTIONS_MAX,
            ));
            let done =
                format!("{PER_SECOND} requests/s to a cell: {} s each of +2 s, stall, black hole", lasts.as_secs());
            (Shown { done, bounds, ..Shown::default() }, cell)
        })
        .await
}

//! All clients come back at once after the router was killed (scenario 19).

use super::super::asker::ask;
use super::super::cells::{Cell, Manner};
use super::super::crowd::{Crowd, PER_ADDRESS};
use super::super::ground::{Ground, Needs, Scale, Shown, hostile_host};
use super::super::report::{Bound, Row};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Clients.
const CLIENTS: usize = 5_000;
/// All must be served this long after the router was started again.
const SERVED_MS: u64 = 10_000;
/// Between two attempts of a client.
const AGAIN_MS: u64 = 100;

/// Kills it, and counts who is served.
pub async fn reconnect(scale: Scale) -> Row {
    let cell = Cell::start(Manner::Whole).await;
    let ground = Ground::prepare(scale, Needs { hostile: vec![cell.address], ..Needs::default() }).await;
    ground
        .under("reconnect", async |ground| {
            let count = scale.of(CLIENTS);
            let crowd = Crowd::gather(ground.address(), count).await;
            let connected = crowd.members.len();
            ground.router.process.kill();
            drop(crowd);
            ground.router.process.restart();
            let (begun, mut clients) = (Instant::now(), JoinSet::new());
            for number in 0..count {
                let address = ground.address();
                clients.spawn(async move {
                    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", hostile_host(0));
                    let mut attempts = 1;
                    while ask(address, number / PER_ADDRESS, request.as_bytes()).await.status != Some(200) {
                        tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
                        attempts += 1;
                        if begun.elapsed() > Duration::from_millis(SERVED_MS * 2) {
                            return (begun.elapsed(), attempts, false);
                        }
                    }
                    (begun.elapsed(), attempts, true)
                });
            }
            let came = clients.join_all().await;
            let served = came.iter().filter(|(_, _, served)| *served).count();
            let slowest = came.iter().map(|(took, _, _)| *took).max().unwrap_or_default();
            let attempts: usize = came.iter().map(|(_, attempts, _)| attempts).sum();
            let what = format!(
                "{served} of {count} were served, the last {:.2} s after the start (within {} s)",
                slowest.as_secs_f64(),
                SERVED_MS / 1_000
            );
            let bounds = vec![Bound::new(what, served == count && slowest <= Duration::from_millis(SERVED_MS))];
            let done = format!("{connected} clients, kill -9, started again; they made {attempts} attempts");
            (Shown { done, bounds, others_fail: true, ..Shown::default() }, cell)
        })
        .await
}

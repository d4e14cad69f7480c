//! Kills processes of a fleet at random, one at a time, and starts each again at once.

use super::judge::Kill;
use crate::fleet::{Fleet, cell_name};
use crate::process::Process;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// Between the recovery of one process and the death of the next.
const PAUSE_MS: std::ops::Range<u64> = 1_500..6_000;
/// Offsets of the ports at which processes say that they are ready.
const CONTROL_PLANE: u16 = 2;
const ROUTER: u16 = 3;
const AGENTS: u16 = 40;

/// A second router of a fleet.
pub(super) struct SecondRouter {
    pub(super) process: Process,
    /// Offset of the port at which it says that it is ready.
    pub(super) ready: u16,
}

#[derive(Clone, Copy)]
enum Victim {
    Agent(u16),
    ControlPlane,
    Etcd,
    Router,
    SecondRouter,
}

/// Kills until it is stopped. Everything runs when this returns.
pub(super) async fn kill_at_random(
    fleet: &mut Fleet,
    second: &mut SecondRouter,
    seed: u64,
    stop: &CancellationToken,
) -> Vec<Kill> {
    let mut victims = vec![Victim::ControlPlane, Victim::Etcd, Victim::Router, Victim::SecondRouter];
    victims.extend((0_u16..).zip(&fleet.agents).map(|(cell, _)| Victim::Agent(cell)));
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = Vec::new();
    loop {
        let pause = Duration::from_millis(random.random_range(PAUSE_MS));
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return kills;
        }
        let victim = victims[random.random_range(0..victims.len())];
        let tenants = match victim {
            Victim::Agent(cell) => tenants_at(fleet, &cell_name(cell)).await,
            Victim::ControlPlane | Victim::Etcd => Some(BTreeSet::new()),
            Victim::Router | Victim::SecondRouter => None,
        };
        let from_ms = now_ms();
        let process: &mut Process = match victim {
            Victim::Agent(cell) => &mut fleet.agents[usize::from(cell)],
            Victim::ControlPlane => &mut fleet.control_plane,
            Victim::Router => &mut fleet.router,
            Victim::SecondRouter => &mut second.process,
            Victim::Etcd => {
                fleet.etcd.kill();
                kills.push(Kill { process: "etcd".to_owned(), tenants, from_ms, gone_ms: now_ms() });
                fleet.etcd.restart();
                // It has no page that says so. The control plane is ready once it answers.
                fleet.ready(CONTROL_PLANE).await;
                continue;
            }
        };
        process.kill();
        let gone_ms = now_ms();
        process.restart();
        kills.push(Kill { process: process.recipe.name.clone(), tenants, from_ms, gone_ms });
        let ready = match victim {
            Victim::Agent(cell) => AGENTS + cell,
            Victim::ControlPlane | Victim::Etcd => CONTROL_PLANE,
            Victim::Router => ROUTER,
            Victim::SecondRouter => second.ready,
        };
        fleet.ready(ready).await;
    }
}

/// Milliseconds of Unix time.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Who may have a request at the cell's gate: its tenants, and those on their way from or to it. `None`: nobody says.
async fn tenants_at(fleet: &Fleet, cell: &str) -> Option<BTreeSet<String>> {
    let (tenants, moves) = tokio::join!(fleet.client.tenants(), fleet.client.moves());
    let here = tenants.ok()?.items.into_iter().filter(|tenant| tenant.cell == cell).map(|tenant| tenant.id);
    let touches = |one: &cellway_api::fleet::MoveView| !one.ended && (one.source == cell || one.target == cell);
    let passing = moves.ok()?.items.into_iter().filter(touches).map(|one| one.tenant);
    Some(here.chain(passing).collect())
}

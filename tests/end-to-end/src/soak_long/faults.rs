//! Does harm to a fleet at random, one thing at a time, and mends each before the next.

use super::judge::{Excused, Harm};
use crate::fleet::links::Link;
use crate::fleet::{Fleet, cell_name};
use crate::process::Process;
use crate::relay::Way;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// Between the recovery from one harm and the next one.
const PAUSE_MS: Range<u64> = 1_500..6_000;
/// How long a process stands still, or a way is cut: shorter than requests are held.
const SHORT_MS: Range<u64> = 300..2_500;
/// How long a way is cut that no request takes.
const LONG_MS: Range<u64> = 1_000..9_000;
/// How late is what passes on a slow way.
const LATE_MS: Range<u64> = 20..200;
/// How long after its end it may be that a harm is still felt: a way that has healed says everything at once.
const AFTERMATH_MS: u64 = 500;
/// Offsets of the ports at which processes say that they are ready.
const CONTROL_PLANE: u16 = 2;
const ROUTER: u16 = 3;
/// Where the first router takes requests.
const ROUTER_LISTENS: u16 = 0;
const AGENTS: u16 = 40;

/// What is done to a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Faults {
    /// Nothing.
    None,
    /// Processes are killed.
    Kills,
    /// Processes are killed, ended in good order, and stopped for a while; ways between them are cut, in one direction or
    /// both, refused, and slow. The first router is left alive, so that one process sees all of it.
    All,
}

/// A second router of a fleet.
pub(super) struct SecondRouter {
    pub(super) process: Process,
    /// Offset of the port at which it takes requests.
    pub(super) listens: u16,
    /// Offset of the port at which it says that it is ready.
    pub(super) ready: u16,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Agent(u16),
    ControlPlane,
    Etcd,
    Router,
    SecondRouter,
}

#[derive(Debug, Clone, Copy)]
enum Hop {
    RouterToStore,
    ControlPlaneToStore,
    ToGate(u16),
    AgentToControlPlane(u16),
    ToTransfer(u16),
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// kill -9, and a new start.
    Kill(Role),
    /// SIGTERM, and a new start.
    Restart(Role),
    /// SIGSTOP, and after a while SIGCONT.
    Stop(Role),
    /// Nothing passes for a while, in this direction or in both.
    Cut(Hop, Option<Way>),
    /// Connections are reset and refused for a while.
    Refuse(Hop),
    /// What passes is late for a while.
    Slow(Hop),
}

/// A fleet under harm.
pub(super) struct Victims<'a> {
    pub(super) fleet: &'a mut Fleet,
    pub(super) second: &'a mut SecondRouter,
}

/// Does harm until it is stopped. Everything runs, and every way is whole, when this returns.
pub(super) async fn harm_at_random(
    mut victims: Victims<'_>,
    faults: Faults,
    seed: u64,
    stop: &CancellationToken,
) -> Vec<Harm> {
    let mut random = StdRng::seed_from_u64(seed);
    let cells = u16::try_from(victims.fleet.agents.len()).unwrap_or(0);
    let mut harms = Vec::new();
    loop {
        let pause = Duration::from_millis(random.random_range(PAUSE_MS));
        if faults == Faults::None || stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return harms;
        }
        let fault = match faults {
            Faults::All => any_fault(&mut random, cells, &victims.fleet.links().to_gate),
            Faults::Kills | Faults::None => Fault::Kill(any_process(&mut random, cells)),
        };
        let harm = victims.suffer(fault, &mut random).await;
        eprintln!("{} to {}: {fault:?}", harm.from_ms, harm.until_ms);
        harms.push(harm);
    }
}

fn any_process(random: &mut StdRng, cells: u16) -> Role {
    match random.random_range(0..4 + cells) {
        0 => Role::ControlPlane,
        1 => Role::Etcd,
        2 => Role::Router,
        3 => Role::SecondRouter,
        cell => Role::Agent(cell - 4),
    }
}

fn any_fault(random: &mut StdRng, cells: u16, to_gate: &[Link]) -> Fault {
    let cell = random.random_range(0..cells);
    let spared = [Role::ControlPlane, Role::Etcd, Role::SecondRouter, Role::Agent(cell)];
    let role = spared[random.random_range(0..spared.len())];
    let mut hops =
        vec![Hop::RouterToStore, Hop::ControlPlaneToStore, Hop::AgentToControlPlane(cell), Hop::ToTransfer(cell)];
    hops.extend((!to_gate.is_empty()).then_some(Hop::ToGate(cell)));
    let hop = hops[random.random_range(0..hops.len())];
    let way = [None, Some(Way::Up), Some(Way::Down)][random.random_range(0..3)];
    match random.random_range(0..7) {
        0 => Fault::Kill(role),
        1 => Fault::Restart(role),
        2 => Fault::Stop(role),
        3 | 4 => Fault::Cut(hop, way),
        5 => Fault::Refuse(hop),
        _ => Fault::Slow(hop),
    }
}

impl Victims<'_> {
    /// Lets it happen, and waits until the process is ready again.
    async fn suffer(&mut self, fault: Fault, random: &mut StdRng) -> Harm {
        let excused = self.excused(fault).await;
        let from_ms = now_ms();
        let until_ms = match fault {
            Fault::Kill(role) => self.replace(role, |process| process.kill()),
            Fault::Restart(role) => self.replace(role, |process| {
                process.end(Signal::TERM);
            }),
            Fault::Stop(role) => {
                self.processes(role).iter().for_each(|process| process.pause());
                sleep(random.random_range(SHORT_MS)).await;
                self.processes(role).iter().for_each(|process| process.resume());
                now_ms()
            }
            Fault::Cut(hop, way) => {
                let link = self.link(hop);
                way.map_or_else(|| link.cut(), |way| link.cut_way(way));
                self.mend(hop, random).await
            }
            Fault::Refuse(hop) => {
                self.link(hop).refuse();
                self.mend(hop, random).await
            }
            Fault::Slow(hop) => {
                self.link(hop).delay(random.random_range(LATE_MS));
                self.mend(hop, random).await
            }
        };
        self.fleet.ready(self.ready_port(fault)).await;
        let through_relay = matches!(fault, Fault::Restart(Role::Agent(_)) | Fault::Kill(Role::Agent(_)));
        let until_ms = if through_relay && self.has_relays_to_gates() { now_ms() } else { until_ms };
        let what = format!("{fault:?}").split(['(', ',']).next().unwrap_or_default().to_lowercase();
        let whom = match fault {
            Fault::Kill(role) | Fault::Restart(role) | Fault::Stop(role) => format!("{role:?}"),
            Fault::Cut(hop, _) | Fault::Refuse(hop) | Fault::Slow(hop) => format!("{hop:?}"),
        };
        let whom = whom.split('(').next().unwrap_or_default().to_owned();
        Harm { what: format!("{what} {whom}"), excused, from_ms, until_ms }
    }

    /// Whose requests may fail that are under way meanwhile. Only what may have been done is not sent again; who stands
    /// still, or is not heard for a while, costs nobody a request.
    async fn excused(&self, fault: Fault) -> Excused {
        match fault {
            Fault::Kill(Role::Router) | Fault::Restart(Role::Router) => {
                Excused::OnConnectionTo(self.address(ROUTER_LISTENS))
            }
            Fault::Kill(Role::SecondRouter) | Fault::Restart(Role::SecondRouter) => {
                Excused::OnConnectionTo(self.address(self.second.listens))
            }
            Fault::Kill(Role::Agent(cell)) | Fault::Refuse(Hop::ToGate(cell)) => {
                Excused::UnderWay(tenants_at(self.fleet, &cell_name(cell)).await)
            }
            // A relay takes connections for a gate that is gone.
            Fault::Restart(Role::Agent(cell)) if self.has_relays_to_gates() => {
                Excused::UnderWay(tenants_at(self.fleet, &cell_name(cell)).await)
            }
            _ => Excused::UnderWay(Some(BTreeSet::new())),
        }
    }

    fn address(&self, offset: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.fleet.ports.at(offset)).into()
    }

    fn has_relays_to_gates(&self) -> bool {
        self.fleet.has_links() && !self.fleet.links().to_gate.is_empty()
    }

    /// Ends a process and starts it again; when the old one was gone.
    fn replace(&mut self, role: Role, end: impl Fn(&mut Process)) -> u64 {
        let mut processes = self.processes(role);
        processes.iter_mut().for_each(|process| end(process));
        let gone_ms = now_ms();
        processes.into_iter().for_each(Process::restart);
        gone_ms
    }

    fn processes(&mut self, role: Role) -> Vec<&mut Process> {
        match role {
            Role::Agent(cell) => vec![&mut self.fleet.agents[usize::from(cell)]],
            Role::ControlPlane => vec![&mut self.fleet.control_plane],
            Role::Etcd => self.fleet.etcd.members.iter_mut().collect(),
            Role::Router => vec![&mut self.fleet.router],
            Role::SecondRouter => vec![&mut self.second.process],
        }
    }

    fn link(&self, hop: Hop) -> &Link {
        let links = self.fleet.links();
        match hop {
            Hop::RouterToStore => &links.router_to_store,
            Hop::ControlPlaneToStore => &links.replica_to_store[0],
            Hop::ToGate(cell) => &links.to_gate[usize::from(cell)],
            Hop::AgentToControlPlane(cell) => &links.agent_to_control_plane[usize::from(cell)],
            Hop::ToTransfer(cell) => &links.to_transfer[usize::from(cell)],
        }
    }

    /// Heals a way after a while; when its harm is felt no more.
    async fn mend(&self, hop: Hop, random: &mut StdRng) -> u64 {
        let lasts = if matches!(hop, Hop::ToGate(_)) { SHORT_MS } else { LONG_MS };
        sleep(random.random_range(lasts)).await;
        self.link(hop).heal();
        sleep(AFTERMATH_MS).await;
        now_ms()
    }

    fn ready_port(&self, fault: Fault) -> u16 {
        match fault {
            Fault::Kill(role) | Fault::Restart(role) | Fault::Stop(role) => match role {
                Role::Agent(cell) => AGENTS + cell,
                // etcd has no page that says so. The control plane is ready once it answers.
                Role::ControlPlane | Role::Etcd => CONTROL_PLANE,
                Role::Router => ROUTER,
                Role::SecondRouter => self.second.ready,
            },
            Fault::Cut(hop, _) | Fault::Refuse(hop) | Fault::Slow(hop) => match hop {
                Hop::RouterToStore => ROUTER,
                Hop::ControlPlaneToStore | Hop::ToGate(_) => CONTROL_PLANE,
                Hop::AgentToControlPlane(cell) | Hop::ToTransfer(cell) => AGENTS + cell,
            },
        }
    }
}

async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
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

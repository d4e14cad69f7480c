//! What is broken, when, and for how long: all of it follows from the seed.

use crate::chance::Chance;
use crate::links;
use crate::store::Stored;
use crate::world::{Host, Shared};
use cellway_fake_etcd::Stall;
use std::collections::BTreeSet;
use turmoil::Sim;

/// Between two faults, up to.
const PAUSE_MAX_MS: u64 = 1_500;

/// How long one lasts, up to.
const LASTS_MAX_MS: u64 = 4_000;

/// How long one lasts, up to, that strikes at the moment at which a tenant is held.
const STRIKE_MAX_MS: u64 = 500;

/// One hold in so many is struck at.
const STRIKE_EVERY: u64 = 2;

/// Revisions that are left when the history is forgotten.
const HISTORY_KEPT: i64 = 5;

/// Who may be down. Clients and the operator are not ours.
const PROCESSES: [Host; 9] = [
    Host::Etcd,
    Host::Control(1),
    Host::Control(2),
    Host::Cell(1),
    Host::Cell(2),
    Host::App(1),
    Host::App(2),
    Host::Router(1),
    Host::Router(2),
];

/// Something that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// What one sends to the other is lost.
    Cut(Host, Host),
    /// What one sends to the other waits.
    Held(Host, Host),
    /// It is not running.
    Down(Host),
    /// The store does not answer.
    Stalled(Stall),
}

/// What is broken, and until when.
#[derive(Debug)]
pub(crate) struct Faults {
    chance: Chance,
    next_ms: u64,
    until_ms: u64,
    standing: Vec<(u64, Fault)>,
    /// The cells whose tenants were held at the last step.
    holding: BTreeSet<Host>,
}

impl Faults {
    /// Faults from now on, up to this time.
    pub(crate) fn new(seed: u64, now_ms: u64, until_ms: u64) -> Self {
        Self {
            chance: Chance::of(seed, "faults"),
            next_ms: now_ms,
            until_ms,
            standing: Vec::new(),
            holding: BTreeSet::new(),
        }
    }

    /// Whether nothing is broken, nor will be.
    pub(crate) fn are_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms && self.standing.is_empty()
    }

    /// Mends what has been broken for long enough, and breaks what is due.
    pub(crate) fn step(&mut self, now_ms: u64, sim: &mut Sim<'_>, stored: &Stored, shared: &Shared) {
        let standing = std::mem::take(&mut self.standing);
        let is_over = |end: u64| end <= now_ms || now_ms >= self.until_ms;
        let (over, standing): (Vec<_>, Vec<_>) = standing.into_iter().partition(|(end, _)| is_over(*end));
        self.standing = standing;
        for (_, fault) in over {
            shared.history.say(&format!("fault: no more {fault:?}"));
            mend(fault, sim, shared);
        }
        let drawn = self.strike(stored).or_else(|| {
            if now_ms < self.next_ms {
                return None;
            }
            self.next_ms = now_ms + self.chance.within(50..PAUSE_MAX_MS);
            Some((self.draw(stored, shared)?, self.chance.within(50..LASTS_MAX_MS)))
        });
        let Some((fault, lasts_ms)) = drawn.filter(|(fault, _)| now_ms < self.until_ms && !self.involves(*fault))
        else {
            return;
        };
        shared.history.say(&format!("fault: {fault:?} for {lasts_ms} ms"));
        break_it(fault, sim, shared);
        self.standing.push((now_ms + lasts_ms, fault));
    }

    /// What is broken for a short time just when a tenant is held, and how long.
    fn strike(&mut self, stored: &Stored) -> Option<(Fault, u64)> {
        let holding: BTreeSet<Host> = stored.holding().filter_map(Host::named).collect();
        let before = std::mem::replace(&mut self.holding, holding);
        let source = *self.holding.difference(&before).next()?;
        if self.chance.within(0..STRIKE_EVERY) != 0 {
            return None;
        }
        let target = if source == Host::Cell(1) { Host::Cell(2) } else { Host::Cell(1) };
        let control = *self.chance.one_of(&[Host::Control(1), Host::Control(2)]);
        let fault = match self.chance.within(0..8) {
            0 | 1 => Fault::Down(source),
            2 => Fault::Down(target),
            3 => Fault::Down(leader(stored)?),
            4 => Fault::Cut(control, source),
            5 => Fault::Held(control, target),
            6 => Fault::Held(Host::Etcd, *self.chance.one_of(&[Host::Router(1), Host::Router(2)])),
            _ => Fault::Stalled(Stall::BeforeAnswer),
        };
        Some((fault, self.chance.within(10..STRIKE_MAX_MS)))
    }

    fn draw(&mut self, stored: &Stored, shared: &Shared) -> Option<Fault> {
        Some(match self.chance.within(0..10) {
            0..3 => {
                let (one, other) = self.two();
                Fault::Cut(one, other)
            }
            3..6 => {
                let (one, other) = self.two();
                Fault::Held(one, other)
            }
            6 | 7 => Fault::Down(*self.chance.one_of(&PROCESSES)),
            8 => Fault::Down(leader(stored)?),
            _ if self.chance.within(0..3) == 0 => {
                shared.history.say("fault: the store forgets its history");
                shared.etcd.compact(shared.etcd.revision() - HISTORY_KEPT);
                return None;
            }
            _ => Fault::Stalled(*self.chance.one_of(&[Stall::BeforeWork, Stall::BeforeAnswer])),
        })
    }

    fn two(&mut self) -> (Host, Host) {
        let one = *self.chance.one_of(&Host::ALL);
        let others: Vec<Host> = Host::ALL.into_iter().filter(|other| other.machine() != one.machine()).collect();
        (one, *self.chance.one_of(&others))
    }

    /// Whether the same thing is broken already.
    fn involves(&self, fault: Fault) -> bool {
        let of = |fault: Fault| -> BTreeSet<Host> {
            match fault {
                Fault::Cut(one, other) | Fault::Held(one, other) => [one, other].into(),
                Fault::Down(host) => [host].into(),
                Fault::Stalled(_) => BTreeSet::new(),
            }
        };
        self.standing.iter().any(|(_, standing)| of(*standing) == of(fault))
    }
}

fn leader(stored: &Stored) -> Option<Host> {
    let address = stored.leader.as_deref()?;
    Host::ALL.into_iter().filter(|host| matches!(host, Host::Control(_))).find(|host| {
        crate::world::control_planes(1).iter().any(|base| base == address)
            && address.contains(&format!("127.0.0.{}:", host.number()))
    })
}

fn break_it(fault: Fault, sim: &mut Sim<'_>, shared: &Shared) {
    match fault {
        Fault::Cut(one, other) => {
            links::cut(one, other);
            sim.partition(one.name(), other.name());
        }
        Fault::Held(one, other) => sim.hold(one.name(), other.name()),
        Fault::Down(host) => sim.crash(host.name()),
        Fault::Stalled(stall) => shared.etcd.stall(stall),
    }
}

fn mend(fault: Fault, sim: &mut Sim<'_>, shared: &Shared) {
    match fault {
        Fault::Cut(one, other) => {
            sim.repair(one.name(), other.name());
            links::mend(one, other);
        }
        Fault::Held(one, other) => sim.release(one.name(), other.name()),
        Fault::Down(host) => sim.bounce(host.name()),
        Fault::Stalled(_) => shared.etcd.stall(Stall::No),
    }
}

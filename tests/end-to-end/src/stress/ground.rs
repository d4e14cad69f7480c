//! Where a scenario takes place: a router in a process of its own, honest tenants in two cells, hostile ones in others.

use super::cells::{Cell, Manner};
use super::honest::{Honest, Phase, Seen};
use super::memory::{Peak, rss_kib};
use super::report::{Bound, Requests, Row};
use crate::alone::{Placed, RouterAlone};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Honest tenants, and cells of theirs.
const HONEST_TENANTS: usize = 8;
const HONEST_CELLS: usize = 2;
/// Until connections and buffers are there that any traffic needs.
const WARM_UP_MS: u64 = 1_000;
/// The longest wait for memory to come back.
const SETTLE_MS: u64 = 60_000;
/// What a router may keep beyond a tenth more than it had: what its allocators and tables hold for the next crowd.
const SETTLED_KIB: u64 = 16 * 1024;
/// The same where it is asked for closely. A router that has served little has less than 4 MiB of its own.
const CLOSELY_KIB: u64 = 2 * 1024;
/// The router's time limits, short enough to be waited for.
pub const LIMIT_MS: u64 = 3_000;

/// How long, how much, and what is asked of the other tenants' requests.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// How long the quiet part is.
    pub quiet: Duration,
    /// How long a flood lasts.
    pub attack: Duration,
    /// How long everything at once lasts.
    pub long: Duration,
    /// Crowds are a hundredth of their size times this.
    pub percent: usize,
    /// Honest requests per second.
    pub per_second: u32,
    /// The share that must be good.
    pub good_percent: f64,
    /// What the router may add to their 99th percentile, beyond that of the same requests without it: the attack and the
    /// cells have the same processors.
    pub p99_ms: f64,
    /// Whether resident memory must come back, which a short run cannot show.
    pub settles: bool,
}

impl Scale {
    /// For figures.
    pub fn full() -> Self {
        Self {
            quiet: Duration::from_secs(5),
            attack: Duration::from_secs(10),
            long: Duration::from_secs(600),
            percent: 100,
            per_second: 200,
            good_percent: 99.9,
            p99_ms: 250.0,
            settles: true,
        }
    }

    /// For tests of a few seconds in debug builds, on machines that do other things too.
    pub fn short() -> Self {
        Self {
            quiet: Duration::from_millis(500),
            attack: Duration::from_secs(3),
            long: Duration::from_secs(8),
            percent: 10,
            per_second: 50,
            good_percent: 99.0,
            p99_ms: 1_000.0,
            settles: false,
        }
    }

    fn unharmed(&self, quiet: &Requests, during: &Requests, past: &Requests) -> [Bound; 2] {
        let Self { good_percent, p99_ms, .. } = self;
        let good = format!(
            "others' requests are good: {:.3} % of {} (at least {good_percent} %)",
            during.good_percent, during.asked
        );
        let soon = format!(
            "others' p99: {:.2} ms, {:.1} times that of the quiet part; without the router {:.2} ms (at most {p99_ms} ms \
             more)",
            during.p99_ms,
            during.p99_ms / quiet.p99_ms.max(0.01),
            past.p99_ms
        );
        let is_soon = during.p99_ms - past.p99_ms <= *p99_ms;
        [Bound::new(good, during.good_percent >= *good_percent), Bound::new(soon, is_soon)]
    }

    fn good_afterwards(&self, after: &Requests) -> Bound {
        let what = format!("others' requests are good afterwards: {:.3} % of {}", after.good_percent, after.asked);
        Bound::new(what, after.good_percent >= self.good_percent)
    }

    /// A crowd's size at this scale.
    pub fn of(&self, full: usize) -> usize {
        (full * self.percent / 100).max(1)
    }
}

/// What a scenario needs.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Where the hostile tenants live: each is `evilN` in a cell `evilN` there.
    pub hostile: Vec<SocketAddr>,
    /// Further lines of the router's configuration.
    pub config: String,
    /// A shell's words before the router's own.
    pub within: Option<String>,
}

/// The ground, in its quiet part.
pub struct Ground {
    /// The router.
    pub router: RouterAlone,
    /// How much is done.
    pub scale: Scale,
    honest: Honest,
    /// The same requests without the router: what the machine itself makes of them.
    past: Honest,
    cells: Vec<Cell>,
    before_kib: u64,
}

/// What an attack has shown.
#[derive(Debug, Default)]
pub struct Shown {
    /// What was done.
    pub done: String,
    /// Connections that the peak of memory is shared among.
    pub connections: Option<usize>,
    /// Bounds of this scenario alone.
    pub bounds: Vec<Bound>,
    /// Meanwhile others may fail too; afterwards not.
    pub others_fail: bool,
    /// Memory has to be back closely.
    pub settles_closely: bool,
}

impl Ground {
    /// Starts everything and lives through the quiet part.
    pub async fn prepare(scale: Scale, needs: Needs) -> Self {
        let mut cells = Vec::new();
        for _ in 0..HONEST_CELLS {
            cells.push(Cell::start(Manner::Whole).await);
        }
        let mut placed: Vec<Placed> = (0..HONEST_CELLS)
            .map(|cell| Placed {
                cell: format!("good{cell}"),
                endpoint: cells[cell].address,
                tenants: (cell..HONEST_TENANTS).step_by(HONEST_CELLS).map(|number| format!("good{number}")).collect(),
            })
            .collect();
        placed.extend(needs.hostile.iter().enumerate().map(|(number, endpoint)| Placed {
            cell: format!("evil{number}"),
            endpoint: *endpoint,
            tenants: vec![format!("evil{number}")],
        }));
        let limits = format!(
            "time_limits: {{answer_ms: {LIMIT_MS}, stall_ms: {LIMIT_MS}}}\naccess_log: {{to: /dev/null, sample: 0.01}}\n"
        );
        let connections = format!("connections: {{head_ms: {LIMIT_MS}, opening_ms: {LIMIT_MS}}}\n");
        let given = |line: &str| needs.config.contains(line.split(':').next().unwrap_or(line));
        let config = [limits.as_str(), if given(&connections) { "" } else { &connections }, &needs.config].concat();
        let router = RouterAlone::launch(&placed, &config, needs.within.as_deref()).await;
        let hosts: Vec<_> = (0..HONEST_TENANTS).map(|number| format!("good{number}.cells.localhost")).collect();
        let past = Honest::start(cells[0].address, hosts.clone(), scale.per_second);
        let honest = Honest::start(router.address(), hosts, scale.per_second);
        tokio::time::sleep(Duration::from_millis(WARM_UP_MS)).await;
        enter(&[&honest, &past], Phase::Quiet);
        tokio::time::sleep(scale.quiet).await;
        let before_kib = rss_kib(router.process.id());
        Self { router, scale, honest, past, cells, before_kib }
    }

    /// Where the router serves.
    pub fn address(&self) -> SocketAddr {
        self.router.address()
    }

    /// How much more memory the router has than before the attack, in KiB.
    pub fn grown_kib(&self) -> u64 {
        rss_kib(self.router.process.id()).saturating_sub(self.before_kib)
    }

    /// Lets the attack happen and looks at what comes of it. What the attack returns beside what it has shown is
    /// dropped before memory has to come back.
    pub async fn under<T>(mut self, scenario: &str, attack: impl AsyncFnOnce(&mut Self) -> (Shown, T)) -> Row {
        let peak = Peak::watch(self.router.process.id());
        enter(&[&self.honest, &self.past], Phase::During);
        let (shown, held) = attack(&mut self).await;
        enter(&[&self.honest, &self.past], Phase::After);
        let peak_kib = peak.kib();
        drop((held, peak));
        let slack_kib = if shown.settles_closely { CLOSELY_KIB } else { SETTLED_KIB };
        let within_kib = self.before_kib + self.before_kib / 10 + slack_kib;
        let (after_kib, settled_s) = self.settled(within_kib).await;
        let alive = self.router.process.is_running();
        let Self { honest, past, scale, before_kib, cells, .. } = self;
        let (seen, seen_past) = (honest.finish().await, past.finish().await);
        drop(cells);
        let of = |seen: &BTreeMap<Phase, Seen>, phase| Requests::from(seen.get(&phase).unwrap_or(&Seen::default()));
        let [quiet, during, after] = [Phase::Quiet, Phase::During, Phase::After].map(|phase| of(&seen, phase));
        let mut bounds = vec![Bound::new("the router lives", alive), scale.good_afterwards(&after)];
        if !shown.others_fail {
            bounds.extend(scale.unharmed(&quiet, &during, &of(&seen_past, Phase::During)));
        }
        if scale.settles {
            let what = format!(
                "memory is back after {settled_s:.1} s: {after_kib} KiB of {before_kib} KiB before (at most {within_kib} \
                 KiB)"
            );
            bounds.push(Bound::new(what, after_kib <= within_kib));
        }
        bounds.extend(shown.bounds);
        let grown = peak_kib.saturating_sub(before_kib);
        Row {
            scenario: scenario.to_owned(),
            done: shown.done,
            rss_kib: [before_kib, peak_kib, after_kib],
            kib_per_connection: shown.connections.map(|count| grown as f64 / count.max(1) as f64),
            quiet,
            during,
            bounds,
        }
    }

    /// Waits until memory is back, if that is asked for: KiB, and the seconds that it took.
    async fn settled(&self, within_kib: u64) -> (u64, f64) {
        let begun = Instant::now();
        let limit = if self.scale.settles { Duration::from_millis(SETTLE_MS) } else { Duration::from_millis(500) };
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let kib = rss_kib(self.router.process.id());
            if begun.elapsed() >= limit || (self.scale.settles && kib <= within_kib) {
                return (kib, begun.elapsed().as_secs_f64());
            }
        }
    }
}

fn enter(loads: &[&Honest], phase: Phase) {
    loads.iter().for_each(|load| load.enter(phase));
}

/// Hostile tenants' host, by number.
pub fn hostile_host(number: usize) -> String {
    format!("evil{number}.cells.localhost")
}

/// Counts of what came, as text.
pub fn counts(counts: &BTreeMap<String, usize>) -> String {
    counts.iter().map(|(what, count)| format!("{what}: {count}")).collect::<Vec<_>>().join(", ")
}

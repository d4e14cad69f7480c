//! The world: cells, replicas, routers and clients around one store, and the queue of what happens next.

use crate::agent::Instance;
use crate::broken::Broken;
use crate::checks::{Stats, Violation};
use crate::control_plane::{Action, Replica, Then};
use crate::data::Data;
use crate::faults::Fault;
use crate::message::{Ask, Msg, Node};
use crate::plan::Plan;
use crate::random::Random;
use crate::router::{Client, Router};
use crate::store::{Store, Txn};
use cellway_core::cell::CellRef;
use cellway_core::freeze_window::FreezeWindows;
use cellway_core::ids::{Epoch, HomeId, MoveId, Revision};
use cellway_core::tenant::LongRequests;
use cellway_core::tenant_move::{Fact, MoveLimits};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// How many events a failing run shows.
pub(crate) const LOG_LINES: usize = 80;

/// How long after the last fault all moves have to be over and the tenant served.
pub(crate) const LIVENESS_LIMIT_MS: u64 = 15_000;

/// What happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    Deliver(Node, Msg),
    Sees { replica: usize, revision: Revision },
    SeesLists { replica: usize, revision: Revision },
    Beat { replica: usize, number: u64 },
    Advance { replica: usize, id: MoveId, fact: Fact, attempt: u32 },
    Act { replica: usize, action: Action, attempt: u32 },
    Commit { txn: Txn, then: Then },
    Boot { instance: usize },
    Register { instance: usize, boot: u64 },
    Patience { instance: usize, boot: u64 },
    Release { instance: usize, boot: u64, home: HomeId, epoch: Epoch },
    LookAgain { instance: usize, boot: u64 },
    Synced { instance: usize, boot: u64, id: MoveId, epoch: Epoch },
    Readmit { instance: usize, boot: u64, ask: Ask, until_ms: u64 },
    Write { request: u64 },
    End { request: u64 },
    Send { client: usize },
    Patient { client: usize, ask: u64 },
    Retry { router: usize, ask: Ask },
    Fault(Fault),
}

/// A cell: who it is, and its data.
#[derive(Debug)]
pub(crate) struct SimCell {
    pub(crate) own: CellRef,
    pub(crate) data: Data,
}

/// A request in an app.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) instance: usize,
    pub(crate) boot: u64,
    pub(crate) ask: Ask,
    pub(crate) file: Option<crate::data::OpenFile>,
    pub(crate) written: bool,
    /// The gate that admitted it is gone.
    pub(crate) orphan: bool,
    pub(crate) started_ms: u64,
}

/// Everything.
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) random: Random,
    pub(crate) plan: Plan,
    pub(crate) broken: Option<Broken>,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    pub(crate) store: Store,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) cells: Vec<SimCell>,
    pub(crate) instances: Vec<Instance>,
    pub(crate) routers: Vec<Router>,
    pub(crate) clients: Vec<Client>,
    /// What runs in the apps, by number.
    pub(crate) running: BTreeMap<u64, Running>,
    pub(crate) acknowledged: Vec<u64>,
    /// The faults are over since then.
    pub(crate) quiet_since_ms: Option<u64>,
    /// Writes acknowledged when all moves had ended.
    pub(crate) ended_with: Option<usize>,
    numbers: u64,
    /// Faults that wait for a move to go a step.
    pub(crate) aimed: Vec<Fault>,
    pub(crate) stats: Stats,
    pub(crate) violation: Option<Violation>,
    log: Option<Log>,
}

/// What was seen, in words.
struct Log {
    lines: VecDeque<String>,
    keep: usize,
}

/// Adds a line to the log of a run that is logged.
macro_rules! note {
    ($world:expr, $($arg:tt)*) => {
        if $world.is_logged() {
            let line = format!($($arg)*);
            $world.write_line(line);
        }
    };
}
pub(crate) use note;

impl World {
    /// A world before anything happens. `keep` is how many lines of its log are kept, if any.
    pub(crate) fn new(seed: u64, plan: Plan, broken: Option<Broken>, keep: Option<usize>) -> Self {
        let mut world = Self {
            now_ms: 0,
            random: Random::new(seed.wrapping_mul(31).wrapping_add(7)),
            plan,
            broken,
            queue: BTreeMap::new(),
            queued: 0,
            store: Store::default(),
            replicas: vec![Replica::default(), Replica::default()],
            cells: Vec::new(),
            instances: Vec::new(),
            routers: Vec::new(),
            clients: Vec::new(),
            running: BTreeMap::new(),
            acknowledged: Vec::new(),
            quiet_since_ms: None,
            ended_with: None,
            numbers: 0,
            aimed: Vec::new(),
            stats: Stats::default(),
            violation: None,
            log: keep.map(|keep| Log { lines: VecDeque::new(), keep }),
        };
        world.begin();
        world
    }

    /// Runs to the end: `Ok` when every promise was kept.
    pub(crate) fn run(mut self) -> (Result<Stats, Violation>, Vec<String>) {
        while self.violation.is_none() && !self.is_over() {
            let Some(((at_ms, _), event)) = self.queue.pop_first() else { break };
            self.now_ms = at_ms;
            self.stats.events += 1;
            self.take(event);
            self.check();
        }
        let log = self.log.map(|log| log.lines.into()).unwrap_or_default();
        (self.violation.map_or(Ok(self.stats), Err), log)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Deliver(node, msg) => self.deliver(node, msg),
            Event::Sees { replica, revision } => self.replica_sees(replica, revision),
            Event::SeesLists { replica, revision } => self.replica_sees_lists(replica, revision),
            Event::Beat { replica, number } => self.beat(replica, number),
            Event::Advance { replica, id, fact, attempt } => self.advance(replica, id, fact, attempt),
            Event::Act { replica, action, attempt } => self.act(replica, action, attempt),
            Event::Commit { txn, then } => self.commit(txn, then),
            Event::Boot { instance } => self.boot(instance),
            Event::Register { instance, boot } => self.say_registration(instance, boot),
            Event::Patience { instance, boot } => self.open_from_disk(instance, boot),
            Event::Release { instance, boot, home, epoch } => self.release(instance, boot, home, epoch),
            Event::LookAgain { instance, boot } => self.look_again(instance, boot),
            Event::Synced { instance, boot, id, epoch } => self.synced(instance, boot, id, epoch),
            Event::Readmit { instance, boot, ask, until_ms } => self.readmit(instance, boot, ask, until_ms),
            Event::Write { request } => self.app_writes(request),
            Event::End { request } => self.app_ends(request),
            Event::Send { client } => self.client_sends(client),
            Event::Patient { client, ask } => self.client_gives_up(client, ask),
            Event::Retry { router, ask } => self.route(router, ask),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    fn deliver(&mut self, node: Node, msg: Msg) {
        match node {
            Node::Instance(instance) => self.agent_hears(instance, msg),
            Node::Replica(replica) => self.replica_hears(replica, msg),
            Node::Router(router) => self.router_hears(router, msg),
            Node::Client(client) => self.client_hears(client, msg),
        }
    }

    pub(crate) fn after(&mut self, wait_ms: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now_ms + wait_ms, self.queued), event);
    }

    pub(crate) fn after_about(&mut self, low_ms: u64, high_ms: u64, event: Event) {
        let wait_ms = self.random.between(low_ms, high_ms);
        self.after(wait_ms, event);
    }

    /// Sends over a network that loses, doubles, delays and reorders.
    pub(crate) fn send(&mut self, to: Node, msg: Msg) {
        let chaos = self.quiet_since_ms.is_none();
        if chaos && self.random.percent(self.plan.loss_percent) {
            return;
        }
        let copies = if chaos && msg.may_double() && self.random.percent(self.plan.duplicate_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let late = chaos && self.random.percent(self.plan.late_percent);
            let wait_ms = if late { self.random.between(20, self.plan.late_ms) } else { self.random.between(1, 8) };
            self.after(wait_ms, Event::Deliver(to, msg.clone()));
        }
    }

    /// A number that was not used before.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn limits() -> MoveLimits {
        MoveLimits {
            freeze_budget_ms: 250,
            long_requests: LongRequests::default(),
            freeze_windows: FreezeWindows::default(),
            planned_ms: 3_000,
            preparing_ms: 600,
            copy_stall_ms: 600,
            syncing_ms: 1_500,
            closing_ms: 150,
            drain_ms: 200,
            holding_ms: 900,
            switched_ms: 500,
            bake_ms: 200,
            retention_ms: 200,
            drop_ms: 300,
        }
    }

    pub(crate) fn cell_index(&self, cell: &CellRef) -> Option<usize> {
        self.cells.iter().position(|known| known.own == *cell)
    }

    pub(crate) fn is_logged(&self) -> bool {
        self.log.is_some()
    }

    pub(crate) fn write_line(&mut self, line: String) {
        let now_ms = self.now_ms;
        let Some(log) = &mut self.log else { return };
        log.lines.push_back(format!("{now_ms:>6} {line}"));
        if log.lines.len() > log.keep {
            log.lines.pop_front();
        }
    }

    pub(crate) fn broke(&mut self, promise: &'static str, what: String) {
        note!(self, "VIOLATION {promise}: {what}");
        if self.violation.is_none() {
            self.violation = Some(Violation { promise, what });
        }
    }

    pub(crate) fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// The store's newest state.
    pub(crate) fn truth(&self) -> Rc<crate::store::View> {
        self.store.now()
    }
}

//! A control plane of real replicas on an in-memory store, with agents that do only what a test tells them.

#![allow(clippy::expect_used, clippy::print_stderr, reason = "a panic here is a test that fails, with its reason")]

mod late;

pub use late::LateCommits;

use cellway_api::Client;
use cellway_api::agent::{Down, DriverName, FactHeard, FactUp, FactsUp, OrderDown, PlacementDown, Register, TaskDown};
use cellway_api::fleet::{CellKindView, CreateCell, CreateMove, CreateTenant, MoveView};
use cellway_control_plane::{ControlPlane, ControlPlaneConfig};
use cellway_core::hostname::Hostname;
use cellway_store::{EmbeddedStore, Store};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The longest wait for anything in these tests.
const PATIENCE_MS: u64 = 15_000;

/// Waits until `probe` has an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_millis(PATIENCE_MS), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One replica.
pub struct Replica {
    /// A client of its API.
    pub client: Client,
    shutdown: CancellationToken,
    _stop: DropGuard,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    /// Stops it in good order.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }

    /// Stops it at once, as a kill does: its lease runs out by itself.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A store and its replicas.
pub struct Cluster {
    /// What the replicas share.
    pub store: Arc<dyn Store>,
    /// How replicas are configured.
    pub config: ControlPlaneConfig,
}

impl Cluster {
    /// A cluster without replicas. Moves bake for 50 ms and keep old homes for 50 ms.
    pub fn new() -> Self {
        let base = Hostname::from_text("cells.localhost").expect("legal");
        let mut config = ControlPlaneConfig::new("127.0.0.1:0".parse().expect("legal"), vec![base]);
        config.move_limits.bake_ms = 50;
        config.move_limits.retention_ms = 50;
        Self { store: Arc::new(EmbeddedStore::in_memory().expect("a store")), config }
    }

    /// Starts a replica and waits until it is ready.
    pub async fn start(&self) -> Replica {
        let plane = ControlPlane::bind(self.config.clone()).expect("bound");
        let client = Client::new(&format!("http://{}", plane.local_addr().expect("an address"))).expect("a client");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(plane.run(self.store.clone(), prometheus::Registry::new(), shutdown.clone()));
        let replica = Replica { client, _stop: shutdown.clone().drop_guard(), shutdown, task };
        eventually("the replica sees the store", async || replica.client.cells().await.ok()).await;
        replica
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Default)]
struct Told {
    orders: Vec<OrderDown>,
    placements: BTreeMap<String, (u64, PlacementDown)>,
    gates: Vec<String>,
    synced: bool,
    beats: u32,
}

/// An agent that only listens, and states what it is told to state.
pub struct Agent {
    client: Client,
    cell: String,
    /// Its instance id.
    pub instance: String,
    told: Arc<Mutex<Told>>,
    listening: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Agent {
    /// Registers in `cell` and listens.
    pub async fn start(client: &Client, cell: &str, instance: &str) -> Self {
        Self::register(client, cell, instance, 1, "127.0.0.1:10").await
    }

    /// The same, for the so many-th time from the same disk.
    pub async fn start_again(client: &Client, cell: &str, instance: &str, run: u64) -> Self {
        Self::register(client, cell, instance, run, "127.0.0.1:10").await
    }

    /// [`Agent::start`] with a transfer endpoint, which a test answers at.
    pub async fn start_at(client: &Client, cell: &str, instance: &str, transfer_endpoint: &str) -> Self {
        Self::register(client, cell, instance, 1, transfer_endpoint).await
    }

    async fn register(client: &Client, cell: &str, instance: &str, run: u64, transfer_endpoint: &str) -> Self {
        let register = Register {
            uid: None,
            instance: instance.to_owned(),
            run,
            endpoint: "127.0.0.1:9".to_owned(),
            transfer_endpoint: transfer_endpoint.to_owned(),
            driver: DriverName::None,
        };
        let registered = client.register(cell, &register).await.expect("registered");
        let mut stream = client.stream(cell, instance, registered.revision).await.expect("a stream");
        let told = Arc::new(Mutex::new(Told::default()));
        let hears = told.clone();
        let listening = tokio::spawn(async move {
            while let Ok(Some(line)) = stream.next::<Down>().await {
                let mut told = hears.lock();
                match line {
                    Down::Placement { tenant, revision, placement } => {
                        told.placements.insert(tenant, (revision, placement));
                    }
                    Down::Synced { .. } => told.synced = true,
                    Down::Orders { orders } => told.orders = orders,
                    Down::Gates { instances, .. } => told.gates = instances,
                    Down::Beat { .. } => told.beats += 1,
                }
            }
        });
        let agent =
            Self { client: client.clone(), cell: cell.to_owned(), instance: instance.to_owned(), told, listening };
        eventually("the agent is synced", async || agent.told.lock().synced.then_some(())).await;
        agent
    }

    /// The cell that it is of.
    pub fn cell(&self) -> &str {
        &self.cell
    }

    /// The placement that it was last told.
    pub fn placement(&self, tenant: &str) -> Option<PlacementDown> {
        self.told.lock().placements.get(tenant).map(|(_, placement)| placement.clone())
    }

    /// How often the control plane said that it lives.
    pub fn beats(&self) -> u32 {
        self.told.lock().beats
    }

    /// Waits for an order that `pick` accepts.
    pub async fn order<T>(&self, what: &str, pick: impl Fn(&OrderDown) -> Option<T>) -> T {
        eventually(what, async || self.told.lock().orders.iter().find_map(&pick)).await
    }

    /// Waits until it has no order that `is_it` accepts.
    pub async fn no_order(&self, what: &str, is_it: impl Fn(&TaskDown) -> bool) {
        eventually(what, async || (!self.told.lock().orders.iter().any(|order| is_it(&order.task))).then_some(()))
            .await;
    }

    /// States a fact, by this agent's connection.
    pub async fn say(&self, fact: FactUp) -> FactHeard {
        let facts = FactsUp { instance: self.instance.clone(), facts: vec![fact] };
        let heard = self.client.facts(&self.cell, &facts).await.expect("heard");
        heard.results.into_iter().next().expect("one result")
    }

    /// States a fact that must be taken.
    pub async fn state(&self, fact: FactUp) {
        let shown = format!("{fact:?}");
        assert_eq!(self.say(fact).await, FactHeard::Recorded, "{shown}");
    }
}

/// Creates a cell of kind agent.
pub async fn create_cell(client: &Client, name: &str) {
    let cell = CreateCell {
        name: name.to_owned(),
        kind: CellKindView::Agent,
        version: None,
        labels: BTreeMap::new(),
        endpoints: Vec::new(),
        capacity_tenants: 0,
    };
    client.create_cell(&cell).await.expect("created");
}

/// Creates a tenant in `cell`.
pub async fn create_tenant(client: &Client, id: &str, cell: &str) {
    let cell = Some(cell.to_owned());
    let tenant = CreateTenant { id: id.to_owned(), cell, ..CreateTenant::default() };
    client.create_tenant(&tenant).await.expect("created");
}

/// Two cells with a gate each, and these tenants in the first: the control plane, the source's agent and the target's.
pub async fn two_cells(cluster: &Cluster, tenants: &[&str]) -> (Replica, Agent, Agent) {
    let replica = cluster.start().await;
    for cell in ["cell-a", "cell-b"] {
        create_cell(&replica.client, cell).await;
    }
    let source = Agent::start(&replica.client, "cell-a", "a1").await;
    let target = Agent::start(&replica.client, "cell-b", "b1").await;
    for tenant in tenants {
        create_tenant(&replica.client, tenant, "cell-a").await;
    }
    (replica, source, target)
}

/// Asks for a move.
pub async fn create_move(client: &Client, tenant: &str, to: &str) -> MoveView {
    let wanted = CreateMove { tenant: tenant.to_owned(), to: to.to_owned(), ..CreateMove::default() };
    client.create_move(&wanted).await.expect("planned")
}

/// Waits until a move is in `state`.
pub async fn reaches(client: &Client, id: &str, state: &str) -> MoveView {
    let what = format!("move {id} is {state}");
    eventually(&what, async || client.a_move(id).await.ok().filter(|view| view.state == state)).await
}

/// The two agents of a move, and what they say on the way.
pub struct Pair<'a> {
    /// The move.
    pub id: String,
    /// The epoch that the source serves.
    pub epoch: u64,
    /// The source's agent.
    pub source: &'a Agent,
    /// The target's agent.
    pub target: &'a Agent,
}

impl Pair<'_> {
    /// From `planned` to the hold.
    pub async fn to_holding(&self) {
        self.to_syncing().await;
        assert_eq!(self.may_freeze().await, FactHeard::Recorded);
        let fences = |order: &OrderDown| self.is_ours(order) && matches!(order.task, TaskDown::Fence { .. });
        self.source.order("fence", |order| fences(order).then_some(())).await;
    }

    /// Orders of a move before may still stand where its end was not heard of.
    fn is_ours(&self, order: &OrderDown) -> bool {
        order.move_id == self.id
    }

    /// From `planned` to the end of the copy.
    pub async fn to_syncing(&self) {
        let move_id = || self.id.clone();
        let prepares = |order: &OrderDown| self.is_ours(order) && matches!(order.task, TaskDown::Prepare { .. });
        self.target.order("prepare", |order| prepares(order).then_some(())).await;
        self.target.state(FactUp::Ready { move_id: move_id() }).await;
        let copied = FactUp::Copied { move_id: move_id(), copied_bytes: 1, total_bytes: 1, complete: true };
        self.target.state(copied).await;
    }

    /// The predicted freeze is short: what became of the fact that says so.
    pub async fn may_freeze(&self) -> FactHeard {
        let move_id = || self.id.clone();
        self.target.state(FactUp::Followed { move_id: move_id(), transfer_ms: 1, longest: None }).await;
        self.source
            .say(FactUp::Watched { move_id: move_id(), oldest_request_ms: 0, running_requests: 0, open_streams: 0 })
            .await
    }

    /// The fence of the source's gate.
    pub async fn fence(&self) {
        self.source.state(FactUp::Fenced { move_id: self.id.clone(), epoch: self.epoch, cut_requests: 0 }).await;
    }

    /// Waits for the order to fence the data; answers with the list to quote.
    pub async fn data_ordered(&self) -> u64 {
        let list_of = |order: &OrderDown| match order.task {
            TaskDown::FenceData { list, .. } if self.is_ours(order) => Some(list),
            _ => None,
        };
        self.source.order("fence the data", list_of).await
    }

    /// The last position.
    pub async fn position(&self, list: u64) {
        let (move_id, position) = (self.id.clone(), "p".to_owned());
        self.source.state(FactUp::Positioned { move_id, epoch: self.epoch, list, position }).await;
    }

    /// The target's arrival at it, which commits.
    pub async fn reach(&self, list: u64) -> FactHeard {
        self.target.say(FactUp::Reached { move_id: self.id.clone(), list, position: "p".to_owned() }).await
    }

    /// From the hold over the commit.
    pub async fn to_switched(&self) {
        self.fence().await;
        let list = self.data_ordered().await;
        self.position(list).await;
        assert_eq!(self.reach(list).await, FactHeard::Recorded);
    }
}

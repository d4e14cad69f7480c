//! A fleet on a real etcd: one router, one control plane, agents and apps, each its own process.

pub mod etcd;
mod kitchen;
pub mod links;

use crate::ports::Ports;
use crate::process::Process;
use crate::{eventually, is_ok};
use cellway_api::Client;
use cellway_api::fleet::{CellKindView, CreateCell, CreateTenant};
use etcd::Etcd;
use kitchen::{CELLS, Kitchen, Layout};
use links::Links;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub use kitchen::cell_name;

/// How long a move's target is watched.
pub const BAKE_MS: u64 = 1_000;
/// How long its source's home is kept.
pub const RETENTION_MS: u64 = 10_000;
/// How long a cell may take to drop a home, as by default.
const DROP_MS: u64 = 30_000;

/// What a fleet is to be like.
#[derive(Debug, Clone)]
pub struct Plan {
    tenants: Vec<String>,
    etcd_members: u16,
    has_standby: bool,
    has_relays: bool,
    gates_are_direct: bool,
    has_identities: bool,
    bake_ms: u64,
    retention_ms: u64,
    drop_ms: u64,
    dirs: Vec<(String, PathBuf)>,
    env: Vec<(String, (String, String))>,
    own_data: Option<OwnData>,
}

/// How tenants' data is kept, where it is not the demo app's SQLite files.
#[derive(Debug, Clone)]
struct OwnData {
    /// The cells' apps, which are the test's own.
    apps: Vec<SocketAddr>,
    /// What the agents' files say of the driver.
    driver: String,
}

impl Plan {
    /// An ordinary fleet with these tenants spread over the cells.
    pub fn of(tenants: &[&str]) -> Self {
        Self {
            tenants: tenants.iter().map(|tenant| (*tenant).to_owned()).collect(),
            etcd_members: 1,
            has_standby: false,
            has_relays: false,
            gates_are_direct: false,
            has_identities: false,
            bake_ms: BAKE_MS,
            retention_ms: RETENTION_MS,
            drop_ms: DROP_MS,
            dirs: Vec::new(),
            env: Vec::new(),
            own_data: None,
        }
    }

    /// With a relay on every way between two roles.
    pub fn with_relays(self) -> Self {
        Self { has_relays: true, ..self }
    }

    /// Of a fleet with relays: none on the way from routers to gates.
    pub fn with_gates_reached_directly(self) -> Self {
        Self { gates_are_direct: true, ..self }
    }

    /// With an etcd of so many members.
    pub fn with_etcd_members(self, etcd_members: u16) -> Self {
        Self { etcd_members, ..self }
    }

    /// With a second replica of the control plane.
    pub fn with_standby(self) -> Self {
        Self { has_standby: true, ..self }
    }

    /// With mutual TLS on every hop but those to etcd and between gate and app.
    pub fn with_identities(self) -> Self {
        Self { has_identities: true, ..self }
    }

    /// With less time for a cell to drop a home.
    pub fn with_drop_ms(self, drop_ms: u64) -> Self {
        Self { drop_ms, ..self }
    }

    /// With old homes that are kept for so long.
    pub fn with_retention_ms(self, retention_ms: u64) -> Self {
        Self { retention_ms, ..self }
    }

    /// With an app of the test's own at each of these addresses, by cell, and this driver, as in the agents' files.
    pub fn with_data(self, apps: Vec<SocketAddr>, driver: &str) -> Self {
        Self { own_data: Some(OwnData { apps, driver: driver.to_owned() }), ..self }
    }

    /// With a cell whose agent and app keep their files here, or a `router` that does, its access log among them.
    pub fn with_dir(mut self, of: &str, dir: &Path) -> Self {
        self.dirs.push((of.to_owned(), dir.to_owned()));
        self
    }

    /// With a variable in the environment of one process.
    pub fn with_env(mut self, process: &str, name: &str, value: &str) -> Self {
        self.env.push((process.to_owned(), (name.to_owned(), value.to_owned())));
        self
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> Fleet {
        let dir = tempfile::tempdir().expect("a directory");
        let ports = Ports::take();
        let layout = || Layout { ports: &ports, plan: &self };
        let links = if self.has_relays { Some(Links::start(&layout()).await) } else { None };
        let kitchen = Kitchen { dir: dir.path(), layout: layout(), links: links.as_ref() };
        if self.has_identities {
            kitchen.issue_identities();
        }
        let clients: Vec<Client> = (0..layout().replicas().len()).map(|number| kitchen.client(number)).collect();
        let etcd = kitchen.etcd();
        let control_plane = kitchen.replica(0);
        let apps =
            if self.own_data.is_none() { (0..CELLS).map(|cell| kitchen.app(cell)).collect() } else { Vec::new() };
        answers(&clients[0]).await;
        for cell in 0..CELLS {
            create_cell(&clients[0], &cell_name(cell)).await;
        }
        // Second, so that the first one leads.
        let standby = self.has_standby.then(|| kitchen.replica(1));
        let agents: Vec<Process> = (0..CELLS).map(|cell| kitchen.agent(cell)).collect();
        for cell in 0..CELLS {
            ready_at(&ports, 40 + cell).await;
        }
        for (number, tenant) in (0_u16..).zip(&self.tenants) {
            create_tenant(&clients[0], tenant, &cell_name(number % CELLS)).await;
        }
        let router = kitchen.router();
        ready_at(&ports, 3).await;
        for client in &clients {
            answers(client).await;
        }
        let mut clients = clients.into_iter();
        let (client, standby_client) = (clients.next().expect("one at least"), clients.next());
        Fleet { router, agents, apps, control_plane, standby, etcd, links, ports, client, standby_client, dir }
    }
}

/// The processes of a fleet. They stop in the order of the fields.
pub struct Fleet {
    /// The router.
    pub router: Process,
    /// The agents, by cell.
    pub agents: Vec<Process>,
    /// The apps, by cell; none where they are the test's own.
    pub apps: Vec<Process>,
    /// The control plane; of two replicas, the one that leads at first.
    pub control_plane: Process,
    /// The second replica, if there is one.
    pub standby: Option<Process>,
    /// etcd.
    pub etcd: Etcd,
    links: Option<Links>,
    /// The ports, laid out as those of `cellway dev`.
    pub ports: Ports,
    /// A client of the API.
    pub client: Client,
    standby_client: Option<Client>,
    dir: TempDir,
}

impl Fleet {
    /// Starts an ordinary fleet, with these tenants spread over the cells, and waits until it is ready.
    pub async fn start(tenants: &[&str]) -> Self {
        Plan::of(tenants).start().await
    }

    /// Whether it is a fleet with relays.
    pub fn has_links(&self) -> bool {
        self.links.is_some()
    }

    /// The ways between the roles, of a fleet with relays.
    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("a fleet with relays")
    }

    /// A client of the second replica's API.
    pub fn standby_client(&self) -> &Client {
        self.standby_client.as_ref().expect("a fleet with a standby")
    }

    /// Keeps every move in `state`, or lets all go on.
    pub fn stall(&self, state: Option<&str>) {
        let file = self.dir.path().join("stall");
        match state {
            Some(state) => std::fs::write(file, state).expect("written"),
            None => drop(std::fs::remove_file(file)),
        }
    }

    /// The control plane dies `when` (`before` or `after`) it writes to moves for the so many-th time from now on; or not.
    pub fn crash_at(&self, write: Option<(u32, &str)>) {
        let file = self.dir.path().join("crash");
        match write {
            Some((number, when)) => std::fs::write(file, format!("{number} {when}")).expect("written"),
            None => drop(std::fs::remove_file(file)),
        }
    }

    /// Where the router answers.
    pub fn router_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.at(0))
    }

    /// The value of a metric of the router, with its labels as they are shown.
    pub async fn router_metric(&self, name: &str) -> Option<f64> {
        metric(&self.ports, 3, &format!("cellway_router_{name}")).await
    }

    /// Waits for the role at an offset of the ports (2: control plane, 3: router, 40 and up: agents).
    pub async fn ready(&self, offset: u16) {
        ready_at(&self.ports, offset).await;
    }

    /// Where the fleet keeps its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// The value of a metric at an offset of the ports.
async fn metric(ports: &Ports, offset: u16, name: &str) -> Option<f64> {
    let url = format!("http://127.0.0.1:{}/metrics", ports.at(offset));
    let text = crate::writer::http().get(url).send().await.ok()?.text().await.ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")))?;
    line.parse().ok()
}

async fn ready_at(ports: &Ports, offset: u16) {
    let url = format!("http://127.0.0.1:{}/readyz", ports.at(offset));
    eventually(&format!("{url} is ready"), async || is_ok(&url).await.then_some(())).await;
}

/// Waits until a replica has read the store.
async fn answers(client: &Client) {
    eventually(&format!("{} answers", client.base()), async || client.cells().await.ok()).await;
}

async fn create_cell(client: &Client, name: &str) {
    let cell = CreateCell {
        name: name.to_owned(),
        kind: CellKindView::Agent,
        version: None,
        labels: Default::default(),
        endpoints: Vec::new(),
        capacity_tenants: 0,
    };
    client.create_cell(&cell).await.expect("created");
}

async fn create_tenant(client: &Client, id: &str, cell: &str) {
    let cell = Some(cell.to_owned());
    let tenant = CreateTenant { id: id.to_owned(), cell, ..CreateTenant::default() };
    client.create_tenant(&tenant).await.expect("created");
}

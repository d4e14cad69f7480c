//! A fleet on a real etcd: one router, one control plane, agents and apps, each its own process.

use crate::ports::Ports;
use crate::process::{Process, Recipe};
use crate::{STALL_VARIABLE, binary, eventually, is_ok};
use cellway_api::Client;
use cellway_api::fleet::{CellKindView, CreateCell, CreateTenant};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const CELLS: u16 = 3;
/// How long a move's target is watched.
pub const BAKE_MS: u64 = 1_000;
/// How long its source's home is kept.
pub const RETENTION_MS: u64 = 10_000;
const ETCD_CLIENT: u16 = 50;
const ETCD_PEER: u16 = 51;

/// The processes of a fleet. They stop in the order of the fields.
pub struct Fleet {
    /// The router.
    pub router: Process,
    /// The agents, by cell.
    pub agents: Vec<Process>,
    /// The apps, by cell.
    pub apps: Vec<Process>,
    /// The control plane.
    pub control_plane: Process,
    /// etcd.
    pub etcd: Process,
    /// The ports, laid out as those of `cellway dev`.
    pub ports: Ports,
    /// A client of the API.
    pub client: Client,
    dir: TempDir,
}

struct Kitchen<'a> {
    dir: &'a Path,
    ports: &'a Ports,
    program: PathBuf,
}

impl Kitchen<'_> {
    fn recipe(&self, name: &str, program: &Path, args: Vec<String>) -> Recipe {
        let stall = self.dir.join("stall").display().to_string();
        Recipe {
            name: name.to_owned(),
            program: program.to_owned(),
            args,
            env: vec![(STALL_VARIABLE.to_owned(), stall), ("CELLWAY_LOG".to_owned(), "info".to_owned())],
            log: self.dir.join(format!("{name}.log")),
        }
    }

    /// A role with its configuration file.
    fn role(&self, role: &str, name: &str, config: &str) -> Process {
        let file = self.dir.join(format!("{name}.yaml"));
        std::fs::write(&file, config).expect("written");
        let args = vec![role.to_owned(), "--config".to_owned(), file.display().to_string()];
        Process::start(self.recipe(name, &self.program, args))
    }

    fn address(&self, offset: u16) -> String {
        format!("127.0.0.1:{}", self.ports.at(offset))
    }

    fn etcd(&self) -> Process {
        let (client, peer) = (self.address(ETCD_CLIENT), self.address(ETCD_PEER));
        let args = [
            ("--name", "e1".to_owned()),
            ("--data-dir", self.dir.join("etcd").display().to_string()),
            ("--listen-client-urls", format!("http://{client}")),
            ("--advertise-client-urls", format!("http://{client}")),
            ("--listen-peer-urls", format!("http://{peer}")),
            ("--initial-advertise-peer-urls", format!("http://{peer}")),
            ("--initial-cluster", format!("e1=http://{peer}")),
        ];
        let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        // A missing etcd is a failure that names the package, not a skipped test.
        let found = std::env::var_os("PATH").and_then(|path| {
            std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|program| program.is_file())
        });
        let program = found.expect("`etcd` is not in PATH; Debian: apt-get install etcd-server");
        Process::start(self.recipe("etcd", &program, args))
    }

    fn control_plane(&self) -> Process {
        let (listen, etcd) = (self.address(2), self.address(ETCD_CLIENT));
        self.role(
            "control-plane",
            "control-plane",
            &format!(
                "role: control-plane\nlisten: {listen}\nbase_domains: [cells.localhost]\nstore:\n  etcd:\n    \
                 endpoints: [\"http://{etcd}\"]\nmoves: {{bake_ms: {BAKE_MS}, retention_ms: {RETENTION_MS}}}\n"
            ),
        )
    }

    fn app(&self, cell: u16) -> Process {
        let (name, listen) = (cell_name(cell), self.address(20 + cell));
        let data = self.dir.join(&name).join("app").display().to_string();
        self.role(
            "app",
            &format!("app-{name}"),
            &format!(
                "role: app\nname: {name}\nversion: '1.{cell}'\nlisten: {listen}\ndata_dir: {data}\n\
                 longest_request_ms: 30000\n"
            ),
        )
    }

    fn agent(&self, cell: u16) -> Process {
        let name = cell_name(cell);
        let (api, gate, transfer) = (self.address(2), self.address(10 + cell), self.address(30 + cell));
        let (admin, app) = (self.address(40 + cell), self.address(20 + cell));
        let dir = self.dir.join(&name);
        let (data, live) = (dir.join("agent").display().to_string(), dir.join("app").display().to_string());
        self.role(
            "agent",
            &format!("agent-{name}"),
            &format!(
                "role: agent\ncell: {name}\ncontrol_plane: [\"http://{api}\"]\ngate: {gate}\ntransfer: {transfer}\n\
                 admin: {admin}\nthreads: 1\ndata_dir: {data}\napp: {{address: \"{app}\", longest_request_ms: 30000}}\n\
                 driver:\n  sqlite: {{live_dir: {live}}}\n"
            ),
        )
    }

    fn router(&self) -> Process {
        let (listen, admin, etcd) = (self.address(0), self.address(3), self.address(ETCD_CLIENT));
        let snapshot = self.dir.join("routes.snapshot").display().to_string();
        self.role(
            "router",
            "router",
            &format!(
                "role: router\nlisten: {listen}\nadmin: {admin}\nthreads: 2\nbase_domains: [cells.localhost]\n\
                 snapshot: {snapshot}\nfeed:\n  etcd:\n    endpoints: [\"http://{etcd}\"]\n"
            ),
        )
    }
}

/// The name of the cell with this number.
pub fn cell_name(cell: u16) -> String {
    format!("cell-{}", char::from(b'a' + u8::try_from(cell).unwrap_or(0)))
}

impl Fleet {
    /// Starts everything, with these tenants spread over the cells, and waits until it is ready.
    pub async fn start(tenants: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ports = Ports::take();
        let client = Client::new(&format!("http://127.0.0.1:{}", ports.at(2))).expect("a client");
        let kitchen = Kitchen { dir: dir.path(), ports: &ports, program: binary() };
        let etcd = kitchen.etcd();
        let control_plane = kitchen.control_plane();
        let apps = (0..CELLS).map(|cell| kitchen.app(cell)).collect();
        ready_at(&ports, 2).await;
        for cell in 0..CELLS {
            create_cell(&client, &cell_name(cell)).await;
        }
        let agents: Vec<Process> = (0..CELLS).map(|cell| kitchen.agent(cell)).collect();
        for cell in 0..CELLS {
            ready_at(&ports, 40 + cell).await;
        }
        for (number, tenant) in (0_u16..).zip(tenants) {
            create_tenant(&client, tenant, &cell_name(number % CELLS)).await;
        }
        let router = kitchen.router();
        ready_at(&ports, 3).await;
        Self { router, agents, apps, control_plane, etcd, ports, client, dir }
    }

    /// Keeps every move in `state`, or lets all go on.
    pub fn stall(&self, state: Option<&str>) {
        let file = self.dir.path().join("stall");
        match state {
            Some(state) => std::fs::write(file, state).expect("written"),
            None => drop(std::fs::remove_file(file)),
        }
    }

    /// Where the router answers.
    pub fn router_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.at(0))
    }

    /// Waits for the role at an offset of the ports (2: control plane, 3: router, 40 and up: agents).
    pub async fn ready(&self, offset: u16) {
        ready_at(&self.ports, offset).await;
    }
}

async fn ready_at(ports: &Ports, offset: u16) {
    let url = format!("http://127.0.0.1:{}/readyz", ports.at(offset));
    eventually(&format!("{url} is ready"), async || is_ok(&url).await.then_some(())).await;
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

//! How each process of a fleet is configured and started.

use crate::fleet::Plan;
use crate::fleet::etcd::{Etcd, PREFIX};
use crate::fleet::links::{Link, Links};
use crate::ports::Ports;
use crate::process::{Process, Recipe};
use crate::{CRASH_VARIABLE, STALL_VARIABLE, binary};
use cellway_api::Client;
use cellway_api::identity::{IdentityFiles, LiveIdentity, Servers};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The cells of a fleet.
pub(super) const CELLS: u16 = 3;
/// Where the first member of etcd listens; each has two ports.
const ETCD_FIRST: u16 = 50;
/// Where the second replica of the control plane listens; the first does where `cellway dev` has it.
const REPLICAS: [u16; 2] = [2, 4];

/// Which port is whose.
pub(super) struct Layout<'a> {
    pub(super) ports: &'a Ports,
    pub(super) plan: &'a Plan,
}

impl Layout<'_> {
    fn at(&self, offset: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.at(offset)))
    }

    pub(super) fn stores(&self) -> Vec<SocketAddr> {
        (0..self.plan.etcd_members).map(|member| self.at(ETCD_FIRST + 2 * member)).collect()
    }

    pub(super) fn replicas(&self) -> Vec<SocketAddr> {
        let count = if self.plan.has_standby { 2 } else { 1 };
        REPLICAS[..count].iter().map(|offset| self.at(*offset)).collect()
    }

    pub(super) fn gate(&self, cell: u16) -> SocketAddr {
        self.at(10 + cell)
    }

    fn app(&self, cell: u16) -> SocketAddr {
        let own = self.plan.own_data.as_ref().map(|own| own.apps[usize::from(cell)]);
        own.unwrap_or_else(|| self.at(20 + cell))
    }

    pub(super) fn transfer(&self, cell: u16) -> SocketAddr {
        self.at(30 + cell)
    }
}

/// The name of the cell with this number.
pub fn cell_name(cell: u16) -> String {
    format!("cell-{}", char::from(b'a' + u8::try_from(cell).unwrap_or(0)))
}

pub(super) struct Kitchen<'a> {
    pub(super) dir: &'a Path,
    pub(super) layout: Layout<'a>,
    pub(super) links: Option<&'a Links>,
}

impl Kitchen<'_> {
    fn recipe(&self, name: &str, program: &Path, args: Vec<String>) -> Recipe {
        let stall = self.dir.join("stall").display().to_string();
        let crash = self.dir.join("crash").display().to_string();
        let mut env = vec![
            (STALL_VARIABLE.to_owned(), stall),
            (CRASH_VARIABLE.to_owned(), crash),
            ("CELLWAY_LOG".to_owned(), "info".to_owned()),
        ];
        env.extend(self.layout.plan.env.iter().filter(|(of, _)| of == name).map(|(_, variable)| variable.clone()));
        let log = self.dir.join(format!("{name}.log"));
        Recipe { name: name.to_owned(), program: program.to_owned(), args, env, log }
    }

    /// A role with its configuration file.
    fn role(&self, role: &str, name: &str, config: &str) -> Process {
        let file = self.dir.join(format!("{name}.yaml"));
        std::fs::write(&file, config).expect("written");
        let args = vec![role.to_owned(), "--config".to_owned(), file.display().to_string()];
        Process::start(self.recipe(name, &binary(), args))
    }

    /// The address by which others find `direct`: that of its relay, if there is one.
    fn found_by(&self, direct: Vec<SocketAddr>, link: impl Fn(&Links) -> Option<&Link>) -> Vec<SocketAddr> {
        self.links.and_then(link).map_or(direct, Link::addresses)
    }

    fn urls(scheme: &str, addresses: &[SocketAddr]) -> String {
        let urls: Vec<String> = addresses.iter().map(|address| format!("\"{scheme}://{address}\"")).collect();
        format!("[{}]", urls.join(", "))
    }

    fn scheme(&self) -> &'static str {
        if self.layout.plan.has_identities { "https" } else { "http" }
    }

    /// The line that says who a process is, in a fleet with identities.
    fn identity(&self, name: &str) -> String {
        if !self.layout.plan.has_identities {
            return String::new();
        }
        let files = identity_files(self.dir, name);
        let (certificate, key, ca) = (files.certificate.display(), files.key.display(), files.ca.display());
        format!("identity: {{certificate: {certificate}, key: {key}, ca: {ca}}}\n")
    }

    /// Makes the CA and everybody's certificate.
    pub(super) fn issue_identities(&self) {
        let ca_dir = self.dir.join("ca").display().to_string();
        let ca = |words: &[&str]| {
            let made = Command::new(binary()).args(["ca", "--dir", &ca_dir]).args(words).output().expect("it runs");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        };
        ca(&["init"]);
        for whose in ["router", "control-plane", "operator"] {
            ca(&["issue", whose]);
        }
        (0..CELLS).for_each(|cell| ca(&["issue", "cell", &cell_name(cell)]));
    }

    pub(super) fn etcd(&self) -> Etcd {
        // A missing etcd is a failure that names the package, not a skipped test.
        let program = crate::tool("etcd", "etcd-server");
        let clients = self.layout.stores();
        let peer = |client: SocketAddr| format!("http://127.0.0.1:{}", client.port() + 1);
        let cluster: Vec<String> =
            clients.iter().zip(1..).map(|(client, number)| format!("e{number}={}", peer(*client))).collect();
        let member = |(client, number): (&SocketAddr, u16)| {
            let name = format!("e{number}");
            let args = [
                ("--name", name.clone()),
                ("--data-dir", self.dir.join(format!("etcd-{name}")).display().to_string()),
                ("--listen-client-urls", format!("http://{client}")),
                ("--advertise-client-urls", format!("http://{client}")),
                ("--listen-peer-urls", peer(*client)),
                ("--initial-advertise-peer-urls", peer(*client)),
                ("--initial-cluster", cluster.join(",")),
            ];
            let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
            Process::start(self.recipe(&format!("etcd-{name}"), &program, args))
        };
        Etcd { members: clients.iter().zip(1..).map(member).collect(), clients }
    }

    pub(super) fn replica(&self, number: usize) -> Process {
        let (plan, scheme) = (self.layout.plan, self.scheme());
        let name = if number == 0 { "control-plane" } else { "standby" };
        let stores = self.found_by(self.layout.stores(), |links| links.replica_to_store.get(number));
        let advertise = self.found_by(vec![self.layout.replicas()[number]], |links| links.to_leader.get(number));
        let config = format!(
            "role: control-plane\nlisten: {}\nadvertise: {scheme}://{}\n{}base_domains: [cells.localhost]\n\
             store:\n  etcd:\n    endpoints: {}\n    prefix: {PREFIX}\n\
             moves: {{bake_ms: {}, retention_ms: {}, drop_ms: {}}}\n",
            self.layout.replicas()[number],
            advertise[0],
            self.identity("control-plane"),
            Self::urls("http", &stores),
            plan.bake_ms,
            plan.retention_ms,
            plan.drop_ms,
        );
        self.role("control-plane", name, &config)
    }

    /// Where a cell's agent and app keep their files.
    pub(super) fn cell_dir(&self, cell: u16) -> PathBuf {
        let name = cell_name(cell);
        self.dir_elsewhere(&name).map_or_else(|| self.dir.join(&name), Path::to_owned)
    }

    fn dir_elsewhere(&self, of: &str) -> Option<&Path> {
        self.layout.plan.dirs.iter().find(|(name, _)| name == of).map(|(_, dir)| dir.as_path())
    }

    pub(super) fn app(&self, cell: u16) -> Process {
        let (name, listen) = (cell_name(cell), self.layout.app(cell));
        let data = self.cell_dir(cell).join("app").display().to_string();
        let config = format!(
            "role: app\nname: {name}\nversion: '1.{cell}'\nlisten: {listen}\ndata_dir: {data}\n\
             longest_request_ms: 30000\n"
        );
        self.role("app", &format!("app-{name}"), &config)
    }

    pub(super) fn agent(&self, cell: u16) -> Process {
        let (name, number) = (cell_name(cell), usize::from(cell));
        let layout = &self.layout;
        let api = self.found_by(layout.replicas(), |links| links.agent_to_control_plane.get(number));
        let gate = self.found_by(vec![layout.gate(cell)], |links| links.to_gate.get(number));
        let transfer = self.found_by(vec![layout.transfer(cell)], |links| links.to_transfer.get(number));
        let dir = self.cell_dir(cell);
        let sqlite = || format!("driver:\n  sqlite: {{live_dir: {}}}\n", dir.join("app").display());
        let driver = layout.plan.own_data.as_ref().map_or_else(sqlite, |own| own.driver.clone());
        let config = format!(
            "role: agent\ncell: {name}\n{}control_plane: {}\ngate: {}\nadvertise_gate: {}\ntransfer: {}\n\
             advertise_transfer: {}\nadmin: {}\nthreads: 1\ndata_dir: {}\n\
             app: {{address: \"{}\", longest_request_ms: 30000}}\n{driver}",
            self.identity(&name),
            Self::urls(self.scheme(), &api),
            layout.gate(cell),
            gate[0],
            layout.transfer(cell),
            transfer[0],
            layout.at(40 + cell),
            dir.join("agent").display(),
            layout.app(cell),
        );
        self.role("agent", &format!("agent-{name}"), &config)
    }

    pub(super) fn router(&self) -> Process {
        let stores = self.found_by(self.layout.stores(), |links| Some(&links.router_to_store));
        let elsewhere = self.dir_elsewhere("router");
        let snapshot = elsewhere.unwrap_or(self.dir).join("routes.snapshot").display().to_string();
        let log = elsewhere.map(|dir| format!("access_log: {{to: {}}}\n", dir.join("access.log").display()));
        let config = format!(
            "role: router\nlisten: {}\nadmin: {}\nthreads: 2\n{}base_domains: [cells.localhost]\n\
             snapshot: {snapshot}\n{}feed:\n  etcd:\n    endpoints: {}\n    prefix: {PREFIX}\n",
            self.layout.at(0),
            self.layout.at(3),
            self.identity("router"),
            log.unwrap_or_default(),
            Self::urls("http", &stores),
        );
        self.role("router", "router", &config)
    }

    /// A client of a replica's API, an operator's where the fleet has identities.
    pub(super) fn client(&self, replica: usize) -> Client {
        let base = format!("{}://{}", self.scheme(), self.layout.replicas()[replica]);
        if !self.layout.plan.has_identities {
            return Client::new(&base).expect("a client");
        }
        let files = identity_files(self.dir, "operator");
        let identity = LiveIdentity::load(files, "an identity", |_| true).expect("an identity");
        Client::with_tls(&base, identity.client_config(Servers::ControlPlane)).expect("a client")
    }
}

fn identity_files(dir: &Path, name: &str) -> IdentityFiles {
    let file = |name: String| dir.join("ca").join(name);
    IdentityFiles {
        certificate: file(format!("{name}.crt")),
        key: file(format!("{name}.key")),
        ca: file("ca.crt".into()),
    }
}

//! Those that are compared, each started on one core with one thread: the same hosts, the same origin, the same work.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::configs::{self, Gate};
use crate::cost;
use crate::fleet;
use crate::machine::{self, Cores};
use crate::process::Process;
use crate::scenario::{Hops, Pace, Scenario, Speech};

/// How long a router may take until it is ready.
const READY_MS: u64 = 120_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Our router, with limits, metrics, epochs, hygiene and request ids.
    Cellway,
    /// Another build of it.
    Before,
    /// nginx with a map of hosts, kept connections, forwarding fields and request ids.
    Nginx,
    /// HAProxy with the same.
    Haproxy,
    /// What knows no HTTP.
    Relay,
    /// Nobody: the app itself is asked.
    App,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [Self::Cellway, Self::Before, Self::Nginx, Self::Haproxy, Self::Relay, Self::App];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cellway => "cellway",
            Self::Before => "before",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Relay => "relay",
            Self::App => "app",
        }
    }

    /// Whether it is ours.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Cellway | Self::Before)
    }

    /// Whether a person would use it instead of ours.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy)
    }

    /// Whether it can do this: what only passes bytes on ends no TLS, and no connection after an answer; the app, which
    /// ends none either, shows what clients and app alone take of an answer's time.
    pub(crate) fn can(self, scenario: &Scenario) -> bool {
        let is_single = scenario.hops == Hops::One;
        match self {
            Self::Cellway | Self::Before | Self::Nginx => true,
            Self::Haproxy => is_single,
            Self::Relay => is_single && scenario.speech == Speech::Http1 && !scenario.reconnects,
            Self::App => scenario.pace == Pace::Steady && scenario.speech == Speech::Http1,
        }
    }
}

/// What all of them share.
pub(crate) struct Ground<'a> {
    /// For their files.
    pub(crate) dir: &'a Path,
    /// Which cores they run on.
    pub(crate) cores: Cores,
    /// The app.
    pub(crate) origin: SocketAddr,
    /// Tenants that they know.
    pub(crate) tenants: usize,
    /// What is between clients and app.
    pub(crate) hops: Hops,
    /// The other build.
    pub(crate) before: Option<&'a Path>,
    /// Where the router's routes come from, as lines of its configuration, if not from a file that is written for it.
    pub(crate) feed: Option<String>,
}

/// One of them, as it runs.
pub(crate) struct Target {
    /// Which.
    pub(crate) kind: Kind,
    /// What of it is measured, and what else it needs.
    processes: Processes,
    clear: SocketAddr,
    tls: SocketAddr,
}

/// The processes of a target.
pub(crate) struct Processes {
    /// Those between clients and app.
    pub(crate) measured: Vec<Process>,
    /// All others.
    pub(crate) _beside: Vec<Process>,
}

impl Ground<'_> {
    /// Starts what is measured; its configuration, named like it, is a file of this text.
    pub(crate) fn start(&self, name: &str, program: &Path, args: &[&str], config: &str) -> anyhow::Result<Process> {
        let file = self.dir.join(format!("{name}.conf"));
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).chain([file.display().to_string()]).collect();
        Process::start(name, self.cores.measured, program, &args, self.dir)
    }

    /// The router's program.
    pub(crate) fn cellway(&self, kind: Kind) -> anyhow::Result<std::path::PathBuf> {
        match (kind, self.before) {
            (Kind::Before, Some(before)) => Ok(before.to_owned()),
            _ => machine::cellway(),
        }
    }
}

impl Target {
    /// Starts it and waits until it serves.
    pub(crate) fn start(kind: Kind, ground: &Ground<'_>) -> anyhow::Result<Self> {
        let [clear, tls, admin] = machine::free_addresses()?;
        let installed = |name: &str| machine::program(name).with_context(|| format!("{name} is not installed"));
        let mut processes = Processes { measured: Vec::new(), _beside: Vec::new() };
        match kind {
            Kind::Cellway | Kind::Before if ground.hops != Hops::One => {
                processes = fleet::start(kind, ground, [clear, tls, admin])?;
            }
            Kind::Cellway | Kind::Before => {
                let feed = configs::feed(ground)?;
                let snapshot = ground.dir.join(format!("{}.snapshot", kind.name()));
                let config = configs::cellway(ground, [clear, tls, admin], &snapshot, &feed)?;
                processes.measured =
                    vec![ground.start(kind.name(), &ground.cellway(kind)?, &["router", "--config"], &config)?];
            }
            Kind::Nginx => {
                let dir = ground.dir.display().to_string();
                let start = |name, config: &str| {
                    ground.start(name, &installed("nginx")?, &["-p", &dir, "-e", "stderr", "-c"], config)
                };
                let gate = Gate::of(ground)?;
                processes.measured = vec![start("nginx", &configs::nginx(ground, [clear, tls], gate.as_ref())?)?];
                if let Some(gate) = &gate {
                    let mut second = start("nginx-gate", &configs::nginx_gate(ground, gate))?;
                    second.listens_on(gate.address)?;
                    processes.measured.push(second);
                }
            }
            Kind::Haproxy => {
                let config = configs::haproxy(ground, clear, tls)?;
                processes.measured = vec![ground.start("haproxy", &installed("haproxy")?, &["-db", "-f"], &config)?];
            }
            Kind::Relay => {
                let own = std::env::current_exe().context("this program's own path")?;
                let args = ["relay".to_owned(), clear.to_string(), ground.origin.to_string()];
                processes.measured = vec![Process::start("relay", ground.cores.measured, &own, &args, ground.dir)?];
            }
            Kind::App => return Ok(Self { kind, processes, clear: ground.origin, tls }),
        }
        for process in &mut processes.measured {
            process.listens_on(clear)?;
        }
        if kind.is_ours() {
            wait_until_ready(admin)?;
        }
        Ok(Self { kind, processes, clear, tls })
    }

    /// CPU time that it has had so far, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.processes.measured.iter().map(|process| cost::cpu_ns(process.id())).sum()
    }

    /// The memory that it has, in MiB.
    pub(crate) fn pss_mib(&self) -> f64 {
        self.processes.measured.iter().map(|process| cost::pss_mib(process.id())).sum()
    }

    /// Where clients that speak like this go.
    pub(crate) fn address(&self, speech: Speech) -> SocketAddr {
        match speech {
            Speech::Http1 => self.clear,
            Speech::TlsHttp1 | Speech::TlsHttp2 => self.tls,
        }
    }
}

/// Waits until a process of ours says that it is ready.
pub(crate) fn wait_until_ready(admin: SocketAddr) -> anyhow::Result<()> {
    let begun = Instant::now();
    let is_ready = || -> std::io::Result<bool> {
        let mut tcp = TcpStream::connect(admin)?;
        tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    while !matches!(is_ready(), Ok(true)) {
        if begun.elapsed() > Duration::from_millis(READY_MS) {
            bail!("{admin} is not ready after {READY_MS} ms");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

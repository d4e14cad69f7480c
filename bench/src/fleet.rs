//! A small fleet of ours: a control plane on an etcd, an agent with its gate before the app, and the router.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::configs;
use crate::machine;
use crate::process::Process;
use crate::scenario::{BASE_DOMAIN, Hops, host};
use crate::store;
use crate::target::{Ground, Kind, Processes, wait_until_ready};

/// How long a tenant, or the control plane, may take until it is served.
const SERVED_MS: u64 = 30_000;
/// Between two attempts.
const PAUSE_MS: u64 = 50;
/// The cell that all tenants are in.
const CELL: &str = "cell-a";

/// Certificates of a CA of its own, by which each process shows who it is.
pub(crate) struct Identities {
    dir: PathBuf,
}

impl Identities {
    /// Those that the hops need, if any.
    pub(crate) fn of(ground: &Ground<'_>) -> anyhow::Result<Option<Self>> {
        if ground.hops != Hops::TwoWithTls {
            return Ok(None);
        }
        let dir = ground.dir.join("ca");
        if !dir.exists() {
            let ca = |words: &[&str]| {
                let mut command = Command::new(machine::cellway()?);
                command.args(["ca", "--dir"]).arg(&dir).args(words);
                run(&mut command)
            };
            ca(&["init"])?;
            for whose in [&["router"][..], &["control-plane"], &["operator"], &["cell", CELL]] {
                ca(&[&["issue"][..], whose].concat())?;
            }
        }
        Ok(Some(Self { dir }))
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The line of a configuration of ours that says who a process is.
    fn line(&self, name: &str) -> String {
        let [certificate, key, ca] = [format!("{name}.crt"), format!("{name}.key"), "ca.crt".to_owned()];
        let [certificate, key, ca] = [certificate, key, ca].map(|name| self.file(&name));
        format!("identity: {{certificate: {certificate}, key: {key}, ca: {ca}}}\n")
    }

    /// How nginx reaches the cell.
    pub(crate) fn of_nginx(&self) -> String {
        let [certificate, key, ca] = ["router.crt", "router.key", "ca.crt"].map(|name| self.file(name));
        format!(
            "proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key};\n\
             proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_verify_depth 2;\n\
             proxy_ssl_name {CELL}.cell.cellway; proxy_ssl_protocols TLSv1.3;\n"
        )
    }

    /// How nginx is reached in the cell.
    pub(crate) fn of_nginx_gate(&self) -> String {
        let [certificate, key] = [format!("{CELL}.crt"), format!("{CELL}.key")].map(|name| self.file(&name));
        let ca = self.file("ca.crt");
        format!(
            "ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;\n\
             ssl_client_certificate {ca}; ssl_verify_client on; ssl_verify_depth 2;\n"
        )
    }
}

/// Starts the fleet, creates its tenants, and waits until they are served.
pub(crate) fn start(kind: Kind, ground: &Ground<'_>, front: [SocketAddr; 3]) -> anyhow::Result<Processes> {
    let dir = ground.dir.join(format!("{}-{:?}", kind.name(), ground.hops));
    fs::create_dir_all(&dir)?;
    let program = ground.cellway(kind)?;
    let identities = Identities::of(ground)?;
    let identity = |name: &str| identities.as_ref().map_or_else(String::new, |identities| identities.line(name));
    let scheme = if identities.is_some() { "https" } else { "http" };
    let (etcd, stored) = store::etcd(&dir, ground.cores.rest)?;
    let [api, gate, transfer, admin] = machine::free_addresses()?;

    let config = dir.join("control-plane.yaml");
    let text = format!(
        "role: control-plane\nlisten: {api}\nadvertise: {scheme}://{api}\n{}base_domains: [{BASE_DOMAIN}]\n\
         store:\n  etcd:\n    endpoints: [\"http://{stored}\"]\n    prefix: {}\n",
        identity("control-plane"),
        store::PREFIX,
    );
    fs::write(&config, text)?;
    let args = ["control-plane".to_owned(), "--config".to_owned(), config.display().to_string()];
    let mut control_plane = Process::start("control-plane", ground.cores.rest, &program, &args, &dir)?;
    control_plane.listens_on(api)?;
    let command = |words: &[&str]| run(&mut command(&program, (scheme, api), identities.as_ref(), words));
    // Until it leads.
    wait_until(|| command(&["cell", "create", CELL, "--kind", "agent"]).is_ok(), "the control plane")?;

    let text = format!(
        "role: agent\ncell: {CELL}\n{}control_plane: [\"{scheme}://{api}\"]\ngate: {gate}\ntransfer: {transfer}\n\
         admin: {admin}\nthreads: 1\ndata_dir: {}\napp: {{address: \"{}\", longest_request_ms: 30000}}\ndriver: none\n",
        identity(CELL),
        dir.join("agent").display(),
        ground.origin,
    );
    let agent = ground.start(&format!("{}-agent", kind.name()), &program, &["agent", "--config"], &text)?;
    wait_until_ready(admin)?;
    for tenant in 0..ground.tenants {
        let name = format!("t{tenant}");
        command(&["tenant", "create", &name, "--cell", CELL])?;
        command(&["tenant", "limit", "set", &name, "--requests-per-second", "1000000", "--concurrency", "1000"])?;
    }

    let more = identity("router") + &store::feed(stored);
    let config = configs::cellway(ground, front, &dir.join("routes.snapshot"), &more)?;
    let mut router = ground.start(kind.name(), &program, &["router", "--config"], &config)?;
    router.listens_on(front[0])?;
    for tenant in 0..ground.tenants {
        wait_until(|| matches!(is_served(front[0], &host(tenant)), Ok(true)), &host(tenant))?;
    }
    Ok(Processes { measured: vec![router, agent], _beside: vec![etcd, control_plane] })
}

/// A command of ours at the API.
fn command(
    program: &Path,
    (scheme, api): (&str, SocketAddr),
    identities: Option<&Identities>,
    words: &[&str],
) -> Command {
    let mut command = Command::new(program);
    command.args(words).args(["--api", &format!("{scheme}://{api}")]);
    if let Some(identities) = identities {
        for (flag, name) in [("--certificate", "operator.crt"), ("--key", "operator.key"), ("--ca", "ca.crt")] {
            command.args([flag, &identities.file(name)]);
        }
    }
    command
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let ran = command.output().context("cellway cannot be started")?;
    anyhow::ensure!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

fn is_served(at: SocketAddr, host: &str) -> std::io::Result<bool> {
    let mut tcp = TcpStream::connect(at)?;
    write!(tcp, "GET /1k HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

fn wait_until(mut is_reached: impl FnMut() -> bool, what: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_reached() {
        if begun.elapsed() > Duration::from_millis(SERVED_MS) {
            bail!("{what} does not serve after {SERVED_MS} ms");
        }
        std::thread::sleep(Duration::from_millis(PAUSE_MS));
    }
    Ok(())
}

//! A router alone, fed by a file, in front of stand-in cells.

use crate::ports::Ports;
use crate::process::{Process, Recipe};
use crate::{binary, eventually};
use reqwest::Client;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest wait for one answer of the router's admin listener.
const ADMIN_MS: u64 = 2_000;

/// Answers every request with 200, after a while.
pub struct Backend {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Backend {
    /// Starts one.
    pub async fn start(after: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(answer(tcp, after));
            }
        });
        Self { address, task }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut tcp: TcpStream, after: Duration) {
    let (mut buffer, mut head) = ([0; 4_096], Vec::new());
    while let Ok(length @ 1..) = tcp.read(&mut buffer).await {
        head.extend_from_slice(&buffer[..length]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            tokio::time::sleep(after).await;
            if tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
    }
}

/// The router, and what belongs to it.
pub struct RouterAlone {
    /// The process.
    pub process: Process,
    ports: Ports,
    dir: TempDir,
    http: Client,
    rotated: usize,
    started: usize,
}

impl RouterAlone {
    /// Starts one with these further lines in its configuration, which knows tenant acme; waits until it is ready.
    pub async fn start(backend: &Backend, more: &str) -> Self {
        Self::launch(&[Placed::at(backend, &["acme".to_owned()])], more, None).await
    }

    /// Starts one that knows these cells; `within` is a shell's words before the router's own, which set its limits.
    pub async fn launch(cells: &[Placed], more: &str, within: Option<&str>) -> Self {
        let (dir, ports) = (tempfile::tempdir().expect("a directory"), Ports::take());
        let config = dir.path().join("router.yaml").display().to_string();
        let own = ["router".to_owned(), "--config".to_owned(), config];
        let (program, args) = match within {
            None => (binary(), own.to_vec()),
            Some(limits) => {
                let script = format!("{limits}\nexec \"$0\" \"$@\"");
                let shell = ["-c".to_owned(), script, binary().display().to_string()];
                (PathBuf::from("/bin/sh"), shell.into_iter().chain(own).collect())
            }
        };
        let log = dir.path().join("router.log");
        let recipe = Recipe { name: "router".to_owned(), program, args, env: Vec::new(), log };
        write_config(&dir, &ports, more);
        write_routes(&dir, cells, "");
        let http = Client::builder().no_proxy().timeout(Duration::from_millis(ADMIN_MS)).build().expect("a client");
        let router = Self { process: Process::start(recipe), ports, dir, http, rotated: 0, started: 1 };
        eventually("the router is ready", async || (router.readyz().await? == 200).then_some(())).await;
        router
    }

    /// Starts another process with its configuration, as that is now, and a log of its own.
    pub fn start_next(&mut self) -> Process {
        self.started += 1;
        let log = self.dir.path().join(format!("router.log.{}", self.started));
        Process::start(Recipe { name: format!("router {}", self.started), log, ..self.process.recipe.clone() })
    }

    /// What `/status` answers.
    pub async fn status(&self) -> Option<serde_json::Value> {
        self.http.get(format!("{}/status", self.admin())).send().await.ok()?.json().await.ok()
    }

    /// Writes its configuration anew, with these further lines.
    pub fn configure(&self, more: &str) {
        write_config(&self.dir, &self.ports, more);
    }

    /// Writes its routes anew: these tenants.
    pub fn tell(&self, backend: &Backend, tenants: &[String]) {
        write_routes(&self.dir, &[Placed::at(backend, tenants)], "");
    }

    /// Writes its routes anew: tenant acme, and these further lines.
    pub fn tell_also(&self, backend: &Backend, lines: &str) {
        write_routes(&self.dir, &[Placed::at(backend, &["acme".to_owned()])], lines);
    }

    /// Takes the source of its routes away.
    pub fn tell_nothing(&self) {
        std::fs::remove_file(self.dir.path().join("routes.jsonl")).expect("there");
    }

    /// Where it serves in clear.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.at(0)))
    }

    /// Where it serves HTTPS, if its configuration says so.
    pub fn https_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.at(1)))
    }

    /// Moves the access log away, as logrotate does.
    pub fn rotate_log(&mut self) {
        self.rotated += 1;
        std::fs::rename(self.access_log(0), self.access_log(self.rotated)).expect("moved");
    }

    fn access_log(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("access.log.{number}"))
    }

    /// The lines of all access logs; each is JSON.
    pub fn logged(&self) -> usize {
        let mut count = 0;
        for number in 0..=self.rotated {
            for line in std::fs::read_to_string(self.access_log(number)).expect("a log").lines() {
                let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
                assert_eq!((&line["status"], &line["tenant"]), (&200.into(), &"acme".into()), "{line}");
                count += 1;
            }
        }
        count
    }

    fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.at(3))
    }

    /// What `/readyz` answers.
    pub async fn readyz(&self) -> Option<u16> {
        let answer = self.http.get(format!("{}/readyz", self.admin())).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// The value of a metric, with its labels as they are shown.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.http.get(format!("{}/metrics", self.admin())).send().await.ok()?.text().await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cellway_router_{name} ")))?;
        line.parse().ok()
    }

    /// The status of a request of this tenant.
    pub async fn ask(&self, tenant: &str) -> Option<u16> {
        let request = self.http.get(self.url()).header("host", format!("{tenant}.cells.localhost"));
        Some(request.send().await.ok()?.status().as_u16())
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.ports.at(0))
    }

    /// Runs `cellway router` with these arguments against it.
    pub fn cli(&self, args: &[&str]) -> Output {
        Command::new(binary()).arg("router").args(args).args(["--admin", &self.admin()]).output().expect("it runs")
    }
}

fn write_config(dir: &TempDir, ports: &Ports, more: &str) {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let lines = [
        ("role", "router".to_owned()),
        ("listen", format!("127.0.0.1:{}", ports.at(0))),
        ("admin", format!("127.0.0.1:{}", ports.at(3))),
        ("base_domains", "[cells.localhost]".to_owned()),
        ("snapshot", path("routes.snapshot")),
        ("feed", format!("\n  file: {}", path("routes.jsonl"))),
        ("threads", "2".to_owned()),
        ("access_log", format!("{{to: {}}}", path("access.log.0"))),
    ];
    let given = |key: &str| more.lines().any(|line| line.starts_with(&format!("{key}:")));
    let mut text: String =
        lines.into_iter().filter(|(key, _)| !given(key)).map(|(key, value)| format!("{key}: {value}\n")).collect();
    if given("tls") {
        text.push_str(&format!("listen_tls: 127.0.0.1:{}\n", ports.at(1)));
    }
    text.push_str(more);
    std::fs::write(dir.path().join("router.yaml"), text).expect("written");
}

/// A cell, and who lives there.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Its name.
    pub cell: String,
    /// Where it answers.
    pub endpoint: SocketAddr,
    /// Its tenants.
    pub tenants: Vec<String>,
}

impl Placed {
    /// All tenants in one cell, at a stand-in.
    pub fn at(backend: &Backend, tenants: &[String]) -> Self {
        Self { cell: "a".to_owned(), endpoint: backend.address, tenants: tenants.to_vec() }
    }
}

/// The file is replaced at once, so that it is never seen half written.
fn write_routes(dir: &TempDir, cells: &[Placed], more: &str) {
    let mut text = String::new();
    for Placed { cell, endpoint, .. } in cells {
        text.push_str(&format!("{{\"cell\":\"{cell}\",\"endpoints\":[\"{endpoint}\"],\"kind\":\"origin\"}}\n"));
    }
    for Placed { cell, tenants, .. } in cells {
        for tenant in tenants {
            text.push_str(&format!("{{\"tenant\":\"{tenant}\",\"cell\":\"{cell}\",\"epoch\":1}}\n"));
        }
    }
    text.push_str(more);
    let unfinished = dir.path().join("routes.new");
    std::fs::write(&unfinished, text).expect("written");
    std::fs::rename(unfinished, dir.path().join("routes.jsonl")).expect("moved");
}

/// Clients that ask for tenant acme's page all the time, each on a connection that it keeps.
pub struct Load {
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Done>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Done {
    /// Answers with 200.
    pub answered: usize,
    /// Everything else, but connections that were refused.
    pub failed: Vec<String>,
}

impl Load {
    /// Starts so many clients.
    pub fn start(router: &RouterAlone, clients: usize) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let client = |_| tokio::spawn(ask_on(router.url(), stop.clone(), Arc::clone(&answered)));
        Self { clients: (0..clients).map(client).collect(), stop, answered }
    }

    /// Waits until so many more requests have been answered with 200.
    pub async fn more(&self, requests: usize) {
        let wanted = self.answered.load(Ordering::SeqCst) + requests;
        eventually("the load goes on", async || (self.answered.load(Ordering::SeqCst) >= wanted).then_some(())).await;
    }

    /// Stops them.
    pub async fn stop(self) -> Done {
        self.stop.cancel();
        let mut all = Done::default();
        for client in self.clients {
            let done = client.await.expect("a client does not panic");
            all.answered += done.answered;
            all.failed.extend(done.failed);
        }
        all
    }
}

async fn ask_on(url: String, stop: CancellationToken, answered: Arc<AtomicUsize>) -> Done {
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("a client");
    let mut done = Done::default();
    while !stop.is_cancelled() {
        match client.get(&url).header("host", "acme.cells.localhost").send().await {
            Ok(answer) => match (answer.status().as_u16(), answer.bytes().await) {
                (200, Ok(_)) => {
                    done.answered += 1;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                (status, body) => done.failed.push(format!("{status}, whole: {}", body.is_ok())),
            },
            Err(error) if error.is_connect() => return done,
            Err(error) => done.failed.push(format!("{error:?}")),
        }
    }
    done
}

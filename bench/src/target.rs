//! Those that are compared, each started on one core with one thread: the same hosts, the same origin, the same work.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::machine::{self, Cores};
use crate::process::Process;
use crate::scenario::{BASE_DOMAIN, Scenario, Speech, asked_hosts, host};

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
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Cellway, Self::Before, Self::Nginx, Self::Haproxy, Self::Relay];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cellway => "cellway",
            Self::Before => "before",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Relay => "relay",
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

    /// Whether it can do this: what only passes bytes on ends no TLS, and no connection after an answer.
    pub(crate) fn can(self, scenario: &Scenario) -> bool {
        self != Self::Relay || (scenario.speech == Speech::Http1 && !scenario.reconnects)
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
    /// The other build.
    pub(crate) before: Option<&'a Path>,
    /// Where the router's routes come from, as lines of its configuration, if not from a file that is written for it.
    pub(crate) feed: Option<String>,
}

/// One of them, as it runs.
pub(crate) struct Target {
    /// Which.
    pub(crate) kind: Kind,
    /// Its process.
    pub(crate) process: Process,
    clear: SocketAddr,
    tls: SocketAddr,
}

impl Target {
    /// Starts it and waits until it serves.
    pub(crate) fn start(kind: Kind, ground: &Ground<'_>) -> anyhow::Result<Self> {
        let [clear, tls, admin] = machine::free_addresses()?;
        let core = ground.cores.measured;
        let start = |program: &Path, args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            Process::start(kind.name(), core, program, &args, ground.dir)
        };
        let installed = |name: &str| machine::program(name).with_context(|| format!("{name} is not installed"));
        let config = ground.dir.join(format!("{}.conf", kind.name()));
        let path = config.display().to_string();
        let mut process = match kind {
            Kind::Cellway | Kind::Before => {
                fs::write(&config, cellway(ground, kind, [clear, tls, admin])?)?;
                let program = match (kind, ground.before) {
                    (Kind::Before, Some(before)) => before.to_owned(),
                    _ => machine::cellway()?,
                };
                start(&program, &["router", "--config", &path])?
            }
            Kind::Nginx => {
                fs::write(&config, nginx(ground, clear, tls)?)?;
                let dir = ground.dir.display().to_string();
                start(&installed("nginx")?, &["-p", &dir, "-c", &path, "-e", "stderr"])?
            }
            Kind::Haproxy => {
                fs::write(&config, haproxy(ground, clear, tls)?)?;
                start(&installed("haproxy")?, &["-db", "-f", &path])?
            }
            Kind::Relay => {
                let own = std::env::current_exe().context("this program's own path")?;
                start(&own, &["relay", &clear.to_string(), &ground.origin.to_string()])?
            }
        };
        process.listens_on(clear)?;
        if kind.is_ours() {
            wait_until_ready(admin)?;
        }
        Ok(Self { kind, process, clear, tls })
    }

    /// Where clients that speak like this go.
    pub(crate) fn address(&self, speech: Speech) -> SocketAddr {
        match speech {
            Speech::Http1 => self.clear,
            Speech::TlsHttp1 | Speech::TlsHttp2 => self.tls,
        }
    }
}

fn wait_until_ready(admin: SocketAddr) -> anyhow::Result<()> {
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
            bail!("the router is not ready after {READY_MS} ms");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Writes a certificate of all hosts for all of them, and returns the paths of certificate, key, and both in one file.
fn certificate(dir: &Path) -> anyhow::Result<[PathBuf; 3]> {
    let paths = ["cert.pem", "key.pem", "both.pem"].map(|name| dir.join(name));
    if !paths[2].exists() {
        let names = vec!["localhost".to_owned(), format!("*.{BASE_DOMAIN}")];
        let signed = rcgen::generate_simple_self_signed(names)?;
        let (certificate, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
        fs::write(&paths[0], &certificate)?;
        for (path, text) in [(&paths[1], key.clone()), (&paths[2], certificate + &key)] {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())?;
        }
    }
    Ok(paths)
}

fn cellway(ground: &Ground<'_>, kind: Kind, [clear, tls, admin]: [SocketAddr; 3]) -> anyhow::Result<String> {
    let feed = match &ground.feed {
        Some(feed) => feed.clone(),
        None => format!("feed:\n  file: {}\n", routes(ground)?.display()),
    };
    let [certificate, key, _] = certificate(ground.dir)?.map(|path| path.display().to_string());
    Ok(format!(
        "role: router\nthreads: 1\nlisten: {clear}\nlisten_tls: {tls}\nadmin: {admin}\nbase_domains: [{BASE_DOMAIN}]\n\
         tls:\n  certificates: [{{certificate: {certificate}, key: {key}}}]\n  redirect: false\n\
         snapshot: {}\n{feed}",
        ground.dir.join(format!("{}.snapshot", kind.name())).display(),
    ))
}

/// Writes the router's routes.
fn routes(ground: &Ground<'_>) -> anyhow::Result<PathBuf> {
    let mut routes = format!("{{\"cell\":\"a\",\"endpoints\":[\"{}\"],\"kind\":\"agent\"}}\n", ground.origin);
    for tenant in 0..ground.tenants {
        writeln!(routes, "{{\"tenant\":\"t{tenant}\",\"cell\":\"a\",\"epoch\":1}}")?;
    }
    for tenant in asked_hosts(ground.tenants) {
        writeln!(routes, "{{\"tenant\":\"t{tenant}\",\"limits\":{LIMITS}}}")?;
    }
    let file = ground.dir.join("routes.jsonl");
    fs::write(&file, routes)?;
    Ok(file)
}

/// Limits that are asked for each request and never reached.
const LIMITS: &str = r#"{"requests":{"per_second":1000000,"burst":1000000},"concurrency":1000}"#;

fn nginx(ground: &Ground<'_>, clear: SocketAddr, tls: SocketAddr) -> anyhow::Result<String> {
    let map = ground.dir.join("nginx.map");
    let mut entries = String::new();
    for tenant in 0..ground.tenants {
        writeln!(entries, "{} cell_a;", host(tenant))?;
    }
    fs::write(&map, entries)?;
    let [certificate, key, _] = certificate(ground.dir)?.map(|path| path.display().to_string());
    let (map, origin) = (map.display(), ground.origin);
    let hash_max = (ground.tenants * 2).next_power_of_two();
    Ok(format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         access_log off;\n\
         client_body_buffer_size 64k; proxy_buffer_size 16k; proxy_buffers 8 32k; proxy_busy_buffers_size 64k;\n\
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
         keepalive_requests 1000000000;\n\
         map_hash_max_size {hash_max}; map_hash_bucket_size 128;\n\
         map $host $cell {{ include {map}; }}\n\
         upstream cell_a {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{\n\
         listen {clear} backlog=4096 default_server;\n\
         listen {tls} backlog=4096 ssl http2 default_server;\n\
         ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;\n\
         if ($cell = \"\") {{ return 404; }}\n\
         location / {{\n\
         proxy_pass http://$cell;\n\
         proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host;\n\
         proxy_set_header X-Request-ID $request_id;\n\
         proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Cellway-Epoch 1;\n\
         add_header X-Request-ID $request_id;\n\
         }}\n}}\n}}\n"
    ))
}

fn haproxy(ground: &Ground<'_>, clear: SocketAddr, tls: SocketAddr) -> anyhow::Result<String> {
    let map = ground.dir.join("haproxy.map");
    let mut entries = String::new();
    for tenant in 0..ground.tenants {
        writeln!(entries, "{} cell_a", host(tenant))?;
    }
    fs::write(&map, entries)?;
    let [_, _, both] = certificate(ground.dir)?;
    let (map, both, origin) = (map.display(), both.display(), ground.origin);
    Ok(format!(
        "global\n    nbthread 1\n    maxconn 4000\n\
         defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n    \
         http-reuse always\n\
         frontend clients\n    bind {clear} backlog 4096\n    bind {tls} backlog 4096 ssl crt {both} alpn h2,http/1.1\n    \
         unique-id-format %[uuid()]\n    unique-id-header X-Request-ID\n    option forwardfor\n    \
         http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}\n    \
         http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n    \
         http-request set-header X-Cellway-Epoch 1\n    \
         http-response set-header X-Request-ID %[unique-id]\n    \
         use_backend %[req.hdr(host),field(1,:),lower,map({map})]\n\
         backend cell_a\n    server origin {origin}\n"
    ))
}

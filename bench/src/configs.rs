//! The configurations of those that are compared.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::fleet::Identities;
use crate::machine;
use crate::scenario::{BASE_DOMAIN, Hops, asked_hosts, host};
use crate::target::Ground;

/// The second of two hops of nginx.
pub(crate) struct Gate {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Who both are, where they show each other.
    pub(crate) identities: Option<Identities>,
}

impl Gate {
    /// One, where there are two hops.
    pub(crate) fn of(ground: &Ground<'_>) -> anyhow::Result<Option<Self>> {
        if ground.hops == Hops::One {
            return Ok(None);
        }
        let [address] = machine::free_addresses()?;
        Ok(Some(Self { address, identities: Identities::of(ground)? }))
    }
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

/// Where the router's routes come from, as lines of its configuration.
pub(crate) fn feed(ground: &Ground<'_>) -> anyhow::Result<String> {
    match &ground.feed {
        Some(feed) => Ok(feed.clone()),
        None => Ok(format!("feed:\n  file: {}\n", routes(ground)?.display())),
    }
}

/// The router's; `more` are lines at its end.
pub(crate) fn cellway(
    ground: &Ground<'_>,
    [clear, tls, admin]: [SocketAddr; 3],
    snapshot: &Path,
    more: &str,
) -> anyhow::Result<String> {
    let [certificate, key, _] = certificate(ground.dir)?.map(|path| path.display().to_string());
    Ok(format!(
        "role: router\nthreads: 1\nlisten: {clear}\nlisten_tls: {tls}\nadmin: {admin}\nbase_domains: [{BASE_DOMAIN}]\n\
         tls:\n  certificates: [{{certificate: {certificate}, key: {key}}}]\n  redirect: false\n\
         snapshot: {}\n{more}",
        snapshot.display(),
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

/// nginx before the app, or before another one.
pub(crate) fn nginx(ground: &Ground<'_>, [clear, tls]: [SocketAddr; 2], gate: Option<&Gate>) -> anyhow::Result<String> {
    let map = ground.dir.join("nginx.map");
    let mut entries = String::new();
    for tenant in 0..ground.tenants {
        writeln!(entries, "{} cell_a;", host(tenant))?;
    }
    fs::write(&map, entries)?;
    let [certificate, key, _] = certificate(ground.dir)?.map(|path| path.display().to_string());
    let (map, next) = (map.display(), gate.map_or(ground.origin, |gate| gate.address));
    let scheme = if gate.is_some_and(|gate| gate.identities.is_some()) { "https" } else { "http" };
    let identity = gate.and_then(|gate| gate.identities.as_ref()).map_or_else(String::new, Identities::of_nginx);
    let hash_max = (ground.tenants * 2).next_power_of_two();
    Ok(format!(
        "{}\
         map_hash_max_size {hash_max}; map_hash_bucket_size 128;\n\
         map $host $cell {{ include {map}; }}\n\
         upstream cell_a {{ server {next}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{\n\
         listen {clear} backlog=4096 default_server;\n\
         listen {tls} backlog=4096 ssl http2 default_server;\n\
         ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;\n\
         if ($cell = \"\") {{ return 404; }}\n\
         location / {{\n\
         proxy_pass {scheme}://$cell;\n\
         {identity}\
         proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host;\n\
         proxy_set_header X-Request-ID $request_id;\n\
         proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Cellway-Epoch 1;\n\
         add_header X-Request-ID $request_id;\n\
         }}\n}}\n}}\n",
        nginx_head("nginx"),
    ))
}

/// What all of nginx's have in common.
fn nginx_head(name: &str) -> String {
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {name}.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         access_log off;\n\
         client_body_buffer_size 64k; proxy_buffer_size 16k; proxy_buffers 8 32k; proxy_busy_buffers_size 64k;\n\
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
         keepalive_requests 1000000000;\n"
    )
}

/// The nginx in the cell: it takes what has an epoch, and passes it on.
pub(crate) fn nginx_gate(ground: &Ground<'_>, gate: &Gate) -> String {
    let (address, origin) = (gate.address, ground.origin);
    let tls = gate.identities.as_ref().map_or_else(String::new, Identities::of_nginx_gate);
    let ssl = if tls.is_empty() { "" } else { " ssl" };
    format!(
        "{}\
         upstream app {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{\n\
         listen {address} backlog=4096{ssl};\n\
         {tls}\
         if ($http_x_cellway_epoch = \"\") {{ return 421; }}\n\
         location / {{\n\
         proxy_pass http://app;\n\
         proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host;\n\
         }}\n}}\n}}\n",
        nginx_head("nginx-gate"),
    )
}

/// HAProxy before the app.
pub(crate) fn haproxy(ground: &Ground<'_>, clear: SocketAddr, tls: SocketAddr) -> anyhow::Result<String> {
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

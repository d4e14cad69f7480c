//! How long a router takes to start with many certificates in a folder and in the store's snapshot, what it needs for
//! them, and how long the first handshake of one takes, and the next:
//! `cargo run --release -p cellway-router --example certificates -- 100000`.

use anyhow::Context;
use cellway_api::certificate::{chain_in, key_in, provider};
use cellway_api::sealing::{CertificateName, SealingSecrets, SecretFiles};
use cellway_core::hostname::Hostname;
use cellway_router::snapshot;
use cellway_router::tls::TlsConfig;
use cellway_router::{FeedSource, HttpsConfig, Router, RouterConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// As on nearly all machines.
const PAGE_BYTES: i64 = 4_096;

/// Handshakes of each kind.
const HANDSHAKES: usize = 2_000;

/// The longest start.
const START_MS: u64 = 60_000;

const SECRET: &str = "a secret of the measurement, with more than 32 bytes";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count: usize =
        std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse()).context("a number is needed")?;
    let dir = tempfile::tempdir()?;
    let began = Instant::now();
    let roots = make(dir.path(), count)?;
    let bytes = std::fs::metadata(snapshot::of_certificates(&dir.path().join("many")))?.len();
    say(&format!("{count} certificates made in {:.1?}; the snapshot has {} MiB", began.elapsed(), bytes >> 20))?;
    let client = client(roots)?;
    let secret = SecretFiles { secret: dir.path().join("secret"), previous: None };
    let folder = |name: &str| TlsConfig { folder: Some(dir.path().join(name)), ..TlsConfig::default() };
    let stored = TlsConfig { stored: Some(secret), ..TlsConfig::default() };
    for (what, tls, snapshot, known) in [
        ("folder, 1 certificate", folder("one-folder"), "none", 1),
        ("folder, all", folder("many-folder"), "none", count),
        ("store, 1 certificate", stored.clone(), "one", 1),
        ("store, all", stored, "many", count),
    ] {
        measure(what, tls, dir.path().join(snapshot), known, &client).await?;
    }
    Ok(())
}

/// Starts a router whose source says nothing, and shakes hands with it.
async fn measure(
    what: &str,
    tls: TlsConfig,
    snapshot: PathBuf,
    known: usize,
    client: &Arc<ClientConfig>,
) -> anyhow::Result<()> {
    let before = resident_bytes()?;
    let began = Instant::now();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let https = HttpsConfig { listen, public_port: None, tls, redirect: false, hsts: None };
    let config = RouterConfig { https: Some(https), snapshot_path: Some(snapshot), threads: 1, ..plain()? };
    let router = Router::bind(config)?;
    let address = router.https_addr().context("no HTTPS")?;
    let (events, source) = tokio::sync::mpsc::channel(1);
    let stop = CancellationToken::new();
    let run = router.run(FeedSource::Events(source), prometheus::Registry::new(), stop.clone());
    let running = tokio::spawn(run);
    let client = Arc::clone(client);
    let lines = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
        while shake(&client, address, 0).is_err() {
            anyhow::ensure!(began.elapsed() < Duration::from_millis(START_MS), "no handshake within {START_MS} ms");
            std::thread::sleep(Duration::from_millis(1));
        }
        let start = began.elapsed();
        let grown = (resident_bytes()? - before) >> 20;
        let first = times(HANDSHAKES.min(known), |index| shake(&client, address, known - 1 - index))?;
        let used = (resident_bytes()? - before) >> 20;
        let again = times(HANDSHAKES, |_| shake(&client, address, 0))?;
        Ok(format!(
            "  start to first handshake {start:.1?}, {grown} MiB more; {used} MiB more after {HANDSHAKES} of them were used\n  \
             first handshake of one: {first}\n  the next: {again}"
        ))
    });
    let lines = lines.await??;
    stop.cancel();
    running.await??;
    drop(events);
    say(&format!("{what}\n{lines}"))
}

fn plain() -> anyhow::Result<RouterConfig> {
    let mut config = RouterConfig::new(vec![Hostname::from_text("cells.example")?]);
    config.serve.drain_ms = 100;
    Ok(config)
}

/// The median and the 99th percentile.
fn times(count: usize, one: impl Fn(usize) -> anyhow::Result<()>) -> anyhow::Result<String> {
    let mut took = Vec::with_capacity(count);
    for index in 0..count {
        let began = Instant::now();
        one(index)?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(format!("p50 {:.2?}, p99 {:.2?}", took[count / 2], took[count * 99 / 100]))
}

fn shake(client: &Arc<ClientConfig>, address: SocketAddr, index: usize) -> anyhow::Result<()> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    let mut connection = ClientConnection::new(Arc::clone(client), name(index).try_into()?)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    Ok(())
}

fn client(roots: RootCertStore) -> anyhow::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut client = builder.with_root_certificates(roots).with_no_client_auth();
    client.resumption = Resumption::disabled();
    Ok(Arc::new(client))
}

fn name(index: usize) -> String {
    format!("tenant-{index}.example")
}

/// The same certificates in folders and in snapshots. One key for all of them: making keys is not what is measured.
fn make(dir: &Path, count: usize) -> anyhow::Result<RootCertStore> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let key_pem = key.serialize_pem();
    let private = key_in(key_pem.as_bytes())?;
    let secrets = SealingSecrets::new(SECRET.as_bytes(), None)?;
    write_secret(&dir.join("secret"), SECRET)?;
    let mut contents = Vec::with_capacity(count);
    for folder in ["one-folder", "many-folder"] {
        std::fs::create_dir(dir.join(folder))?;
    }
    for index in 0..count {
        let name = name(index);
        // As usual, the CA's own stands in the chain.
        let chain = CertificateParams::new([name.clone()])?.signed_by(&key, &ca)?.pem() + &ca.pem();
        for folder in ["one-folder", "many-folder"].iter().skip(usize::from(index > 0)) {
            std::fs::write(dir.join(folder).join(format!("{name}.crt")), &chain)?;
            write_secret(&dir.join(folder).join(format!("{name}.key")), &key_pem)?;
        }
        let name = CertificateName::from_text(&name)?;
        let sealed = secrets.seal(&name, &chain_in(chain.as_bytes())?, &private)?;
        contents.push((name, sealed.into()));
    }
    for (file, contents) in [("one", contents[..1].to_vec()), ("many", contents)] {
        let path = snapshot::of_certificates(&dir.join(file));
        snapshot::certificates::save(&path, contents)?;
    }
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone())?;
    Ok(roots)
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

fn resident_bytes() -> anyhow::Result<i64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: i64 = text.split(' ').nth(1).context("no count of pages")?.parse()?;
    Ok(pages * PAGE_BYTES)
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

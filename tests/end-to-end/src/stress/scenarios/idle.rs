//! Thousands of connections that have had an answer and now lie idle, WebSockets among them.

use super::super::cells::{Cell, Manner};
use super::super::crowd::{PER_ADDRESS, connect};
use super::super::ground::{Ground, Needs, Scale, Shown, hostile_host};
use super::super::honest::read_answer;
use super::super::memory::open_files;
use super::super::report::{Bound, Row};
use cellway_battery::frames::{PREFACE, block, headers, settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// In clear, over HTTP/1.1.
const CLEAR: usize = 19_000;
/// Over HTTP/2, and over TLS.
const FEWER: usize = 4_000;
/// The part of them that may be one tenant's WebSockets: less than an eighth, as the kernel does not divide them evenly among
/// threads.
const WEBSOCKETS_PART: usize = 10;
const WEBSOCKETS: usize = CLEAR / WEBSOCKETS_PART;
/// Open files of each process beside the crowd, of 20,000: the other tenants', the cells', and those that a router keeps for cells.
const OTHER_FILES: u64 = 1_600;
/// Connections that are opened at a time: each asks a cell for a page.
const AT_A_TIME: usize = 128;
/// How long they lie idle.
const IDLE_MS: u64 = 3_000;
/// What an idle connection may cost in clear, over HTTP/2, over TLS, and as a WebSocket with its connection to the cell.
const CLEAR_MAX_KIB: f64 = 48.0;
const HTTP2_MAX_KIB: f64 = 48.0;
const TLS_MAX_KIB: f64 = 64.0;
const WEBSOCKET_MAX_KIB: f64 = 25.0;

const PATIENT: &str = "connections: {head_ms: 600000, opening_ms: 60000, idle_ms: 600000}\n";

/// How they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1 in clear.
    Clear,
    /// HTTP/2 in clear.
    Http2,
    /// HTTP/1.1 over TLS.
    Tls,
    /// A WebSocket in clear.
    WebSocket,
}

#[expect(clippy::large_enum_variant, reason = "nearly all of them are of one kind")]
enum Member {
    Clear { _tcp: TcpStream },
    Tls { _tls: TlsStream<TcpStream> },
}

/// Opens as many as open files allow, and lets them lie.
pub async fn idle(scale: Scale, kind: Kind) -> Row {
    let allowed = usize::try_from(raise_open_files().saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
    let (full, max_kib) = match kind {
        Kind::Clear => (CLEAR, CLEAR_MAX_KIB),
        Kind::Http2 => (FEWER, HTTP2_MAX_KIB),
        Kind::Tls => (FEWER, TLS_MAX_KIB),
        Kind::WebSocket => (WEBSOCKETS, WEBSOCKET_MAX_KIB),
    };
    let allowed = if kind == Kind::WebSocket { allowed / WEBSOCKETS_PART } else { allowed };
    let count = scale.of(full).min(allowed);
    let cell = Cell::start(if kind == Kind::WebSocket { Manner::Opens } else { Manner::Whole }).await;
    let dir = tempfile::tempdir().expect("a directory");
    let tls = (kind == Kind::Tls).then(|| certificates(dir.path()));
    let https = tls.as_ref().map_or("", |(lines, _)| lines);
    let needs = Needs { hostile: vec![cell.address], config: format!("{PATIENT}{https}"), ..Needs::default() };
    let ground = Ground::prepare(scale, needs).await;
    let address = if kind == Kind::Tls { ground.router.https_address() } else { ground.address() };
    let connector = tls.map(|(_, config)| TlsConnector::from(config));
    ground
        .under(&format!("idle, {kind:?}").to_lowercase(), async |ground| {
            let begun = Instant::now();
            let (members, failed) = gather(address, count, kind, connector).await;
            let took = begun.elapsed();
            tokio::time::sleep(Duration::from_millis(IDLE_MS)).await;
            let (open, files) = (members.len(), open_files(ground.router.process.id()));
            let each = ground.grown_kib() as f64 / open.max(1) as f64;
            let done = format!(
                "{open} connections of {} addresses, opened in {:.1} s, idle after one answer",
                count.div_ceil(PER_ADDRESS),
                took.as_secs_f64()
            );
            let bounds = vec![
                Bound::new(
                    format!("{failed} of {count} failed to open (none); the router has {files} files open"),
                    failed == 0,
                ),
                Bound::new(format!("an idle connection costs {each:.1} KiB (at most {max_kib} KiB)"), each <= max_kib),
            ];
            (Shown { done, connections: Some(open), bounds, ..Shown::default() }, (members, cell, dir))
        })
        .await
}

/// Raises the soft limit of open files to the hard one, for this process and what it starts, and says what it is.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

async fn gather(
    address: SocketAddr,
    count: usize,
    kind: Kind,
    connector: Option<TlsConnector>,
) -> (Vec<Member>, usize) {
    let (mut members, mut failed, mut opening) = (Vec::with_capacity(count), 0, JoinSet::new());
    for number in 0..count {
        while opening.len() >= AT_A_TIME {
            take(opening.join_next().await, &mut members, &mut failed);
        }
        opening.spawn(open(address, number / PER_ADDRESS, kind, connector.clone()));
    }
    while let Some(opened) = opening.join_next().await {
        take(Some(opened), &mut members, &mut failed);
    }
    (members, failed)
}

fn take(
    opened: Option<Result<io::Result<Member>, tokio::task::JoinError>>,
    members: &mut Vec<Member>,
    failed: &mut usize,
) {
    match opened {
        Some(Ok(Ok(member))) => members.push(member),
        Some(_) => *failed += 1,
        None => {}
    }
}

async fn open(address: SocketAddr, from: usize, kind: Kind, connector: Option<TlsConnector>) -> io::Result<Member> {
    let mut tcp = connect(address, from).await?;
    if let Some(connector) = connector {
        let name = ServerName::try_from(hostile_host(0)).map_err(io::Error::other)?;
        let mut tls = connector.connect(name, tcp).await?;
        ask(&mut tls).await?;
        return Ok(Member::Tls { _tls: tls });
    }
    if kind == Kind::Http2 {
        let host = hostile_host(0);
        let fields = [(":method", "GET"), (":scheme", "http"), (":authority", &host), (":path", "/")];
        tcp.write_all(&[PREFACE, &settings(&[(1, 0)]), &headers(1, true, &block(&fields))].concat()).await?;
        until(&mut tcp, host.as_bytes()).await?;
    } else if kind == Kind::WebSocket {
        let host = hostile_host(0);
        let opening = format!(
            "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        tcp.write_all(opening.as_bytes()).await?;
        if !until(&mut tcp, b"\r\n\r\n").await?.starts_with(b"HTTP/1.1 101") {
            return Err(io::Error::other("no WebSocket"));
        }
    } else {
        tcp.write_all(request().as_bytes()).await?;
        read_answer(&mut tcp).await?;
    }
    Ok(Member::Clear { _tcp: tcp })
}

fn request() -> String {
    format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", hostile_host(0))
}

async fn ask(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    io.write_all(request().as_bytes()).await?;
    until(io, hostile_host(0).as_bytes()).await.map(drop)
}

async fn until(io: &mut (impl AsyncRead + Unpin), end: &[u8]) -> io::Result<Vec<u8>> {
    let mut came = Vec::new();
    while !came.ends_with(end) {
        if io.read_buf(&mut came).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(came)
}

/// A CA and a certificate, the router's lines for it, and what a client trusts.
fn certificates(dir: &Path) -> (String, Arc<rustls::ClientConfig>) {
    let cli = |args: &[&str]| {
        let made = Command::new(crate::binary()).args(["ca", "--dir"]).arg(dir).args(args).output().expect("it runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    cli(&["init"]);
    cli(&["issue", "server", "*.cells.localhost"]);
    let lines = format!(
        "tls:\n  certificates:\n    - certificate: {0}/_.cells.localhost.crt\n      key: {0}/_.cells.localhost.key\n",
        dir.display()
    );
    let ca = cellway_api::certificate::read(&dir.join("ca.crt")).expect("a CA");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cellway_api::certificate::chain_in(&ca).expect("a CA").remove(0)).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(cellway_api::certificate::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (lines, Arc::new(config))
}

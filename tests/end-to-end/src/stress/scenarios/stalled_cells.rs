//! Cells that stall at each phase of an exchange.

use super::super::asker::{Came, ask, statuses};
use super::super::cells::{Cell, Manner};
use super::super::ground::{Ground, LIMIT_MS, Needs, Scale, Shown, hostile_host};
use super::super::report::{Bound, Row};
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Requests to each of the cells.
const EACH: usize = 100;
/// A body that no socket's buffers take.
const UPLOAD_BYTES: usize = 32 * 1024 * 1024;
/// How early and how late a deadline may be, in percent; and what a crowd may take beside.
const OFF_PERCENT: u64 = 10;
const SLACK_MS: u64 = 400;
/// How long a request whose cell cannot be reached waits for another.
const HOLD_MS: u64 = 2_000;
/// A connection to a cell that does not answer is given up after this long.
const CONNECT_MS: u64 = 1_000;

/// A phase, the request, and what must come of it when.
struct Stall {
    phase: &'static str,
    manner: Option<Manner>,
    status: Option<u16>,
    within_ms: (u64, u64),
}

fn stalls() -> Vec<Stall> {
    let deadline = (LIMIT_MS - LIMIT_MS * OFF_PERCENT / 100, LIMIT_MS + LIMIT_MS * OFF_PERCENT / 100 + SLACK_MS);
    let at = |phase, manner, status| Stall { phase, manner: Some(manner), status, within_ms: deadline };
    vec![
        Stall {
            phase: "connecting (a full backlog)",
            manner: None,
            status: Some(503),
            within_ms: (CONNECT_MS, CONNECT_MS * 2 + HOLD_MS * 2),
        },
        at("accepting", Manner::Deaf, Some(504)),
        at("before its head", Manner::HeadNever, Some(504)),
        at("within its head", Manner::HeadHalf, Some(504)),
        at("within its body", Manner::BodyStalls, Some(200)),
        // The answer's time begins with the last byte that moved.
        at("at an upload that it does not read", Manner::ReadsNoBody, Some(504)),
    ]
}

/// All phases at once, each in a cell of its own.
pub async fn stalled(scale: Scale) -> Row {
    let full = FullBacklog::start().await;
    let (mut cells, mut hostile) = (Vec::new(), Vec::new());
    for stall in stalls() {
        match stall.manner {
            Some(manner) => {
                let cell = Cell::start(manner).await;
                hostile.push(cell.address);
                cells.push(cell);
            }
            None => hostile.push(full.address),
        }
    }
    let config = format!("hold: {{patience_ms: {HOLD_MS}}}\n");
    let ground = Ground::prepare(scale, Needs { hostile, config, ..Needs::default() }).await;
    ground
        .under("stalled cells", async |ground| {
            let each = scale.of(EACH);
            let mut asked: Vec<JoinSet<Came>> = Vec::new();
            for (number, stall) in stalls().iter().enumerate() {
                let mut of_phase = JoinSet::new();
                let request = Arc::new(request(number, stall));
                for from in 0..each {
                    let (address, request) = (ground.address(), Arc::clone(&request));
                    of_phase.spawn(async move { ask(address, from, &request).await });
                }
                asked.push(of_phase);
            }
            let mut bounds = Vec::new();
            for (stall, of_phase) in stalls().iter().zip(asked) {
                bounds.push(bound(stall, &of_phase.join_all().await));
            }
            let done = format!("{each} requests to each of {} cells that stalled; limits {LIMIT_MS} ms", bounds.len());
            (Shown { done, bounds, ..Shown::default() }, (cells, full))
        })
        .await
}

fn request(number: usize, stall: &Stall) -> Vec<u8> {
    let host = hostile_host(number);
    if stall.manner != Some(Manner::ReadsNoBody) {
        return format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").into_bytes();
    }
    let head = format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: {UPLOAD_BYTES}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + UPLOAD_BYTES, b'x');
    bytes
}

fn bound(stall: &Stall, came: &[Came]) -> Bound {
    let times = came.iter().map(|one| u64::try_from(one.took.as_millis()).unwrap_or(u64::MAX));
    let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
    let (from, to) = stall.within_ms;
    let as_said = came.iter().all(|one| one.status == stall.status && one.whole == (stall.status != Some(200)));
    let what = format!("{}: {} after {first} to {last} ms (between {from} and {to})", stall.phase, statuses(came));
    Bound::new(what, as_said && first >= from && last <= to)
}

/// A listener whose backlog is full: to connect to it is to hear nothing.
struct FullBacklog {
    address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<TcpStream>,
}

impl FullBacklog {
    async fn start() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        listener.listen(0).expect("it listens");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        let mut waiting = Vec::new();
        while let Ok(Ok(tcp)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            waiting.push(tcp);
        }
        Self { address, _listener: listener, _waiting: waiting }
    }
}

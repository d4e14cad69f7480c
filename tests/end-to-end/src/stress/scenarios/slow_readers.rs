//! Clients that ask for large answers and do not take them.

use super::super::cells::{Cell, Manner};
use super::super::crowd::{Crowd, connect};
use super::super::ground::{Ground, LIMIT_MS, Needs, Scale, Shown, hostile_host};
use super::super::report::{Bound, Row};
use cellway_battery::frames::{PREFACE, block, headers, settings, window};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::interval;

/// Each answer: far more than any buffer takes.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Cells of the hostile tenants: the more, the less a single one's bound of connections helps.
pub const CELLS: usize = 8;
/// In which all readers over HTTP/1.1 ask. At one instant it would be a rush of full-speed downloads and measure those.
const ASK_MS: u64 = 1_500;
/// Until everything has filled.
const FILL_MS: u64 = 1_500;
/// Slow readers over HTTP/1.1, and connections over HTTP/2.
const HTTP1_READERS: usize = 1_000;
const HTTP2_READERS: usize = 30;
/// Streams of each: as many as the router allows.
const STREAMS: u32 = 100;
/// What one connection may cost, with all of its requests and their connections to cells.
const CONNECTION_MAX_KIB: f64 = 1_024.0;

/// How an HTTP/2 client does not take its answers.
#[derive(Debug, Clone, Copy)]
pub enum Window {
    /// It opens no stream's window.
    Closed,
    /// It never gives any window back.
    Kept,
    /// It opens all windows and leaves the socket unread.
    Open,
    /// It takes a part of each answer at full speed, then stops.
    Stops,
    /// Like [`Window::Closed`], of gRPC calls, which come on connections to cells that many share.
    Calls,
    /// There are no answers: its cells never begin them.
    Waits,
}

async fn hostile_cells(manner: Manner) -> (Vec<Cell>, Needs) {
    let mut cells = Vec::new();
    for _ in 0..CELLS {
        cells.push(Cell::start(manner).await);
    }
    let hostile = cells.iter().map(|cell| cell.address).collect();
    (cells, Needs { hostile, ..Needs::default() })
}

/// Over HTTP/1.1.
pub async fn over_http1(scale: Scale) -> Row {
    let (cells, needs) = hostile_cells(Manner::Large(ANSWER_BYTES)).await;
    let ground = Ground::prepare(scale, needs).await;
    ground
        .under("slow readers, h1", async |ground| {
            let crowd = Crowd::gather(ground.address(), scale.of(HTTP1_READERS)).await;
            let mut pace = interval(Duration::from_millis(ASK_MS) / scale.of(HTTP1_READERS) as u32);
            for (number, member) in crowd.members.iter().enumerate() {
                pace.tick().await;
                let host = hostile_host(number % CELLS);
                let _ = member.try_write(format!("GET /large HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
            }
            tokio::time::sleep(Duration::from_millis(FILL_MS)).await;
            let count = crowd.members.len();
            let done = format!("{count} connections each asked for {} MiB and read nothing", ANSWER_BYTES >> 20);
            (
                Shown { done, connections: Some(count), bounds: vec![bound(ground, count)], ..Shown::default() },
                (crowd, cells),
            )
        })
        .await
}

/// Over HTTP/2.
pub async fn over_http2(scale: Scale, how: Window) -> Row {
    let manner = match how {
        Window::Waits => Manner::HeadNever,
        Window::Calls => Manner::Calls,
        _ => Manner::Large(ANSWER_BYTES),
    };
    let (cells, needs) = hostile_cells(manner).await;
    let ground = Ground::prepare(scale, needs).await;
    let name = format!("slow readers, h2, {how:?}").to_lowercase();
    ground
        .under(&name, async |ground| {
            let mut readers = Vec::new();
            for number in 0..scale.of(HTTP2_READERS) {
                readers.push(begin(ground.address(), number, how).await);
            }
            if matches!(how, Window::Stops) {
                take_a_part(&mut readers).await;
            }
            tokio::time::sleep(Duration::from_millis(FILL_MS)).await;
            let count = readers.len();
            let done = format!("{count} connections of {STREAMS} streams each, large answers, windows: {how:?}");
            (
                Shown { done, connections: Some(count), bounds: vec![bound(ground, count)], ..Shown::default() },
                (readers, cells),
            )
        })
        .await
}

fn bound(ground: &Ground, count: usize) -> Bound {
    let each = ground.grown_kib() as f64 / count.max(1) as f64;
    let what = format!("one connection costs {each:.0} KiB while it stands (at most {CONNECTION_MAX_KIB} KiB)");
    Bound::new(what, each <= CONNECTION_MAX_KIB)
}

async fn begin(router: SocketAddr, number: usize, how: Window) -> TcpStream {
    let mut tcp = connect(router, number).await.expect("connected");
    let initial = match how {
        Window::Closed | Window::Calls => 0,
        Window::Kept | Window::Waits => 65_535,
        Window::Open | Window::Stops => 0x7fff_ffff,
    };
    let mut bytes = [PREFACE, &settings(&[(1, 0), (4, initial)])].concat();
    if matches!(how, Window::Open | Window::Stops) {
        bytes.extend(window(0, 0x7fff_0000));
    }
    for stream in 0..STREAMS {
        let host = hostile_host((number + stream as usize) % CELLS);
        let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":authority", &host), (":path", "/large")];
        if matches!(how, Window::Calls) {
            fields.extend([("content-type", "application/grpc"), ("te", "trailers")]);
        }
        bytes.extend(headers(stream * 2 + 1, true, &block(&fields)));
    }
    tcp.write_all(&bytes).await.expect("sent");
    tcp
}

/// So many connections of this kind for so long, each replaced as the router ends it; says how many there were.
pub async fn stall_for(router: SocketAddr, count: usize, how: Window, lasts: Duration) -> usize {
    let (until, mut opened) = (Instant::now() + lasts, 0);
    while Instant::now() < until {
        let mut readers = Vec::new();
        for number in 0..count {
            readers.push(begin(router, number, how).await);
        }
        opened += readers.len();
        take_a_part(&mut readers).await;
        tokio::time::sleep(Duration::from_millis(LIMIT_MS).min(until.saturating_duration_since(Instant::now()))).await;
    }
    opened
}

/// Reads on all connections at full speed for a moment, so that whatever grows with speed has grown.
async fn take_a_part(readers: &mut [TcpStream]) {
    let until = Instant::now() + Duration::from_millis(FILL_MS);
    let mut scrap = vec![0; 256 * 1024];
    while Instant::now() < until {
        for tcp in &*readers {
            let _ = tcp.try_read(&mut scrap);
        }
        // The runtime has to look at the sockets again.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

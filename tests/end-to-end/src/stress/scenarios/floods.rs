//! Floods of HTTP/2 frames that carry no request's worth of work.

use super::super::cells::{Cell, Manner};
use super::super::crowd::{connect, is_closed};
use super::super::ground::{Ground, Needs, Scale, Shown, hostile_host};
use super::super::report::{Bound, Row};
use cellway_battery::frames::{
    PREFACE, block, data, flag::END_HEADERS, frame, headers, kind, ping, reset, settings, window,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Clients that flood at a time, each connecting again when it is cut off.
const FLOODERS: usize = 4;
/// Between being cut off and coming again.
const AGAIN_MS: u64 = 20;
/// Within this long a flood must be cut.
const CUT_MS: u64 = 2_000;
/// What is sent at once.
const BATCH_BYTES: usize = 16 * 1024;

/// Kinds of floods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Requests reset at once.
    RapidReset,
    /// PING.
    Ping,
    /// SETTINGS.
    Settings,
    /// DATA without bytes.
    EmptyData,
    /// A head that never ends.
    Continuation,
    /// A small head that unpacks to a large one.
    HpackBomb,
    /// WINDOW_UPDATE by one.
    WindowUpdate,
    /// PRIORITY.
    Priority,
}

impl Flood {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RapidReset,
        Self::Ping,
        Self::Settings,
        Self::EmptyData,
        Self::Continuation,
        Self::HpackBomb,
        Self::WindowUpdate,
        Self::Priority,
    ];

    fn opening(self) -> Vec<u8> {
        let mut bytes = [PREFACE, &settings(&[])].concat();
        match self {
            Self::EmptyData => bytes.extend(headers(1, false, &block(&request("POST")))),
            Self::Continuation => bytes.extend(frame(kind::HEADERS, 0, 1, &block(&request("GET")))),
            _ => {}
        }
        bytes
    }

    /// The frame of this number; of streams, only odd ones are a client's.
    fn frame(self, number: u32) -> Vec<u8> {
        match self {
            Self::RapidReset => {
                let stream = number * 2 + 1;
                [headers(stream, true, &block(&request("GET"))), reset(stream, 8)].concat()
            }
            Self::Ping => ping(&[7; 8]),
            Self::Settings => settings(&[]),
            Self::EmptyData => data(1, false, b""),
            Self::Continuation => frame(kind::CONTINUATION, 0, 1, &block(&[("x-more", "x".repeat(64))])),
            Self::HpackBomb => bomb(number * 2 + 1),
            Self::WindowUpdate => window(0, 1),
            Self::Priority => frame(kind::PRIORITY, 0, number * 2 + 3, &[0, 0, 0, 1, 7]),
        }
    }
}

fn request(method: &str) -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![(":method", text(method)), (":scheme", text("http")), (":authority", hostile_host(0)), (":path", text("/"))]
}

/// A field of 3,000 bytes goes into the table of the peer, and is then named by one byte each, 4,000 times.
fn bomb(stream: u32) -> Vec<u8> {
    let mut bytes = block(&request("GET"));
    let value = vec![b'x'; 3_000];
    // A literal with incremental indexing, a new name of one byte, and a length of two more bytes (RFC 7541, 5.1).
    bytes.extend([0x40, 1, b'x', 127, 0xb9, 0x16]);
    bytes.extend(value);
    bytes.extend(vec![0x80 | 62; 4_000]);
    frame(kind::HEADERS, END_HEADERS | 1, stream, &bytes)
}

/// What came of the connections of a flood.
#[derive(Debug, Default)]
pub struct Cut {
    connections: usize,
    uncut: usize,
    longest: Duration,
    bytes_most: usize,
}

/// One flood.
pub async fn flood(scale: Scale, flood: Flood) -> Row {
    let cell = Cell::start(Manner::Whole).await;
    let ground = Ground::prepare(scale, Needs { hostile: vec![cell.address], ..Needs::default() }).await;
    ground
        .under(&format!("flood: {flood:?}"), async |ground| {
            let cut = rage(ground.address(), &[flood], scale.attack).await;
            let done = format!(
                "{FLOODERS} clients flooded for {} s, over {} connections",
                scale.attack.as_secs(),
                cut.connections
            );
            (Shown { done, bounds: vec![cut.bound()], ..Shown::default() }, cell)
        })
        .await
}

impl Cut {
    /// That all were cut off in time.
    pub fn bound(&self) -> Bound {
        let what = format!(
            "all were cut off: {} not; the slowest after {} ms and {} KiB (within {CUT_MS} ms)",
            self.uncut,
            self.longest.as_millis(),
            self.bytes_most / 1024
        );
        Bound::new(what, self.connections > 0 && self.uncut == 0)
    }
}

/// Floods in turn for so long.
pub async fn rage(router: SocketAddr, floods: &[Flood], lasts: Duration) -> Cut {
    let (until, mut flooders) = (Instant::now() + lasts, JoinSet::new());
    for number in 0..FLOODERS {
        let floods = floods.to_vec();
        flooders.spawn(async move {
            let mut cut = Cut::default();
            while Instant::now() < until {
                let flood = floods[cut.connections % floods.len()];
                cut.connections += 1;
                let begun = Instant::now();
                let Ok(tcp) = connect(router, number).await else { continue };
                let (sent, ended) = pour(tcp, flood).await;
                cut.uncut += usize::from(!ended);
                cut.longest = cut.longest.max(begun.elapsed());
                cut.bytes_most = cut.bytes_most.max(sent);
                tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
            }
            cut
        });
    }
    let mut all = Cut::default();
    while let Some(cut) = flooders.join_next().await {
        let cut = cut.expect("a flooder does not panic");
        all.connections += cut.connections;
        all.uncut += cut.uncut;
        all.longest = all.longest.max(cut.longest);
        all.bytes_most = all.bytes_most.max(cut.bytes_most);
    }
    all
}

/// Floods until it is cut off; says how much was sent, and whether it was cut off.
async fn pour(mut tcp: TcpStream, flood: Flood) -> (usize, bool) {
    let (mut batch, mut number, mut sent) = (flood.opening(), 0, 0);
    let poured = timeout(Duration::from_millis(CUT_MS), async {
        loop {
            while batch.len() < BATCH_BYTES {
                batch.extend(flood.frame(number));
                number += 1;
            }
            if tcp.write_all(&batch).await.is_err() || is_closed(&tcp) {
                return;
            }
            sent += batch.len();
            batch.clear();
        }
    });
    let ended = poured.await.is_ok();
    (sent, ended)
}

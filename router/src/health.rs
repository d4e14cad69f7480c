//! Knocks at every endpoint of every cell now and then, so that one that is away is tried last before a request finds
//! out. It only orders: what nobody else can serve is still sent there. But who waits for an answer of an endpoint that says
//! nothing at all, not even that it refuses, waits in vain: its host is gone, or the way there.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cellway_machine::TcpStream;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// How often each endpoint is knocked at.
pub const KNOCK_EVERY_MS: u64 = 5_000;
/// How long it may take to open.
const KNOCK_MS: u64 = 1_000;
/// Knocks in vain, one after the other, after which it counts as away.
const KNOCKS_IN_VAIN: u32 = 2;
/// Knocks at a time.
const KNOCKS_AT_ONCE: usize = 64;

/// What came of a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knock {
    Opened,
    /// There is somebody, who does not open: a process that drains, or has ended.
    Refused,
    Silent,
}

/// The endpoints that are away.
#[derive(Default)]
pub(crate) struct Health {
    /// With what came of the last knock.
    away: papaya::HashMap<SocketAddr, Knock>,
    count: AtomicUsize,
}

impl Health {
    /// Whether an endpoint is known to be away.
    pub(crate) fn is_away(&self, endpoint: SocketAddr) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.away.pin().contains_key(&endpoint)
    }

    /// Whether an endpoint is away and nothing is heard of it.
    pub(crate) fn is_silent(&self, endpoint: SocketAddr) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.away.pin().get(&endpoint) == Some(&Knock::Silent)
    }

    /// Sets what an endpoint that is away says; `None`: it is not away.
    fn set(&self, endpoint: SocketAddr, says: Option<Knock>) {
        let pinned = self.away.pin();
        let away = says.is_some();
        let changed = match says {
            Some(knock) => pinned.insert(endpoint, knock).is_none(),
            None => pinned.remove(&endpoint).is_some(),
        };
        if !changed {
            return;
        }
        if away {
            self.count.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%endpoint, "an endpoint is away; it is tried last");
        } else {
            self.count.fetch_sub(1, Ordering::Relaxed);
            tracing::info!(%endpoint, "an endpoint is back");
        }
    }
}

/// Knocks each `every_ms` until `stop` fires; the first time after one such pause.
pub(crate) async fn watch(shared: Arc<Shared>, every_ms: u64, stop: CancellationToken) {
    let mut in_vain: HashMap<SocketAddr, u32> = HashMap::new();
    let every = Duration::from_millis(every_ms);
    let mut tick = interval_at(Instant::now() + every, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let endpoints = shared.table.endpoints();
        let knocks =
            stream::iter(endpoints.iter().copied()).map(|endpoint| async move { (endpoint, knock(endpoint).await) });
        let heard: Vec<_> = knocks.buffer_unordered(KNOCKS_AT_ONCE).collect().await;
        let mut next = HashMap::new();
        for (endpoint, knock) in heard {
            let opened = knock == Knock::Opened;
            let vain = if opened { 0 } else { in_vain.get(&endpoint).map_or(1, |vain| vain + 1) };
            shared.health.set(endpoint, (vain >= KNOCKS_IN_VAIN).then_some(knock));
            next.insert(endpoint, vain);
        }
        for endpoint in in_vain.keys().filter(|endpoint| !next.contains_key(*endpoint)) {
            shared.health.set(*endpoint, None);
        }
        in_vain = next;
        shared
            .metrics
            .endpoints_away
            .set(i64::try_from(shared.health.count.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
    }
}

async fn knock(endpoint: SocketAddr) -> Knock {
    match timeout(Duration::from_millis(KNOCK_MS), TcpStream::connect(endpoint)).await {
        Ok(Ok(_)) => Knock::Opened,
        Ok(Err(error)) if !matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::TimedOut) => Knock::Refused,
        _ => Knock::Silent,
    }
}

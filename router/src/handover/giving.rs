//! The router that ends: it passes its listeners, and drains once another one serves.

use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use cellway_proxy::Copies;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::HandoverConfig;
use super::post::Post;
use super::wire::{FromPredecessor, FromSuccessor, LINE_MS, Speaker, Wire};
use crate::drain::{Drain, Predecessor};
use crate::shared::Shared;

/// Between two looks at how the drain goes.
const LOOK_MS: u64 = 50;
/// Between two reports of it.
const REPORT_MS: u64 = 500;
/// Drains in one report, those of earlier routers included.
const PREDECESSORS_MAX: usize = 16;
/// How long a snapshot that is being written is waited for before the other router may write its own.
const SNAPSHOT_MS: u64 = 5_000;

/// A router that can be replaced.
pub(super) struct Giving {
    config: HandoverConfig,
    post: Post,
    copies: Vec<Copies>,
}

/// The one that serves in our place.
pub(super) struct Successor {
    wire: Wire,
    process: u32,
    /// What it accepts from.
    addresses: Vec<SocketAddr>,
}

impl Giving {
    pub(super) fn new(config: HandoverConfig, post: Post, copies: Vec<Copies>) -> Self {
        Self { config, post, copies }
    }

    /// Waits until another router serves. One that dies or is not ready in time changes nothing.
    pub(super) async fn until_replaced(&mut self) -> Successor {
        loop {
            let asking = self.post.accept().await;
            let mut replaced = pin!(self.offer(asking));
            let result = loop {
                tokio::select! {
                    result = replaced.as_mut() => break result,
                    other = self.post.accept() => {
                        refuse(other, "another router is taking over at this moment; wait until it serves, or end it");
                    }
                }
            };
            match result {
                Ok(successor) => return successor,
                Err(error) => tracing::warn!("the handover came to nothing, this router goes on: {error:#}"),
            }
        }
    }

    async fn offer(&self, mut wire: Wire) -> anyhow::Result<Successor> {
        let hello = timeout(Duration::from_millis(LINE_MS), wire.receive()).await;
        let hello = hello.context("who asked for the listeners said nothing")?.context("who asked cannot be read")?;
        let Some(FromSuccessor::Hello(speaker)) = hello else { bail!("who asked for the listeners has gone") };
        if let Err(why) = speaker.check() {
            wire.send(&FromPredecessor::Refused(why.clone())).await.context("who asked cannot be told why not")?;
            bail!(why);
        }
        let process = speaker.process;
        let with_address = |copies: &Copies| vec![copies.address(); copies.sockets().len()];
        let sockets: Vec<SocketAddr> = self.copies.iter().flat_map(with_address).collect();
        let handles: Vec<&TcpListener> = self.copies.iter().flat_map(Copies::sockets).collect();
        let offer = FromPredecessor::Offer { from: Speaker::this(), sockets };
        wire.send_with(&offer, &handles).await.with_context(|| format!("process {process} does not take them"))?;
        let ready_ms = self.config.ready_ms;
        tracing::info!(process, version = speaker.version, listeners = handles.len(), "listeners passed, serving on");
        match timeout(Duration::from_millis(ready_ms), wire.receive()).await {
            Ok(Ok(Some(FromSuccessor::Serving { addresses }))) => Ok(Successor { wire, process, addresses }),
            Ok(Ok(Some(FromSuccessor::Hello(_)))) => bail!("process {process} speaks out of turn"),
            Ok(Ok(None)) => bail!("process {process} ended before it served"),
            Ok(Err(error)) => Err(error).with_context(|| format!("process {process} cannot be understood")),
            Err(_) => {
                let why = format!("process {process} did not serve within {ready_ms} ms (`handover_ready_ms`)");
                if let Err(error) = wire.send(&FromPredecessor::Withdrawn(why.clone())).await {
                    tracing::debug!(%error, "it cannot be told");
                }
                bail!(why)
            }
        }
    }

    /// Stops to accept, and tells the other one how the drain goes. Fires `stop` when nothing but tunnels is left, or
    /// when connections have been idle long enough. Never returns: the drain ends with the last connection.
    pub(super) async fn drain(
        self,
        successor: Successor,
        shared: &Shared,
        drain_ms: u64,
        shutdown: &CancellationToken,
        stop: &CancellationToken,
    ) {
        let Self { config: HandoverConfig { delay_ms, .. }, post, copies } = self;
        let Successor { wire, process, addresses } = successor;
        let connections = shared.connections();
        tracing::info!(process, connections, delay_ms, drain_ms, "another router serves, draining");
        shared.drains_for(Duration::from_millis(delay_ms.saturating_add(drain_ms)));
        for copies in copies {
            let lives_on = addresses.contains(&copies.address());
            copies.give_away(lives_on);
        }
        if timeout(Duration::from_millis(SNAPSHOT_MS), shared.may_save(false)).await.is_err() {
            tracing::warn!("the snapshot that is being written takes long; not waiting for it");
        }
        let mut reports = Reports { wire: Some(wire), next: Instant::now() };
        let (begun, delay) = (Instant::now(), Duration::from_millis(delay_ms));
        let mut tick = interval(Duration::from_millis(LOOK_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            reports.tell(shared).await;
            tokio::select! {
                _ = tick.tick() => {}
                other = post.accept() => refuse(other, "this router has been replaced already; ask again"),
            }
            let over = shutdown.is_cancelled() || begun.elapsed() >= delay || shared.connections() == 0;
            if over && !stop.is_cancelled() {
                shared.drains_for(Duration::from_millis(drain_ms));
                stop.cancel();
            }
        }
    }
}

/// Tells who asks why not, in its own time.
fn refuse(mut asking: Wire, why: &'static str) {
    tokio::spawn(async move {
        let told = async {
            let _ = asking.receive::<FromSuccessor>().await;
            let _ = asking.send(&FromPredecessor::Refused(why.to_owned())).await;
        };
        if timeout(Duration::from_millis(LINE_MS), told).await.is_err() {
            tracing::debug!("who asked for the listeners said nothing");
        }
    });
    tracing::warn!(why, "listeners are asked for, and refused");
}

/// What the other one is told, as long as it listens.
struct Reports {
    wire: Option<Wire>,
    next: Instant,
}

impl Reports {
    async fn tell(&mut self, shared: &Shared) {
        if Instant::now() < self.next {
            return;
        }
        let (Some(wire), Some(drain)) = (&self.wire, shared.drain()) else { return };
        self.next = Instant::now() + Duration::from_millis(REPORT_MS);
        let mut drains = vec![this(drain)];
        drains.extend(shared.predecessors.lock().iter().cloned());
        drains.truncate(PREDECESSORS_MAX);
        if let Err(error) = wire.send(&FromPredecessor::Draining(drains)).await {
            tracing::debug!(%error, "the router that serves is not told any more how the drain goes");
            self.wire = None;
        }
    }
}

fn this(drain: Drain) -> Predecessor {
    Predecessor { process: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned(), drain }
}

//! The router that starts: it gets the listeners of the one that runs, and says when it serves.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cellway_proxy::Listeners;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::HandoverConfig;
use super::wire::{FromPredecessor, FromSuccessor, LINE_MS, Speaker, Wire};
use crate::drain::Predecessor;
use crate::shared::Shared;

/// How long the one that runs may take to answer.
const ANSWER_MS: u64 = 10_000;
/// How long routes that come from a snapshot may take to get in step with their source before they are served: the one
/// that runs is in step, mostly.
const IN_STEP_MS: u64 = 5_000;
/// Between two looks whether this router is ready.
const LOOK_MS: u64 = 10;
/// How long a drain is shown of which nothing is heard.
const SILENCE_MS: u64 = 5_000;

/// Listeners that were passed.
#[derive(Default)]
pub(crate) struct Passed {
    sockets: Vec<TcpListener>,
    taken: Vec<SocketAddr>,
}

impl Passed {
    fn of(sockets: Vec<TcpListener>) -> Self {
        Self { sockets, taken: Vec::new() }
    }

    /// Listeners on `address`: those that were passed, or new ones.
    pub(crate) fn listeners(&mut self, address: SocketAddr, threads: usize) -> io::Result<Listeners> {
        let is_there = |socket: &mut TcpListener| socket.local_addr().is_ok_and(|there| there == address);
        let passed: Vec<TcpListener> = self.sockets.extract_if(.., is_there).collect();
        if passed.is_empty() {
            return cellway_proxy::bind(address, threads);
        }
        self.taken.push(address);
        Listeners::adopt(address, passed, threads)
    }
}

/// A takeover that has begun: the one before goes on until it is told that this router serves.
pub(super) struct Taking {
    wire: Wire,
    from: Speaker,
    taken: Vec<SocketAddr>,
    asked: Instant,
    ready_ms: u64,
}

/// Asks the one that runs for its listeners. `None`: nobody runs.
pub(super) async fn ask(config: &HandoverConfig) -> anyhow::Result<Option<(Taking, Passed)>> {
    let path = config.path.display();
    let connecting = timeout(Duration::from_millis(LINE_MS), UnixStream::connect(&config.path)).await;
    let stream = match connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            tracing::info!(%path, "no router runs that could be replaced");
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot ask the router at {path} for its listeners")),
    };
    let mut wire = Wire::new(stream);
    let is_trusted = wire.is_of_our_user().with_context(|| format!("cannot tell who listens at {path}"))?;
    ensure!(
        is_trusted || rustix::process::geteuid().is_root(),
        "what listens at {path} belongs to another user: its listeners are not taken"
    );
    wire.send(&FromSuccessor::Hello(Speaker::this()))
        .await
        .with_context(|| format!("the router at {path} does not listen to who asks for its listeners"))?;
    let answer = timeout(Duration::from_millis(ANSWER_MS), wire.receive()).await;
    let answer = answer
        .with_context(|| format!("the router at {path} does not answer within {ANSWER_MS} ms: continue or end it"))?;
    match answer.with_context(|| format!("what the router at {path} answers cannot be read"))? {
        Some(FromPredecessor::Offer { from, sockets }) => taken(config, wire, from, &sockets).map(Some),
        Some(FromPredecessor::Refused(why) | FromPredecessor::Withdrawn(why)) => {
            bail!("the router at {path} does not hand over: {why}")
        }
        Some(FromPredecessor::Draining(_)) => bail!("the router at {path} hands over out of turn"),
        None => {
            tracing::warn!(%path, "the router that ran has just ended");
            Ok(None)
        }
    }
}

fn taken(
    config: &HandoverConfig,
    mut wire: Wire,
    from: Speaker,
    told: &[SocketAddr],
) -> anyhow::Result<(Taking, Passed)> {
    from.check().map_err(anyhow::Error::msg)?;
    let sockets: Vec<TcpListener> = wire.sockets().into_iter().map(TcpListener::from).collect();
    let (process, path) = (from.process, config.path.display());
    ensure!(
        sockets.len() == told.len(),
        "process {process} at {path} names {} listeners and passes {}: is this process out of file descriptors?",
        told.len(),
        sockets.len()
    );
    tracing::info!(process, version = from.version, listeners = sockets.len(), "the listeners of a router were passed");
    let taking = Taking { wire, from, taken: Vec::new(), asked: Instant::now(), ready_ms: config.ready_ms };
    Ok((taking, Passed::of(sockets)))
}

impl Taking {
    /// All listeners of this router are there.
    pub(super) fn took(&mut self, passed: Passed) {
        let left = passed.sockets.len();
        if left > 0 {
            tracing::info!(left, "listeners that were passed and are not in the configuration are closed");
        }
        self.taken = passed.taken;
    }

    /// Waits until this router is ready. `None`: the one before has died, and this one goes on alone.
    pub(super) async fn until_ready(
        mut self,
        shared: &Shared,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let (process, ready_ms) = (self.from.process, self.ready_ms);
        let in_time = sleep(Duration::from_millis(ready_ms).saturating_sub(self.asked.elapsed()));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => bail!("asked to end before it was ready; process {process} goes on serving"),
            word = self.wire.receive() => return self.is_going_on(word).map(|()| None),
            () = is_ready(shared) => {}
            () = in_time => bail!(
                "no routes within {ready_ms} ms: process {process} goes on serving; is the source of the routes there?"
            ),
        }
        tracing::info!(process, revision = shared.revision().0, "ready to serve in the place of another router");
        Ok(Some(self))
    }

    /// What a word means that comes before this router serves.
    fn is_going_on(&self, word: io::Result<Option<FromPredecessor>>) -> anyhow::Result<()> {
        let process = self.from.process;
        match word {
            Ok(Some(FromPredecessor::Withdrawn(why) | FromPredecessor::Refused(why))) => {
                bail!("process {process} goes on serving: {why}")
            }
            Ok(Some(_)) => bail!("process {process} hands over out of turn"),
            Ok(None) => tracing::warn!(process, "the router that ran has ended; going on alone"),
            Err(error) => tracing::warn!(process, %error, "the router that ran is not heard any more; going on alone"),
        }
        Ok(())
    }

    /// Says that this router serves. What drains then; nothing if the one before has died.
    pub(super) async fn serve(mut self) -> anyhow::Result<Option<Draining>> {
        let process = self.from.process;
        tracing::info!(process, "serving in the place of another router, which is told");
        if let Err(error) = self.wire.send(&FromSuccessor::Serving { addresses: self.taken.clone() }).await {
            tracing::debug!(%error, "the router that ran cannot be told");
        }
        match timeout(Duration::from_millis(ANSWER_MS), self.wire.receive()).await {
            Ok(Ok(Some(FromPredecessor::Draining(drains)))) => {
                tracing::info!(process, "the router that ran drains");
                Ok(Some(Draining { wire: self.wire, process, drains }))
            }
            Ok(word) => self.is_going_on(word).map(|()| None),
            // It was told: when it runs again, it reads that first.
            Err(_) => {
                tracing::warn!(process, "the router that ran does not move; going on alone");
                Ok(None)
            }
        }
    }
}

async fn is_ready(shared: &Shared) {
    let asked = Instant::now();
    let is_late = || asked.elapsed() >= Duration::from_millis(IN_STEP_MS);
    while !(shared.is_synced() || (shared.is_loaded() && is_late())) {
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

/// The one before, as long as it drains.
pub(super) struct Draining {
    wire: Wire,
    process: u32,
    drains: Vec<Predecessor>,
}

impl Draining {
    /// Shows how the drain goes, until it is over.
    pub(super) async fn follow(self, shared: Arc<Shared>) {
        let Self { mut wire, process, drains } = self;
        *shared.predecessors.lock() = drains;
        loop {
            let heard = timeout(Duration::from_millis(SILENCE_MS), wire.receive()).await;
            match heard {
                Ok(Ok(Some(FromPredecessor::Draining(drains)))) => *shared.predecessors.lock() = drains,
                Err(_) => shared.predecessors.lock().clear(),
                Ok(_) => break,
            }
        }
        shared.predecessors.lock().clear();
        tracing::info!(process, "the router that ran has ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    #[test]
    fn what_was_passed_is_taken_what_is_missing_is_opened_and_the_rest_is_closed() {
        let ((one, kept), (other, closed)) = (listener(), listener());
        let (free, missing) = listener();
        drop(free);
        let mut passed = Passed::of(vec![one, other]);
        let taken = passed.listeners(kept, 3).expect("taken");
        assert_eq!((taken.local_addr(), taken.threads()), (kept, 3));
        let opened = passed.listeners(missing, 2).expect("opened");
        assert_eq!((opened.local_addr(), opened.threads()), (missing, 2));
        assert_eq!(passed.taken, [kept], "only that goes on being accepted from");
        assert!(passed.listeners(kept, 1).is_err(), "one address is not taken twice");
        drop(passed);
        TcpListener::bind(closed).expect("nobody listens there any more");
    }
}

//! A router between two tenants, each alone in a cell that records every byte.

use std::net::SocketAddr;
use std::time::Duration;

use cellway_core::hostname::Hostname;
use cellway_core::ids::Revision;
use cellway_router::feed::lines;
use cellway_router::{FeedEvent, FeedSource, Router, RouterConfig};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backend::{Backend, Ended, Recording};
use crate::client::{Client, PATIENCE};
use crate::peer::{self, Peer};
use crate::wire;

/// The base domain of all tenants.
pub const BASE: &str = "cells.localhost";
/// How long a router may take to cut off a request that its client has broken off.
const CUT_PATIENCE: Duration = Duration::from_secs(1);

/// The router, the cell of `acme` and the cell of `beta`.
pub struct World {
    /// Where clients reach the router.
    pub address: SocketAddr,
    /// Where `acme` lives.
    pub acme: Backend,
    /// Where `beta` lives.
    pub beta: Backend,
    /// A connection on which `beta` asks now and then, and which nothing may disturb.
    bystander: tokio::sync::Mutex<(Client, usize)>,
    asked: Mutex<usize>,
    _front: Front,
}

/// What stands in front of the cells.
enum Front {
    Router { _shutdown: DropGuard, _task: JoinHandle<()>, _events: mpsc::Sender<FeedEvent> },
    Peer(#[expect(dead_code, reason = "lives as long as its world")] Peer),
}

impl World {
    /// Starts a router with one thread, so that all connections to a cell are in one pool; or the [`peer`] that is
    /// asked for.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with a configuration of one's own.
    pub async fn start_with(adapt: impl FnOnce(&mut RouterConfig)) -> Self {
        let (acme, beta) = (Backend::open("a").await, Backend::open("b").await);
        let (address, front) = match peer::wanted() {
            Some(name) => {
                let peer = Peer::start(&name, &acme, &beta);
                (peer.address, Front::Peer(peer))
            }
            None => start_router(adapt, &routes(&acme, &beta)).await,
        };
        until_served(address).await;
        beta.take();
        let bystander = tokio::sync::Mutex::new((Client::connect(address).await, 0));
        Self { address, acme, beta, bystander, asked: Mutex::new(0), _front: front }
    }

    /// What the cells received since the last call: `acme`'s and `beta`'s requests, each strictly read.
    ///
    /// A request that is not whole has been cut off by now, or soon is.
    pub async fn received(&self) -> Result<(Vec<Received>, Vec<Received>), String> {
        Ok((received(&self.acme).await?, received(&self.beta).await?))
    }

    /// Asks as `beta` on the long-lived connection. A disturbed one is replaced, so that it is told of once.
    async fn ask_as_bystander(&self, path: &str) -> Result<(), String> {
        let mut bystander = self.bystander.lock().await;
        let (client, answers) = &mut *bystander;
        *answers += 1;
        client.send(get("beta", path).as_bytes()).await;
        let answer = client.read(*answers, &[]).await;
        let text = answer.answers.last().map(|answer| answer.text());
        if answer.answers.len() == *answers && text == Some(format!("b|beta|GET {path}|0")) {
            return Ok(());
        }
        *bystander = (Client::connect(self.address).await, 0);
        Err(format!("beta's next request was answered {:?}, {:?}", answer.answers.last(), answer.end))
    }

    /// Asks as both tenants, `beta` on its long-lived connection: says what was disturbed.
    ///
    /// Of a request that is cut off, a part may arrive late at `acme`'s cell, on a connection of its own.
    pub async fn check_bystanders(&self, cut_off: bool) -> Result<(), String> {
        let number = {
            let mut asked = self.asked.lock();
            *asked += 1;
            *asked
        };
        let path = format!("/canary-{number}");
        let mut fresh = Client::connect(self.address).await;
        fresh.send(get("acme", &path).as_bytes()).await;
        let answer = fresh.read(1, &[]).await;
        let text: Vec<String> = answer.answers.iter().map(|answer| answer.text()).collect();
        if text != [format!("a|acme|GET {path}|0")] {
            return Err(format!("acme's next request was answered {answer:?}"));
        }
        self.ask_as_bystander(&path).await?;
        let (acme, beta) = self.received().await?;
        for (seen, who) in [(acme, "acme"), (beta, "beta")] {
            let lines: Vec<&str> = seen.iter().flat_map(|one| one.requests.iter().map(|r| r.line.as_str())).collect();
            let late = |one: &Received| cut_off && who == "acme" && one.requests.is_empty();
            let unfinished: Vec<&Received> = seen.iter().filter(|one| one.unfinished > 0 && !late(one)).collect();
            if lines != [format!("GET {path}")] || !unfinished.is_empty() {
                return Err(format!("with its next request the cell of {who} received {lines:?}, {unfinished:?}"));
            }
        }
        Ok(())
    }
}

async fn start_router(adapt: impl FnOnce(&mut RouterConfig), routes: &str) -> (SocketAddr, Front) {
    let mut config = RouterConfig::new(vec![Hostname::from_text(BASE).unwrap()]);
    config.threads = 1;
    config.serve.drain_ms = 200;
    adapt(&mut config);
    let router = Router::bind(config).unwrap();
    let address = router.local_addr();
    let (events, told) = mpsc::channel(4);
    let shutdown = CancellationToken::new();
    let run = router.run(FeedSource::Events(told), Registry::new(), shutdown.clone());
    let task = tokio::spawn(async move { run.await.unwrap() });
    let contents = lines::parse(routes).unwrap();
    let listing = FeedEvent::Snapshot { contents, unreadable: Vec::new(), revision: Revision(1), cluster: None };
    events.send(listing).await.unwrap();
    (address, Front::Router { _shutdown: shutdown.drop_guard(), _task: task, _events: events })
}

async fn until_served(address: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // A peer may not listen yet.
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            let mut client = Client::connect(address).await;
            client.send(get("beta", "/ready").as_bytes()).await;
            if client.read(1, &[]).await.statuses() == [200] {
                return;
            }
        }
        assert!(Instant::now() < deadline, "nothing serves at {address}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// What came over one connection to a cell.
#[derive(Debug)]
pub struct Received {
    /// Whole requests.
    pub requests: Vec<wire::Request>,
    /// Bytes of one that is not whole.
    pub unfinished: usize,
    /// The bytes as they came.
    pub recording: Recording,
}

async fn received(backend: &Backend) -> Result<Vec<Received>, String> {
    backend.catch_up().await;
    let deadline = Instant::now() + CUT_PATIENCE;
    let under_way = |recording: &Recording| {
        recording.ended == Ended::Not && wire::all(&recording.bytes).is_ok_and(|(_, unfinished)| unfinished > 0)
    };
    while backend.look().iter().any(under_way) {
        if Instant::now() > deadline {
            backend.take();
            return Err(format!("cell {} was left with a request that is neither whole nor cut off", backend.name));
        }
        sleep(Duration::from_millis(1)).await;
    }
    let read = |recording: Recording| {
        let (requests, unfinished) = wire::all(&recording.bytes).map_err(|why| {
            let text = String::from_utf8_lossy(&recording.bytes);
            format!("cell {} received {why}: {:?}", backend.name, text.chars().take(400).collect::<String>())
        })?;
        Ok(Received { requests, unfinished, recording })
    };
    backend.take().into_iter().map(read).collect()
}

fn routes(acme: &Backend, beta: &Backend) -> String {
    let cell = |backend: &Backend| {
        let (name, address) = (backend.name, backend.address);
        format!("{{\"cell\":\"{name}\",\"endpoints\":[\"{address}\"],\"kind\":\"origin\"}}\n")
    };
    let placed = |tenant: &str, cell: &str| format!("{{\"tenant\":\"{tenant}\",\"cell\":\"{cell}\",\"epoch\":1}}\n");
    cell(acme) + &cell(beta) + &placed("acme", "a") + &placed("beta", "b")
}

/// A plain GET.
pub fn get(tenant: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {tenant}.{BASE}\r\n\r\n")
}

//! Clients of the tenants: each sends one request after the other, by any router, and writes down what it was told.

use crate::chance::Chance;
use crate::history::Outcome;
use crate::network::address;
use crate::operator::TENANTS;
use crate::world::{BASE, Host, ROUTER_PORT, Shared};
use bytes::Bytes;
use cellway_machine::TcpStream;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How many there are.
const CLIENTS: u64 = 6;

/// How long one waits for an answer.
const PATIENCE_MS: u64 = 12_000;

/// The pause between two requests, up to.
const PAUSE_MAX_MS: u64 = 80;

/// Asks until it is dropped.
pub(crate) async fn run(shared: &Shared) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn_local(ask(number, shared.clone()));
    }
    while clients.join_next().await.is_some() {}
    Ok(())
}

async fn ask(number: u64, shared: Shared) {
    let mut chance = Chance::of(shared.seed, &format!("client {number}"));
    let mut connections = BTreeMap::new();
    while !shared.history.is_ready() {
        sleep(Duration::from_millis(10)).await;
    }
    loop {
        sleep(Duration::from_millis(chance.within(0..PAUSE_MAX_MS))).await;
        let (tenant, router) = (*chance.one_of(&TENANTS), *chance.one_of(&[1_u8, 2]));
        let Some(id) = shared.history.asks(tenant) else { continue };
        let asking = exchange(&mut connections, router, tenant, id);
        let outcome = match timeout(Duration::from_millis(PATIENCE_MS), asking).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Broken(error.to_string()),
            Err(_) => Outcome::Broken("no answer in time".to_owned()),
        };
        if outcome.is_broken() {
            connections.remove(&router);
        }
        shared.history.is_told(id, outcome);
    }
}

type Connections = BTreeMap<u8, SendRequest<Full<Bytes>>>;

async fn exchange(connections: &mut Connections, router: u8, tenant: &str, id: u64) -> io::Result<Outcome> {
    let mut connection = match connections.remove(&router) {
        Some(connection) if connection.is_ready() => connection,
        _ => connect(router).await?,
    };
    let body = Full::from(format!("request {id}"));
    let host = format!("{tenant}.{BASE}");
    let request = Request::post(format!("/{id}")).header("host", host).body(body).map_err(io::Error::other)?;
    let answer = connection.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    connections.insert(router, connection);
    Ok(Outcome::Answered { status, by: String::from_utf8_lossy(&body).trim().to_owned() })
}

async fn connect(router: u8) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address(Host::Router(router), ROUTER_PORT)).await?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

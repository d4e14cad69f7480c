//! The store feed: the prefix `routes/`, followed by the store's watch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cellway_core::cell::Cell;
use cellway_core::certificate::{CertificateName, SealedCertificate};
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, ClusterId, Revision, TenantId};
use cellway_core::limit::TenantLimits;
use cellway_core::tenant::PlacementRecord;
use cellway_store::records::{HostClaim, Record};
use cellway_store::{Entry, Event, FollowEvent, FollowOptions, Follower, Store, keys};
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use super::FeedEvent;
use crate::table::{CellRoute, Change, Subject, TenantRoute};

/// How long nothing may come before the watch is doubted. The leader's heartbeat comes more often.
pub const SILENCE_MS: u64 = 5_000;
/// Between two questions for the store's id.
const CLUSTER_RETRY_MS: u64 = 1_000;

/// What is a route. The leader's heartbeat is none.
const PREFIXES: [&str; 5] = [keys::PLACEMENTS, keys::HOSTS, keys::CELLS, keys::LIMITS, keys::CERTIFICATES];

/// Tells what the store says, for ever.
pub(super) async fn tell(store: Arc<dyn Store>, events: Sender<FeedEvent>) {
    let options = FollowOptions {
        heartbeat_key: Some(keys::HEARTBEAT.to_owned()),
        silence_limit_ms: Some(SILENCE_MS),
        in_parts: true,
        ..FollowOptions::default()
    };
    let mut follower = Follower::new(Arc::clone(&store), keys::ROUTES, options);
    loop {
        let event = match follower.next().await {
            FollowEvent::Part { entries, begins } => {
                let (contents, unreadable) = routes(&entries);
                FeedEvent::Part { contents, unreadable, begins }
            }
            FollowEvent::Snapshot { entries, revision } => {
                let (contents, unreadable) = routes(&entries);
                FeedEvent::Snapshot { contents, unreadable, revision, cluster: Some(cluster_of(&*store).await) }
            }
            FollowEvent::Batch(batch) => {
                let changes = batch.events.iter().filter_map(change).collect();
                FeedEvent::Changes { changes, revision: batch.revision }
            }
            FollowEvent::Lost { error } => FeedEvent::Lost { reason: chain(&error) },
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// What records say, and what cannot be read of them.
fn routes(entries: &[Entry]) -> (Vec<Change>, Vec<Subject>) {
    let mut contents = Vec::with_capacity(entries.len());
    let mut unreadable = Vec::new();
    for entry in entries {
        match put(&entry.key, &entry.value, entry.mod_revision) {
            Put::Change(change) => contents.push(change),
            Put::Unreadable(subject) => {
                contents.extend(subject.clone().and_then(exists));
                unreadable.extend(subject);
            }
            Put::NotARoute => {}
        }
    }
    (contents, unreadable)
}

/// Asks until there is an answer: without it, a listing cannot be told from one of another cluster.
async fn cluster_of(store: &dyn Store) -> ClusterId {
    loop {
        match store.cluster().await {
            Ok(cluster) => return cluster,
            Err(error) => tracing::warn!(error = chain(&error), "the store does not say which it is"),
        }
        sleep(Duration::from_millis(CLUSTER_RETRY_MS)).await;
    }
}

fn change(event: &Event) -> Option<Change> {
    match event {
        Event::Put(entry) => match put(&entry.key, &entry.value, entry.mod_revision) {
            Put::Change(change) => Some(change),
            Put::Unreadable(subject) => subject.and_then(exists),
            Put::NotARoute => None,
        },
        Event::Delete { key } => match subject(key)? {
            Subject::Tenant(tenant) => Some(Change::TenantRemoved(tenant)),
            Subject::Host(host) => Some(Change::HostRemoved(host)),
            Subject::Cell(cell) => Some(Change::CellRemoved(cell)),
            Subject::Limits(tenant) => Some(Change::LimitsRemoved(tenant)),
            Subject::Certificate(name) => Some(Change::CertificateRemoved(name)),
        },
    }
}

/// What a record says that cannot be read: a tenant whose placement it is exists, and is not answered 404.
fn exists(subject: Subject) -> Option<Change> {
    let Subject::Tenant(tenant) = subject else { return None };
    Some(Change::Tenant { tenant, route: TenantRoute::Unreadable, revision: Revision(0) })
}

enum Put {
    Change(Change),
    /// A record that this version cannot use. Its entry stays as it is.
    Unreadable(Option<Subject>),
    NotARoute,
}

fn put(key: &str, value: &[u8], revision: Revision) -> Put {
    if !PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        return Put::NotARoute;
    }
    let subject = subject(key);
    match subject.clone().ok_or_else(|| "its key names nothing".to_owned()).and_then(|of| decode(of, value, revision)) {
        Ok(change) => Put::Change(change),
        Err(reason) => {
            tracing::error!(key, reason, "a route cannot be read; what was known of it is kept");
            Put::Unreadable(subject)
        }
    }
}

fn subject(key: &str) -> Option<Subject> {
    if let Some(host) = key.strip_prefix(keys::HOSTS) {
        let normal = Hostname::from_text(host).ok()?;
        return (normal.as_str() == host).then_some(Subject::Host(normal));
    }
    if let Some(cell) = key.strip_prefix(keys::CELLS) {
        return CellName::new(cell).ok().map(Subject::Cell);
    }
    if let Some(tenant) = key.strip_prefix(keys::LIMITS) {
        return TenantId::new(tenant).ok().map(Subject::Limits);
    }
    if let Some(name) = key.strip_prefix(keys::CERTIFICATES) {
        return CertificateName::from_key(name).map(Subject::Certificate);
    }
    let tenant = keys::tenant_of_placement(key)?;
    (keys::placement(&tenant) == key).then_some(Subject::Tenant(tenant))
}

fn decode(subject: Subject, value: &[u8], revision: Revision) -> Result<Change, String> {
    match subject {
        Subject::Tenant(tenant) => {
            let route = match PlacementRecord::decode(value).map_err(|error| chain(&error))? {
                PlacementRecord::Gone { epoch } => TenantRoute::Gone { epoch },
                PlacementRecord::Placed(placement) => TenantRoute::Placed {
                    cell: placement.cell.name,
                    uid: Some(placement.cell.uid),
                    epoch: placement.epoch,
                    held: placement.hold.is_some(),
                },
            };
            Ok(Change::Tenant { tenant, route, revision })
        }
        Subject::Host(host) => {
            let claim = HostClaim::decode(value).map_err(|error| chain(&error))?;
            Ok(Change::Host { host, tenant: claim.tenant })
        }
        Subject::Limits(tenant) => {
            let limits = TenantLimits::decode(value).map_err(|error| chain(&error))?;
            Ok(Change::Limits { tenant, limits })
        }
        Subject::Certificate(name) => {
            let sealed = SealedCertificate::decode(value).map_err(|error| chain(&error))?;
            Ok(Change::Certificate { name, sealed: sealed.into() })
        }
        Subject::Cell(name) => {
            let cell = Cell::decode(value).map_err(|error| chain(&error))?;
            if cell.cell.name != name {
                return Err(format!("it is about the cell {}", cell.cell.name));
            }
            Ok(Change::Cell(CellRoute {
                endpoints: endpoints(&name, &cell.endpoints),
                name,
                uid: Some(cell.cell.uid),
                condition: cell.condition,
                kind: cell.kind,
            }))
        }
    }
}

/// One bad endpoint does not take the others away.
fn endpoints(cell: &CellName, texts: &[String]) -> Vec<SocketAddr> {
    let mut endpoints = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse() {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(_) => tracing::error!(%cell, endpoint = text, "an endpoint is no address (ip:port); left out"),
        }
    }
    endpoints
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

//! Follows the store into the view.

use crate::Replica;
use crate::view::View;
use cellway_core::ids::Revision;
use cellway_store::{Entry, Event, FollowEvent, FollowOptions, Follower, keys};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// After this long without any change (the leader's heartbeat is one) the watch is doubted.
const SILENCE_LIMIT_MS: u64 = 5_000;

/// Runs until `shutdown`.
pub(crate) async fn run(replica: Arc<Replica>, shutdown: CancellationToken) {
    let options = FollowOptions {
        heartbeat_key: Some(keys::HEARTBEAT.to_owned()),
        silence_limit_ms: Some(SILENCE_LIMIT_MS),
        ..FollowOptions::default()
    };
    let mut follower = Follower::new(replica.store.clone(), "", options);
    loop {
        let event = tokio::select! {
            event = follower.next() => event,
            () = shutdown.cancelled() => return,
        };
        match event {
            FollowEvent::Snapshot { entries, revision } => {
                let view = listed(&replica, entries, revision);
                tracing::info!(%revision, tenants = view.tenants.len(), "the store is in view");
                replica.view.replace(view);
            }
            // The view is replaced as a whole: parts are not asked for.
            FollowEvent::Part { .. } => {}
            FollowEvent::Batch(batch) => {
                let bad = replica.view.apply(batch.revision, &batch.events);
                replica.metrics.bad_records.inc_by(bad as u64);
            }
            FollowEvent::Lost { error } => tracing::warn!(%error, "the store is out of sight"),
        }
        let (revision, unreadable) = {
            let view = replica.view.read();
            (view.revision, view.unreadable.len())
        };
        replica.metrics.unreadable_records.set(i64::try_from(unreadable).unwrap_or(i64::MAX));
        replica.metrics.view_revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
    }
}

fn listed(replica: &Replica, entries: Vec<Entry>, revision: Revision) -> View {
    let mut view = View { revision, synced: true, ..View::default() };
    for entry in entries {
        let key = entry.key.clone();
        if let Err(error) = view.apply(&Event::Put(entry)) {
            replica.metrics.bad_records.inc();
            tracing::error!(key, %error, "a stored record is ignored");
        }
    }
    view
}

//! How a router learns: one interface, several sources. A source tells events; `follow` applies them to the table,
//! wakes who is held, and keeps the snapshot on disk fresh.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cellway_core::ids::Revision;
use cellway_store::Store;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::snapshot::{self, Snapshot};
use crate::table::{Applied, Change, Subject};

mod file;
pub mod lines;
mod store;

pub use file::POLL_MS as FILE_POLL_MS;
pub use store::SILENCE_MS as STORE_SILENCE_MS;

/// Events that wait to be applied.
const EVENTS_WAITING_MAX: usize = 64;
/// At most this often the snapshot is written, after changes.
pub const SNAPSHOT_EVERY_MS: u64 = 1_000;

/// Where a router's knowledge comes from.
pub enum FeedSource {
    /// A store, followed by its watch.
    Store(Arc<dyn Store>),
    /// A file of JSON lines ([`lines`]), looked at every [`FILE_POLL_MS`].
    File(PathBuf),
    /// Events told by hand: for embedding and for tests.
    Events(mpsc::Receiver<FeedEvent>),
}

/// What a source tells.
#[derive(Debug, Clone)]
pub enum FeedEvent {
    /// Everything there is. What it does not name has vanished.
    Snapshot {
        /// All entries.
        contents: Vec<Change>,
        /// Entries that exist but cannot be read: the table keeps what it knows of them.
        unreadable: Vec<Subject>,
        /// The revision of the listing.
        revision: Revision,
    },
    /// The next changes.
    Changes {
        /// In order. None: the source only shows that it lives.
        changes: Vec<Change>,
        /// Their revision.
        revision: Revision,
    },
    /// The source cannot be reached; it goes on trying.
    Lost {
        /// What went wrong.
        reason: String,
    },
}

/// Follows `source` until `stop` fires, then writes the last snapshot.
pub(crate) async fn follow(source: FeedSource, shared: Arc<Shared>, stop: CancellationToken) {
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    let teller = stop.child_token();
    let _teller_ends_with_us = teller.clone().drop_guard();
    let receiver = match source {
        FeedSource::Events(events) => events,
        FeedSource::Store(store) => {
            tokio::spawn(teller.run_until_cancelled_owned(store::tell(store, sender)));
            receiver
        }
        FeedSource::File(path) => {
            tokio::spawn(teller.run_until_cancelled_owned(file::tell(path, sender)));
            receiver
        }
    };
    let mut keeper = Keeper { saved_version: shared.table.version(), last_event: None, shared };
    keeper.run(receiver, &stop).await;
    keeper.save().await;
}

struct Keeper {
    shared: Arc<Shared>,
    saved_version: u64,
    last_event: Option<Instant>,
}

impl Keeper {
    async fn run(&mut self, mut events: mpsc::Receiver<FeedEvent>, stop: &CancellationToken) {
        let mut tick = interval(Duration::from_millis(SNAPSHOT_EVERY_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv(), if told => match event {
                    Some(event) => self.take(event),
                    None => told = false,
                },
                _ = tick.tick() => {
                    self.save().await;
                    let silence = self.last_event.map_or(-1.0, |at| at.elapsed().as_secs_f64());
                    self.shared.metrics.feed_silence_seconds.set(silence);
                }
            }
        }
    }

    fn take(&mut self, event: FeedEvent) {
        let metrics = &self.shared.metrics;
        match event {
            FeedEvent::Snapshot { contents, unreadable, revision } => {
                let mut named: HashSet<Subject> = unreadable.into_iter().collect();
                named.extend(contents.iter().map(Change::subject));
                let vanished = self.shared.table.vanished(&named);
                contents.into_iter().chain(vanished).for_each(|change| self.shared.apply(change));
                self.reached(revision);
                if !self.shared.set_synced(true) {
                    tracing::info!(revision = revision.0, "the routes are in step with their source");
                }
            }
            FeedEvent::Changes { changes, revision } => {
                changes.into_iter().for_each(|change| self.shared.apply(change));
                self.reached(revision);
            }
            FeedEvent::Lost { reason } => {
                metrics.feed_lost.inc();
                self.shared.set_synced(false);
                tracing::warn!(reason, "the source of the routes is lost; serving what is known");
            }
        }
    }

    fn reached(&mut self, revision: Revision) {
        self.last_event = Some(Instant::now());
        self.shared.set_revision(revision);
        let metrics = &self.shared.metrics;
        metrics.feed_silence_seconds.set(0.0);
        let (tenants, hosts, cells) = self.shared.table.sizes();
        metrics.table_tenants.set(i64::try_from(tenants).unwrap_or(i64::MAX));
        metrics.table_hosts.set(i64::try_from(hosts).unwrap_or(i64::MAX));
        metrics.table_cells.set(i64::try_from(cells).unwrap_or(i64::MAX));
        metrics.table_limits.set(i64::try_from(self.shared.table.limits().len()).unwrap_or(i64::MAX));
    }

    /// Writes the snapshot if anything changed since the last one.
    async fn save(&mut self) {
        let version = self.shared.table.version();
        let Some(path) = self.shared.snapshot_path.clone() else { return };
        if version == self.saved_version || !self.shared.is_loaded() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let saved = tokio::task::spawn_blocking(move || {
            // The revision first: what is applied meanwhile is then newer than the snapshot claims, never older.
            let revision = shared.revision();
            snapshot::save(&path, &Snapshot { revision, contents: shared.table.contents() })
        });
        match saved.await {
            Ok(Ok(())) => self.saved_version = version,
            Ok(Err(error)) => {
                self.shared.metrics.snapshot_failures.inc();
                tracing::warn!(%error, "cannot write the snapshot of the routes");
            }
            Err(_) => tracing::debug!("the runtime ended before the snapshot was written"),
        }
    }
}

impl Shared {
    fn apply(&self, change: Change) {
        let subject = change.subject();
        match self.table.apply(change) {
            Applied::Changed => match subject {
                Subject::Tenant(tenant) => self.holds.tenant_changed(&tenant),
                Subject::Cell(_) => self.holds.cell_changed(),
                Subject::Host(_) | Subject::Limits(_) => {}
            },
            Applied::Same => {}
            Applied::LowerEpoch => {
                self.metrics.epochs_refused.inc();
                tracing::warn!(?subject, "the feed would lower an epoch; ignored");
            }
        }
    }
}

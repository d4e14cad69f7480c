//! How a router learns: one interface, several sources. A source tells events; `follow` applies them to the table,
//! wakes who is held, and keeps the snapshot on disk fresh.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cellway_core::ids::{ClusterId, Revision};
use cellway_store::Store;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::shared::Shared;
use crate::snapshot::{self, Snapshot};
use crate::table::{Applied, Change, Subject};
use crate::tls::StoredCertificates;

mod file;
pub mod guard;
pub mod lines;
pub(crate) mod refused;
mod store;

use guard::Mark;

pub use file::POLL_MS as FILE_POLL_MS;
pub use store::SILENCE_MS as STORE_SILENCE_MS;

/// Events that wait to be applied.
const EVENTS_WAITING_MAX: usize = 64;
/// At most this often the snapshot is written, after changes.
pub const SNAPSHOT_EVERY_MS: u64 = 1_000;
/// How often a source whose routes are refused is asked for all of them again: it may have come right by itself.
pub const RELIST_MS: u64 = 30_000;

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
        /// Whose revision it is, where the source knows.
        cluster: Option<ClusterId>,
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
    let saved_version = Some(shared.table.version());
    let saved_certificates = shared.table.certificates_version();
    let mut keeper = Keeper { saved_version, saved_certificates, last_event: None, refused_at: None, shared };
    keeper.run(source, &stop).await;
    keeper.save().await;
}

/// A source at work. It stops when this is dropped.
struct Telling {
    events: mpsc::Receiver<FeedEvent>,
    _stop: Option<DropGuard>,
}

/// Has the source tell what there is, and every change from then on. `None`: it does so by itself.
fn listen(source: &FeedSource, revision: Revision) -> Option<Telling> {
    let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let stop = CancellationToken::new();
    match source {
        FeedSource::Events(_) => return None,
        FeedSource::Store(store) => {
            let told = store::tell(Arc::clone(store), sender);
            tokio::spawn(stop.clone().run_until_cancelled_owned(told));
        }
        FeedSource::File(path) => {
            let told = file::tell(path.clone(), revision, sender);
            tokio::spawn(stop.clone().run_until_cancelled_owned(told));
        }
    }
    Some(Telling { events, _stop: Some(stop.drop_guard()) })
}

struct Keeper {
    shared: Arc<Shared>,
    /// The table's version in the last snapshot; none if it has to be written whatever the version.
    saved_version: Option<u64>,
    /// The certificates' version in theirs.
    saved_certificates: u64,
    last_event: Option<Instant>,
    refused_at: Option<Instant>,
}

impl Keeper {
    async fn run(&mut self, mut source: FeedSource, stop: &CancellationToken) {
        let mut tick = interval(Duration::from_millis(SNAPSHOT_EVERY_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = Arc::clone(&self.shared);
        let mut telling = match &mut source {
            FeedSource::Events(events) => {
                let (_, none) = mpsc::channel(1);
                Telling { events: std::mem::replace(events, none), _stop: None }
            }
            other => match listen(other, self.shared.revision()) {
                Some(telling) => telling,
                None => return,
            },
        };
        let mut told = true;
        loop {
            let mut again = false;
            tokio::select! {
                () = stop.cancelled() => return,
                event = telling.events.recv(), if told => match event {
                    Some(event) => self.take(event),
                    None => told = false,
                },
                () = shared.refused.word() => again = true,
                _ = tick.tick() => {
                    self.save().await;
                    again = self.refused_at.is_some_and(|at| at.elapsed() >= Duration::from_millis(RELIST_MS));
                    let silence = self.last_event.map_or(-1.0, |at| at.elapsed().as_secs_f64());
                    self.shared.metrics.feed_silence_seconds.set(silence);
                }
            }
            if again && let Some(anew) = listen(&source, self.shared.revision()) {
                self.refused_at = None;
                (telling, told) = (anew, true);
            }
        }
    }

    fn take(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::Snapshot { contents, unreadable, revision, cluster } => {
                let mut named: HashSet<Subject> = unreadable.into_iter().collect();
                named.extend(contents.iter().map(Change::subject));
                let vanished = self.shared.table.vanished(&named);
                if !self.may_apply(cluster.as_ref(), revision, &vanished) {
                    return;
                }
                contents.into_iter().chain(vanished).for_each(|change| self.shared.apply(change));
                self.belongs_to(cluster);
                self.reached(revision);
                if !self.shared.set_synced(true) {
                    tracing::info!(revision = revision.0, "the routes are in step with their source");
                }
            }
            // What follows refused routes is not applied either: it would tell half of a story.
            FeedEvent::Changes { .. } if self.shared.refused.is_refusing() => self.last_event = Some(Instant::now()),
            FeedEvent::Changes { changes, revision } => {
                if self.may_apply(None, revision, &changes) {
                    changes.into_iter().for_each(|change| self.shared.apply(change));
                    self.reached(revision);
                }
            }
            FeedEvent::Lost { reason } => {
                self.shared.metrics.feed_lost.inc();
                self.shared.set_synced(false);
                tracing::warn!(reason, "the source of the routes is lost; serving what is known");
            }
        }
    }

    /// Asks the guard, and an operator's word where there is one. `changes` are those that remove.
    fn may_apply(&mut self, cluster: Option<&ClusterId>, revision: Revision, changes: &[Change]) -> bool {
        let (shared, metrics) = (&self.shared, &self.shared.metrics);
        let removed = |change: &&Change| matches!(change, Change::TenantRemoved(_));
        let drops = changes.iter().filter(removed).count();
        let limits = shared.settings.load().mass_drop;
        // Counting them costs as much as there are: not for every change.
        let tenants = if drops > limits.tenants { shared.table.placed() } else { shared.table.sizes().0 };
        let table = Mark::new(shared.cluster().as_ref(), shared.revision(), tenants);
        let judged = guard::judge(table, Mark::new(cluster, revision, drops), limits);
        let Err(refusal) = judged else {
            self.accepted();
            return true;
        };
        if shared.refused.is_allowed(&refusal) {
            tracing::warn!(%refusal, "routes that were refused are applied on an operator's word");
            self.accepted();
            return true;
        }
        refusal.reasons.iter().for_each(|reason| metrics.feed_refused(*reason));
        shared.set_synced(false);
        if shared.refused.set(refusal.clone()) {
            tracing::error!(
                %refusal,
                "routes are refused; serving what is known. If this is meant: `cellway router accept-routes`"
            );
        }
        self.last_event = Some(Instant::now());
        self.refused_at = Some(Instant::now());
        false
    }

    fn accepted(&mut self) {
        self.shared.refused.clear();
        self.shared.metrics.feed_refusing.set(0);
        self.refused_at = None;
    }

    /// The table is of this cluster. A feed that does not know leaves it as it was.
    fn belongs_to(&mut self, cluster: Option<ClusterId>) {
        if cluster.is_some() && cluster != self.shared.cluster() {
            self.shared.set_cluster(cluster);
            self.saved_version = None;
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

    /// Writes the snapshots in which anything has changed since the last ones. Certificates have one of their own, so
    /// that they are not written again for every change of a tenant.
    async fn save(&mut self) {
        let Some(path) = self.shared.snapshot_path.clone() else { return };
        let shared = Arc::clone(&self.shared);
        let saving = shared.saving.lock().await;
        if !self.shared.is_loaded() || !*saving {
            return;
        }
        let version = self.shared.table.version();
        if self.saved_version != Some(version) {
            let path = path.clone();
            let routes = move |shared: &Shared| {
                // The revision first: what is applied meanwhile is then newer than the snapshot claims, never older.
                let (revision, cluster) = (shared.revision(), shared.cluster());
                snapshot::save(&path, &Snapshot { revision, cluster, contents: shared.table.contents() })
            };
            if self.write(routes).await {
                self.saved_version = Some(version);
            }
        }
        let version = self.shared.table.certificates_version();
        if self.saved_certificates != version {
            let path = snapshot::of_certificates(&path);
            let certificates = move |shared: &Shared| {
                let contents = shared.table.certificates().map(StoredCertificates::contents).unwrap_or_default();
                snapshot::certificates::save(&path, contents)
            };
            if self.write(certificates).await {
                self.saved_certificates = version;
            }
        }
    }

    /// Says whether it was written.
    async fn write(&self, save: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static) -> bool {
        let shared = Arc::clone(&self.shared);
        let saved = cellway_machine::off_thread(move || save(&shared));
        match saved.await {
            Ok(Ok(())) => {
                self.shared.metrics.snapshot_saved();
                return true;
            }
            Ok(Err(error)) => {
                self.shared.metrics.snapshot_failures.inc();
                tracing::warn!(%error, "cannot write the snapshot of the routes");
            }
            Err(_) => tracing::debug!("the runtime ended before the snapshot was written"),
        }
        false
    }
}

impl Shared {
    fn apply(&self, change: Change) {
        let subject = change.subject();
        match self.table.apply(change) {
            Applied::Changed => match subject {
                Subject::Tenant(tenant) => self.holds.tenant_changed(&tenant),
                Subject::Cell(_) => self.holds.cell_changed(),
                Subject::Host(_) | Subject::Limits(_) | Subject::Certificate(_) => {}
            },
            Applied::Same => {}
            Applied::LowerEpoch => {
                self.metrics.epochs_refused.inc();
                tracing::warn!(?subject, "the feed would lower an epoch; ignored");
            }
        }
    }
}

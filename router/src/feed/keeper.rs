//! Who takes what a source tells: asks the guard, changes the table, wakes who is held.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cellway_core::ids::{ClusterId, Revision};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::guard::{self, Mark};
use super::listing::{Checked, FileListing, Unusable};
use super::saving::Saving;
use super::{FeedEvent, FeedSource, RELIST_MS, SNAPSHOT_EVERY_MS, Telling, listen};
use crate::shared::Shared;
use crate::table::{Applied, Change, Listing, Subject};

pub(super) struct Keeper {
    shared: Arc<Shared>,
    saving: Saving,
    last_event: Option<Instant>,
    refused_at: Option<Instant>,
    parts: Option<Parts>,
}

/// The parts of a listing that were told.
struct Parts {
    listing: Listing,
    /// What the table does not say yet. Nothing of it is applied before all of it is judged.
    news: Vec<Change>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let saving = Saving::new(Arc::clone(&shared));
        Self { shared, saving, last_event: None, refused_at: None, parts: None }
    }

    pub(super) async fn run(&mut self, mut source: FeedSource, stop: &CancellationToken) {
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
                    Some(event) => self.take(event, stop).await,
                    None => told = false,
                },
                () = shared.refused.word() => again = true,
                _ = tick.tick() => {
                    self.saving.save().await;
                    again = self.refused_at.is_some_and(|at| at.elapsed() >= Duration::from_millis(RELIST_MS));
                    let silence = self.last_event.map_or(-1.0, |at| at.elapsed().as_secs_f64());
                    self.shared.metrics.feed_silence_seconds.set(silence);
                }
            }
            if again && let Some(anew) = listen(&source, self.shared.revision()) {
                self.refused_at = None;
                (telling, told, self.parts) = (anew, true, None);
            }
        }
    }

    /// Writes the last snapshot.
    pub(super) async fn end(mut self) {
        self.saving.end().await;
    }

    async fn take(&mut self, event: FeedEvent, stop: &CancellationToken) {
        match event {
            FeedEvent::Part { contents, unreadable, begins } => {
                if begins {
                    self.parts = None;
                }
                self.take_part(contents, &unreadable);
            }
            FeedEvent::Snapshot { contents, unreadable, revision, cluster } => {
                self.take_part(contents, &unreadable);
                if let Some(parts) = self.parts.take() {
                    self.take_all(parts, revision, cluster).await;
                }
            }
            FeedEvent::File { path, listing, revision } => {
                let taken = self.take_file(&listing, revision, stop).await;
                listing.set_outcome(!matches!(taken, Err(Unusable::Changed | Unusable::Read(_) | Unusable::Stopped)));
                match taken {
                    Err(Unusable::Changed | Unusable::Stopped) | Ok(()) => {}
                    Err(error) => self.lost(&describe(&path, &error)),
                }
            }
            // What follows refused routes is not applied either: it would tell half of a story.
            FeedEvent::Changes { .. } if self.shared.refused.is_refusing() => self.last_event = Some(Instant::now()),
            FeedEvent::Changes { changes, revision } => {
                let removed = |change: &&Change| matches!(change, Change::TenantRemoved(_));
                if self.may_apply(None, revision, changes.iter().filter(removed).count()) {
                    changes.into_iter().for_each(|change| self.shared.apply(change));
                    self.reached(revision);
                }
            }
            FeedEvent::Lost { reason } => {
                self.parts = None;
                self.lost(&reason);
            }
        }
    }

    fn lost(&self, reason: &str) {
        self.shared.metrics.feed_lost.inc();
        self.shared.set_synced(false);
        tracing::warn!(reason, "the source of the routes is lost; serving what is known");
    }

    /// Of an empty table there is nothing to lose: it takes what it is told at once. Nobody is answered 404 by it before
    /// all is told.
    fn take_part(&mut self, contents: Vec<Change>, unreadable: &[Subject]) {
        let table = &self.shared.table;
        let parts = self.parts.get_or_insert_with(|| Parts { listing: table.begin_listing(), news: Vec::new() });
        let is_loaded = self.shared.is_loaded();
        for subject in unreadable {
            table.name(&mut parts.listing, subject);
        }
        for change in contents {
            table.name(&mut parts.listing, &change.subject());
            match is_loaded {
                true if table.says(&change) => {}
                true => parts.news.push(change),
                false => self.shared.apply(change),
            }
        }
    }

    async fn take_all(&mut self, mut parts: Parts, revision: Revision, cluster: Option<ClusterId>) {
        parts.listing.close();
        if !self.may_apply(cluster.as_ref(), revision, self.shared.table.unnamed_tenants()) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        // A snapshot has all of a listing or nothing.
        let _unsaved = shared.saving.lock().await;
        parts.news.into_iter().for_each(|change| self.shared.apply(change));
        self.shared.table.unnamed(&parts.listing, |change| self.shared.apply(change));
        self.is_in_step(revision, cluster);
    }

    async fn take_file(
        &mut self,
        file: &Arc<FileListing>,
        revision: Revision,
        stop: &CancellationToken,
    ) -> Result<(), Unusable> {
        let (shared, reads, stopping) = (Arc::clone(&self.shared), Arc::clone(file), stop.clone());
        let checking = move || {
            let checked = reads.check(&shared.table, &stopping)?;
            Ok::<_, Unusable>((shared.table.unnamed_tenants(), checked))
        };
        let (drops, checked) = off_thread(checking).await?;
        let cluster = checked.cluster.clone();
        if !self.may_apply(cluster.as_ref(), revision, drops) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let _unsaved = shared.saving.lock().await;
        let (shared, reads, stopping) = (Arc::clone(&self.shared), Arc::clone(file), stop.clone());
        off_thread(move || apply_file(&shared, &reads, &checked, &stopping)).await?;
        self.is_in_step(revision, cluster);
        Ok(())
    }

    fn is_in_step(&mut self, revision: Revision, cluster: Option<ClusterId>) {
        self.belongs_to(cluster);
        self.reached(revision);
        if !self.shared.set_synced(true) {
            tracing::info!(revision = revision.0, "the routes are in step with their source");
        }
    }

    /// Asks the guard, and an operator's word where there is one.
    fn may_apply(&mut self, cluster: Option<&ClusterId>, revision: Revision, drops: usize) -> bool {
        let (shared, metrics) = (&self.shared, &self.shared.metrics);
        let limits = shared.settings.load().mass_drop;
        let table = Mark::new(shared.cluster().as_ref(), shared.revision(), shared.table.placed());
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
            self.saving.forget();
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
}

/// The second reading, and what the file does not name.
fn apply_file(
    shared: &Shared,
    file: &FileListing,
    checked: &Checked,
    stop: &CancellationToken,
) -> Result<(), Unusable> {
    shared.table.expect(checked.listing.unknown_tenants());
    file.apply(checked, stop, |change| shared.apply(change))?;
    shared.table.unnamed(&checked.listing, |change| shared.apply(change));
    Ok(())
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unusable> + Send + 'static,
) -> Result<T, Unusable> {
    // It ends otherwise only with the runtime.
    cellway_machine::off_thread(work).await.map_err(|_| Unusable::Stopped)?
}

fn describe(path: &Path, error: &Unusable) -> String {
    match error {
        Unusable::Read(source) => format!("cannot read {}: {source}", path.display()),
        other => format!("{}: {other}", path.display()),
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

//! The snapshots on disk, kept fresh beside the feed: nothing that is told waits while one is written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::SNAPSHOT_TIME_PERCENT;
use crate::shared::Shared;
use crate::snapshot;
use crate::tls::StoredCertificates;

pub(super) struct Saving {
    shared: Arc<Shared>,
    /// What is on disk.
    saved: Saved,
    /// Who writes. Gives back what is on disk then, and how long it took.
    writing: Option<JoinHandle<(Saved, Duration)>>,
    not_before: Instant,
}

/// Versions on disk.
#[derive(Debug, Clone, Copy)]
struct Saved {
    /// The table's; none if it has to be written whatever the version.
    routes: Option<u64>,
    certificates: u64,
}

impl Saving {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let saved = Saved { routes: Some(shared.table.version()), certificates: shared.table.certificates_version() };
        Self { shared, saved, writing: None, not_before: Instant::now() }
    }

    /// What is on disk is of no use.
    pub(super) fn forget(&mut self) {
        self.saved.routes = None;
    }

    /// Has the snapshots written in which anything has changed, unless that is under way or was not long ago.
    pub(super) async fn save(&mut self) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        self.settle().await;
        if Instant::now() >= self.not_before && self.has_news() {
            let (shared, saved, begun) = (Arc::clone(&self.shared), self.saved, Instant::now());
            self.writing = Some(tokio::spawn(async move { (write(shared, saved).await, begun.elapsed()) }));
        }
    }

    /// Writes what has changed since the last time.
    pub(super) async fn end(&mut self) {
        self.settle().await;
        if self.has_news() {
            write(Arc::clone(&self.shared), self.saved).await;
        }
    }

    fn has_news(&self) -> bool {
        let table = &self.shared.table;
        self.shared.snapshot_path.is_some()
            && (self.saved.routes != Some(table.version()) || self.saved.certificates != table.certificates_version())
    }

    /// Waits for who writes.
    async fn settle(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        let is_forgotten = self.saved.routes.is_none();
        if let Ok((saved, took)) = writing.await {
            self.saved = saved;
            self.not_before = Instant::now() + took * (100 / SNAPSHOT_TIME_PERCENT);
        }
        if is_forgotten {
            self.forget();
        }
    }
}

/// Writes the snapshots in which anything has changed. Certificates have one of their own, so that they are not written
/// again for every change of a tenant.
async fn write(shared: Arc<Shared>, mut saved: Saved) -> Saved {
    let Some(path) = shared.snapshot_path.clone() else { return saved };
    let saving = shared.saving.lock().await;
    if !shared.is_loaded() || !*saving {
        return saved;
    }
    let version = shared.table.version();
    if saved.routes != Some(version) {
        let path = path.clone();
        let routes = move |shared: &Shared| {
            // The revision first: what is applied meanwhile is then newer than the snapshot claims, never older.
            let (revision, cluster) = (shared.revision(), shared.cluster());
            snapshot::save(&path, revision, cluster.as_ref(), &shared.table)
        };
        if write_one(&shared, routes).await {
            saved.routes = Some(version);
        }
    }
    let version = shared.table.certificates_version();
    if saved.certificates != version {
        let path = snapshot::of_certificates(&path);
        let certificates = move |shared: &Shared| {
            let contents = shared.table.certificates().map(StoredCertificates::contents).unwrap_or_default();
            snapshot::certificates::save(&path, contents)
        };
        if write_one(&shared, certificates).await {
            saved.certificates = version;
        }
    }
    saved
}

/// Says whether it was written.
async fn write_one(shared: &Arc<Shared>, save: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static) -> bool {
    let saver = Arc::clone(shared);
    match cellway_machine::off_thread(move || save(&saver)).await {
        Ok(Ok(())) => {
            shared.metrics.snapshot_saved();
            return true;
        }
        Ok(Err(error)) => {
            shared.metrics.snapshot_failures.inc();
            tracing::warn!(%error, "cannot write the snapshot of the routes");
        }
        Err(_) => tracing::debug!("the runtime ended before the snapshot was written"),
    }
    false
}

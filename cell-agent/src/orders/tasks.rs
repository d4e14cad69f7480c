//! What is done for each order, and the fact that follows.

use super::Means;
use crate::control_plane::BackOff;
use crate::disk::DiskError;
use crate::driver::{DriverError, Fetch, Progress};
use crate::gate::table::Gate;
use cellway_api::agent::{FactUp, FreezePartUp, SourceDown};
use cellway_core::ids::{Epoch, HomeId, MoveId, Revision, TenantId};
use cellway_core::tenant_move::{Order, Position, Task};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the source says what its gate has admitted.
const WATCH_INTERVAL_MS: u64 = 100;

/// How often the last fact of an order is said again while the order stands: the replica that heard it may have known
/// too little to take it.
const SAY_AGAIN_INTERVAL_MS: u64 = 1_000;

/// The pause between two passes over the source's changes.
const FOLLOW_INTERVAL_MS: u64 = 200;

/// The pause between two passes that keep the old home current.
const REVERSE_INTERVAL_MS: u64 = 1_000;

/// How often the progress of a copy is said.
const COPY_REPORT_INTERVAL_MS: u64 = 500;

/// Streams are ended one by one over about this long, so that their clients do not all come back at once.
const STREAMS_JITTER_MS: u64 = 500;

/// How often a fence that waits for requests looks how many they are: several times within the shortest drain.
const STILL_RUNNING_INTERVAL_MS: u64 = 40;

/// How often a wait looks again although nobody called.
const LOOK_AGAIN_MS: u64 = 500;

/// The first pause after a step failed: short, for traffic may be held.
const RETRY_MIN_MS: u64 = 20;

/// The longest one.
const RETRY_MAX_MS: u64 = 2_000;

/// An order with what it needs.
struct Job {
    means: Means,
    move_id: MoveId,
    tenant: TenantId,
    /// Where the data is, for tasks that fetch.
    source: Option<SourceDown>,
}

/// Carries one order out, until it is done or dropped.
pub(super) async fn carry_out(means: Means, order: Order, source: Option<SourceDown>) {
    let Order { move_id, tenant, task, .. } = order;
    let job = Job { means, move_id, tenant, source };
    let done = match task {
        Task::Prepare { home } => job.prepare(home).await,
        Task::Offer { .. } => return,
        Task::Copy { home, from } => job.copy(home, from).await,
        Task::Follow { home, from } => job.follow(home, from).await,
        Task::Watch { .. } => job.watch().await,
        Task::CloseStreams { epoch } => job.close_streams(epoch).await,
        Task::Fence { epoch, cut } => job.fence(epoch, cut).await,
        Task::FenceData { home, epoch, list } => job.fence_data(home, epoch, list).await,
        Task::Reach { home, from, epoch, list, position } => job.reach((home, from), epoch, list, position).await,
        Task::Open { epoch, .. } => job.open(epoch).await,
        Task::Reverse { home, from, epoch } => return job.reverse(home, from, epoch).await,
        Task::Drop { home } => job.drop_home(home).await,
    };
    let fact = match done {
        Ok(fact) => fact,
        Err(DriverError::Superseded) => {
            tracing::info!(move_id = %job.move_id, tenant = %job.tenant, "the order is stale and changes nothing");
            return;
        }
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(move_id = %job.move_id, tenant = %job.tenant, reason, "the order cannot be carried out");
            FactUp::Failed { move_id: job.quoted(), reason }
        }
    };
    job.say_until_dropped(fact).await;
}

impl Job {
    fn quoted(&self) -> String {
        self.move_id.to_string()
    }

    fn say(&self, fact: FactUp) {
        self.means.facts.state(fact);
    }

    async fn say_until_dropped(&self, fact: FactUp) {
        loop {
            self.say(fact.clone());
            tokio::time::sleep(Duration::from_millis(SAY_AGAIN_INTERVAL_MS)).await;
            tracing::debug!(move_id = %self.move_id, tenant = %self.tenant, ?fact, "said again");
        }
    }

    fn gate(&self) -> Arc<Gate> {
        self.means.table.entry(&self.tenant)
    }

    fn fetch(&self, home: HomeId, from: HomeId) -> Fetch {
        Fetch {
            move_id: self.move_id.clone(),
            tenant: self.tenant.clone(),
            home,
            from,
            from_cell: self.source.as_ref().map(|source| source.cell.clone()),
            endpoints: self.source.as_ref().map(|source| source.endpoints.clone()).unwrap_or_default(),
        }
    }

    /// Tries until it works, or cannot work.
    async fn insist<T, F>(&self, step: &str, attempt: impl Fn() -> F) -> Result<T, DriverError>
    where
        F: Future<Output = Result<T, DriverError>>,
    {
        let mut back_off = BackOff::new(RETRY_MIN_MS, RETRY_MAX_MS);
        let mut is_first = true;
        loop {
            match attempt().await {
                Err(error) if !error.is_final() && !matches!(error, DriverError::Superseded) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    // The other cell may just not have heard of the move yet.
                    if std::mem::take(&mut is_first) {
                        tracing::debug!(move_id = %self.move_id, tenant = %self.tenant, step, error, "trying again");
                    } else {
                        tracing::warn!(move_id = %self.move_id, tenant = %self.tenant, step, error, "trying again");
                    }
                    back_off.pause().await;
                }
                decided => return decided,
            }
        }
    }

    async fn prepare(&self, home: HomeId) -> Result<FactUp, DriverError> {
        let from_cell = self.source.as_ref().map(|source| source.cell.as_str());
        let driver = &self.means.driver;
        self.insist("prepare", || driver.prepare(&self.move_id, &self.tenant, &home, from_cell)).await?;
        Ok(FactUp::Ready { move_id: self.quoted() })
    }

    async fn copy(&self, home: HomeId, from: HomeId) -> Result<FactUp, DriverError> {
        let (fetch, progress) = (self.fetch(home, from), Arc::new(Progress::default()));
        let copied = |copied_bytes, total_bytes, complete| FactUp::Copied {
            move_id: self.quoted(),
            copied_bytes,
            total_bytes,
            complete,
        };
        let pull = self.insist("copy", || self.means.driver.pull(&fetch, true, Arc::clone(&progress)));
        tokio::pin!(pull);
        loop {
            tokio::select! {
                pulled = &mut pull => {
                    let size = pulled?.bytes;
                    return Ok(copied(size, size, true));
                }
                () = tokio::time::sleep(Duration::from_millis(COPY_REPORT_INTERVAL_MS)) => {
                    let (bytes, total) = progress.get();
                    self.say(copied(bytes, total, false));
                }
            }
        }
    }

    async fn follow(&self, home: HomeId, from: HomeId) -> Result<FactUp, DriverError> {
        let (fetch, progress) = (self.fetch(home, from), Arc::new(Progress::default()));
        loop {
            let begun = Instant::now();
            let pull = || self.means.driver.pull(&fetch, false, Arc::clone(&progress));
            let pulled = self.insist("follow", pull).await?;
            let pass_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            // Arriving also verifies all of it, which takes about half as long again.
            let transfer_ms = pulled.freeze_ms.unwrap_or(pass_ms.saturating_add(pass_ms / 2));
            let (what, ms) = pulled.longest.unwrap_or(("for a pass over what has changed", pass_ms));
            let longest = Some(FreezePartUp { what: what.to_owned(), ms });
            self.say(FactUp::Followed { move_id: self.quoted(), transfer_ms, longest });
            tokio::time::sleep(Duration::from_millis(FOLLOW_INTERVAL_MS)).await;
        }
    }

    fn say_running(&self, gate: &Gate) {
        let running = gate.running();
        self.say(FactUp::Watched {
            move_id: self.quoted(),
            oldest_request_ms: running.oldest_request_ms,
            running_requests: u32::try_from(running.requests).unwrap_or(u32::MAX),
            open_streams: u32::try_from(running.streams).unwrap_or(u32::MAX),
        });
    }

    async fn watch(&self) -> Result<FactUp, DriverError> {
        let gate = self.gate();
        loop {
            self.say_running(&gate);
            tokio::time::sleep(Duration::from_millis(WATCH_INTERVAL_MS)).await;
        }
    }

    async fn close_streams(&self, epoch: Epoch) -> Result<FactUp, DriverError> {
        let gate = self.gate();
        let begun = Instant::now();
        loop {
            let over = begun.elapsed() >= Duration::from_millis(STREAMS_JITTER_MS);
            let share = WATCH_INTERVAL_MS as f64 / STREAMS_JITTER_MS as f64;
            gate.end_streams(epoch, || over || rand::random_bool(share));
            self.say_running(&gate);
            tokio::time::sleep(Duration::from_millis(WATCH_INTERVAL_MS)).await;
        }
    }

    /// On disk, then in force, then drained; only then it is said.
    async fn fence(&self, epoch: Epoch, cut: bool) -> Result<FactUp, DriverError> {
        let gate = self.gate();
        let cut_before = gate.cut_requests();
        if !self.means.ignore_fences {
            if gate.fence_is_new(epoch) {
                self.insist("fence", || self.write_fence(epoch)).await?;
            }
            gate.fence(epoch);
            if cut {
                gate.cut(epoch);
            }
            self.wait_until_drained(&gate, epoch).await;
            self.wait_for_orphans(&gate, epoch).await?;
        }
        tracing::info!(move_id = %self.move_id, tenant = %self.tenant, epoch = epoch.0, "fenced and drained");
        let cut_requests = gate.cut_requests().saturating_sub(cut_before);
        Ok(FactUp::Fenced { move_id: self.quoted(), epoch: epoch.0, cut_requests })
    }

    /// Says what it waits for, when that changes.
    async fn wait_until_drained(&self, gate: &Gate, epoch: Epoch) {
        let drained = self.wait_until(gate, || gate.is_drained(epoch));
        tokio::pin!(drained);
        let mut said = None;
        loop {
            let pause = tokio::time::sleep(Duration::from_millis(STILL_RUNNING_INTERVAL_MS));
            tokio::select! {
                biased;
                () = &mut drained => return,
                () = pause => {}
            }
            let requests = gate.running().requests;
            if said.replace(requests) != Some(requests) {
                self.say_running(gate);
            }
        }
    }

    async fn write_fence(&self, epoch: Epoch) -> Result<(), DriverError> {
        let (disk, tenant) = (Arc::clone(&self.means.disk), self.tenant.clone());
        let written = cellway_machine::off_thread(move || disk.write_fence(&tenant, epoch)).await;
        written.unwrap_or_else(|_| Err(DiskError::Nobody(self.means.disk.dir().to_owned())))?;
        Ok(())
    }

    /// After an unclean stop nobody knows what the app still runs. A data fence proves that none of it writes;
    /// without one, only the app's own time limit does.
    async fn wait_for_orphans(&self, gate: &Gate, epoch: Epoch) -> Result<(), DriverError> {
        let Some(gone_by) = self.means.orphans.until() else {
            return Ok(());
        };
        let home = self.means.table.registration().and_then(|registration| gate.home_since(&registration));
        if let Some(home) = home.filter(|_| self.means.driver.fences_data()) {
            match self.means.driver.fence(&self.tenant, &home, epoch).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(tenant = %self.tenant, %home, %error, "the data could not be fenced early")
                }
            }
        }
        tracing::info!(tenant = %self.tenant, "waiting for what the run before may have left in the app");
        tokio::time::sleep_until(gone_by).await;
        Ok(())
    }

    async fn wait_until(&self, gate: &Gate, reached: impl Fn() -> bool) {
        loop {
            let changed = gate.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached() {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(LOOK_AGAIN_MS), changed).await;
        }
    }

    async fn fence_data(&self, home: HomeId, epoch: Epoch, list: Revision) -> Result<FactUp, DriverError> {
        let driver = &self.means.driver;
        self.insist("fence data", || driver.fence(&self.tenant, &home, epoch)).await?;
        let position = self.insist("position", || driver.position(&self.move_id, &home)).await?;
        let (epoch, list) = (epoch.0, list.0);
        Ok(FactUp::Positioned { move_id: self.quoted(), epoch, list, position: position.0 })
    }

    async fn reach(
        &self,
        (home, from): (HomeId, HomeId),
        epoch: Epoch,
        list: Revision,
        position: Position,
    ) -> Result<FactUp, DriverError> {
        if !self.means.reached.is_newest(&home, epoch, list) {
            return Err(DriverError::Superseded);
        }
        let fetch = self.fetch(home, from);
        self.insist("reach", || self.means.driver.reach(&fetch, epoch, &position)).await?;
        Ok(FactUp::Reached { move_id: self.quoted(), list: list.0, position: position.0 })
    }

    async fn open(&self, epoch: Epoch) -> Result<FactUp, DriverError> {
        let gate = self.gate();
        self.wait_until(&gate, || gate.open_at().is_some_and(|open| open >= epoch)).await;
        Ok(FactUp::Opened { move_id: self.quoted(), epoch: epoch.0 })
    }

    /// For as long as the target is watched. Nobody waits for it: a move back brings what is missing.
    async fn reverse(&self, home: HomeId, from: HomeId, epoch: Epoch) {
        let fetch = self.fetch(home, from);
        loop {
            match self.insist("reverse", || self.means.driver.reverse(&fetch, epoch)).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(REVERSE_INTERVAL_MS)).await,
                Err(error) => {
                    let reason = format!("{:#}", anyhow::Error::from(error));
                    tracing::warn!(move_id = %self.move_id, tenant = %self.tenant, reason, "the old home is not kept current");
                    return;
                }
            }
        }
    }

    async fn drop_home(&self, home: HomeId) -> Result<FactUp, DriverError> {
        let named = self.means.table.registration().and_then(|registration| self.gate().home_since(&registration));
        if named.is_some_and(|named| named == home) {
            return Err(DriverError::Served(home));
        }
        let driver = &self.means.driver;
        self.insist("drop", || driver.drop_home(&self.move_id, &self.tenant, &home)).await?;
        Ok(FactUp::Dropped { move_id: self.quoted(), home: home.to_string() })
    }
}

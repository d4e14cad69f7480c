//! The agent's ear: it registers, then follows the stream of placements and orders, for as long as it runs.

use crate::control_plane::{BackOff, ControlPlane};
use crate::disk::{Disk, DiskError, Identity};
use crate::gate::opening::Opener;
use crate::gate::table::GateTable;
use crate::health::Health;
use crate::orders::Orders;
use crate::words::TenantPlacement;
use anyhow::{Context, bail};
use cellway_api::ApiError;
use cellway_api::agent::{Down, PlacementDown, Register, Registered, STREAM_SILENCE_MS};
use cellway_api::problem::Problem;
use cellway_core::admission::Registration;
use cellway_core::cell::MoverDriver;
use cellway_core::ids::{CellUid, InvalidId, Revision};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a starting agent waits for the control plane before it opens on what its disk knows.
const START_PATIENCE_MS: u64 = 1_000;

/// The first pause after the control plane did not answer.
const RETRY_MIN_MS: u64 = 50;

/// The longest one.
const RETRY_MAX_MS: u64 = 2_000;

/// This many placements are saved together at the most.
const SAVE_BATCH_MAX: usize = 512;

/// What tells people how to name this instance's two endpoints.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    pub(crate) gate: String,
    pub(crate) transfer: String,
    pub(crate) driver: MoverDriver,
}

/// The feed of one agent.
pub(crate) struct Feed {
    pub(crate) control_plane: Arc<ControlPlane>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) identity: Identity,
    pub(crate) endpoints: Endpoints,
    pub(crate) table: Arc<GateTable>,
    pub(crate) opener: Opener,
    pub(crate) orders: Arc<Orders>,
    pub(crate) health: Arc<Health>,
}

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the control plane fell silent")]
    Silent,
    #[error("the stream ended")]
    Ended,
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the agent's disk failed")]
    Disk(#[from] DiskError),
}

impl Feed {
    /// Runs until the control plane refuses this instance for good.
    pub(crate) async fn run(self) -> anyhow::Result<Infallible> {
        let registration = self.register_or_open_from_disk().await?;
        let mut back_off = BackOff::new(RETRY_MIN_MS, RETRY_MAX_MS);
        loop {
            let client = self.control_plane.current().clone();
            let Err(broken) = self.follow(&client, &registration, &mut back_off).await;
            self.health.set_following(false);
            tracing::warn!(base = client.base(), error = %broken, "no stream from the control plane");
            if let Broken::Api(ApiError::Refused(problem)) = &broken
                && problem.status == 409
            {
                self.unlisted(&problem.to_string()).await;
            }
            self.control_plane.turn_from(&client);
            back_off.pause().await;
        }
    }

    /// Registers. If the control plane is away, the gates open meanwhile on what the disk knows: a registration is
    /// sticky, so nobody else was given these tenants without this instance's fence.
    async fn register_or_open_from_disk(&self) -> anyhow::Result<Registration> {
        let register = self.register();
        tokio::pin!(register);
        match timeout(Duration::from_millis(START_PATIENCE_MS), &mut register).await {
            Ok(registered) => {
                let registration = registered?;
                self.load_known().await?;
                return Ok(registration);
            }
            Err(_) => self.open_from_disk().await?,
        }
        register.await
    }

    /// What the run before knew, for the verdicts on tenants that left. No gate opens on it: all of it was read before
    /// this registration.
    async fn load_known(&self) -> anyhow::Result<()> {
        let disk = Arc::clone(&self.disk);
        let placements = cellway_machine::off_thread(move || disk.placements()).await??;
        placements.into_iter().for_each(|placement| self.opener.observe(placement));
        Ok(())
    }

    async fn open_from_disk(&self) -> anyhow::Result<()> {
        let (Some(uid), Some(revision)) = (self.identity.uid.clone(), self.identity.last_registration) else {
            return Ok(());
        };
        tracing::warn!("the control plane is away: gates open on what the disk knows");
        self.table.register(uid, revision);
        self.load_known().await?;
        self.health.set_serving();
        Ok(())
    }

    async fn register(&self) -> anyhow::Result<Registration> {
        let mut back_off = BackOff::new(RETRY_MIN_MS, RETRY_MAX_MS);
        let mut run = self.identity.run;
        loop {
            let client = self.control_plane.current().clone();
            let register = Register {
                uid: self.identity.uid.as_ref().map(ToString::to_string),
                instance: self.identity.instance.to_string(),
                run,
                endpoint: self.endpoints.gate.clone(),
                transfer_endpoint: self.endpoints.transfer.clone(),
                driver: self.endpoints.driver.into(),
            };
            let error = match client.register(self.control_plane.cell().as_str(), &register).await {
                Ok(registered) => return self.registered(registered).await,
                Err(error) => error,
            };
            match &error {
                ApiError::Refused(problem) if is_for_good(problem) => {
                    self.table.shut();
                    bail!("the control plane refuses this agent: {problem}");
                }
                ApiError::Unreachable { source, .. } if source.is_connect() => {}
                // It may have been heard: the same run must not be said twice.
                _ => {
                    let disk = Arc::clone(&self.disk);
                    run = cellway_machine::off_thread(move || disk.raise_run()).await??;
                }
            }
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(base = client.base(), error, "not registered yet");
            self.control_plane.turn_from(&client);
            back_off.pause().await;
        }
    }

    async fn registered(&self, registered: Registered) -> anyhow::Result<Registration> {
        let uid = CellUid::new(&registered.uid).context("the control plane names an illegal uid")?;
        if self.identity.uid.as_ref().is_some_and(|known| *known != uid) {
            self.table.shut();
            bail!("the control plane knows this cell by another uid: use a fresh data directory");
        }
        let revision = Revision(registered.revision);
        let (disk, saved) = (Arc::clone(&self.disk), uid.clone());
        // On disk before any gate opens on it: a restart must not read older placements than this run did.
        cellway_machine::off_thread(move || disk.registered(&saved, revision)).await??;
        self.table.register(uid.clone(), revision);
        tracing::info!(instance = %self.identity.instance, revision = revision.0, "registered");
        Ok(Registration { uid, revision })
    }

    async fn follow(
        &self,
        client: &cellway_api::Client,
        registration: &Registration,
        back_off: &mut BackOff,
    ) -> Result<Infallible, Broken> {
        let silence = Duration::from_millis(STREAM_SILENCE_MS);
        let (cell, instance) = (self.control_plane.cell().as_str(), self.identity.instance.as_str());
        let opening = client.stream(cell, instance, registration.revision.0);
        let mut lines = timeout(silence, opening).await.map_err(|_| Broken::Silent)??;
        let mut unsaved = Vec::new();
        loop {
            let line = timeout(silence, lines.next::<Down>()).await.map_err(|_| Broken::Silent)??;
            match line.ok_or(Broken::Ended)? {
                Down::Placement { tenant, revision, placement } => match placement_seen(&tenant, revision, placement) {
                    Ok(seen) => {
                        self.opener.observe(seen.clone());
                        unsaved.push(seen);
                    }
                    Err(error) => tracing::error!(tenant, %error, "an illegal placement is passed over"),
                },
                Down::Synced { revision } => {
                    self.table.close_unsaid(registration);
                    self.save(&mut unsaved).await?;
                    self.health.set_following(true);
                    back_off.reset();
                    tracing::debug!(revision, "all placements heard");
                }
                Down::Orders { orders } => self.orders.set(orders),
                Down::Gates { revision, instances } => {
                    let listed = instances.iter().any(|listed| listed == instance);
                    if Revision(revision) > registration.revision && !listed {
                        self.unlisted("the list of gates no longer names it").await;
                    }
                }
                Down::Beat { leader } => {
                    self.control_plane.heard_leader(leader.as_deref());
                    self.save(&mut unsaved).await?;
                }
            }
            if unsaved.len() >= SAVE_BATCH_MAX {
                self.save(&mut unsaved).await?;
            }
        }
    }

    async fn save(&self, unsaved: &mut Vec<TenantPlacement>) -> Result<(), DiskError> {
        if unsaved.is_empty() || self.table.is_shut() {
            return Ok(());
        }
        let (disk, batch) = (Arc::clone(&self.disk), std::mem::take(unsaved));
        let saved = cellway_machine::off_thread(move || disk.save_placements(&batch)).await;
        saved.unwrap_or(Ok(()))
    }

    /// An operator has stated that this instance is dead, or it has left: it serves nobody any more.
    async fn unlisted(&self, why: &str) {
        if self.table.is_shut() {
            return;
        }
        self.table.shut();
        self.health.set_unlisted();
        tracing::error!(why, "this instance is not on its cell's list: all gates are closed; restart it to register");
        let disk = Arc::clone(&self.disk);
        if let Ok(Err(error)) = cellway_machine::off_thread(move || disk.forget_placements()).await {
            tracing::error!(%error, "the placements on disk could not be erased");
        }
    }
}

/// Whether a registration that is refused so would be refused again. A cell may be created after its agent was started,
/// and what is only contended or overloaded says so by another status than a refusal's.
fn is_for_good(problem: &Problem) -> bool {
    matches!(problem.status, 400..500) && !matches!(problem.status, 404 | 408 | 425 | 429)
}

fn placement_seen(tenant: &str, revision: u64, placement: PlacementDown) -> Result<TenantPlacement, InvalidId> {
    Ok(TenantPlacement { tenant: tenant.parse()?, record: placement.try_into()?, read_at: Revision(revision) })
}

//! The driver `postgres`: a schema per tenant, copied as a snapshot shows it and followed by logical replication.
//!
//! The books of both databases ([`ledger`]) and the agent's own disk say which homes there are and at which epochs they
//! were fenced and released; every step compares before it acts, and is safe to repeat. See
//! `docs/decisions/0031-postgres-driver.md`.

mod copy;
mod error;
mod homes;
mod janitor;
mod ledger;
mod moves;
mod names;
mod preflight;
mod servers;
mod sql;
mod streams;
mod tally;
mod tls;

use super::{DriverError, Fetch, Turns};
use crate::config::PostgresConfig;
use crate::disk::{Disk, DiskError, HomeRow};
use cellway_core::ids::{CellName, Epoch, HomeId, MoveId, TenantId};
use cellway_core::tenant_move::Position;
pub(crate) use error::PostgresError;
use janitor::Standing;
use ledger::{lock_streams, unlock_streams};
use names::TenantNames;
use parking_lot::Mutex;
use serde_json::json;
use servers::{Lease, Servers};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use streams::End;

/// Homes whose last measurements are remembered.
const MEASURED_MAX: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct PostgresDriver {
    disk: Arc<Disk>,
    own: CellName,
    config: PostgresConfig,
    servers: Servers,
    turns: Turns,
    standing: Mutex<Standing>,
    /// Servers whose books are known to be there.
    booked: Mutex<BTreeSet<String>>,
    measured: Mutex<BTreeMap<HomeId, Measured>>,
}

/// What passes over a home have found out.
#[derive(Debug, Clone, Copy)]
struct Measured {
    at: Instant,
    verify_ms: u64,
}

impl PostgresDriver {
    /// The driver, and its janitor for as long as it is used.
    pub(crate) fn start(disk: Arc<Disk>, cell: &CellName, config: &PostgresConfig) -> Arc<Self> {
        let driver = Arc::new(Self {
            disk,
            own: cell.clone(),
            config: config.clone(),
            servers: Servers::new(config),
            turns: Turns::default(),
            standing: Mutex::default(),
            booked: Mutex::default(),
            measured: Mutex::default(),
        });
        tokio::spawn(janitor::run(Arc::downgrade(&driver)));
        driver
    }

    /// Takes note of which moves have orders in this cell.
    pub(crate) fn note_orders<'a>(&self, moves: impl Iterator<Item = &'a str>) {
        self.standing.lock().set(moves, Instant::now());
    }

    /// A connection to a server that has the books.
    async fn lease(&self, cell: &str) -> Result<Lease, PostgresError> {
        let mut lease = self.servers.lease(cell).await?;
        if !self.booked.lock().contains(cell) {
            ledger::make_books(&mut lease).await?;
            self.booked.lock().insert(cell.to_owned());
        }
        Ok(lease)
    }

    async fn own(&self) -> Result<Lease, PostgresError> {
        self.lease(self.own.as_str()).await
    }

    fn names(&self, tenant: &TenantId) -> Result<TenantNames, PostgresError> {
        TenantNames::of(&self.config, tenant).map_err(PostgresError::LongName)
    }

    /// What the tables of the tenant's schema take, indexes included.
    pub(crate) async fn size_bytes(&self, tenant: &TenantId) -> Result<u64, DriverError> {
        let (own, names) = (self.own().await?, self.names(tenant)?);
        Ok(preflight::size_bytes(&own, &names).await?)
    }

    /// The same, and whether the order is late, as the database itself has it.
    async fn check_books(
        &self,
        own: &Lease,
        tenant: &TenantId,
        home: &HomeId,
        epoch: Option<Epoch>,
    ) -> Result<(), DriverError> {
        let homes = ledger::homes(own, tenant).await?;
        let above = |row: &ledger::Home| epoch.is_some_and(|epoch| row.released > Some(epoch.0.cast_signed()));
        if homes.iter().any(above) {
            return Err(DriverError::Superseded);
        }
        homes::check_unserved(&homes, home).map(drop)
    }

    pub(crate) async fn release(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DriverError> {
        let _turn = self.turns.take(tenant).await;
        self.disk.check_may_release(tenant, epoch)?;
        let known = self.disk.kept_home(tenant, home)?;
        let names = self.names(tenant)?;
        let mut own = self.own().await?;
        // A home of its creation may begin here, if neither disk nor database has ever heard of it.
        let may_begin = known.is_none() && home.as_str().starts_with("new-");
        homes::release(&mut own, (tenant, &names), home, epoch, may_begin).await?;
        own.keep();
        if known.is_none() {
            self.disk.home_made(tenant, home)?;
        }
        self.disk.home_released(tenant, home, epoch)?;
        tracing::info!(%tenant, %home, epoch = epoch.0, "data released");
        Ok(())
    }

    pub(crate) async fn fence(&self, tenant: &TenantId, home: &HomeId, epoch: Epoch) -> Result<(), DriverError> {
        let _turn = self.turns.take(tenant).await;
        let row = self.disk.kept_home(tenant, home)?;
        self.disk.check_not_released_above(tenant, epoch)?;
        let names = self.names(tenant)?;
        let mut own = self.own().await?;
        // On both before it is said; neither waits for the other.
        let written = self.write_fence(row.as_ref(), tenant, home, epoch);
        let fenced = homes::fence(&mut own, (tenant, &names), home, epoch);
        tokio::try_join!(written, fenced)?;
        own.keep();
        tracing::info!(%tenant, %home, epoch = epoch.0, "data fenced");
        Ok(())
    }

    /// On the agent's own disk.
    async fn write_fence(
        &self,
        known: Option<&HomeRow>,
        tenant: &TenantId,
        home: &HomeId,
        epoch: Epoch,
    ) -> Result<(), DriverError> {
        if known.is_some_and(|row| row.fenced.is_some_and(|fenced| fenced >= epoch)) {
            return Ok(());
        }
        let (disk, is_new) = (Arc::clone(&self.disk), known.is_none());
        let (tenant, home) = (tenant.clone(), home.clone());
        let written = tokio::task::spawn_blocking(move || {
            if is_new {
                disk.enter_home(&tenant, &home)?;
            }
            disk.home_fenced(&tenant, &home, epoch)
        });
        Ok(written.await.unwrap_or_else(|_| Err(DiskError::Nobody(self.disk.dir().to_owned())))?)
    }

    /// A tenant of this cell is about to leave it: what the fence and the position will read is read once, so that they find
    /// a connection that is open and knows the catalog.
    pub(crate) fn offer(self: &Arc<Self>, tenant: &TenantId) {
        let (driver, tenant) = (Arc::clone(self), tenant.clone());
        tokio::spawn(async move {
            let rehearsed = async {
                let names = driver.names(&tenant)?;
                let own = driver.own().await?;
                ledger::homes(&own, &tenant).await?;
                streams::all(&own).await?;
                preflight::fingerprint(&*own, &names.schema).await?;
                preflight::sequences(&*own, &names.schema).await?;
                own.keep();
                Ok::<(), PostgresError>(())
            };
            if let Err(error) = rehearsed.await {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(%tenant, error, "a tenant that is about to leave cannot be looked at");
            }
        });
    }

    /// A mark behind everything that was written, with what does not travel by replication: where sequences are, what
    /// the schema looks like, how many rows there are.
    pub(crate) async fn position(&self, move_id: &MoveId, home: &HomeId) -> Result<Position, DriverError> {
        let own = self.own().await?;
        let all = streams::all(&own).await?;
        let ours = |stream: &&streams::Stream| {
            stream.end == End::Out && stream.move_id == move_id.as_str() && stream.home == home.as_str()
        };
        let Some(stream) = all.iter().find(ours) else {
            return Err(PostgresError::Missing(format!("move {move_id} has no stream out of home {home}")).into());
        };
        let tenant = stream.tenant.parse().map_err(|_| PostgresError::Missing("no such tenant".to_owned()))?;
        let names = self.names(&tenant)?;
        // What was counted as it was written need not be read; but for what only reading can tell.
        let (homes, tally, shape, sequences) = tokio::try_join!(
            ledger::homes(&own, &tenant),
            tally::read(&*own, &stream.name),
            preflight::fingerprint(&*own, &names.schema),
            preflight::sequences(&*own, &names.schema),
        )?;
        let fenced = homes.iter().find(|row| row.home == home.as_str()).and_then(|row| row.fenced);
        let tally = stream.tally.as_ref().map(|_| tally);
        let sums = match &tally {
            Some(tally) => self.sums(&own, &names, &tally::unknown(tally)).await?,
            None => self.sums(&own, &names, &preflight::table_names(&*own, &names.schema).await?).await?,
        };
        let payload = json!({
            "tally": tally,
            "fenced": fenced,
            "fingerprint": shape,
            "sequences": sequences,
            "sums": sums,
        });
        let id = streams::mark(&own, &stream.name, Some(&payload)).await?;
        own.keep();
        Ok(Position(format!("{}@{id}", stream.name)))
    }

    /// What [`PostgresConfig::verify`] asks to be compared.
    async fn sums(&self, on: &Lease, names: &TenantNames, tables: &[String]) -> Result<Option<Sums>, PostgresError> {
        use crate::config::PostgresVerify::{Checksums, Counts, None as Nothing};
        match self.config.verify {
            Nothing => Ok(None),
            Counts => preflight::sums(&**on, &names.schema, tables, false).await.map(Some),
            Checksums => preflight::sums(&**on, &names.schema, tables, true).await.map(Some),
        }
    }

    pub(crate) async fn drop_home(&self, id: &MoveId, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
        let _turn = self.turns.take(tenant).await;
        self.disk.check_droppable(tenant, home)?;
        let mut own = self.own().await?;
        let homes = ledger::homes(&own, tenant).await?;
        homes::check_droppable(&homes, home)?;
        self.disk.enter_home(tenant, home)?;
        self.disk.home_dropped(tenant, home)?;
        lock_streams(&own, tenant).await?;
        for stream in streams::of_home(&*own, End::In, tenant.as_str(), home.as_str()).await? {
            self.end_stream_in(&mut own, &stream).await?;
        }
        for stream in streams::of_home(&*own, End::Out, tenant.as_str(), home.as_str()).await? {
            self.end_stream_out(&own, &stream).await?;
        }
        homes::drop_home(&mut own, tenant, home).await?;
        unlock_streams(&own, tenant).await?;
        own.keep();
        self.measured.lock().remove(home);
        tracing::info!(%tenant, %home, move_id = %id, "home dropped");
        Ok(())
    }
}

/// Per table: rows, and the sum of their hashes.
type Sums = BTreeMap<String, (i64, String)>;

fn source_cell(fetch: &Fetch) -> Result<&str, PostgresError> {
    fetch.from_cell.as_deref().ok_or_else(|| PostgresError::Missing("the order names no cell to fetch from".to_owned()))
}

#[cfg(test)]
mod tests;

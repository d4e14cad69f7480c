//! After the traffic: reads every tenant's log back and holds it against everything that was observed.

use super::Run;
use super::checker::{Breach, BreachKind, Entry, Observed, check};
use super::connection::Failed;
use super::history::Owners;
use super::requests::get;
use anyhow::Context;
use cellway_api::Client;
use cellway_api::fleet::{Listing, MoveView, TenantView};
use futures_util::{StreamExt, stream};
use hyper::StatusCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

const PAGE_ENTRIES: usize = 2_000;

/// Logs that are read at once.
const LOGS_AT_ONCE: usize = 4;

/// The traffic is over: to read a page again proves no promise wrong.
const TRIES: u32 = 5;
const TRY_PAUSE_MS: u64 = 1_000;

/// What the control plane knows at the end.
#[derive(Debug)]
pub(crate) struct Records {
    tenants: BTreeMap<String, TenantView>,
    moves: BTreeMap<String, MoveView>,
}

impl Records {
    /// Reads them; `moves` are those that the run has seen itself.
    pub(crate) async fn read(client: &Client, moves: &[MoveView]) -> anyhow::Result<Self> {
        let listed = again(|| client.moves()).await.context("the moves cannot be listed at the end")?;
        let tenants: Listing<TenantView> =
            again(|| client.tenants()).await.context("the tenants cannot be listed at the end")?;
        let mut by_id: BTreeMap<_, _> = moves.iter().map(|one| (one.id.clone(), one.clone())).collect();
        by_id.extend(listed.items.into_iter().map(|one| (one.id.clone(), one)));
        Ok(Self {
            tenants: tenants.items.into_iter().map(|tenant| (tenant.id.clone(), tenant)).collect(),
            moves: by_id,
        })
    }

    /// A move as it ended up.
    pub(crate) fn a_move(&self, id: &str) -> Option<&MoveView> {
        self.moves.get(id)
    }

    fn owners(&self, first: &TenantView) -> Owners {
        let last = self.tenants.get(&first.id);
        let placements: Vec<&TenantView> = std::iter::once(first).chain(last).collect();
        let moves: Vec<&MoveView> = self.moves.values().filter(|one| one.tenant == first.id).collect();
        Owners::of_tenant(&placements, &moves)
    }
}

async fn again<T, E>(mut call: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let mut tries = 1;
    loop {
        match call().await {
            Err(_) if tries < TRIES => {
                tries += 1;
                sleep(Duration::from_millis(TRY_PAUSE_MS)).await;
            }
            outcome => return outcome,
        }
    }
}

/// Reads back and checks all tenants.
pub(crate) async fn check_all(run: &Run, records: &Records) {
    let checks = (0..run.tenants.len()).map(|tenant| check_tenant(run, records, tenant));
    stream::iter(checks).buffer_unordered(LOGS_AT_ONCE).for_each(async |()| {}).await;
}

async fn check_tenant(run: &Run, records: &Records, tenant: usize) {
    let first = &run.tenants[tenant].first;
    let log = match read_log(run, tenant).await {
        Ok(log) => log,
        Err(failed) => {
            let what = format!("it was tried {TRIES} times: {failed}");
            run.tally.breaches.add([Breach { kind: BreachKind::UnreadableLog, tenant: first.id.clone(), what }]);
            return;
        }
    };
    let writes = run.ledger.take_writes(tenant);
    let owners = records.owners(first);
    run.tally.breaches.add(check(&Observed { tenant: &first.id, writes: &writes, log: &log, owners: &owners }));
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Entry>,
    next: Option<i64>,
}

/// This run's entries of a tenant, in the order of the app.
async fn read_log(run: &Run, tenant: usize) -> Result<Vec<Entry>, Failed> {
    let ours = format!("{}-", run.id);
    let mut log = Vec::new();
    let mut after = 0;
    loop {
        let page = again(async || read_page(run, tenant, after).await).await?;
        log.extend(page.entries.into_iter().filter(|entry| entry.id.starts_with(&ours)));
        match page.next {
            Some(next) if next > after => after = next,
            Some(_) => return Err(Failed::BadAnswer),
            None => return Ok(log),
        }
    }
}

async fn read_page(run: &Run, tenant: usize, after: i64) -> Result<Page, Failed> {
    let path = format!("/entries?after={after}&limit={PAGE_ENTRIES}");
    run.connections.send(get(run, tenant, &path)?).await?.json(StatusCode::OK)
}

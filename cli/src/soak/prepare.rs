//! What a run begins with: the tenants that it drives, where they are and what they have.

use super::connection::{Body, Connections};
use super::requests::count;
use anyhow::{Context, bail};
use bytes::Bytes;
use cellway_api::Client;
use cellway_api::fleet::{CellKindView, CellView, CreateTenant, TenantView};
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::header::HOST;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a tenant may take to answer for the first time.
const FIRST_ANSWER_MS: u64 = 15_000;
const FIRST_ANSWER_PAUSE_MS: u64 = 200;

/// Tenants that are asked for the first time at once.
const ASKED_AT_ONCE: usize = 16;

/// More tenants than these are not created.
pub(crate) const TENANTS_MAX: u32 = 10_000;

/// What is asked of the fleet.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// So many tenants, created if missing; `None`: those that are there.
    pub(crate) tenants: Option<u32>,
    /// Tenants will be moved.
    pub(crate) moves: bool,
    /// What a tenant's id is put before.
    pub(crate) domain: &'a str,
}

/// A tenant as the run finds it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) view: TenantView,
    /// The value of `Host` that leads to it.
    pub(crate) host: String,
    /// How many entries it has.
    pub(crate) entries: i64,
}

/// Finds the tenants to drive, and hears each of them once.
pub(crate) async fn prepare(
    client: &Client,
    connections: &Connections,
    routers: &[String],
    wanted: &Wanted<'_>,
) -> anyhow::Result<Vec<Found>> {
    let cells = client.cells().await?.items;
    let with_agents = cells.iter().filter(|cell| cell.kind == CellKindView::Agent).collect::<Vec<_>>();
    let open: Vec<&CellView> = with_agents.iter().copied().filter(|cell| cell.condition == "open").collect();
    if wanted.moves && open.len() < 2 {
        bail!("tenants cannot be moved: {} open cells have agents, two are needed (`cellway cell list`)", open.len());
    }
    let names: BTreeSet<&str> = with_agents.iter().map(|cell| cell.name.as_str()).collect();
    let mut tenants = client.tenants().await?.items;
    let all: BTreeSet<String> = tenants.iter().map(|tenant| tenant.id.clone()).collect();
    tenants.retain(|tenant| names.contains(tenant.cell.as_str()));
    if let Some(count) = wanted.tenants {
        tenants.truncate(count as usize);
        create_missing(client, count, &open, &all, &mut tenants).await?;
    }
    if tenants.is_empty() {
        bail!("no tenant is in a cell with agents: `cellway soak --tenants 20` creates some");
    }
    // Any router answers to the port of the first.
    let port = routers.first().and_then(|router| router.rsplit_once(':')).map_or("", |(_, port)| port);
    let hosts = tenants.into_iter().map(|view| (format!("{}.{}:{port}", view.id, wanted.domain), view));
    let heard = hosts.map(|(host, view)| async move {
        let entries = first_count(connections, &host).await;
        let entries = entries.with_context(|| format!("{host} does not answer at {}", routers.join(" and ")))?;
        Ok::<_, anyhow::Error>(Found { view, host, entries })
    });
    stream::iter(heard).buffered(ASKED_AT_ONCE).try_collect().await
}

async fn create_missing(
    client: &Client,
    count: u32,
    open: &[&CellView],
    all: &BTreeSet<String>,
    tenants: &mut Vec<TenantView>,
) -> anyhow::Result<()> {
    let missing = (count as usize).saturating_sub(tenants.len());
    let ids = (1_u32..).map(|number| format!("soak-{number}")).filter(|id| !all.contains(id));
    for (id, cell) in ids.zip(open.iter().cycle()).take(missing) {
        let wanted = CreateTenant { id, cell: Some(cell.name.clone()), ..CreateTenant::default() };
        tenants.push(client.create_tenant(&wanted).await.context("a tenant cannot be created")?);
    }
    Ok(())
}

/// A tenant that was just created may take a moment to be known everywhere.
async fn first_count(connections: &Connections, host: &str) -> anyhow::Result<i64> {
    let began = Instant::now();
    loop {
        let request: Request<Body> =
            Request::builder().uri("/count").header(HOST, host).body(Empty::<Bytes>::new().boxed_unsync())?;
        match connections.send(request).await.and_then(count) {
            Ok(entries) => return Ok(entries),
            Err(_) if began.elapsed() < Duration::from_millis(FIRST_ANSWER_MS) => {
                sleep(Duration::from_millis(FIRST_ANSWER_PAUSE_MS)).await;
            }
            Err(failed) => bail!("GET /count: {failed}"),
        }
    }
}

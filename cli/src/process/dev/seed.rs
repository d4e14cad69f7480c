//! Brings the fleet of `dev` up through the API, as an operator would: cells, then tenants.

use super::layout::Layout;
use anyhow::Context;
use cellway_api::fleet::{CellKindView, CreateCell, CreateTenant};
use cellway_api::identity::ClientConfig;
use cellway_api::{ApiError, Client};
use std::time::{Duration, Instant};

/// How long a part may take until it is ready.
const READY_WAIT_MS: u64 = 20_000;

/// How often it is asked.
const POLL_MS: u64 = 20;

/// What the first tenants are called; the others are numbered.
const NAMES: [&str; 12] = [
    "acme",
    "globex",
    "initech",
    "umbrella",
    "hooli",
    "soylent",
    "stark",
    "wayne",
    "wonka",
    "tyrell",
    "cyberdyne",
    "vandelay",
];

/// Asks `probe` until it is content.
async fn wait_until(what: &str, mut probe: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let last = probe().await;
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_millis(READY_WAIT_MS) {
            last.with_context(|| format!("{what} is not ready after {READY_WAIT_MS} ms"))?;
            anyhow::bail!("{what} is not ready after {READY_WAIT_MS} ms");
        }
        tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
    }
}

/// Waits for `GET /readyz` of a part to be answered 200.
pub(super) async fn wait_ready_at(base: &str, tls: Option<ClientConfig>) -> anyhow::Result<()> {
    let http = cellway_api::http::client_builder(tls).build()?;
    let url = format!("{base}/readyz");
    wait_until(&url, async || Ok(http.get(&url).send().await?.status().is_success())).await
}

/// Waits for the API.
pub(super) async fn wait_ready(client: &Client, tls: Option<ClientConfig>) -> anyhow::Result<()> {
    wait_ready_at(client.base(), tls).await?;
    client.cells().await.map(drop).context("the API does not answer")
}

/// Creates the cells that are not there yet.
pub(super) async fn cells(client: &Client, layout: &Layout) -> anyhow::Result<()> {
    let known = client.cells().await?.items;
    for (index, name) in layout.cell_names().into_iter().enumerate() {
        if known.iter().any(|cell| cell.name == name.as_str()) {
            continue;
        }
        let cell = CreateCell {
            name: name.to_string(),
            kind: CellKindView::Agent,
            version: Some(version_of(index)),
            labels: Default::default(),
            endpoints: Vec::new(),
            capacity_tenants: 0,
        };
        client.create_cell(&cell).await?;
    }
    Ok(())
}

/// The versions that the cells claim differ, so that a move can be seen on the page.
pub(super) fn version_of(cell: usize) -> String {
    format!("1.{cell}")
}

/// Waits for every cell's agent to be registered and heard.
pub(super) async fn wait_registered(client: &Client, cells: u16) -> anyhow::Result<()> {
    wait_until("every cell's agent", async || {
        let known = client.cells().await?.items;
        let heard = known.iter().filter(|cell| !cell.instances.is_empty());
        let heard = heard.filter(|cell| cell.instances.iter().all(|instance| instance.reachable));
        Ok(heard.count() >= usize::from(cells))
    })
    .await
}

/// Creates tenants, spread over the cells, until there are `wanted`.
pub(super) async fn tenants(client: &Client, wanted: u16, layout: &Layout) -> anyhow::Result<()> {
    let known = client.tenants().await?.items.len();
    let cells = layout.cell_names();
    for index in known..usize::from(wanted) {
        let id = NAMES.get(index).map_or_else(|| format!("tenant-{index}"), |name| (*name).to_owned());
        let cell = cells.get(index % cells.len().max(1)).map(ToString::to_string);
        let tenant = CreateTenant { id, cell, ..CreateTenant::default() };
        match client.create_tenant(&tenant).await {
            Ok(_) => {}
            // Created by hand, or by an earlier run that was stopped half-way.
            Err(ApiError::Refused(problem)) if problem.status == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

//! The operator: makes the cells and the tenants, then asks for moves for as long as the simulation says.

use crate::chance::Chance;
use crate::world::{Host, Shared, control_planes};
use cellway_api::Client;
use cellway_api::fleet::{CellKindView, CreateCell, CreateMove, CreateTenant};
use std::time::Duration;
use tokio::time::sleep;

/// The tenants.
pub(crate) const TENANTS: [&str; 3] = ["acme", "beta", "gamma"];

/// The cells.
const CELLS: [Host; 2] = [Host::Cell(1), Host::Cell(2)];

/// Between two attempts at what did not work.
const AGAIN_MS: u64 = 100;

/// Between two moves, up to.
const PAUSE_MAX_MS: u64 = 600;

/// Works until it is dropped.
pub(crate) async fn run(shared: &Shared) -> anyhow::Result<()> {
    let mut chance = Chance::of(shared.seed, "operator");
    let replicas = control_planes(1).iter().map(|base| Client::new(base)).collect::<Result<Vec<_>, _>>()?;
    if !shared.history.is_ready() {
        set_up(&replicas[0]).await;
        shared.history.get_ready();
    }
    loop {
        sleep(Duration::from_millis(chance.within(50..PAUSE_MAX_MS))).await;
        let (tenant, to) = (*chance.one_of(&TENANTS), *chance.one_of(&CELLS));
        if !shared.history.may_move() {
            continue;
        }
        let wanted = CreateMove { tenant: tenant.to_owned(), to: to.name().to_owned(), ..CreateMove::default() };
        match chance.one_of(&replicas).create_move(&wanted).await {
            Ok(planned) => shared.history.say(&format!("operator: move {} of {tenant} to {}", planned.id, to.name())),
            Err(error) => shared.history.say(&format!("operator: no move of {tenant} to {}: {error}", to.name())),
        }
    }
}

async fn set_up(client: &Client) {
    for cell in CELLS {
        let wanted = CreateCell {
            name: cell.name().to_owned(),
            kind: CellKindView::Agent,
            version: None,
            labels: Default::default(),
            endpoints: Vec::new(),
            capacity_tenants: 0,
        };
        while client.create_cell(&wanted).await.is_err() {
            sleep(Duration::from_millis(AGAIN_MS)).await;
        }
    }
    while !client.cells().await.is_ok_and(|cells| cells.items.iter().all(|cell| !cell.instances.is_empty())) {
        sleep(Duration::from_millis(AGAIN_MS)).await;
    }
    for (tenant, cell) in TENANTS.iter().zip(CELLS.iter().cycle()) {
        let wanted =
            CreateTenant { id: (*tenant).to_owned(), cell: Some(cell.name().to_owned()), ..CreateTenant::default() };
        while client.create_tenant(&wanted).await.is_err() {
            sleep(Duration::from_millis(AGAIN_MS)).await;
        }
    }
}

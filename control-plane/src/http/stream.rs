//! The stream to one agent: its cell's placements, gates and orders, first all of them, then what changes.

use crate::view::{At, Change, View};
use crate::{Replica, clock};
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use cellway_api::agent::{BEAT_INTERVAL_MS, Down, OrderDown, PlacementDown, SourceDown, TaskDown};
use cellway_core::cell::CellRef;
use cellway_core::ids::{CellName, InstanceId, Revision, TenantId};
use cellway_core::tenant::PlacementRecord;
use cellway_core::tenant_move::{Task, orders_for};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// Lines that wait for a slow agent; when it does not read for long, its stream ends and it comes back.
const LINES_WAITING_MAX: usize = 64;

/// The most leftovers that a cell is told to drop at one time; the next ones follow as these are struck off.
const DUE_LEFTOVERS_MAX: usize = 256;

/// How long a line waits for the agent to read.
const SLOW_READER_MS: u64 = 5_000;

/// The stream as an answer.
pub(super) fn answer(
    replica: Arc<Replica>,
    cell: CellName,
    instance: InstanceId,
    shutdown: CancellationToken,
) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(LINES_WAITING_MAX);
    tokio::spawn(async move {
        let _heard = replica.heard.stream(&cell, &instance);
        let mut stream = Stream {
            changes: replica.view.changes(),
            replica: &replica,
            cell: &cell,
            sender,
            mine: BTreeSet::new(),
            orders: None,
            gates_at: None,
        };
        tokio::select! {
            _ = stream.run() => {}
            () = shutdown.cancelled() => {}
        }
    });
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), receiver))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// The agent is gone, or reads too slowly, or should turn to a replica that sees the store.
struct Gone;

struct Stream<'a> {
    replica: &'a Replica,
    cell: &'a CellName,
    changes: broadcast::Receiver<Change>,
    sender: mpsc::Sender<Bytes>,
    /// Tenants of which the agent was told that they are in its cell: it is told, too, where they went.
    mine: BTreeSet<TenantId>,
    orders: Option<Vec<OrderDown>>,
    gates_at: Option<Revision>,
}

impl Stream<'_> {
    async fn run(&mut self) -> Result<(), Gone> {
        self.say_all().await?;
        // Made once: changes that are not this cell's must not put the beat off.
        let mut beats = tokio::time::interval(Duration::from_millis(BEAT_INTERVAL_MS));
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let change = tokio::select! {
                biased;
                _ = beats.tick() => None,
                change = self.changes.recv() => Some(change),
            };
            match change {
                Some(Ok(Change::Placement(tenant))) => self.say_placement(&tenant).await?,
                Some(Ok(Change::Orders(cells))) if cells.contains(self.cell) => self.say_orders().await?,
                Some(Ok(Change::Gates(_))) => {
                    // Another cell's gates matter too: they say where its data is fetched.
                    self.say_gates().await?;
                    self.say_orders().await?;
                }
                Some(Ok(Change::Orders(_) | Change::Other)) => {}
                Some(Ok(Change::All) | Err(broadcast::error::RecvError::Lagged(_))) => self.say_all().await?,
                Some(Err(broadcast::error::RecvError::Closed)) => return Err(Gone),
                None if !self.replica.view.is_in_sight() => return Err(Gone),
                None => {
                    let leader = self.replica.view.read().leader.as_ref().map(|at| at.value.address.clone());
                    self.say(&Down::Beat { leader }).await?;
                    // Leftovers come due by time alone.
                    self.say_orders().await?;
                }
            }
        }
    }

    async fn say(&self, down: &Down) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(down).map_err(|_| Gone)?;
        line.push(b'\n');
        let sent = self.sender.send_timeout(line.into(), Duration::from_millis(SLOW_READER_MS)).await;
        sent.map_err(|_| Gone)
    }

    async fn say_all(&mut self) -> Result<(), Gone> {
        let (lines, revision) = {
            let view = self.replica.view.read();
            let mut told: BTreeSet<TenantId> = std::mem::take(&mut self.mine);
            // Whoever left: a router that is behind asks here, and is told where they went.
            let left = view.moves.values().filter(|at| at.value.source.name == *self.cell);
            told.extend(left.map(|at| at.value.tenant.clone()));
            let here = view.placements.iter().filter(|(tenant, at)| told.contains(*tenant) || self.is_mine(at));
            let lines: Vec<Down> = here.map(|(tenant, at)| placement_line(tenant, at, view.revision)).collect();
            let mine = view.placements.iter().filter(|(_, at)| self.is_mine(at));
            self.mine = mine.map(|(tenant, _)| tenant.clone()).collect();
            (lines, view.revision)
        };
        for line in &lines {
            self.say(line).await?;
        }
        self.gates_at = None;
        self.orders = None;
        self.say_gates().await?;
        self.say(&Down::Synced { revision: revision.0 }).await?;
        self.say_orders().await
    }

    fn is_mine(&self, at: &At<PlacementRecord>) -> bool {
        matches!(&at.value, PlacementRecord::Placed(placement) if placement.cell.name == *self.cell)
    }

    async fn say_placement(&mut self, tenant: &TenantId) -> Result<(), Gone> {
        let line = {
            let view = self.replica.view.read();
            let Some(at) = view.placements.get(tenant) else { return Ok(()) };
            let was_mine = self.mine.contains(tenant);
            if self.is_mine(at) {
                self.mine.insert(tenant.clone());
            } else {
                self.mine.remove(tenant);
                if !was_mine {
                    return Ok(());
                }
            }
            placement_line(tenant, at, view.revision)
        };
        self.say(&line).await
    }

    async fn say_gates(&mut self) -> Result<(), Gone> {
        let line = {
            let view = self.replica.view.read();
            let Some(gates) = view.gates.get(self.cell) else { return Ok(()) };
            if self.gates_at == Some(gates.revision) {
                return Ok(());
            }
            self.gates_at = Some(gates.revision);
            let instances = gates.value.instances.keys().map(ToString::to_string).collect();
            Down::Gates { revision: gates.revision.0, instances }
        };
        self.say(&line).await
    }

    async fn say_orders(&mut self) -> Result<(), Gone> {
        let orders = orders_of(&self.replica.view.read(), self.cell);
        if self.orders.as_ref() == Some(&orders) {
            return Ok(());
        }
        self.orders = Some(orders.clone());
        self.say(&Down::Orders { orders }).await
    }
}

/// A placement as seen by a read at the view's revision.
fn placement_line(tenant: &TenantId, at: &At<PlacementRecord>, read_at: Revision) -> Down {
    let placement = PlacementDown::from(&at.value);
    Down::Placement { tenant: tenant.to_string(), revision: read_at.0, placement }
}

/// A cell, and where its agents hand out data.
fn source_of(view: &View, cell: &CellRef) -> SourceDown {
    let gates = view.gates.get(&cell.name).filter(|gates| gates.value.uid == cell.uid);
    let instances = gates.iter().flat_map(|gates| gates.value.instances.values());
    let endpoints = instances.map(|listed| listed.transfer_endpoint.clone()).collect();
    SourceDown { cell: cell.name.to_string(), endpoints }
}

/// Everything that a cell is to do: its part in the running moves, and leftovers that are due.
fn orders_of(view: &View, cell: &CellName) -> Vec<OrderDown> {
    let mut orders = Vec::new();
    for record in view.running.iter().filter_map(|id| view.moves.get(id)).map(|at| &at.value) {
        if record.source.name != *cell && record.target.name != *cell {
            continue;
        }
        let own_uid = view.gates.get(cell).map(|gates| &gates.value.uid);
        let for_us = orders_for(record).into_iter().filter(|order| Some(&order.cell.uid) == own_uid);
        orders.extend(for_us.map(|order| {
            let is_way_back = matches!(order.task, Task::Reverse { .. });
            OrderDown::of(&order, source_of(view, if is_way_back { &record.target } else { &record.source }))
        }));
    }
    let now_ms = clock::now_ms();
    let due = view.leftovers.iter().filter(|(key, at)| key.cell == *cell && at.value.due_ms <= now_ms);
    orders.extend(due.take(DUE_LEFTOVERS_MAX).map(|(_, at)| OrderDown {
        move_id: at.value.left_by.to_string(),
        tenant: at.value.tenant.to_string(),
        source: None,
        task: TaskDown::Drop { home: at.value.home.to_string() },
    }));
    orders
}

//! The stand-in's API: moves go through their states in a fraction of a second.

use crate::system::{Fault, Shared, State as Fleet, Tenant};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use cellway_api::fleet::*;
use cellway_api::problem::Problem;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// A move copies until somebody has looked at it, or so many turns.
const COPYING_TURNS_MAX: u32 = 25;

type Answer<T> = Result<Json<T>, (StatusCode, Json<Problem>)>;

pub(crate) fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/v1/tenants", get(tenants).post(create_tenant))
        .route("/v1/tenants/{id}", get(tenant))
        .route("/v1/cells", get(cells).post(create_cell))
        .route("/v1/cells/{name}", post(change_cell))
        .route("/v1/moves", get(moves).post(create_move))
        .route("/v1/moves/{id}", get(a_move))
        .route("/v1/moves/{id}/undo", post(undo_move))
        .route("/v1/hosts", post(claim_host))
        .route("/v1/lookup", get(lookup))
        .route("/v1/findings", get(findings))
        .with_state(shared)
}

pub(crate) fn new_cell(name: &str, kind: CellKindView) -> CellView {
    CellView {
        name: name.into(),
        uid: format!("uid-{name}"),
        kind,
        condition: "open".into(),
        version: "v1".into(),
        labels: BTreeMap::new(),
        endpoints: vec!["127.0.0.1:9".into()],
        capacity_tenants: 0,
        tenants: 1,
        instances: Vec::new(),
        load: Some(LoadView { requests_per_s: 12.5, in_flight: 3, busy_percent: 41.0 }),
    }
}

pub(crate) fn new_tenant(id: &str, cell: &str) -> Tenant {
    let view = json!({
        "id": id, "tier": "standard", "weight": 1, "freeze_budget_ms": 250, "cell": cell, "epoch": 7, "held": false,
        "created_ms": 0,
    });
    Tenant { view: serde_json::from_value(view).unwrap(), log: Vec::new(), next_seq: 1 }
}

fn refused<T>(status: StatusCode, kind: &str, title: String, detail: Option<&str>) -> Answer<T> {
    let detail = detail.map(str::to_owned);
    Err((status, Json(Problem { kind: kind.into(), status: status.as_u16(), title, detail })))
}

fn not_found<T>(what: &str, id: &str) -> Answer<T> {
    refused(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} {id}"), Some("look at the list"))
}

fn listing<T>(items: Vec<T>) -> Json<Listing<T>> {
    Json(Listing { items, revision: 1 })
}

async fn tenants(State(shared): State<Shared>) -> Json<Listing<TenantView>> {
    listing(shared.state().tenants.values().map(|tenant| tenant.view.clone()).collect())
}

async fn tenant(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<TenantView> {
    match shared.state().tenants.get(&id) {
        Some(tenant) => Ok(Json(tenant.view.clone())),
        None => not_found("tenant", &id),
    }
}

async fn create_tenant(State(shared): State<Shared>, Json(wanted): Json<CreateTenant>) -> Answer<TenantView> {
    let tenant = new_tenant(&wanted.id, wanted.cell.as_deref().unwrap_or("cell-a"));
    let view = tenant.view.clone();
    shared.state().tenants.insert(wanted.id, tenant);
    Ok(Json(view))
}

async fn cells(State(shared): State<Shared>) -> Json<Listing<CellView>> {
    listing(shared.state().cells.values().cloned().collect())
}

async fn create_cell(State(shared): State<Shared>, Json(wanted): Json<CreateCell>) -> Answer<CellView> {
    let mut cell = new_cell(&wanted.name, wanted.kind);
    cell.endpoints = wanted.endpoints;
    shared.state().cells.insert(wanted.name, cell.clone());
    Ok(Json(cell))
}

async fn change_cell(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Json(change): Json<ChangeCell>,
) -> Answer<CellView> {
    match shared.state().cells.get_mut(&name) {
        Some(cell) => {
            cell.condition = change.condition;
            Ok(Json(cell.clone()))
        }
        None => not_found("cell", &name),
    }
}

async fn moves(State(shared): State<Shared>) -> Json<Listing<MoveView>> {
    listing(shared.state().moves.clone())
}

async fn a_move(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<MoveView> {
    let mut fleet = shared.state();
    let Some(one) = fleet.moves.iter().find(|one| one.id == id).cloned() else { return not_found("move", &id) };
    if one.state == "copying" {
        fleet.seen_copying.insert(id);
    }
    Ok(Json(one))
}

async fn undo_move(State(shared): State<Shared>, Path(id): Path<String>, Json(_): Json<UndoMove>) -> Answer<MoveView> {
    match shared.state().moves.iter_mut().find(|one| one.id == id) {
        Some(one) => {
            one.state = "undoing".into();
            Ok(Json(one.clone()))
        }
        None => not_found("move", &id),
    }
}

async fn create_move(State(shared): State<Shared>, Json(wanted): Json<CreateMove>) -> Answer<MoveView> {
    let mut fleet = shared.state();
    let Some(tenant) = fleet.tenants.get(&wanted.tenant) else { return not_found("tenant", &wanted.tenant) };
    let (cell, epoch, moving) = (tenant.view.cell.clone(), tenant.view.epoch, tenant.view.moving.is_some());
    if fleet.cells[&cell].kind == CellKindView::Origin {
        let title = format!("{} cannot be moved", wanted.tenant);
        let why = Some("its cell is a plain origin, which has no gate to fence it");
        return refused(StatusCode::UNPROCESSABLE_ENTITY, "invalid", title, why);
    }
    if moving {
        let title = format!("{} is being moved already", wanted.tenant);
        return refused(StatusCode::CONFLICT, "conflict", title, None);
    }
    let id = format!("m-{}", fleet.moves.len());
    let view: MoveView = serde_json::from_value(json!({
        "id": id, "tenant": wanted.tenant, "source": cell, "target": wanted.to, "state": "planned", "ended": false,
        "past_commit": false, "epoch": epoch, "driver": "sqlite", "predicted_freeze_ms": 30,
        "cause": wanted.cause.unwrap_or_default(), "created_ms": 0, "entered_ms": 0,
    }))
    .unwrap();
    fleet.moves.push(view.clone());
    fleet.tenants.get_mut(&view.tenant).unwrap().view.moving = Some(id.clone());
    tokio::spawn(advance(shared.clone(), id));
    Ok(Json(view))
}

async fn advance(shared: Shared, id: String) {
    let pause = || tokio::time::sleep(Duration::from_millis(40));
    pause().await;
    step(&mut shared.state(), &id, |fleet, at| {
        let one = &mut fleet.moves[at];
        (one.state, one.copied_bytes, one.total_bytes) = ("copying".into(), Some(1 << 20), Some(2 << 20));
    });
    for _ in 0..COPYING_TURNS_MAX {
        pause().await;
        if shared.state().seen_copying.contains(&id) {
            break;
        }
    }
    if shared.state().fault == Fault::UndoMoves {
        step(&mut shared.state(), &id, |fleet, at| {
            let one = &mut fleet.moves[at];
            (one.state, one.ended, one.undo_reason) = ("undone".into(), true, Some("the copy stalled".into()));
            let tenant = one.tenant.clone();
            fleet.tenants.get_mut(&tenant).unwrap().view.moving = None;
        });
        return;
    }
    step(&mut shared.state(), &id, |fleet, at| {
        let one = &mut fleet.moves[at];
        (one.state, one.past_commit, one.freeze_ms) = ("settling".into(), true, Some(25));
        let (tenant, target, epoch) = (one.tenant.clone(), one.target.clone(), one.epoch + 1);
        let view = &mut fleet.tenants.get_mut(&tenant).unwrap().view;
        (view.cell, view.epoch) = (target, epoch);
    });
    pause().await;
    step(&mut shared.state(), &id, |fleet, at| {
        let one = &mut fleet.moves[at];
        (one.state, one.ended) = ("done".into(), true);
        let tenant = one.tenant.clone();
        fleet.tenants.get_mut(&tenant).unwrap().view.moving = None;
    });
}

fn step(fleet: &mut Fleet, id: &str, change: impl FnOnce(&mut Fleet, usize)) {
    let at = fleet.moves.iter().position(|one| one.id == id).unwrap();
    change(fleet, at);
}

async fn claim_host(Json(claim): Json<ClaimHost>) -> Answer<HostView> {
    Ok(Json(HostView { host: claim.host.to_lowercase(), tenant: claim.tenant }))
}

async fn lookup(State(shared): State<Shared>, Query(asked): Query<BTreeMap<String, String>>) -> Answer<LookupView> {
    let host = asked.get("host").cloned();
    let label = host.as_deref().map(|host| host.split('.').next().unwrap_or_default());
    let id = asked.get("tenant").map(String::as_str).or(label).unwrap_or_default();
    let fleet = shared.state();
    let tenant = fleet.tenants.get(id).map(|tenant| &tenant.view);
    if let (None, None) = (&host, tenant) {
        return not_found("tenant", id);
    }
    Ok(Json(LookupView {
        steps: vec![format!("{id} is the label below the base domain")],
        host,
        tenant: tenant.map(|view| view.id.clone()),
        cell: tenant.map(|view| view.cell.clone()),
        epoch: tenant.map(|view| view.epoch),
        held_by: None,
        endpoints: tenant.map(|_| "127.0.0.1:9".to_owned()).into_iter().collect(),
    }))
}

async fn findings() -> Json<Listing<FindingView>> {
    listing(vec![FindingView {
        id: "f1".into(),
        at_ms: 0,
        source: "alertmanager".into(),
        tenant: Some("t1".into()),
        cell: None,
        summary: "t1 takes 80 % of cell-a".into(),
        remedy: "cellway tenant move t1 --to cell-b".into(),
        times: 2,
    }])
}

//! Tenants, hosts, cells, moves, look-ups, findings, the brake.

use super::{Body, Ctx, Failure};
use crate::operate::{NotDone, brake_view, finding_view, tenant_view};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use cellway_api::fleet::*;
use cellway_api::plan::MovePlanView;
use cellway_core::ids::{CellName, MoveId, TenantId};
use serde::Deserialize;

/// The most moves of one listing: the newest.
const MOVES_LISTED_MAX: usize = 1_000;

pub(super) type Answer<T> = Result<Json<T>, Failure>;
type Created<T> = Result<(StatusCode, Json<T>), Failure>;

pub(super) fn routes() -> Router<Ctx> {
    Router::new()
        .route("/v1/tenants", get(tenants).post(create_tenant))
        .route("/v1/tenants/{tenant}", get(tenant).post(change_tenant))
        .route("/v1/hosts", get(hosts).post(claim_host))
        .route("/v1/cells", get(cells).post(create_cell))
        .route("/v1/cells/{cell}", get(cell).post(change_cell))
        .route("/v1/moves", get(moves).post(create_move))
        .route("/v1/moves/plan", post(plan_move))
        .route("/v1/moves/{move}", get(a_move))
        .route("/v1/moves/{move}/undo", post(undo_move))
        .route("/v1/moves/{move}/freeze-now", post(freeze_now))
        .route("/v1/lookup", get(lookup))
        .route("/v1/findings", get(findings))
        .route("/v1/alerts", post(alerts))
        .route("/v1/brake", get(brake).put(set_brake))
}

pub(super) fn not_found(what: String) -> Failure {
    Failure(NotDone::NotFound(what))
}

pub(super) fn id<T: std::str::FromStr<Err = cellway_core::ids::InvalidId>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: cellway_core::ids::InvalidId| Failure(error.into()))
}

async fn tenants(State(ctx): State<Ctx>) -> Answer<Listing<TenantView>> {
    let view = synced(&ctx)?;
    let items = view.known_tenants().iter().filter_map(|id| tenant_view(&view, id)).collect();
    Ok(Json(Listing { items, revision: view.revision.0 }))
}

/// The view, once the store was read: an empty listing must mean that there is nothing.
pub(super) fn synced(ctx: &Ctx) -> Result<parking_lot::RwLockReadGuard<'_, crate::view::View>, Failure> {
    let view = ctx.replica.view.read();
    if view.synced { Ok(view) } else { Err(Failure(NotDone::Unavailable(None))) }
}

async fn tenant(State(ctx): State<Ctx>, Path(tenant): Path<String>) -> Answer<TenantView> {
    let tenant: TenantId = id(&tenant)?;
    let view = synced(&ctx)?;
    let shown = tenant_view(&view, &tenant);
    shown.map(Json).ok_or_else(|| not_found(format!("there is no tenant {tenant}")))
}

async fn create_tenant(State(ctx): State<Ctx>, Body(wanted): Body<CreateTenant>) -> Created<TenantView> {
    Ok((StatusCode::CREATED, Json(ctx.replica.create_tenant(wanted).await?)))
}

async fn change_tenant(
    State(ctx): State<Ctx>,
    Path(tenant): Path<String>,
    Body(change): Body<ChangeTenant>,
) -> Answer<TenantView> {
    Ok(Json(ctx.replica.change_tenant(&id(&tenant)?, change).await?))
}

async fn hosts(State(ctx): State<Ctx>) -> Answer<Listing<HostView>> {
    let view = synced(&ctx)?;
    let items = view
        .hosts
        .iter()
        .map(|(host, claim)| HostView { host: host.clone(), tenant: claim.value.tenant.to_string() })
        .collect();
    Ok(Json(Listing { items, revision: view.revision.0 }))
}

async fn claim_host(State(ctx): State<Ctx>, Body(claim): Body<ClaimHost>) -> Created<HostView> {
    Ok((StatusCode::CREATED, Json(ctx.replica.claim_host(claim).await?)))
}

async fn cells(State(ctx): State<Ctx>) -> Answer<Listing<CellView>> {
    let view = synced(&ctx)?;
    let counts = view.tenants_per_cell();
    let shown = |name: &CellName| counts.get(name).copied().unwrap_or_default();
    let items = view.cells.iter().map(|(name, at)| ctx.replica.cell_view(&view, at, shown(name))).collect();
    Ok(Json(Listing { items, revision: view.revision.0 }))
}

async fn cell(State(ctx): State<Ctx>, Path(cell): Path<String>) -> Answer<CellView> {
    let cell: CellName = id(&cell)?;
    let view = synced(&ctx)?;
    let at = view.cells.get(&cell).ok_or_else(|| not_found(format!("there is no cell {cell}")))?;
    let tenants = view.tenants_per_cell().get(&cell).copied().unwrap_or_default();
    Ok(Json(ctx.replica.cell_view(&view, at, tenants)))
}

async fn create_cell(State(ctx): State<Ctx>, Body(wanted): Body<CreateCell>) -> Created<CellView> {
    Ok((StatusCode::CREATED, Json(ctx.replica.create_cell(wanted).await?)))
}

async fn change_cell(
    State(ctx): State<Ctx>,
    Path(cell): Path<String>,
    Body(change): Body<ChangeCell>,
) -> Answer<CellView> {
    Ok(Json(ctx.replica.change_cell(&cell, change).await?))
}

async fn moves(State(ctx): State<Ctx>) -> Answer<Listing<MoveView>> {
    let view = synced(&ctx)?;
    let mut records: Vec<_> = view.moves.values().map(|at| &at.value).collect();
    records.sort_by_key(|record| (record.created_ms, record.id.clone()));
    let newest = records.len().saturating_sub(MOVES_LISTED_MAX);
    let items = records[newest..].iter().map(|record| ctx.replica.move_view(&view, record)).collect();
    Ok(Json(Listing { items, revision: view.revision.0 }))
}

async fn create_move(State(ctx): State<Ctx>, Body(wanted): Body<CreateMove>) -> Created<MoveView> {
    Ok((StatusCode::CREATED, Json(ctx.replica.create_move(wanted).await?)))
}

async fn plan_move(State(ctx): State<Ctx>, Body(wanted): Body<CreateMove>) -> Answer<MovePlanView> {
    Ok(Json(ctx.replica.plan_move(wanted).await?))
}

async fn a_move(State(ctx): State<Ctx>, Path(wanted): Path<String>) -> Answer<MoveView> {
    let wanted: MoveId = id(&wanted)?;
    let view = synced(&ctx)?;
    let at = view.moves.get(&wanted).ok_or_else(|| not_found(format!("there is no move {wanted}")))?;
    Ok(Json(ctx.replica.move_view(&view, &at.value)))
}

async fn undo_move(State(ctx): State<Ctx>, Path(wanted): Path<String>, Body(undo): Body<UndoMove>) -> Answer<MoveView> {
    Ok(Json(ctx.replica.undo_move(&wanted, undo.cause).await?))
}

async fn freeze_now(
    State(ctx): State<Ctx>,
    Path(wanted): Path<String>,
    Body(now): Body<FreezeNow>,
) -> Answer<MoveView> {
    Ok(Json(ctx.replica.freeze_now(&wanted, now.cause).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LookupQuery {
    tenant: Option<String>,
    host: Option<String>,
}

async fn lookup(State(ctx): State<Ctx>, Query(query): Query<LookupQuery>) -> Answer<LookupView> {
    synced(&ctx).map(drop)?;
    match (query.tenant, query.host) {
        (Some(tenant), None) => Ok(Json(ctx.replica.lookup_tenant(&tenant)?)),
        (None, Some(host)) => Ok(Json(ctx.replica.lookup_host(&host)?)),
        _ => Err(Failure(NotDone::Invalid("ask for either ?tenant= or ?host=".into()))),
    }
}

async fn findings(State(ctx): State<Ctx>) -> Answer<Listing<FindingView>> {
    let view = synced(&ctx)?;
    let items = view.findings.values().map(|at| finding_view(&at.value)).collect();
    Ok(Json(Listing { items, revision: view.revision.0 }))
}

async fn alerts(State(ctx): State<Ctx>, Body(body): Body<AlertmanagerBody>) -> Created<Listing<FindingView>> {
    let items = ctx.replica.take_alerts(body).await?;
    let revision = ctx.replica.view.read().revision.0;
    Ok((StatusCode::CREATED, Json(Listing { items, revision })))
}

async fn brake(State(ctx): State<Ctx>) -> Answer<BrakeView> {
    Ok(Json(brake_view(&*synced(&ctx)?)))
}

async fn set_brake(State(ctx): State<Ctx>, Body(wanted): Body<SetBrake>) -> Answer<BrakeView> {
    Ok(Json(ctx.replica.set_brake(wanted).await?))
}

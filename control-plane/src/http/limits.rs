//! Limits of tenants.

use super::fleet::{Answer, id, not_found, synced};
use super::{Body, Ctx};
use crate::operate::limits_view;
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use cellway_api::limits::{LimitsView, SetLimits};
use cellway_core::ids::TenantId;

pub(super) fn routes() -> Router<Ctx> {
    Router::new().route("/v1/tenants/{tenant}/limits", get(limits).put(set_limits).delete(clear_limits))
}

async fn limits(State(ctx): State<Ctx>, Path(tenant): Path<String>) -> Answer<LimitsView> {
    let tenant: TenantId = id(&tenant)?;
    let view = synced(&ctx)?;
    if !view.tenants.contains_key(&tenant) {
        return Err(not_found(format!("there is no tenant {tenant}")));
    }
    Ok(Json(limits_view(&view, &tenant)))
}

async fn set_limits(
    State(ctx): State<Ctx>,
    Path(tenant): Path<String>,
    Body(wanted): Body<SetLimits>,
) -> Answer<LimitsView> {
    Ok(Json(ctx.replica.set_limits(&id(&tenant)?, wanted).await?))
}

async fn clear_limits(State(ctx): State<Ctx>, Path(tenant): Path<String>) -> Answer<LimitsView> {
    Ok(Json(ctx.replica.set_limits(&id(&tenant)?, SetLimits::default()).await?))
}

//! What agents call: register, leave, facts, load, and their stream.

use super::{Body, Ctx, Failure, stream};
use crate::operate::NotDone;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use cellway_api::agent::{FactsHeard, FactsUp, LoadUp, Register, Registered};
use cellway_core::ids::{CellName, InstanceId, Revision};
use serde::Deserialize;

/// The most facts of one request.
const FACTS_MAX: usize = 256;

pub(super) fn routes() -> Router<Ctx> {
    Router::new()
        .route("/v1/cells/{cell}/instances", post(register))
        .route("/v1/cells/{cell}/instances/{instance}/leave", post(leave))
        .route("/v1/cells/{cell}/stream", get(open_stream))
        .route("/v1/cells/{cell}/facts", post(facts))
        .route("/v1/cells/{cell}/load", post(load))
}

fn cell_name(text: &str) -> Result<CellName, Failure> {
    CellName::new(text).map_err(|error| Failure(error.into()))
}

fn instance_id(text: &str) -> Result<InstanceId, Failure> {
    InstanceId::new(text).map_err(|error| Failure(error.into()))
}

/// Another replica may see the store: the agent turns to it.
fn check_in_sight(ctx: &Ctx) -> Result<(), Failure> {
    if ctx.replica.view.is_in_sight() { Ok(()) } else { Err(Failure(NotDone::Unavailable(None))) }
}

async fn register(
    State(ctx): State<Ctx>,
    Path(cell): Path<String>,
    Body(register): Body<Register>,
) -> Result<Json<Registered>, Failure> {
    Ok(Json(ctx.replica.register(&cell_name(&cell)?, register).await?))
}

async fn leave(State(ctx): State<Ctx>, Path((cell, instance)): Path<(String, String)>) -> Result<StatusCode, Failure> {
    ctx.replica.leave(&cell_name(&cell)?, &instance_id(&instance)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn facts(
    State(ctx): State<Ctx>,
    Path(cell): Path<String>,
    Body(body): Body<FactsUp>,
) -> Result<Json<FactsHeard>, Failure> {
    let (cell, instance) = (cell_name(&cell)?, instance_id(&body.instance)?);
    if body.facts.len() > FACTS_MAX {
        let count = body.facts.len();
        return Err(Failure(NotDone::Invalid(format!("{count} facts in one request, at most {FACTS_MAX}"))));
    }
    let mut results = Vec::with_capacity(body.facts.len());
    for fact in body.facts {
        check_in_sight(&ctx)?;
        results.push(ctx.replica.hear(&cell, &instance, fact).await);
    }
    Ok(Json(FactsHeard { results }))
}

async fn load(
    State(ctx): State<Ctx>,
    Path(cell): Path<String>,
    Body(load): Body<LoadUp>,
) -> Result<StatusCode, Failure> {
    let (cell, instance) = (cell_name(&cell)?, instance_id(&load.instance)?);
    let listed = {
        let view = ctx.replica.view.read();
        view.gates.get(&cell).is_some_and(|gates| gates.value.instances.contains_key(&instance))
    };
    if !listed || load.cell != cell.as_str() {
        return Err(Failure(NotDone::Conflict(format!("instance {instance} is not registered in cell {cell}"))));
    }
    let report = load.into_report().map_err(|error| Failure(error.into()))?;
    ctx.replica.heard.report(&cell, &instance, report);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct StreamQuery {
    instance: String,
    registered_at: u64,
}

async fn open_stream(
    State(ctx): State<Ctx>,
    Path(cell): Path<String>,
    Query(query): Query<StreamQuery>,
) -> Result<Response, Failure> {
    let (cell, instance) = (cell_name(&cell)?, instance_id(&query.instance)?);
    // A gate opens only on what was read at or after its registration, which another replica may have written.
    ctx.replica.view.seen(Revision(query.registered_at)).await;
    check_in_sight(&ctx)?;
    {
        let view = ctx.replica.view.read();
        if !view.synced || view.revision < Revision(query.registered_at) {
            return Err(Failure(NotDone::Unavailable(None)));
        }
        if !view.gates.get(&cell).is_some_and(|gates| gates.value.instances.contains_key(&instance)) {
            return Err(Failure(NotDone::Conflict(format!("instance {instance} is not registered in cell {cell}"))));
        }
    }
    Ok(stream::answer(ctx.replica.clone(), cell, instance, ctx.shutdown.clone()))
}

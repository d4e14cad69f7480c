//! What the control plane may ask before a move is asked for: what runs here of a tenant, and how much data there is.

use crate::driver::Driver;
use crate::gate::table::GateTable;
use crate::transfer::read_json;
use bytes::Bytes;
use cellway_api::identity::Identity;
use cellway_api::plan::{SURVEY_MAX_BYTES, SURVEY_TIMEOUT_MS, Survey, Surveyed};
use cellway_core::ids::{HomeId, TenantId};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use std::time::Duration;

/// How long the data's size is waited for: less than whoever asks waits for the whole answer.
const SIZE_TIMEOUT_MS: u64 = SURVEY_TIMEOUT_MS / 2;

/// Answers the control plane, by its certificate; without TLS nobody is named, and only this machine can ask.
pub(crate) async fn answer<B>(
    driver: &Driver,
    table: &GateTable,
    peer: Option<&Identity>,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (status, body) = match respond(driver, table, peer, request).await {
        Ok(body) => (StatusCode::OK, body),
        Err((status, text)) => (status, text.into()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

async fn respond<B>(
    driver: &Driver,
    table: &GateTable,
    peer: Option<&Identity>,
    request: Request<B>,
) -> Result<Bytes, (StatusCode, String)>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Some(peer) = peer.filter(|peer| **peer != Identity::ControlPlane) {
        tracing::warn!(%peer, "only the control plane may ask what runs here");
        return Err((StatusCode::FORBIDDEN, "this is the control plane's to ask".to_owned()));
    }
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "only POST".to_owned()));
    }
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let survey: Survey = read_json(request, SURVEY_MAX_BYTES).await.map_err(bad)?;
    let tenant: TenantId = survey.tenant.parse().map_err(|_| bad("this is no tenant's id".to_owned()))?;
    let home: HomeId = survey.home.parse().map_err(|_| bad("this is no home's id".to_owned()))?;
    let running = table.find(&tenant).map(|gate| gate.running()).unwrap_or_default();
    let surveyed = Surveyed {
        running_requests: u32::try_from(running.requests).unwrap_or(u32::MAX),
        oldest_request_ms: running.oldest_request_ms,
        open_streams: u32::try_from(running.streams).unwrap_or(u32::MAX),
        data_bytes: size_bytes(driver, &tenant, &home).await,
    };
    serde_json::to_vec(&surveyed)
        .map(Bytes::from)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn size_bytes(driver: &Driver, tenant: &TenantId, home: &HomeId) -> Option<u64> {
    let asked = driver.size_bytes(tenant, home);
    match tokio::time::timeout(Duration::from_millis(SIZE_TIMEOUT_MS), asked).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            tracing::debug!(%tenant, %home, %error, "the size of a home is unknown");
            None
        }
        Err(_) => None,
    }
}

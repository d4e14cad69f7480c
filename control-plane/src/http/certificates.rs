//! Certificates of the store.

use super::fleet::{Answer, synced};
use super::{Body, Ctx};
use crate::operate::certificate_view;
use axum::extract::{Path, State};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use cellway_api::certificates::{CertificateView, SealedAgain, SetCertificate};
use cellway_api::fleet::Listing;

pub(super) fn routes() -> Router<Ctx> {
    Router::new()
        .route("/v1/certificates", get(certificates))
        .route("/v1/certificates/{name}", put(set_certificate).delete(remove_certificate))
        .route("/v1/certificate-seals", post(seal_again))
}

async fn certificates(State(ctx): State<Ctx>) -> Answer<Listing<CertificateView>> {
    let view = synced(&ctx)?;
    let items = view.certificates.iter().map(|(name, at)| certificate_view(name, at)).collect();
    Ok(Json(Listing { items, revision: view.revision.0 }))
}

async fn set_certificate(
    State(ctx): State<Ctx>,
    Path(name): Path<String>,
    Body(set): Body<SetCertificate>,
) -> Answer<CertificateView> {
    Ok(Json(ctx.replica.set_certificate(&name, set).await?))
}

async fn remove_certificate(State(ctx): State<Ctx>, Path(name): Path<String>) -> Answer<CertificateView> {
    Ok(Json(ctx.replica.remove_certificate(&name).await?))
}

async fn seal_again(State(ctx): State<Ctx>) -> Answer<SealedAgain> {
    Ok(Json(ctx.replica.seal_certificates_again().await?))
}

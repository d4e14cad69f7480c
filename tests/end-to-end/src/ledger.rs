//! An app of a test's own in each cell, with the demo's API of entries, over whatever a test keeps a tenant's data in.

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// The most entries of one answer.
const PAGE_MAX: usize = 1_000;

/// What one write leaves behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// The cell whose app took it.
    pub cell: String,
    /// The epoch that the app was told.
    pub epoch: u64,
}

/// Where a cell's app keeps its tenants' entries.
pub trait Keeps: Send + Sync + 'static {
    /// Keeps an entry; once this returns it is there.
    fn add(&self, tenant: &str, entry: Entry) -> impl Future<Output = anyhow::Result<()>> + Send;
    /// All entries of a tenant, in their order.
    fn all(&self, tenant: &str) -> impl Future<Output = anyhow::Result<Vec<Entry>>> + Send;
}

/// A running app; it ends with this.
pub struct App {
    /// Where it answers.
    pub address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

struct Ledger<K> {
    cell: String,
    keeps: K,
}

impl App {
    /// Starts the app of a cell.
    pub async fn start<K: Keeps>(cell: &str, keeps: K) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let ledger = Arc::new(Ledger { cell: cell.to_owned(), keeps });
        let routes = Router::new().route("/entries", get(list::<K>)).route("/entries/{id}", post(add::<K>));
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes.with_state(ledger)).await.expect("it serves until it is ended");
        });
        Self { address, _serving: AbortOnDropHandle::new(serving) }
    }
}

fn said<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn failed(error: &anyhow::Error) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
}

async fn add<K: Keeps>(
    State(ledger): State<Arc<Ledger<K>>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, (StatusCode, String)> {
    let epoch = said(&headers, "x-cellway-epoch").parse().unwrap_or_default();
    let entry = Entry { id, cell: ledger.cell.clone(), epoch };
    let kept = ledger.keeps.add(said(&headers, "x-cellway-tenant"), entry).await;
    kept.map(|()| StatusCode::CREATED).map_err(|error| failed(&error))
}

#[derive(Deserialize)]
struct After {
    after: usize,
}

async fn list<K: Keeps>(
    State(ledger): State<Arc<Ledger<K>>>,
    Query(After { after }): Query<After>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, (StatusCode, String)> {
    let all = ledger.keeps.all(said(&headers, "x-cellway-tenant")).await.map_err(|error| failed(&error))?;
    let page: Vec<&Entry> = all.iter().skip(after).take(PAGE_MAX).collect();
    let next = Some(after + page.len()).filter(|next| *next < all.len());
    Ok(Json(serde_json::json!({ "entries": page, "next": next })))
}

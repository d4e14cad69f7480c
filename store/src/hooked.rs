//! A store in tests, whose commits something happens around.

use std::sync::Arc;

use async_trait::async_trait;
use cellway_core::ids::{ClusterId, Revision};

use crate::contract::{Entry, LeaseId, Page, Store, Txn};
use crate::error::StoreError;
use crate::watch::WatchStream;

/// What happens around a commit.
#[async_trait]
pub trait CommitHook: Send + Sync + 'static {
    /// Before it is begun.
    async fn before(&self, txn: &Txn);

    /// After it is in force, before whoever asked for it hears of that.
    async fn after(&self, txn: &Txn);
}

/// As the store within it, but for its commits.
pub struct HookedStore<H> {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What happens around each commit.
    pub hook: H,
}

#[async_trait]
impl<H: CommitHook> Store for HookedStore<H> {
    async fn cluster(&self) -> Result<ClusterId, StoreError> {
        self.store.cluster().await
    }
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        self.store.get(key).await
    }
    async fn range(
        &self,
        prefix: &str,
        start: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, StoreError> {
        self.store.range(prefix, start, limit, at).await
    }
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        self.hook.before(&txn).await;
        let committed = self.store.commit(txn.clone()).await?;
        self.hook.after(&txn).await;
        Ok(committed)
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.store.watch(prefix, after).await
    }
    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, StoreError> {
        self.store.grant_lease(ttl_ms).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke_lease(lease).await
    }
}

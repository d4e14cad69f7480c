//! A store whose commits arrive late: what was decided is old by the time that it is written.

use async_trait::async_trait;
use cellway_core::ids::{ClusterId, Revision};
use cellway_store::{Entry, LeaseId, Page, Store, StoreError, Txn, WatchStream};
use std::sync::Arc;
use std::time::Duration;

/// As the store within it, but for its commits, which come so late.
pub struct LateCommits {
    /// The store.
    pub store: Arc<dyn Store>,
    /// How late.
    pub late_ms: u64,
}

#[async_trait]
impl Store for LateCommits {
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
        tokio::time::sleep(Duration::from_millis(self.late_ms)).await;
        self.store.commit(txn).await
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

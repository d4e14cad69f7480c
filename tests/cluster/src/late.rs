//! Commits that come late: what was decided is old by the time that it is written.

use async_trait::async_trait;
use cellway_store::{CommitHook, Txn};
use std::time::Duration;

/// How late each commit comes.
pub struct LateCommits {
    /// In milliseconds.
    pub late_ms: u64,
}

#[async_trait]
impl CommitHook for LateCommits {
    async fn before(&self, _: &Txn) {
        tokio::time::sleep(Duration::from_millis(self.late_ms)).await;
    }

    async fn after(&self, _: &Txn) {}
}

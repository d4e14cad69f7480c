//! Keeps what only grows bounded: ended moves, the audit, findings.

use crate::Replica;
use crate::view::View;
use cellway_store::{StoreError, Txn, keys};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it looks.
const INTERVAL_MS: u64 = 30_000;

/// Ended moves that are kept for people to look at.
const ENDED_MOVES_KEPT: usize = 10_000;

/// Findings that are kept.
const FINDINGS_KEPT: usize = 1_000;

/// Audit entries that are kept in the store.
const AUDIT_KEPT: usize = 10_000;

/// The most deletions of one transaction.
const DELETIONS_MAX: usize = 100;

/// Runs until `shutdown`; only a leader deletes.
pub(crate) async fn run(replica: Arc<Replica>, shutdown: CancellationToken) {
    loop {
        let pause = tokio::time::sleep(Duration::from_millis(INTERVAL_MS));
        tokio::select! { () = pause => {}, () = shutdown.cancelled() => return }
        if replica.leading.is()
            && let Err(error) = sweep(&replica).await
        {
            tracing::warn!(%error, "old records could not be deleted");
        }
    }
}

async fn sweep(replica: &Replica) -> Result<(), StoreError> {
    let mut old = old_in_view(&replica.view.read());
    old.extend(old_audit(replica).await?);
    for some in old.chunks(DELETIONS_MAX) {
        replica.store.commit(some.iter().fold(Txn::new(), |txn, key| txn.delete(key.clone()))).await?;
    }
    Ok(())
}

fn old_in_view(view: &View) -> Vec<String> {
    let mut ended: Vec<_> = view.moves.values().filter(|at| at.value.state.is_last()).collect();
    ended.sort_by_key(|at| at.revision);
    let surplus = ended.len().saturating_sub(ENDED_MOVES_KEPT);
    let mut old: Vec<String> = ended.iter().take(surplus).map(|at| keys::a_move(&at.value.id)).collect();
    let mut findings: Vec<_> = view.findings.values().collect();
    findings.sort_by_key(|at| at.revision);
    let surplus = findings.len().saturating_sub(FINDINGS_KEPT);
    old.extend(findings.iter().take(surplus).map(|at| keys::finding(&at.value.id)));
    old
}

/// Audit keys sort by time: the oldest come first.
async fn old_audit(replica: &Replica) -> Result<Vec<String>, StoreError> {
    let page = replica.store.range(keys::AUDIT, None, AUDIT_KEPT + DELETIONS_MAX, None).await?;
    let surplus = page.entries.len().saturating_sub(AUDIT_KEPT);
    Ok(page.entries.into_iter().take(surplus).map(|entry| entry.key).collect())
}

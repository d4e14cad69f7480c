//! Leadership by a lease, and the heartbeat that only a leader writes.
//!
//! Leading is a matter of economy, not of safety: every write of a leader compares what it was decided on, so a replica
//! that still believes in a lost lease can only fail.

use crate::{Replica, clock};
use cellway_store::records::{Heartbeat, Leader, Record};
use cellway_store::{LeaseId, StoreError, Txn, keys};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long a silent leader stays the leader.
pub(crate) const LEASE_MS: u64 = 2_000;

/// How often the lease is renewed and the heartbeat written.
const RENEW_INTERVAL_MS: u64 = 600;

/// Whether this replica leads, as far as it knows.
#[derive(Default)]
pub(crate) struct Leading(AtomicBool);

impl Leading {
    /// See the type.
    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs until `shutdown`; gives the leadership up then.
pub(crate) async fn run(replica: Arc<Replica>, address: String, shutdown: CancellationToken) {
    let me = Leader { replica: replica.id.clone(), address };
    while !shutdown.is_cancelled() {
        match lead(&replica, &me, &shutdown).await {
            Ok(()) => {}
            Err(StoreError::Conflict) => {}
            Err(error) => tracing::warn!(%error, "the leadership cannot be taken or kept"),
        }
        set(&replica, false);
        let pause = tokio::time::sleep(Duration::from_millis(RENEW_INTERVAL_MS));
        tokio::select! { () = pause => {}, () = shutdown.cancelled() => {} }
    }
}

/// Takes the leadership and keeps it; returns when it is lost or given up.
async fn lead(replica: &Replica, me: &Leader, shutdown: &CancellationToken) -> Result<(), StoreError> {
    let (current, _) = replica.store.get(keys::LEADER).await?;
    let mut txn = Txn::new();
    match current {
        // The lock of the embedded store says that the old leader is gone.
        Some(_) if replica.config.sole_writer => {}
        Some(_) => return Err(StoreError::Conflict),
        None => txn = txn.require_absent(keys::LEADER),
    }
    let lease = replica.store.grant_lease(LEASE_MS).await?;
    replica.store.commit(txn.put_leased(keys::LEADER, me.encode(), lease)).await?;
    set(replica, true);
    tracing::info!(replica = %me.replica, "leading");
    let kept = keep(replica, lease, shutdown).await;
    if shutdown.is_cancelled() {
        replica.store.revoke_lease(lease).await?;
    }
    kept
}

async fn keep(replica: &Replica, lease: LeaseId, shutdown: &CancellationToken) -> Result<(), StoreError> {
    let mut renewed = Instant::now();
    loop {
        let beat = Heartbeat { at_ms: clock::now_ms() };
        replica.store.commit(Txn::new().put(keys::HEARTBEAT, beat.encode())).await?;
        let pause = tokio::time::sleep(Duration::from_millis(RENEW_INTERVAL_MS));
        tokio::select! { () = pause => {}, () = shutdown.cancelled() => return Ok(()) }
        match replica.store.keep_alive(lease).await {
            Ok(()) => renewed = Instant::now(),
            Err(StoreError::LeaseGone) => return Err(StoreError::LeaseGone),
            Err(error) if renewed.elapsed() > Duration::from_millis(LEASE_MS) => return Err(error),
            Err(_) => {}
        }
    }
}

fn set(replica: &Replica, leading: bool) {
    replica.leading.0.store(leading, Ordering::Relaxed);
    replica.metrics.leading.set(i64::from(leading));
}

//! Leadership by a lease, and the heartbeat that only a leader writes.
//!
//! Leading is a matter of economy, not of safety: every write of a leader compares what it was decided on, so a replica
//! that still believes in a lost lease can only fail. Stores round leases up, to two seconds and more; a leader that others
//! see fall silent is followed before its lease ends.

use crate::{Replica, clock};
use cellway_core::ids::Revision;
use cellway_store::records::{Heartbeat, Leader, Record};
use cellway_store::{LeaseId, StoreError, Txn, keys};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long a silent leader stays the leader where nobody looks.
const LEASE_MS: u64 = 2_000;

/// How often the lease is renewed and the heartbeat written.
const RENEW_INTERVAL_MS: u64 = 600;

/// How often a replica that does not lead looks at who does.
const LOOK_INTERVAL_MS: u64 = 200;

/// A leader that has written no heartbeat for this long is followed: it has missed two.
const SILENT_MAX_MS: u64 = 1_300;

/// Whether this replica leads, as far as it knows.
#[derive(Default)]
pub(crate) struct Leading(AtomicBool);

impl Leading {
    /// See the type.
    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long a leader has been silent, by this replica's own clock and what it has seen itself.
#[derive(Default)]
struct Silence {
    /// The newest revision at which somebody began to lead or wrote a heartbeat, and when it was seen first and last.
    seen: Option<(Revision, Instant, Instant)>,
}

impl Silence {
    /// A look at `now` found that `revision`. Whether all looks since [`SILENT_MAX_MS`] found the same. One that could
    /// not look for a while begins anew: the store may have stood still for the leader, too.
    fn is_too_long(&mut self, revision: Revision, now: Instant) -> bool {
        let gap = Duration::from_millis(SILENT_MAX_MS / 2);
        let since = match self.seen {
            Some((seen, since, last)) if seen == revision && now.duration_since(last) < gap => since,
            _ => now,
        };
        self.seen = Some((revision, since, now));
        now.duration_since(since) >= Duration::from_millis(SILENT_MAX_MS)
    }
}

/// Runs until `shutdown`; gives the leadership up then.
pub(crate) async fn run(replica: Arc<Replica>, address: String, shutdown: CancellationToken) {
    let me = Leader { replica: replica.id.clone(), address };
    let mut silence = Silence::default();
    while !shutdown.is_cancelled() {
        match lead(&replica, &me, &mut silence, &shutdown).await {
            Ok(()) => {}
            Err(StoreError::Conflict) => {}
            Err(error) => tracing::warn!(%error, "the leadership cannot be taken or kept"),
        }
        set(&replica, false);
        let pause = tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS));
        tokio::select! { () = pause => {}, () = shutdown.cancelled() => {} }
    }
}

/// Takes the leadership and keeps it; returns when it is lost or given up.
async fn lead(
    replica: &Replica,
    me: &Leader,
    silence: &mut Silence,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    let (current, _) = replica.store.get(keys::LEADER).await?;
    let mut txn = Txn::new();
    match current.map(|entry| entry.mod_revision) {
        // The lock of the embedded store says that the old leader is gone.
        Some(_) if replica.config.sole_writer => {}
        Some(taken) => {
            let (beat, _) = replica.store.get(keys::HEARTBEAT).await?;
            let beaten = beat.map_or(Revision(0), |entry| entry.mod_revision);
            if !silence.is_too_long(taken.max(beaten), Instant::now()) {
                return Err(StoreError::Conflict);
            }
            tracing::warn!(silent_ms = SILENT_MAX_MS, "the leader is silent and is followed");
            // Two that see the silence cannot both follow.
            txn = txn.require_revision(keys::LEADER, taken);
        }
        None => txn = txn.require_absent(keys::LEADER),
    }
    let lease = replica.store.grant_lease(LEASE_MS).await?;
    let taken = replica.store.commit(txn.put_leased(keys::LEADER, me.encode(), lease)).await?;
    set(replica, true);
    tracing::info!(replica = %me.replica, "leading");
    let kept = keep(replica, (lease, taken), shutdown).await;
    if shutdown.is_cancelled() {
        replica.store.revoke_lease(lease).await?;
    }
    kept
}

/// Renews the lease and writes the heartbeat, for as long as nobody else leads since `taken`.
async fn keep(
    replica: &Replica,
    (lease, taken): (LeaseId, Revision),
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    let mut renewed = Instant::now();
    loop {
        let beat = Heartbeat { at_ms: clock::now_ms() };
        let txn = Txn::new().require_revision(keys::LEADER, taken).put(keys::HEARTBEAT, beat.encode());
        replica.store.commit(txn).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What looks at these moments find, each with the revision that is there.
    fn looks(found: &[(u64, u64)]) -> Vec<bool> {
        let (mut silence, begun) = (Silence::default(), Instant::now());
        let mut look =
            |&(at_ms, revision)| silence.is_too_long(Revision(revision), begun + Duration::from_millis(at_ms));
        found.iter().map(&mut look).collect()
    }

    #[test]
    fn a_leader_is_silent_once_all_looks_of_long_enough_saw_nothing_new() {
        let silent: Vec<_> = (0..8).map(|n| (n * LOOK_INTERVAL_MS, 7)).collect();
        assert_eq!(looks(&silent), [false, false, false, false, false, false, false, true]);
        let beating: Vec<_> =
            (0..50).map(|n| (n * LOOK_INTERVAL_MS, n * LOOK_INTERVAL_MS / RENEW_INTERVAL_MS)).collect();
        assert!(!looks(&beating).contains(&true));
        let stood_still = [(0, 7), (200, 7), (9_000, 7), (9_200, 7)];
        assert!(!looks(&stood_still).contains(&true), "who could not look knows nothing");
    }
}

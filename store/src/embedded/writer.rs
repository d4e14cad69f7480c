//! The one thread that decides on commits, makes them durable and then publishes them. It also
//! ends leases whose time is over.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use cellway_core::ids::Revision;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::contract::{LeaseId, Txn, Write};
use crate::embedded::Shared;
use crate::embedded::disk::Batch;
use crate::embedded::leases::LeaseBook;
use crate::embedded::state::Staged;
use crate::error::StoreError;

/// How many waiting transactions share one durable write.
const GROUP_TXNS_MAX: usize = 64;

/// How long to wait before trying again to delete the keys of an ended lease, when the disk failed.
const EXPIRY_RETRY_MS: u64 = 1_000;

/// How long to sleep when there is no lease to watch over.
const IDLE_MS: u64 = 60_000;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is asked to do.
pub(crate) enum Command {
    Commit { txn: Txn, reply: Reply<Revision> },
    Grant { ttl_ms: u64, reply: Reply<LeaseId> },
    KeepAlive { lease: LeaseId, reply: Reply<()> },
    Revoke { lease: LeaseId, reply: Reply<()> },
}

/// A command and its place in the bounded queue.
pub(crate) struct Queued {
    pub(crate) command: Command,
    pub(crate) place: OwnedSemaphorePermit,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    queue: Receiver<Queued>,
    published: watch::Sender<Revision>,
    leases: LeaseBook,
    next_lease: u64,
    /// Taken from the queue while a group was gathered, but not part of it.
    held: Option<Queued>,
}

impl Writer {
    /// Takes over what was stored: every lease's time begins anew.
    pub(crate) fn new(
        shared: Arc<Shared>,
        queue: Receiver<Queued>,
        published: watch::Sender<Revision>,
        loaded_leases: &[(LeaseId, u64)],
        next_lease: u64,
    ) -> Self {
        let mut leases = LeaseBook::default();
        let now = Instant::now();
        for (id, ttl_ms) in loaded_leases {
            leases.grant(*id, *ttl_ms, now);
        }
        for (key, record) in &shared.state.read().records {
            if let Some(id) = record.lease {
                leases.attach(id, key.clone());
            }
        }
        Self { shared, queue, published, leases, next_lease, held: None }
    }

    /// Works until every sender of commands is gone.
    pub(crate) fn run(mut self) {
        loop {
            let wait = self.end_expired_leases();
            let queued = match self.held.take() {
                Some(queued) => queued,
                None => match self.queue.recv_timeout(wait) {
                    Ok(queued) => queued,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            // A lease that ended while the queue was waited for must be gone before its keeper,
            // or a write under it, is answered.
            self.end_expired_leases();
            self.carry_out(queued);
        }
    }

    fn carry_out(&mut self, queued: Queued) {
        let Queued { command, place } = queued;
        match command {
            Command::Commit { txn, reply } => self.commit_group(txn, reply),
            Command::Grant { ttl_ms, reply } => {
                let _ = reply.send(self.grant(ttl_ms));
            }
            Command::KeepAlive { lease, reply } => {
                let kept = self.leases.keep_alive(lease, Instant::now());
                let _ = reply.send(if kept { Ok(()) } else { Err(StoreError::LeaseGone) });
            }
            Command::Revoke { lease, reply } => {
                let _ = reply.send(self.end_lease(lease));
            }
        }
        drop(place);
    }

    /// Decides on the transaction and on those that wait behind it, makes the accepted ones
    /// durable together, publishes them, and only then answers.
    fn commit_group(&mut self, txn: Txn, reply: Reply<Revision>) {
        let mut staged = Staged::default();
        let mut answers = vec![(self.stage(&mut staged, &txn), reply)];
        let mut places = Vec::new();
        while answers.len() < GROUP_TXNS_MAX {
            match self.queue.try_recv() {
                Ok(Queued { command: Command::Commit { txn, reply }, place }) => {
                    answers.push((self.stage(&mut staged, &txn), reply));
                    places.push(place);
                }
                Ok(other) => {
                    self.held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let durable = self.make_durable(staged, None);
        for (decided, reply) in answers {
            // A refusal may rest on a commit of the same group, so it shares that commit's fate.
            let _ = reply.send(durable.clone().and(decided));
        }
    }

    fn stage(&self, staged: &mut Staged, txn: &Txn) -> Result<Revision, StoreError> {
        let now = Instant::now();
        let mut leases = txn.writes.iter().filter_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } => None,
        });
        if leases.any(|lease| !self.leases.is_alive(lease, now)) {
            return Err(StoreError::LeaseGone);
        }
        staged.stage(&self.shared.state.read(), txn)
    }

    fn make_durable(&mut self, staged: Staged, end: Option<LeaseId>) -> Result<(), StoreError> {
        if staged.commits.is_empty() && end.is_none() {
            return Ok(());
        }
        self.shared.write_disk(&Batch { commits: &staged.commits, grant: None, end })?;
        let mut state = self.shared.state.write();
        for commit in staged.commits {
            self.leases.apply(&commit);
            state.apply(commit);
        }
        if let Some(id) = end {
            self.leases.remove(id);
        }
        let revision = state.revision;
        drop(state);
        self.published.send_replace(revision);
        Ok(())
    }

    fn grant(&mut self, ttl_ms: u64) -> Result<LeaseId, StoreError> {
        let id = LeaseId(self.next_lease);
        let grant = Some((id, ttl_ms));
        self.shared.write_disk(&Batch { commits: &[], grant, end: None })?;
        self.next_lease += 1;
        self.leases.grant(id, ttl_ms, Instant::now());
        Ok(id)
    }

    fn end_lease(&mut self, id: LeaseId) -> Result<(), StoreError> {
        if !self.leases.contains(id) {
            return Ok(());
        }
        let mut txn = Txn::new();
        for key in self.leases.keys(id) {
            txn = txn.delete(key);
        }
        let mut staged = Staged::default();
        staged.stage(&self.shared.state.read(), &txn)?;
        self.make_durable(staged, Some(id))
    }

    /// Answers how long until the next lease may end.
    fn end_expired_leases(&mut self) -> Duration {
        while let Some(id) = self.leases.expired(Instant::now()) {
            if let Err(error) = self.end_lease(id) {
                tracing::warn!(%error, lease = id.0, "an ended lease's keys could not be deleted");
                return Duration::from_millis(EXPIRY_RETRY_MS);
            }
        }
        let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.leases.next_deadline().map_or(Duration::from_millis(IDLE_MS), until)
    }
}

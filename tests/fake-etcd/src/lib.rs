//! A small etcd in memory, for tests: one member, spoken to by an unmodified etcd client over any connections.
//!
//! It has what this project uses of etcd: ranges at a revision, transactions with compares, watches from a revision on,
//! compaction, leases. What it does not have it refuses, so that no test takes a wrong answer for a right one. The
//! store's contract holds it to behave as a real etcd does. Unlike a real one it can be told to stall.
//!
//! Time is tokio's: where that is paused, leases end by the paused clock.

mod kv;
mod lease;
mod state;
mod watch;

use etcd_client::proto::{PbKvServer, PbResponseHeader, PbWatchServer};
use futures_util::Stream;
use parking_lot::Mutex;
use state::State;
use std::future::pending;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch as changes;
use tokio::time::{Instant, sleep_until};
use tonic::transport::Server;
use tonic::transport::server::Connected;

/// The member. Clones are the same one. Its content outlives every [`FakeEtcd::serve`], as a disk does.
#[derive(Debug, Clone)]
pub struct FakeEtcd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cluster: u64,
    state: Mutex<State>,
    /// Raised whenever the state may have changed.
    news: changes::Sender<u64>,
    stalled: changes::Sender<Stall>,
}

/// What a stalled member does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stall {
    /// It does not stall.
    #[default]
    No,
    /// They wait before anything is done.
    BeforeWork,
    /// They are done, but their answers wait; watches bring nothing.
    BeforeAnswer,
}

impl FakeEtcd {
    /// An empty member of the cluster with this id.
    pub fn new(cluster: u64) -> Self {
        let (news, stalled) = (changes::Sender::new(0), changes::Sender::new(Stall::No));
        Self { shared: Arc::new(Shared { cluster, state: Mutex::default(), news, stalled }) }
    }

    /// Serves these connections for as long as it is polled. Leases get their full time anew as it begins, as they do
    /// from a new leader.
    pub async fn serve<S, I>(&self, connections: S) -> Result<(), tonic::transport::Error>
    where
        S: Stream<Item = io::Result<I>>,
        I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        self.shared.state.lock().restart_leases(Instant::now());
        let server = Server::builder()
            .add_service(PbKvServer::new(self.clone()))
            .add_service(PbWatchServer::new(self.clone()))
            .add_service(lease::LeaseServer(self.clone()))
            .serve_with_incoming(connections);
        tokio::select! {
            served = server => served,
            () = self.end_leases() => Ok(()),
        }
    }

    /// Stalls, or goes on.
    pub fn stall(&self, stall: Stall) {
        self.shared.stalled.send_replace(stall);
    }

    /// Forgets the history before `revision`, which may still be read.
    pub fn compact(&self, revision: i64) {
        self.shared.state.lock().compact(revision);
    }

    /// The revision of the last change.
    pub fn revision(&self) -> i64 {
        self.shared.state.lock().revision
    }

    /// Every key that begins with `prefix`, with its value, as a client would list them.
    pub fn list(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let state = self.shared.state.lock();
        let listed =
            state.live(prefix.as_bytes()).map(|kv| (String::from_utf8_lossy(&kv.key).into(), kv.value.clone()));
        listed.collect()
    }

    async fn end_leases(&self) {
        let mut news = self.shared.news.subscribe();
        loop {
            let next = self.shared.state.lock().next_deadline();
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                _ = news.changed() => {}
                () = due => {
                    if self.shared.state.lock().end_leases(Instant::now()) {
                        self.tell();
                    }
                }
            }
        }
    }

    fn tell(&self) {
        self.shared.news.send_modify(|count| *count += 1);
    }

    fn header(&self, revision: i64) -> Option<PbResponseHeader> {
        Some(PbResponseHeader { cluster_id: self.shared.cluster, member_id: 1, revision, raft_term: 1 })
    }

    /// Waits while the member stalls in one of these ways.
    async fn pass(&self, ways: &[Stall]) {
        // The sender is ours: it cannot be gone.
        let _ = self.shared.stalled.subscribe().wait_for(|stall| !ways.contains(stall)).await;
    }

    /// Does one request, unless its client gives up before.
    async fn answer<T>(&self, work: impl FnOnce(&mut State) -> Result<T, tonic::Status>) -> Result<T, tonic::Status> {
        self.pass(&[Stall::BeforeWork]).await;
        let done = work(&mut self.shared.state.lock());
        self.tell();
        self.pass(&[Stall::BeforeWork, Stall::BeforeAnswer]).await;
        done
    }
}

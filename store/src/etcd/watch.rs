//! A watch on etcd that resumes where it was after its stream broke.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cellway_core::ids::Revision;
use etcd_client::{EventType, WatchOptions, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::contract::Key;
use crate::error::StoreError;
use crate::etcd::links::{Links, Used};
use crate::etcd::translate::{KeySpace, from_etcd, is_too_large, number, revision};
use crate::watch::{Event, TaskGuard, WatchBatch, WatchStream};

/// Batches read ahead of the caller. When it is full nothing more is read, and etcd holds the
/// rest in its history.
const BATCHES_WAITING_MAX: usize = 256;

const RESUME_FIRST_MS: u64 = 50;
const RESUME_LONGEST_MS: u64 = 1_000;

const DOING: &str = "watch etcd";

pub(crate) struct Watch {
    pub(crate) links: Arc<Links>,
    pub(crate) keys: KeySpace,
    pub(crate) prefix: Key,
    pub(crate) after: Revision,
    pub(crate) patience: Duration,
}

/// Why a stream is over.
enum End {
    /// It may be resumed.
    Broken(StoreError),
    /// It may not.
    Final(StoreError),
    /// Nobody listens any more.
    Dropped,
}

impl Watch {
    pub(crate) fn start(self) -> WatchStream {
        let (sender, batches) = mpsc::channel(BATCHES_WAITING_MAX);
        WatchStream::from_task(batches, TaskGuard(tokio::spawn(self.run(sender))))
    }

    async fn run(mut self, batches: mpsc::Sender<Result<WatchBatch, StoreError>>) {
        let mut backoff = Backoff::new(RESUME_FIRST_MS, RESUME_LONGEST_MS);
        let mut broken_since: Option<Instant> = None;
        loop {
            let began_after = self.after;
            let (used, end) = self.follow(&batches, &mut broken_since).await;
            let error = match end {
                End::Dropped => return,
                End::Final(error) => {
                    let _ = batches.send(Err(error)).await;
                    return;
                }
                End::Broken(error) => error,
            };
            self.links.give_up(used);
            if broken_since.get_or_insert_with(Instant::now).elapsed() >= self.patience {
                let _ = batches.send(Err(error)).await;
                return;
            }
            if self.after > began_after {
                backoff.reset();
            }
            sleep(backoff.next()).await;
        }
    }

    /// Follows one stream of one member to its end.
    async fn follow(
        &mut self,
        batches: &mpsc::Sender<Result<WatchBatch, StoreError>>,
        broken_since: &mut Option<Instant>,
    ) -> (Used, End) {
        let (used, clients) = self.links.current().await;
        let mut client = match clients {
            Ok(clients) => clients.watch,
            Err(error @ StoreError::Unavailable { .. }) => return (used, End::Broken(error)),
            Err(error) => return (used, End::Final(error)),
        };
        let limit = self.links.request_timeout();
        let options = WatchOptions::new().with_prefix().with_start_revision(number(self.after) + 1);
        let opening = async {
            let mut stream = client.watch(self.keys.full(&self.prefix), Some(options)).await?;
            let created = stream.message().await?;
            Ok::<_, etcd_client::Error>((stream, created))
        };
        let (mut stream, mut response) = match timeout(limit, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return (used, self.broken(error)),
            Err(elapsed) => {
                return (used, End::Broken(StoreError::unavailable(DOING, elapsed)));
            }
        };
        loop {
            let Some(answer) = response else {
                let error = StoreError::unavailable_because(DOING, "etcd ended the stream");
                return (used, End::Broken(error));
            };
            if let Err(end) = self.take(&answer, batches, broken_since).await {
                return (used, end);
            }
            response = match stream.message().await {
                Ok(next) => next,
                Err(error) => return (used, self.broken(error)),
            };
        }
    }

    fn broken(&self, error: etcd_client::Error) -> End {
        if is_too_large(&error) {
            // Asking again would get the same answer; a listing comes in pages.
            return End::Final(StoreError::Compacted { at: self.after });
        }
        match from_etcd(DOING, error) {
            error @ StoreError::Unavailable { .. } => End::Broken(error),
            error => End::Final(error),
        }
    }

    async fn take(
        &mut self,
        response: &WatchResponse,
        batches: &mpsc::Sender<Result<WatchBatch, StoreError>>,
        broken_since: &mut Option<Instant>,
    ) -> Result<(), End> {
        if response.canceled() {
            return Err(canceled(response));
        }
        if response.created() {
            *broken_since = None;
            let current = response.header().map_or(Revision(0), |h| revision(h.revision()));
            if current < self.after {
                self.check_not_ahead().await?;
            }
        }
        for batch in self.batches(response).map_err(End::Final)? {
            self.after = batch.revision;
            batches.send(Ok(batch)).await.map_err(|_| End::Dropped)?;
        }
        Ok(())
    }

    /// The member may only lag; but a cluster restored from a backup has fallen behind for good,
    /// and a watch on a revision that it has not reached would stay silent until it does.
    async fn check_not_ahead(&self) -> Result<(), End> {
        let key = self.keys.full(&self.prefix);
        let read = self.links.retried("read the revision of etcd", |mut clients| {
            let key = key.clone();
            async move { clients.kv.get(key, None).await }
        });
        let answer = read.await.map_err(End::Broken)?;
        let at = answer.header().map_or(Revision(0), |h| revision(h.revision()));
        if at < self.after { Err(End::Final(StoreError::Compacted { at })) } else { Ok(()) }
    }

    /// One batch per revision. Without fragments, etcd never splits a revision over two responses.
    fn batches(&self, response: &WatchResponse) -> Result<Vec<WatchBatch>, StoreError> {
        let mut batches: Vec<WatchBatch> = Vec::new();
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let at = revision(kv.mod_revision());
            if at <= self.after {
                continue;
            }
            let event = match event.event_type() {
                EventType::Put => Event::Put(self.keys.entry(kv)?),
                EventType::Delete => Event::Delete { key: self.keys.own(kv.key())? },
            };
            match batches.last_mut() {
                Some(batch) if batch.revision == at => batch.events.push(event),
                _ => batches.push(WatchBatch { revision: at, events: vec![event] }),
            }
        }
        Ok(batches)
    }
}

fn canceled(response: &WatchResponse) -> End {
    let compacted = response.compact_revision();
    if compacted > 0 {
        return End::Final(StoreError::Compacted { at: revision(compacted) });
    }
    let reason = response.cancel_reason().to_owned();
    if reason.contains("permission denied") {
        return End::Final(StoreError::Refused { reason });
    }
    End::Broken(StoreError::unavailable_because(DOING, format!("etcd canceled it: {reason}")))
}

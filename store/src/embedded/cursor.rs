//! A watcher's place in an embedded store's history. It pulls from the ring, and from the log when
//! it lags, so it needs no buffer that could overflow.

use std::collections::VecDeque;
use std::sync::Arc;

use cellway_core::ids::Revision;
use tokio::sync::watch;

use crate::contract::Key;
use crate::embedded::Shared;
use crate::embedded::disk::LogRead;
use crate::embedded::state::Look;
use crate::error::StoreError;
use crate::watch::WatchBatch;

pub(crate) struct Cursor {
    shared: Arc<Shared>,
    published: watch::Receiver<Revision>,
    prefix: Key,
    after: Revision,
    /// Read from the log and not handed out yet; at most one read's worth.
    from_log: VecDeque<WatchBatch>,
}

impl Cursor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        published: watch::Receiver<Revision>,
        prefix: &str,
        after: Revision,
    ) -> Self {
        let prefix = prefix.to_owned();
        Self { shared, published, prefix, after, from_log: VecDeque::new() }
    }

    pub(crate) async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            if let Some(batch) = self.from_log.pop_front() {
                return Ok(batch);
            }
            // Seen before looking: a revision published in between wakes the wait below.
            self.published.borrow_and_update();
            let look = self.shared.state.read().look(&self.prefix, self.after);
            match look {
                Look::Batch(batch) => {
                    self.after = batch.revision;
                    return Ok(batch);
                }
                Look::Quiet(revision) => self.after = revision,
                Look::Ahead(at) => return Err(StoreError::Compacted { at }),
                Look::Behind(ring_floor) => {
                    self.read_log(ring_floor).await?;
                    continue;
                }
            }
            let closed = |error| StoreError::unavailable("watch the embedded store", error);
            self.published.changed().await.map_err(closed)?;
        }
    }

    async fn read_log(&mut self, ring_floor: Revision) -> Result<(), StoreError> {
        let (shared, prefix, after) = (Arc::clone(&self.shared), self.prefix.clone(), self.after);
        let read = tokio::task::spawn_blocking(move || shared.read_log(&prefix, after))
            .await
            .map_err(|error| StoreError::unavailable("read the log", error))??;
        match read {
            Some(LogRead::Read { batches, up_to }) if up_to > self.after => {
                self.from_log.extend(batches);
                self.after = up_to;
                Ok(())
            }
            Some(LogRead::Cut { begins_after: Some(at) }) => Err(StoreError::Compacted { at: at.min(ring_floor) }),
            _ => Err(StoreError::Compacted { at: ring_floor }),
        }
    }
}

//! The stream of changes that a watch yields.

use cellway_core::ids::Revision;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::contract::{Entry, Key};
use crate::embedded::Cursor;
use crate::error::StoreError;

/// One change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The record was created or replaced.
    Put(Entry),
    /// The record was deleted.
    Delete {
        /// Its key.
        key: Key,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key } => key,
        }
    }
}

/// All watched changes of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: Revision,
    /// Its changes under the watched prefix; never empty.
    pub events: Vec<Event>,
}

/// Changes in order. Nothing is buffered without bound: who lags behind the store's history is
/// told [`StoreError::Compacted`]. An error is the last thing a stream has to say.
pub struct WatchStream {
    source: Source,
    ended: Option<StoreError>,
}

enum Source {
    Embedded(Cursor),
    Channel { batches: mpsc::Receiver<Result<WatchBatch, StoreError>>, _feeder: Option<TaskGuard> },
}

impl WatchStream {
    pub(crate) fn from_cursor(cursor: Cursor) -> Self {
        Self { source: Source::Embedded(cursor), ended: None }
    }

    pub(crate) fn from_task(batches: mpsc::Receiver<Result<WatchBatch, StoreError>>, feeder: TaskGuard) -> Self {
        Self { source: Source::Channel { batches, _feeder: Some(feeder) }, ended: None }
    }

    /// A stream fed by hand: for stores of other crates' tests.
    pub fn from_channel(batches: mpsc::Receiver<Result<WatchBatch, StoreError>>) -> Self {
        Self { source: Source::Channel { batches, _feeder: None }, ended: None }
    }

    /// Waits for the next revision that changed something. Safe to drop and call again: nothing
    /// is lost. It does not detect a silent store; [`crate::Follower`] does.
    pub async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let next = match &mut self.source {
            Source::Embedded(cursor) => cursor.next().await,
            Source::Channel { batches, .. } => batches
                .recv()
                .await
                .unwrap_or_else(|| Err(StoreError::unavailable_because("watch", "the watch has ended"))),
        };
        if let Err(error) = &next {
            self.ended = Some(error.clone());
        }
        next
    }
}

/// Ends its task when dropped.
pub(crate) struct TaskGuard(pub(crate) JoinHandle<()>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

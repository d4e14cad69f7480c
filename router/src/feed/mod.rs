//! How a router learns: one interface, several sources. A source tells events; `follow` applies them to the table,
//! wakes who is held, and keeps the snapshot on disk fresh.

use std::path::PathBuf;
use std::sync::Arc;

use cellway_core::ids::{ClusterId, Revision};
use cellway_store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::shared::Shared;
use crate::table::{Change, Subject};
use keeper::Keeper;

mod file;
pub mod guard;
mod keeper;
pub mod lines;
mod listing;
pub(crate) mod pieces;
pub(crate) mod refused;
mod saving;
mod store;

pub use file::POLL_MS as FILE_POLL_MS;
pub use listing::FileListing;
pub(crate) use listing::read_line;
pub use store::SILENCE_MS as STORE_SILENCE_MS;

/// Events that wait to be applied.
const EVENTS_WAITING_MAX: usize = 64;
/// At most this often the snapshot is written, after changes.
pub const SNAPSHOT_EVERY_MS: u64 = 1_000;
/// Writing it takes at most this part of the time: a large table that changes all the time would be written all the time.
pub const SNAPSHOT_TIME_PERCENT: u32 = 2;
/// How often a source whose routes are refused is asked for all of them again: it may have come right by itself.
pub const RELIST_MS: u64 = 30_000;

/// Where a router's knowledge comes from.
pub enum FeedSource {
    /// A store, followed by its watch.
    Store(Arc<dyn Store>),
    /// A file of JSON lines ([`lines`]), looked at every [`FILE_POLL_MS`].
    File(PathBuf),
    /// Events told by hand: for embedding and for tests.
    Events(mpsc::Receiver<FeedEvent>),
}

/// What a source tells.
#[derive(Debug, Clone)]
pub enum FeedEvent {
    /// Everything there is. What it does not name has vanished.
    Snapshot {
        /// All entries.
        contents: Vec<Change>,
        /// Entries that exist but cannot be read: the table keeps what it knows of them.
        unreadable: Vec<Subject>,
        /// The revision of the listing.
        revision: Revision,
        /// Whose revision it is, where the source knows.
        cluster: Option<ClusterId>,
    },
    /// A part of everything there is. More parts follow, and at the end a snapshot with the last of it.
    Part {
        /// Some entries.
        contents: Vec<Change>,
        /// Entries that exist but cannot be read.
        unreadable: Vec<Subject>,
        /// Whether it is the first part.
        begins: bool,
    },
    /// A file that says everything there is.
    File {
        /// Where it is.
        path: PathBuf,
        /// What stands in it.
        listing: Arc<FileListing>,
        /// Its revision.
        revision: Revision,
    },
    /// The next changes.
    Changes {
        /// In order. None: the source only shows that it lives.
        changes: Vec<Change>,
        /// Their revision.
        revision: Revision,
    },
    /// The source cannot be reached; it goes on trying.
    Lost {
        /// What went wrong.
        reason: String,
    },
}

/// Follows `source` until `stop` fires, then writes the last snapshot.
pub(crate) async fn follow(source: FeedSource, shared: Arc<Shared>, stop: CancellationToken) {
    let mut keeper = Keeper::new(shared);
    keeper.run(source, &stop).await;
    keeper.end().await;
}

/// A source at work. It stops when this is dropped.
struct Telling {
    events: mpsc::Receiver<FeedEvent>,
    _stop: Option<DropGuard>,
}

/// Has the source tell what there is, and every change from then on. `None`: it does so by itself.
fn listen(source: &FeedSource, revision: Revision) -> Option<Telling> {
    let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let stop = CancellationToken::new();
    match source {
        FeedSource::Events(_) => return None,
        FeedSource::Store(store) => {
            let told = store::tell(Arc::clone(store), sender);
            tokio::spawn(stop.clone().run_until_cancelled_owned(told));
        }
        FeedSource::File(path) => {
            let told = file::tell(path.clone(), revision, sender);
            tokio::spawn(stop.clone().run_until_cancelled_owned(told));
        }
    }
    Some(Telling { events, _stop: Some(stop.drop_guard()) })
}

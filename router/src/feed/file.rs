//! The file feed: a file of JSON lines, read again whenever its size or time of change differs.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cellway_core::ids::Revision;
use cellway_proxy::Hashes;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use super::FeedEvent;
use super::listing::FileListing;

/// How often the file is looked at.
pub const POLL_MS: u64 = 200;
/// The largest file that is read.
const SIZE_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// A file changed less than this long ago is read once more: its time may not tell the last change.
const TIME_GRAIN_MS: u64 = 1_000;

/// What tells one state of the file from another.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() }
    }

    fn is_settled(&self) -> bool {
        let age = self.modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_none_or(|age| age > Duration::from_millis(TIME_GRAIN_MS))
    }
}

/// Tells of the file as it is found at first and after each change. One that is away or cannot be read keeps the routes as
/// they are, and is told of once.
///
/// A file has no revisions of its own: they are counted on from `revision`, the table's.
pub(super) async fn tell(path: PathBuf, Revision(mut revision): Revision, events: Sender<FeedEvent>) {
    let mut read: Option<Mark> = None;
    let hashes = Hashes::default();
    let mut told: Option<Arc<FileListing>> = None;
    let mut complaint: Option<String> = None;
    loop {
        match told.as_ref().map(|told| told.outcome()) {
            // The router is still busy with what it was told last.
            Some(None) => {
                sleep(Duration::from_millis(POLL_MS)).await;
                continue;
            }
            Some(Some(false)) => (read, told) = (None, None),
            Some(Some(true)) | None => {}
        }
        match look(&path, read, &hashes).await {
            Ok(None) => {}
            Ok(Some((mark, listing))) => {
                read = mark.is_settled().then_some(mark);
                complaint = None;
                if told.as_ref().is_none_or(|told| told.content() != listing.content()) {
                    revision += 1;
                    let listing = Arc::new(listing);
                    told = Some(Arc::clone(&listing));
                    let event = FeedEvent::File { path: path.clone(), listing, revision: Revision(revision) };
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            }
            Err(reason) => {
                // When the file is back, it is told of even if it is unchanged.
                (read, told) = (None, None);
                if complaint.as_ref() != Some(&reason) {
                    complaint = Some(reason.clone());
                    if events.send(FeedEvent::Lost { reason }).await.is_err() {
                        return;
                    }
                }
            }
        }
        sleep(Duration::from_millis(POLL_MS)).await;
    }
}

/// The file, if it is another one than `read`.
async fn look(path: &Path, read: Option<Mark>, hashes: &Hashes) -> Result<Option<(Mark, FileListing)>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mark = Mark::of(&tokio::fs::metadata(path).await.map_err(failed)?);
    if Some(mark) == read {
        return Ok(None);
    }
    if mark.length > SIZE_MAX_BYTES {
        return Err(format!("{} has more than {SIZE_MAX_BYTES} bytes", path.display()));
    }
    let (opened, hashes) = (path.to_owned(), hashes.clone());
    let open = cellway_machine::off_thread(move || FileListing::open(File::open(opened)?, hashes));
    let listing = open.await.map_err(|error| error.to_string())?.map_err(failed)?;
    Ok(Some((mark, listing)))
}

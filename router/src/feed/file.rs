//! The file feed: a file of JSON lines, read again whenever its size or time of change differs.

use std::fs::Metadata;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cellway_core::ids::Revision;
use cellway_proxy::Hashes;
use tokio::sync::mpsc::Sender;

use super::{FeedEvent, lines};

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

/// Tells what stands in the file, at first and after each change. A file that is bad or away keeps the routes as
/// they are, and is told of once.
///
/// A file has no revisions of its own: they are counted on from `revision`, the table's.
pub(super) async fn tell(path: PathBuf, Revision(mut revision): Revision, events: Sender<FeedEvent>) {
    let mut read: Option<Mark> = None;
    // Its text would be as large as the table.
    let (hashes, mut content) = (Hashes::default(), None::<u64>);
    let mut complaint: Option<String> = None;
    loop {
        match look(&path, read).await {
            Ok(None) => {}
            Ok(Some((mark, text))) => {
                read = mark.is_settled().then_some(mark);
                let hash = hashes.hash_one(&text);
                if content != Some(hash) {
                    revision += 1;
                    let event = match lines::parse_listing(&text) {
                        Ok((cluster, contents)) => FeedEvent::Snapshot {
                            contents,
                            unreadable: Vec::new(),
                            revision: Revision(revision),
                            cluster,
                        },
                        Err(error) => FeedEvent::Lost { reason: format!("{}: {error}", path.display()) },
                    };
                    if events.send(event).await.is_err() {
                        return;
                    }
                    (content, complaint) = (Some(hash), None);
                }
            }
            Err(reason) => {
                // When the file is back, it is told of even if it is unchanged.
                (read, content) = (None, None);
                if complaint.as_ref() != Some(&reason) {
                    complaint = Some(reason.clone());
                    if events.send(FeedEvent::Lost { reason }).await.is_err() {
                        return;
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
    }
}

async fn look(path: &Path, read: Option<Mark>) -> Result<Option<(Mark, String)>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mark = Mark::of(&tokio::fs::metadata(path).await.map_err(failed)?);
    if Some(mark) == read {
        return Ok(None);
    }
    if mark.length > SIZE_MAX_BYTES {
        return Err(format!("{} has more than {SIZE_MAX_BYTES} bytes", path.display()));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
    Ok(Some((mark, text)))
}

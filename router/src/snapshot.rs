//! The table on the router's own disk: what it starts from when the feed is away.
//!
//! A first line `cellway-routes 2 <crc32>`, the applied revision, and the listing ([`crate::feed::lines`]). The
//! checksum covers everything after it. A file that is torn, edited or of a newer format is refused with the reason,
//! and the one before it is used.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use cellway_core::ids::{ClusterId, Revision};

use crate::feed::lines;
use crate::table::Change;

pub mod certificates;

/// How many snapshots are kept, the newest included.
pub const KEPT: usize = 3;
/// The largest snapshot that is read.
pub const SIZE_MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;

const MAGIC: &str = "cellway-routes ";
const FORMAT: &str = "2";

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision that the feed had reached.
    pub revision: Revision,
    /// The cluster that it is a revision of, where that is known.
    pub cluster: Option<ClusterId>,
    /// The table.
    pub contents: Vec<Change>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum BadSnapshot {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not one of ours.
    #[error("not a snapshot of routes")]
    Magic,
    /// Of another version.
    #[error(
        "of format {0:?}, this version reads format {FORMAT:?}: run the version that wrote it, or remove the file \
         and start while the source of the routes is there"
    )]
    Format(String),
    /// Torn or edited.
    #[error("damaged: its checksum is not that of its content")]
    Checksum,
    /// The checksum is right but the content is not.
    #[error("its content cannot be read: {0}")]
    Content(String),
}

/// The bytes of a snapshot.
pub fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let mut body = format!("{}\n", snapshot.revision).into_bytes();
    if let Some(cluster) = &snapshot.cluster {
        lines::write_cluster(cluster, &mut body);
    }
    for change in &snapshot.contents {
        lines::write(change, &mut body);
    }
    let mut bytes = format!("{MAGIC}{FORMAT} {:08x}\n", crc32fast::hash(&body)).into_bytes();
    bytes.append(&mut body);
    bytes
}

/// The snapshot in `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Snapshot, BadSnapshot> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(BadSnapshot::Magic)?;
    let (first, body) = (&bytes[..end], &bytes[end + 1..]);
    let first = std::str::from_utf8(first).map_err(|_| BadSnapshot::Magic)?;
    let (format, checksum) =
        first.strip_prefix(MAGIC).and_then(|rest| rest.split_once(' ')).ok_or(BadSnapshot::Magic)?;
    if format != FORMAT {
        return Err(BadSnapshot::Format(format.to_owned()));
    }
    if checksum != format!("{:08x}", crc32fast::hash(body)) {
        return Err(BadSnapshot::Checksum);
    }
    let body = std::str::from_utf8(body).map_err(|error| BadSnapshot::Content(error.to_string()))?;
    let (revision, table) = body.split_once('\n').ok_or_else(|| BadSnapshot::Content("it has no revision".into()))?;
    let revision = revision.parse().map_err(|_| BadSnapshot::Content("its revision is no number".into()))?;
    let (cluster, contents) = lines::parse_listing(table).map_err(|error| BadSnapshot::Content(error.to_string()))?;
    Ok(Snapshot { revision: Revision(revision), cluster, contents })
}

/// The newest good snapshot at `path`, and why newer ones were not used. No file at all is no snapshot and no reason.
pub fn load(path: &Path) -> (Option<Snapshot>, Vec<(PathBuf, BadSnapshot)>) {
    let mut refused = Vec::new();
    for age in 0..KEPT {
        let path = aged(path, age);
        match read(&path) {
            Ok(None) => {}
            Ok(Some(snapshot)) => return (Some(snapshot), refused),
            Err(reason) => refused.push((path, reason)),
        }
    }
    (None, refused)
}

fn read(path: &Path) -> Result<Option<Snapshot>, BadSnapshot> {
    let failed = |source| BadSnapshot::Read { path: path.to_owned(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.len() > SIZE_MAX_BYTES => return Err(failed(io::ErrorKind::FileTooLarge.into())),
        Ok(_) => {}
    }
    decode(&fs::read(path).map_err(failed)?).map(Some)
}

/// Writes a snapshot in place of the newest, which becomes the older one.
pub fn save(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    replace(path, |file| file.write_all(&encode(snapshot)))
}

/// Writes a file in place of the newest at `path`. At every moment of it, a good one is there.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let temporary = with_suffix(path, ".new");
    let mut file = BufWriter::new(File::create(&temporary)?);
    write(&mut file)?;
    file.into_inner()?.sync_all()?;
    for age in (1..KEPT).rev() {
        match fs::rename(aged(path, age - 1), aged(path, age)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Where certificates are kept, beside the snapshot at `path`.
pub fn of_certificates(path: &Path) -> PathBuf {
    with_suffix(path, "-certificates")
}

fn aged(path: &Path, age: usize) -> PathBuf {
    if age == 0 { path.to_owned() } else { with_suffix(path, &format!(".{age}")) }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;

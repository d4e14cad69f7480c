//! The table on the router's own disk: what it starts from when the feed is away.
//!
//! A first line `cellway-routes 2 <crc32>`, the applied revision, and the listing ([`crate::feed::lines`]). The
//! checksum covers everything after it. A file that is torn, edited or of a newer format is refused with the reason,
//! and the one before it is used.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cellway_core::ids::{ClusterId, Revision};

use crate::feed::lines::{self, BadLine};
use crate::feed::pieces::{self, PIECE_BYTES, Pieces};
use crate::feed::read_line;
use crate::table::{Change, Table};

pub mod certificates;

/// How many snapshots are kept, the newest included.
pub const KEPT: usize = 3;
/// The largest snapshot that is read.
pub const SIZE_MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// More than the first line has.
const FIRST_MAX_BYTES: u64 = 64;

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

/// What stands above the entries.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    revision: Revision,
    cluster: Option<ClusterId>,
}

/// The bytes of a snapshot.
#[expect(clippy::expect_used, reason = "memory takes every write")]
pub fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    let contents = |each: &mut dyn FnMut(&Change)| snapshot.contents.iter().for_each(each);
    write(&mut bytes, snapshot.revision, snapshot.cluster.as_ref(), contents).expect("memory takes every write");
    bytes.into_inner()
}

/// The snapshot in `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Snapshot, BadSnapshot> {
    let mut contents = Vec::new();
    let read = Reading::begin(io::Cursor::new(bytes), Path::new("memory"))?;
    let Head { revision, cluster } = read.each(|_| {}, |change| contents.push(change))?;
    Ok(Snapshot { revision, cluster, contents })
}

/// Writes a snapshot entry by entry. The checksum is written last, in its place in the first line.
fn write(
    file: &mut (impl Write + Seek),
    revision: Revision,
    cluster: Option<&ClusterId>,
    contents: impl FnOnce(&mut dyn FnMut(&Change)),
) -> io::Result<()> {
    file.write_all(first_line(0).as_bytes())?;
    let mut body = format!("{revision}\n").into_bytes();
    if let Some(cluster) = cluster {
        lines::write_cluster(cluster, &mut body);
    }
    let mut checksum = crc32fast::Hasher::new();
    let mut written = Ok(());
    contents(&mut |change| {
        lines::write(change, &mut body);
        if body.len() >= PIECE_BYTES && written.is_ok() {
            checksum.update(&body);
            written = file.write_all(&body);
            body.clear();
        }
    });
    written?;
    checksum.update(&body);
    file.write_all(&body)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(first_line(checksum.finalize()).as_bytes())
}

fn first_line(checksum: u32) -> String {
    format!("{MAGIC}{FORMAT} {checksum:08x}\n")
}

/// A snapshot whose checksum is right.
struct Reading<R> {
    source: R,
    path: PathBuf,
    tenants: usize,
    checksum: u32,
}

impl<R: Read + Seek> Reading<R> {
    /// Reads all of it once.
    fn begin(mut source: R, path: &Path) -> Result<Self, BadSnapshot> {
        let failed = |source| BadSnapshot::Read { path: path.to_owned(), source };
        let mut first = Vec::new();
        source.by_ref().take(FIRST_MAX_BYTES).read_to_end(&mut first).map_err(failed)?;
        let end = first.iter().position(|byte| *byte == b'\n').ok_or(BadSnapshot::Magic)?;
        let first = std::str::from_utf8(&first[..end]).map_err(|_| BadSnapshot::Magic)?;
        let (format, checksum) =
            first.strip_prefix(MAGIC).and_then(|rest| rest.split_once(' ')).ok_or(BadSnapshot::Magic)?;
        if format != FORMAT {
            return Err(BadSnapshot::Format(format.to_owned()));
        }
        let begin = first.len() as u64 + 1;
        let (mut hasher, mut tenants) = (crc32fast::Hasher::new(), 0);
        source.seek(SeekFrom::Start(begin)).map_err(failed)?;
        let mut pieces = Pieces::new(&mut source);
        while let Some(piece) = pieces.next().map_err(failed)? {
            hasher.update(piece);
            tenants += pieces::lines(piece).filter(|line| lines::is_of_tenant(line)).count();
        }
        let found = hasher.finalize();
        if checksum != format!("{found:08x}") {
            return Err(BadSnapshot::Checksum);
        }
        source.seek(SeekFrom::Start(begin)).map_err(failed)?;
        Ok(Self { source, path: path.to_owned(), tenants, checksum: found })
    }

    /// Reads it again, entry by entry. `expect` is told first how many tenants there are.
    fn each(self, expect: impl FnOnce(usize), mut each: impl FnMut(Change)) -> Result<Head, BadSnapshot> {
        let failed = |source| BadSnapshot::Read { path: self.path.clone(), source };
        expect(self.tenants);
        let (mut pieces, mut hasher) = (Pieces::new(self.source), crc32fast::Hasher::new());
        let (mut revision, mut cluster) = (None, None);
        // The revision is line 0 of the listing.
        let mut lines = 0..;
        while let Some(piece) = pieces.next().map_err(failed)? {
            hasher.update(piece);
            for (text, number) in pieces::lines(piece).zip(&mut lines) {
                if number == 0 {
                    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                    revision = Some(parsed.ok_or_else(|| BadSnapshot::Content("its revision is no number".into()))?);
                    continue;
                }
                let read = read_line(number, text, &mut cluster);
                let change =
                    read.map_err(|reason| BadSnapshot::Content(BadLine { line: number, reason }.to_string()))?;
                change.into_iter().for_each(&mut each);
            }
        }
        if hasher.finalize() != self.checksum {
            return Err(BadSnapshot::Checksum);
        }
        let revision = revision.ok_or_else(|| BadSnapshot::Content("it has no revision".into()))?;
        Ok(Head { revision: Revision(revision), cluster })
    }
}

/// What an empty table was filled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The revision that the feed had reached.
    pub revision: Revision,
    /// The cluster that it is a revision of, where that is known.
    pub cluster: Option<ClusterId>,
    /// How many entries there were.
    pub entries: usize,
}

/// Fills an empty table from the newest good snapshot at `path`, and says why newer ones were not used. No file at all is
/// no snapshot and no reason.
pub fn load(path: &Path, table: &Table) -> (Option<Loaded>, Vec<(PathBuf, BadSnapshot)>) {
    let mut refused = Vec::new();
    for age in 0..KEPT {
        let path = aged(path, age);
        match read(&path, table) {
            Ok(None) => {}
            Ok(Some(loaded)) => return (Some(loaded), refused),
            Err(reason) => {
                table.clear();
                refused.push((path, reason));
            }
        }
    }
    (None, refused)
}

fn read(path: &Path, table: &Table) -> Result<Option<Loaded>, BadSnapshot> {
    let failed = |source| BadSnapshot::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    if file.metadata().map_err(failed)?.len() > SIZE_MAX_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let mut entries = 0;
    let apply = |change| {
        entries += 1;
        table.apply(change);
    };
    let Head { revision, cluster } = Reading::begin(file, path)?.each(|tenants| table.expect(tenants), apply)?;
    Ok(Some(Loaded { revision, cluster, entries }))
}

/// Writes what a table has in place of the newest snapshot, which becomes the older one.
pub fn save(path: &Path, revision: Revision, cluster: Option<&ClusterId>, table: &Table) -> io::Result<()> {
    let contents = |each: &mut dyn FnMut(&Change)| table.each(|change| each(&change));
    replace(path, |file| write(file, revision, cluster, contents))
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

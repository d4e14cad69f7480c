//! The embedded store's file: one redb database and the lock that keeps it to one process.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use cellway_core::ids::Revision;
use parking_lot::Mutex;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use crate::contract::{Key, LeaseId};
use crate::embedded::codec;
use crate::embedded::state::{Commit, FIRST_REVISION, Record, watched};
use crate::error::StoreError;
use crate::watch::WatchBatch;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("kv");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");

const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_NEXT_LEASE: &str = "next_lease";
const META_CLUSTER: &str = "cluster";

const LOCK_FILE: &str = "store.lock";
const DATABASE_FILE: &str = "store.redb";
const UNFINISHED_FILE: &str = "store.redb.new";

/// All records are in memory; redb's cache only serves its own tree pages.
const CACHE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// How much of the log one read for a lagging watcher takes, about.
const LOG_READ_MAX_BYTES: usize = 4 * 1024 * 1024;

/// How much history the file keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLimits {
    pub(crate) revisions: usize,
    pub(crate) bytes: usize,
}

/// The sizes of the logged commits, oldest first; their revisions follow each other without a gap.
#[derive(Debug, Default)]
struct LogExtent {
    sizes: VecDeque<usize>,
    bytes: usize,
}

impl LogExtent {
    fn push(&mut self, size: usize) {
        self.sizes.push_back(size);
        self.bytes += size;
    }

    fn cut(&mut self, count: usize) {
        self.bytes -= self.sizes.drain(..count).sum::<usize>();
    }

    /// How many of the oldest must go when commits of these sizes are added.
    fn excess(&self, added: &[usize], limits: LogLimits) -> usize {
        let mut count = self.sizes.len() + added.len();
        let mut bytes = self.bytes + added.iter().sum::<usize>();
        let oldest_first = self.sizes.iter();
        let over = oldest_first.take_while(|size| {
            let over = count > limits.revisions || bytes > limits.bytes;
            count -= 1;
            bytes -= **size;
            over
        });
        over.count()
    }
}

/// What a file held when it was opened.
pub(crate) struct Loaded {
    pub(crate) revision: Revision,
    pub(crate) records: BTreeMap<Key, Record>,
    /// Each with its time to live, in ms.
    pub(crate) leases: Vec<(LeaseId, u64)>,
    pub(crate) next_lease: u64,
    /// Its own number, made at random.
    pub(crate) cluster: u64,
}

impl Loaded {
    /// What a store begins with.
    pub(crate) fn nothing() -> Self {
        Self {
            revision: FIRST_REVISION,
            records: BTreeMap::new(),
            leases: Vec::new(),
            next_lease: 1,
            cluster: rand::random(),
        }
    }
}

/// What one durable transaction writes.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    pub(crate) commits: &'a [Commit],
    /// The lease and its time to live, in ms.
    pub(crate) grant: Option<(LeaseId, u64)>,
    pub(crate) end: Option<LeaseId>,
}

/// A part of the log, as a watcher sees it.
pub(crate) enum LogRead {
    /// Every batch up to the revision.
    Read { batches: Vec<WatchBatch>, up_to: Revision },
    /// The log does not reach back so far.
    Cut { begins_after: Option<Revision> },
}

/// An open file. The lock is let go last.
pub(crate) struct Disk {
    database: Database,
    path: PathBuf,
    limits: LogLimits,
    extent: Mutex<LogExtent>,
    _lock: File,
}

impl Disk {
    pub(crate) fn open(dir: &Path, limits: LogLimits) -> Result<(Self, Loaded), StoreError> {
        let io = |error| StoreError::unavailable("open the embedded store", error);
        fs::create_dir_all(dir).map_err(io)?;
        let lock = take_lock(&dir.join(LOCK_FILE))?;
        let path = dir.join(DATABASE_FILE);
        if !path.try_exists().map_err(io)? {
            create(dir, &path)?;
        }
        let (database, loaded, extent) =
            open_database(&path).map_err(|trouble| trouble.while_trying_to("open the embedded store", &path))?;
        let extent = Mutex::new(extent);
        Ok((Self { database, path, limits, extent, _lock: lock }, loaded))
    }

    /// Writes a batch durably: when this returns, it survives a crash of process and machine.
    pub(crate) fn write(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let logged: Vec<Vec<u8>> = batch.commits.iter().map(codec::encode_commit).collect();
        let added: Vec<usize> = logged.iter().map(Vec::len).collect();
        let mut extent = self.extent.lock();
        let excess = extent.excess(&added, self.limits);
        self.write_tables(batch, &logged, excess).map_err(|trouble| trouble.while_trying_to("commit", &self.path))?;
        added.into_iter().for_each(|size| extent.push(size));
        extent.cut(excess);
        Ok(())
    }

    fn write_tables(&self, batch: &Batch<'_>, logged: &[Vec<u8>], excess: usize) -> Result<(), Trouble> {
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            if let Some(last) = batch.commits.last() {
                meta.insert(META_REVISION, last.revision.0)?;
            }
            let mut leases = transaction.open_table(LEASES)?;
            if let Some((id, ttl_ms)) = batch.grant {
                leases.insert(id.0, ttl_ms)?;
                meta.insert(META_NEXT_LEASE, id.0 + 1)?;
            }
            if let Some(id) = batch.end {
                leases.remove(id.0)?;
            }
            let mut records = transaction.open_table(RECORDS)?;
            for change in batch.commits.iter().flat_map(|commit| &commit.changes) {
                let key = change.key.as_str();
                match &change.after {
                    Some(record) => {
                        let bytes = codec::encode_record(record);
                        records.insert(key, bytes.as_slice())?;
                    }
                    None => {
                        records.remove(key)?;
                    }
                }
            }
            let mut log = transaction.open_table(LOG)?;
            for (commit, bytes) in batch.commits.iter().zip(logged) {
                log.insert(commit.revision.0, bytes.as_slice())?;
            }
            for _ in 0..excess {
                log.pop_first()?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Reads on in the log after `after`, for a watcher of `prefix`.
    pub(crate) fn read_log(&self, prefix: &str, after: Revision) -> Result<LogRead, StoreError> {
        read_log(&self.database, prefix, after).map_err(|trouble| trouble.while_trying_to("read the log", &self.path))
    }
}

fn read_log(database: &Database, prefix: &str, after: Revision) -> Result<LogRead, Trouble> {
    let table = database.begin_read()?.open_table(LOG)?;
    let first = table.first()?.map(|(revision, _)| revision.value());
    match first {
        None => return Ok(LogRead::Cut { begins_after: None }),
        Some(first) if first > after.0 + 1 => {
            return Ok(LogRead::Cut { begins_after: Some(Revision(first - 1)) });
        }
        Some(_) => {}
    }
    let (mut batches, mut up_to, mut bytes) = (Vec::new(), after, 0);
    for row in table.range(after.0 + 1..)? {
        let (revision, logged) = row?;
        up_to = Revision(revision.value());
        bytes += logged.value().len();
        let commit = codec::decode_commit(up_to, logged.value())
            .map_err(|error| Trouble::Content(format!("the log at {up_to}: {error}")))?;
        batches.extend(watched(&commit, prefix));
        if bytes >= LOG_READ_MAX_BYTES {
            break;
        }
    }
    Ok(LogRead::Read { batches, up_to })
}

fn take_lock(path: &Path) -> Result<File, StoreError> {
    let io = |error| StoreError::unavailable("lock the embedded store", error);
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StoreError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

/// Makes the file under another name first, so that one that carries its name is complete.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let doing = "create the embedded store";
    let io = |error| StoreError::unavailable(doing, error);
    let unfinished = dir.join(UNFINISHED_FILE);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    create_tables(&unfinished).map_err(|trouble| trouble.while_trying_to(doing, &unfinished))?;
    fs::rename(&unfinished, path).map_err(io)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

fn create_tables(path: &Path) -> Result<(), Trouble> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, codec::FORMAT)?;
        meta.insert(META_REVISION, FIRST_REVISION.0)?;
        meta.insert(META_NEXT_LEASE, 1)?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(LOG)?;
        transaction.open_table(LEASES)?;
    }
    transaction.commit()?;
    database.close()?;
    Ok(())
}

fn open_database(path: &Path) -> Result<(Database, Loaded, LogExtent), Trouble> {
    let database = redb::Builder::new().set_cache_size(CACHE_MAX_BYTES).open(path)?;
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name: &str| -> Result<u64, Trouble> {
        let found = meta.get(name)?.map(|value| value.value());
        found.ok_or_else(|| Trouble::Content(format!("{name} is missing")))
    };
    let format = number(META_FORMAT)?;
    if format != codec::FORMAT {
        let detail = format!("its format is {format}, this program knows {}", codec::FORMAT);
        return Err(Trouble::Content(detail));
    }
    let revision = Revision(number(META_REVISION)?);
    let next_lease = number(META_NEXT_LEASE)?;
    let cluster = match meta.get(META_CLUSTER)?.map(|value| value.value()) {
        Some(cluster) => cluster,
        None => name_cluster(&database)?,
    };

    let mut records = BTreeMap::new();
    for row in transaction.open_table(RECORDS)?.iter()? {
        let (key, bytes) = row?;
        let record = codec::decode_record(bytes.value())
            .map_err(|error| Trouble::Content(format!("{}: {error}", key.value())))?;
        records.insert(key.value().to_owned(), record);
    }
    let mut leases = Vec::new();
    for row in transaction.open_table(LEASES)?.iter()? {
        let (id, ttl_ms) = row?;
        leases.push((LeaseId(id.value()), ttl_ms.value()));
    }
    let extent = measure_log(&transaction, revision)?;
    Ok((database, Loaded { revision, records, leases, next_lease, cluster }, extent))
}

/// Gives a store that has no id one for good.
fn name_cluster(database: &Database) -> Result<u64, Trouble> {
    let cluster = rand::random();
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(META_CLUSTER, cluster)?;
    transaction.commit()?;
    Ok(cluster)
}

fn measure_log(transaction: &ReadTransaction, end: Revision) -> Result<LogExtent, Trouble> {
    let mut extent = LogExtent::default();
    let mut expected = None;
    for row in transaction.open_table(LOG)?.iter()? {
        let (revision, bytes) = row?;
        let revision = revision.value();
        if expected.is_some_and(|expected| expected != revision) {
            return Err(Trouble::Content(format!("the log has a gap before {revision}")));
        }
        expected = Some(revision + 1);
        extent.push(bytes.value().len());
    }
    if expected.is_some_and(|expected| expected != end.0 + 1) {
        return Err(Trouble::Content(format!("the log does not end at {end}")));
    }
    Ok(extent)
}

fn corrupt(place: &Path, detail: impl ToString) -> StoreError {
    StoreError::Corrupt { place: place.display().to_string(), detail: detail.to_string() }
}

/// What may go wrong with the file, before it is known where and while doing what.
enum Trouble {
    Database(Box<redb::Error>),
    Content(String),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

impl Trouble {
    fn while_trying_to(self, doing: &'static str, path: &Path) -> StoreError {
        match self {
            Self::Content(detail) => corrupt(path, detail),
            Self::Database(error) => match *error {
                redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => corrupt(path, error),
                redb::Error::Io(error) if error.kind() == ErrorKind::InvalidData => corrupt(path, error),
                redb::Error::DatabaseAlreadyOpen => StoreError::Locked { path: path.to_owned(), holder: None },
                other => StoreError::unavailable(doing, other),
            },
        }
    }
}

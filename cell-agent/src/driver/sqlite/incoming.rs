//! A home on its way in: a staged file that is made like the source's, chunk by chunk, as often as needed.

use super::outgoing::back_up;
use super::{SqliteDriver, blocking};
use crate::driver::chunks::{CHUNK_BYTES, ChunkMap, hash};
use crate::driver::{DriverError, Fetch, Progress};
use crate::transfer::{CHUNKS_PER_REQUEST_MAX, RemotePass, TransferError};
use bytes::Bytes;
use cellway_core::ids::{HomeId, MoveId};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// What is known of a staged file; `None` while it is worked on, and after that broke off: it is read anew then.
pub(super) type Slot = Arc<tokio::sync::Mutex<Option<ChunkMap>>>;

/// The right to work on a staged file. It moves into every blocking step, so that a step whose caller went away
/// still keeps others off until it is over.
pub(super) struct Staged {
    pub(super) path: PathBuf,
    pub(super) map: ChunkMap,
    slot: OwnedMutexGuard<Option<ChunkMap>>,
}

impl Staged {
    /// What was learnt of the file can be relied on by the next pass.
    pub(super) fn keep(mut self) {
        *self.slot = Some(std::mem::take(&mut self.map));
    }
}

impl SqliteDriver {
    pub(crate) async fn pull(self: &Arc<Self>, fetch: &Fetch, progress: Arc<Progress>) -> Result<u64, DriverError> {
        let staged = self.pull_pass(fetch, None, &progress).await?;
        let size = staged.map.size;
        staged.keep();
        Ok(size)
    }

    pub(super) fn forget_incoming(&self, move_id: &MoveId, home: &HomeId) {
        self.incoming.lock().remove(&(move_id.clone(), home.clone()));
    }

    /// Makes the staged file equal to a pass at the source: the newest, or the one of the digest that is `wanted`.
    pub(super) async fn pull_pass(
        self: &Arc<Self>,
        fetch: &Fetch,
        wanted: Option<&str>,
        progress: &Progress,
    ) -> Result<Staged, DriverError> {
        self.disk.check_unserved(&fetch.tenant, &fetch.home)?;
        let mut staged = self.staged(fetch).await?;
        let pass = self.client.pass(&fetch.endpoints, &fetch.move_id, &fetch.from, wanted).await?;
        let missing = staged.map.missing(&pass.map);
        let missing_bytes = |list: &[u32]| list.iter().map(|index| pass.map.chunk_bytes(*index as usize)).sum::<u64>();
        let mut there = pass.map.size.saturating_sub(missing_bytes(&missing));
        progress.set(there, pass.map.size);
        for batch in missing.chunks(CHUNKS_PER_REQUEST_MAX) {
            let data = self.client.chunks(&pass, &fetch.move_id, &fetch.from, batch).await?;
            staged = write_batch(staged, &pass, batch.to_vec(), data).await?;
            there += missing_bytes(batch);
            progress.set(there, pass.map.size);
        }
        truncate(staged, pass.map).await
    }

    /// The staged file as it is. A home that exists already is where a first pass begins, so that only what differs
    /// travels when a tenant comes back.
    async fn staged(self: &Arc<Self>, fetch: &Fetch) -> Result<Staged, DriverError> {
        let key = (fetch.move_id.clone(), fetch.home.clone());
        let slot = Arc::clone(self.incoming.lock().entry(key).or_default());
        let mut slot = slot.lock_owned().await;
        let path = self.staging_dir.join(fetch.move_id.as_str()).join(format!("in-{}.db", fetch.home));
        let known = slot.take();
        let home = self.home_path(&fetch.tenant, &fetch.home);
        blocking(move || {
            let map = match known {
                Some(map) => map,
                None => read_or_begin(&path, &home)?,
            };
            Ok(Staged { path, map, slot })
        })
        .await
    }
}

fn read_or_begin(path: &Path, home: &Path) -> Result<ChunkMap, DriverError> {
    if !path.try_exists().map_err(DriverError::file(path))? {
        if home.try_exists().map_err(DriverError::file(home))? {
            back_up(home, path)?;
        } else {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(DriverError::file(dir))?;
            }
            File::create(path).map_err(DriverError::file(path))?;
        }
    }
    ChunkMap::of_file(path).map_err(DriverError::file(path))
}

async fn write_batch(staged: Staged, pass: &RemotePass, batch: Vec<u32>, data: Bytes) -> Result<Staged, DriverError> {
    let wanted: Vec<_> = batch.iter().map(|index| pass.map.hashes.get(*index as usize).copied()).collect();
    let lengths: Vec<u64> = batch.iter().map(|index| pass.map.chunk_bytes(*index as usize)).collect();
    blocking(move || {
        let file = File::options().write(true).open(&staged.path).map_err(DriverError::file(&staged.path))?;
        let mut rest = data;
        for ((index, wanted), length) in batch.into_iter().zip(wanted).zip(lengths) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if rest.len() < length {
                return Err(TransferError::Damaged.into());
            }
            let chunk = rest.split_to(length);
            if wanted != Some(hash(&chunk)) {
                return Err(TransferError::Damaged.into());
            }
            let offset = u64::from(index) * CHUNK_BYTES as u64;
            file.write_all_at(&chunk, offset).map_err(DriverError::file(&staged.path))?;
        }
        Ok(staged)
    })
    .await
}

async fn truncate(staged: Staged, map: ChunkMap) -> Result<Staged, DriverError> {
    blocking(move || {
        let file = File::options().write(true).open(&staged.path).map_err(DriverError::file(&staged.path))?;
        file.set_len(map.size).map_err(DriverError::file(&staged.path))?;
        Ok(Staged { map, ..staged })
    })
    .await
}

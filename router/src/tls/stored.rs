//! Certificates of the fleet's store. All of them are kept as they are stored, their keys sealed; one is opened when a
//! client first asks for it, and only what was opened lately is kept open (see `certificates.rs`). Until the source has
//! spoken, they stay on the router's disk, and are read one by one as they are asked for.
//!
//! Beside the newest version of each stays the one before it until the newest has proved to be good, so that a record
//! that cannot be used takes nothing away.

use crate::snapshot::certificates::{Named, SavedCertificates};
use arc_swap::{ArcSwap, ArcSwapOption};
use cellway_api::certificate::{Certificate, Mark};
use cellway_api::sealing::{BadSeal, SealingSecrets, SecretError, SecretFiles};
use cellway_core::certificate::{CertificateName, SealedCertificate};
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Names known not to be on the disk. Below a wildcard every tenant's name is one.
const ABSENT_MAX: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub(crate) struct StoredCertificates {
    files: SecretFiles,
    secrets: ArcSwap<Secrets>,
    entries: papaya::HashMap<CertificateName, Arc<Entry>>,
    /// `None` once the source has spoken: then all of them are in `entries`.
    on_disk: ArcSwapOption<OnDisk>,
    version: AtomicU64,
}

/// What an earlier run left on the disk.
#[derive(Debug)]
struct OnDisk {
    saved: SavedCertificates,
    found: papaya::HashMap<CertificateName, Arc<Version>>,
    absent: Cache<Box<str>, ()>,
}

impl OnDisk {
    fn version(&self, key: &str) -> Option<Arc<Version>> {
        let found = self.found.pin();
        if let Some(version) = found.get(key) {
            return Some(Arc::clone(version));
        }
        if self.absent.get(key).is_some() {
            return None;
        }
        match self.saved.find(key) {
            Some(named) => Some(Arc::clone(found.get_or_insert_with(named.0.clone(), || Version::new(named)))),
            None => {
                self.absent.insert(key.into(), ());
                None
            }
        }
    }
}

/// The secrets as they were read.
#[derive(Debug)]
struct Secrets {
    marks: [Option<Mark>; 2],
    /// Rises with each reading, from 1.
    reading: u64,
    secrets: SealingSecrets,
}

/// What is known of one name.
#[derive(Debug)]
struct Entry {
    newest: Arc<Version>,
    /// The last one that is good, as far as is known.
    before: Option<Arc<Version>>,
}

/// One version of a certificate.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) name: CertificateName,
    sealed: Arc<SealedCertificate>,
    good: AtomicBool,
    /// The reading of the secrets at which it was found to be bad; 0: it was not.
    refused_at: AtomicU64,
}

impl Version {
    fn new((name, sealed): Named) -> Arc<Self> {
        Arc::new(Self { name, sealed, good: AtomicBool::new(false), refused_at: AtomicU64::new(0) })
    }
}

impl Entry {
    fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        std::iter::once(&self.newest).chain(&self.before)
    }
}

fn marks(files: &SecretFiles) -> [Option<Mark>; 2] {
    [Mark::of(&files.secret), files.previous.as_deref().and_then(Mark::of)]
}

impl Secrets {
    fn read(files: &SecretFiles, reading: u64) -> Result<Self, SecretError> {
        let marks = marks(files);
        Ok(Self { marks, reading, secrets: SealingSecrets::from_files(files)? })
    }
}

impl StoredCertificates {
    /// None yet; the secrets are read.
    pub(crate) fn open(files: SecretFiles) -> Result<Self, SecretError> {
        let secrets = ArcSwap::from_pointee(Secrets::read(&files, 1)?);
        let (entries, on_disk) = (papaya::HashMap::new(), ArcSwapOption::empty());
        Ok(Self { files, secrets, entries, on_disk, version: AtomicU64::new(0) })
    }

    /// Serves what an earlier run saved, until the source speaks.
    pub(crate) fn start_from(&self, saved: SavedCertificates) {
        let (found, absent) = (papaya::HashMap::new(), Cache::new(ABSENT_MAX));
        self.on_disk.store(Some(Arc::new(OnDisk { saved, found, absent })));
    }

    /// Takes in what is still on the disk only. Called by the one task that tells changes, before each.
    fn take_in(&self) {
        let Some(on_disk) = self.on_disk.load_full() else { return };
        let (entries, found) = (self.entries.pin(), on_disk.found.pin());
        for named in on_disk.saved.all() {
            let name = named.0.clone();
            let newest = found.get(&name).cloned().unwrap_or_else(|| Version::new(named));
            entries.insert(name, Arc::new(Entry { newest, before: None }));
        }
        self.on_disk.store(None);
    }

    /// Reads the secrets again if their files have changed. What could not be opened is tried again then.
    pub(crate) fn refresh(&self) -> Result<(), SecretError> {
        let before = self.secrets.load();
        let now = marks(&self.files);
        if now == before.marks && now.iter().flatten().all(Mark::is_settled) {
            return Ok(());
        }
        self.secrets.store(Arc::new(Secrets::read(&self.files, before.reading + 1)?));
        Ok(())
    }

    /// A name's certificate is new, or another one. Says whether that changed anything.
    pub(crate) fn set(&self, name: CertificateName, sealed: Arc<SealedCertificate>) -> bool {
        self.take_in();
        let entries = self.entries.pin();
        let entry = entries.get(&name);
        if entry.is_some_and(|entry| entry.newest.sealed == sealed) {
            return false;
        }
        let before = entry.and_then(|entry| match &entry.newest {
            newest if newest.good.load(Ordering::Acquire) => Some(Arc::clone(newest)),
            newest if newest.refused_at.load(Ordering::Acquire) > 0 => entry.before.clone(),
            // Never tried: an older one that was is the safer one to keep.
            newest => entry.before.clone().or_else(|| Some(Arc::clone(newest))),
        });
        entries.insert(name.clone(), Arc::new(Entry { newest: Version::new((name, sealed)), before }));
        self.version.fetch_add(1, Ordering::Release);
        true
    }

    /// A name has no certificate any more. Says whether it had one.
    pub(crate) fn remove(&self, name: &CertificateName) -> bool {
        self.take_in();
        let removed = self.entries.pin().remove(name).is_some();
        self.version.fetch_add(u64::from(removed), Ordering::Release);
        removed
    }

    /// What is stored under `key` and was not found to be bad, the newest first.
    pub(crate) fn versions(&self, key: &str) -> [Option<Arc<Version>>; 2] {
        let reading = self.secrets.load().reading;
        let usable = |version: &Arc<Version>| version.refused_at.load(Ordering::Acquire) != reading;
        // In this order: who finds nothing on the disk because it was taken in finds it among the entries.
        let on_disk = self.on_disk.load();
        if let Some(entry) = self.entries.pin().get(key) {
            let mut versions = entry.versions().filter(|version| usable(version)).cloned();
            return [versions.next(), versions.next()];
        }
        let version = on_disk.as_ref().and_then(|on_disk| on_disk.version(key));
        [version.filter(usable), None]
    }

    /// Opens a version.
    pub(crate) fn unseal(&self, version: &Version) -> Result<Certificate, BadSeal> {
        self.secrets.load().secrets.open(&version.name, &version.sealed)
    }

    /// It can be used: the one before is not needed any more.
    pub(crate) fn is_good(&self, version: &Arc<Version>) {
        if version.good.swap(true, Ordering::AcqRel) {
            return;
        }
        self.entries.pin().update(version.name.clone(), |entry| match Arc::ptr_eq(&entry.newest, version) {
            true => Arc::new(Entry { newest: Arc::clone(version), before: None }),
            false => Arc::clone(entry),
        });
    }

    /// It cannot be used, unless the secrets change.
    pub(crate) fn is_bad(&self, version: &Version) {
        version.refused_at.store(self.secrets.load().reading, Ordering::Release);
        // Where there is one before, the snapshot is to have that one.
        let entries = self.entries.pin();
        let has_other = entries.get(&version.name).is_some_and(|entry| entry.before.is_some());
        self.version.fetch_add(u64::from(has_other), Ordering::Release);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.on_disk.load().as_ref().map_or(self.entries.len(), |on_disk| on_disk.saved.len())
    }

    /// Rises with every change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The names that are not `known`.
    pub(crate) fn vanished(&self, known: impl Fn(&CertificateName) -> bool) -> Vec<CertificateName> {
        self.take_in();
        self.entries.pin().keys().filter(|name| !known(name)).cloned().collect()
    }

    /// Of each name that the source told the newest certificate that is not bad.
    pub(crate) fn contents(&self) -> Vec<Named> {
        let is_fine = |version: &&Arc<Version>| version.refused_at.load(Ordering::Acquire) == 0;
        let one = |(name, entry): (&CertificateName, &Arc<Entry>)| {
            let version = entry.versions().find(is_fine).unwrap_or(&entry.newest);
            (name.clone(), Arc::clone(&version.sealed))
        };
        self.entries.pin().iter().map(one).collect()
    }
}

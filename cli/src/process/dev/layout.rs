//! Where `dev` keeps its files and which ports it takes.

use super::local;
use anyhow::Context;
use cellway_core::ids::CellName;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

/// In every directory of `dev`, so that `--fresh` wipes nothing else; also the lock, with the holder's pid in it.
const LOCK_FILE: &str = "cellway-dev.lock";

/// A directory of `dev`, locked for this process, and its ports.
pub(super) struct Layout {
    dir: PathBuf,
    port_base: u16,
    cells: u16,
    _lock: File,
}

impl Layout {
    /// Opens or makes the directory and takes its lock; with `fresh` wipes what an earlier `dev` left there.
    pub(super) fn open(dir: PathBuf, fresh: bool, port_base: u16, cells: u16) -> anyhow::Result<Self> {
        let shown = dir.display().to_string();
        let is_ours = dir.join(LOCK_FILE).exists();
        let is_used = std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
        anyhow::ensure!(
            is_ours || !is_used,
            "{shown} holds files that are not of `cellway dev`: name an empty or a new directory with --dir"
        );
        std::fs::create_dir_all(&dir).with_context(|| format!("{shown} cannot be made"))?;
        let dir = dir.canonicalize().with_context(|| format!("{shown} cannot be used"))?;
        let lock = lock(&dir, &shown)?;
        if fresh {
            wipe(&dir).with_context(|| format!("{shown} cannot be wiped"))?;
        }
        Ok(Self { dir, port_base, cells, _lock: lock })
    }

    pub(super) fn cell_names(&self) -> Vec<CellName> {
        let name = |i: u16| format!("cell-{}", char::from(b'a' + u8::try_from(i).unwrap_or(0)));
        (0..self.cells).filter_map(|i| CellName::new(&name(i)).ok()).collect()
    }

    pub(super) fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(super) fn snapshot(&self) -> PathBuf {
        self.dir.join("router").join("routes.snapshot")
    }

    pub(super) fn tls_dir(&self) -> PathBuf {
        self.dir.join("tls")
    }

    pub(super) fn agent_dir(&self, cell: &CellName) -> PathBuf {
        self.dir.join(cell.as_str()).join("agent")
    }

    pub(super) fn app_dir(&self, cell: &CellName) -> PathBuf {
        self.dir.join(cell.as_str()).join("app")
    }

    pub(super) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    fn port(&self, offset: usize) -> SocketAddr {
        local(self.port_base.saturating_add(u16::try_from(offset).unwrap_or(u16::MAX)))
    }

    pub(super) fn router(&self) -> SocketAddr {
        self.port(0)
    }

    pub(super) fn https(&self) -> SocketAddr {
        self.port(1)
    }

    pub(super) fn api(&self) -> SocketAddr {
        self.port(2)
    }

    pub(super) fn router_admin(&self) -> SocketAddr {
        self.port(3)
    }

    pub(super) fn gate(&self, cell: usize) -> SocketAddr {
        self.port(10 + cell)
    }

    pub(super) fn app(&self, cell: usize) -> SocketAddr {
        self.port(20 + cell)
    }

    pub(super) fn transfer(&self, cell: usize) -> SocketAddr {
        self.port(30 + cell)
    }

    pub(super) fn agent_admin(&self, cell: usize) -> SocketAddr {
        self.port(40 + cell)
    }
}

fn lock(dir: &std::path::Path, shown: &str) -> anyhow::Result<File> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("{shown} cannot be written"))?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        anyhow::bail!(
            "another `cellway dev` (pid {}) uses {shown}: stop it, or name another directory with --dir",
            holder.trim()
        );
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Removes everything but the lock.
fn wipe(dir: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_dev_on_the_same_directory_is_refused_by_pid() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dev");
        let first = Layout::open(path.clone(), false, 8080, 3).expect("the first one");
        let error = Layout::open(path.clone(), false, 8080, 3).err().expect("refused").to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        Layout::open(path, true, 8080, 3).expect("free again");
    }

    #[test]
    fn a_foreign_directory_is_never_wiped() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("thesis.txt"), "years of work").expect("written");
        assert!(Layout::open(dir.path().to_owned(), true, 8080, 3).is_err());
        assert!(dir.path().join("thesis.txt").exists());
    }
}

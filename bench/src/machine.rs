//! What the machine has: cores, free ports, programs.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::Context;

/// Which cores do what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    /// What is measured.
    pub(crate) measured: usize,
    /// Everything else.
    pub(crate) rest: usize,
}

impl Cores {
    /// The last core for what is measured, the first for the rest.
    pub(crate) fn of_this_machine() -> anyhow::Result<Self> {
        let count = std::thread::available_parallelism().context("the number of cores")?.get();
        anyhow::ensure!(count >= 2, "this machine has one core; what is measured needs one of its own");
        Ok(Self { measured: count - 1, rest: 0 })
    }
}

/// Addresses on loopback that nobody uses.
pub(crate) fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let mut addresses = BTreeSet::new();
    let mut held = Vec::new();
    while addresses.len() < N {
        let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
        addresses.insert(listener.local_addr()?);
        held.push(listener);
    }
    let addresses: Vec<SocketAddr> = addresses.into_iter().collect();
    addresses.try_into().map_err(|_| anyhow::anyhow!("too few free ports"))
}

/// A program of this name, if it is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// The program `cellway` that was built beside this one.
pub(crate) fn cellway() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own path")?;
    let beside = own.with_file_name("cellway");
    anyhow::ensure!(beside.is_file(), "{} is missing: cargo build --release -p cellway", beside.display());
    Ok(beside)
}

//! A range of free ports per test, below the ephemeral ones, so that tests that run at once never meet.

use std::fs::File;
use std::net::TcpListener;

/// Ports of one range: as `cellway dev` lays them out, and etcd's.
const RANGE: u16 = 64;
const FIRST: u16 = 10_000;
const RANGES: u16 = 300;

/// A range of ports, ours until dropped.
pub struct Ports {
    /// The first port.
    pub base: u16,
    _lock: File,
}

impl Ports {
    /// Takes a range that nobody uses.
    pub fn take() -> Self {
        let dir = std::env::temp_dir().join("cellway-test-ports");
        std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
        let begin = u16::try_from(std::process::id() % u32::from(RANGES)).unwrap_or(0);
        for step in 0..RANGES {
            let slot = (begin + step) % RANGES;
            let Ok(lock) = File::create(dir.join(format!("{slot}.lock"))) else { continue };
            let base = FIRST + slot * RANGE;
            if lock.try_lock().is_ok() && is_free(base) {
                return Self { base, _lock: lock };
            }
        }
        panic!("no free range of ports");
    }

    /// The port at an offset.
    pub fn at(&self, offset: u16) -> u16 {
        self.base + offset
    }
}

fn is_free(base: u16) -> bool {
    (base..base + RANGE).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

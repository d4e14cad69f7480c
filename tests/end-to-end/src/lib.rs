//! Real processes on this machine for end-to-end tests: the binary in its roles, etcd, and a client that keeps books.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a panic here is a test that fails, with its reason"
)]

pub mod alone;
pub mod certificates;
pub mod dev;
pub mod fleet;
pub mod ledger;
pub mod ports;
pub mod process;
pub mod recovery;
pub mod relay;
pub mod replaced;
pub mod sandbox;
pub mod scale;
pub mod soak_long;
pub mod stress;
pub mod tracer;
pub mod writer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The longest wait for something that should come about within moments.
pub const PATIENCE_MS: u64 = 20_000;

/// Names a state that no move may leave, in a file; see the control plane's test faults.
pub const STALL_VARIABLE: &str = "CELLWAY_TEST_STALL_FILE";

/// Names a write around which the control plane dies, in a file; see there.
pub const CRASH_VARIABLE: &str = "CELLWAY_TEST_CRASH_FILE";

/// The binary under test: built beside this test.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let dirs = own.ancestors().skip(1).take(2);
    let found = dirs.map(|dir| dir.join("cellway")).find(|path| path.is_file());
    found.expect("the binary is built first: cargo build -p cellway --features cellway/test-faults")
}

/// A program that a test cannot do without: a missing one is a failure that names the package, not a skipped test.
pub fn tool(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = dirs.into_iter().map(|dir| dir.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!("`{name}` is not installed; `make setup-tests`, or Debian: apt-get install {package}")
    })
}

/// Waits until `probe` has an answer.
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE_MS, what, probe).await
}

/// Waits until `probe` has an answer, at most `limit_ms`.
pub async fn within<T>(limit_ms: u64, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_millis(limit_ms), "not within {limit_ms} ms: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether `GET {url}` is answered with success.
pub async fn is_ok(url: &str) -> bool {
    let client = cellway_api::http::client_builder(None).timeout(Duration::from_secs(2)).build();
    match client {
        Ok(client) => client.get(url).send().await.is_ok_and(|answer| answer.status().is_success()),
        Err(_) => false,
    }
}

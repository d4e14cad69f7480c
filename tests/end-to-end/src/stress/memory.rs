//! What a process keeps in memory, as the kernel counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Between two looks.
const LOOK_MS: u64 = 25;

/// What is resident of a process's own, in KiB, without the pages of its program; 0 once it is gone.
pub fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Open files of a process.
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Watches for the peak.
pub struct Peak {
    kib: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Peak {
    /// Begins to watch.
    pub fn watch(pid: u32) -> Self {
        let kib = Arc::new(AtomicU64::new(rss_kib(pid)));
        let peak = Arc::clone(&kib);
        let task = tokio::spawn(async move {
            loop {
                peak.fetch_max(rss_kib(pid), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            }
        });
        Self { kib, task }
    }

    /// The highest so far, in KiB.
    pub fn kib(&self) -> u64 {
        self.kib.load(Ordering::Relaxed)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! What a process and its children have cost: CPU time by the scheduler's own count, and memory.

use std::fs;
use std::path::Path;

/// CPU time of a process, its threads and its children so far, in nanoseconds. What has ended is not counted, so it is
/// for processes whose threads stay.
pub(crate) fn cpu_ns(pid: u32) -> u64 {
    tree(pid).into_iter().map(own_cpu_ns).sum()
}

/// Memory that a process and its children have, shared pages divided among those who share them, in MiB.
pub(crate) fn pss_mib(pid: u32) -> f64 {
    let kib: u64 = tree(pid).into_iter().map(own_pss_kib).sum();
    kib as f64 / 1024.0
}

fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        for task in tasks(parent) {
            let children = fs::read_to_string(task.join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

fn tasks(pid: u32) -> Vec<std::path::PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    tasks.flatten().map(|task| task.path()).collect()
}

fn own_cpu_ns(pid: u32) -> u64 {
    let of_task = |task: &Path| -> Option<u64> {
        fs::read_to_string(task.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    tasks(pid).iter().filter_map(|task| of_task(task)).sum()
}

fn own_pss_kib(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_and_memory_of_a_process_are_counted() {
        let pid = std::process::id();
        let before = cpu_ns(pid);
        let sum = (0..30_000_000_u64).fold(0, |sum: u64, n| sum.wrapping_add(std::hint::black_box(n)));
        assert!(std::hint::black_box(sum) > 0 && cpu_ns(pid) > before);
        assert!(pss_mib(pid) > 0.5);
    }
}

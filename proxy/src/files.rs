//! Open files: how many this process may have, and how many of them its clients may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are neither a client's nor a peer's: listeners, runtimes, logs, the disk, the store.
const OTHERS: usize = 64;

/// The part of all files that is kept for peers: most clients' connections are idle.
const PEERS_PART: usize = 16;

/// As many at least, but no more than a quarter.
const PEERS_FILES: usize = 256;

/// Allows this process as many files as the system lets it have, and says how many that is.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed = |limit: Option<u64>| limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    if current == maximum {
        return allowed(current);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            tracing::debug!(from = ?current, to = ?maximum, "limit of open files raised");
            allowed(maximum)
        }
        Err(error) => {
            tracing::warn!(limit = ?current, %error, "the limit of open files stays low");
            allowed(current)
        }
    }
}

/// How many connections each of `threads` may take from clients, at most `wanted`. What is left is for connections to peers:
/// clients that took all files would be of no use to one another.
pub fn connections_per_thread(files: usize, threads: usize, wanted: usize) -> usize {
    let for_peers = (files / PEERS_PART).max(PEERS_FILES.min(files / 4));
    let for_clients = files.saturating_sub(OTHERS + for_peers);
    let allowed = (for_clients / threads.max(1)).max(1);
    if allowed < wanted {
        tracing::warn!(
            files,
            allowed,
            wanted,
            "the limit of open files (ulimit -n, LimitNOFILE) allows fewer connections per thread than configured"
        );
    }
    allowed.min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_some_files_to_what_is_done_for_them() {
        assert_eq!(connections_per_thread(usize::MAX, 2, 20_000), 20_000);
        assert_eq!(connections_per_thread(65_536, 2, 40_000), 30_688);
        assert_eq!(connections_per_thread(1_024, 2, 20_000), 352);
        assert_eq!(connections_per_thread(256, 4, 20_000), 32);
        assert_eq!(connections_per_thread(10, 4, 20_000), 1, "never none");
    }

    #[test]
    fn the_limit_is_raised_once_and_stays() {
        assert_eq!(raise(), raise());
    }
}

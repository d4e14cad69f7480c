//! In tests: the process dies around a write of a move's record, as a file says.

use async_trait::async_trait;
use cellway_store::{CommitHook, HookedStore, Store, Txn, Write, keys};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;

/// While the file says `N before` or `N after`, the N-th write of moves from then on is the last: the process dies before
/// it, or after it and before anybody knows. The file is then gone.
struct CrashAt {
    file: PathBuf,
    alone: Mutex<()>,
}

/// The store, and its end.
pub(crate) fn crashing(store: Arc<dyn Store>, file: PathBuf) -> Arc<dyn Store> {
    Arc::new(HookedStore { store, hook: CrashAt { file, alone: Mutex::new(()) } })
}

impl CrashAt {
    /// Counts a write down, as it is begun or done.
    fn count(&self, txn: &Txn, when: &str) {
        let of_a_move = |write: &Write| write.key().starts_with(keys::MOVES);
        if !txn.writes.iter().any(of_a_move) {
            return;
        }
        let _alone = self.alone.lock();
        let Ok(text) = std::fs::read_to_string(&self.file) else { return };
        let Some((left, _)) = text.split_once(' ').filter(|(_, wanted)| wanted.trim() == when) else { return };
        match left.parse::<u32>() {
            Ok(left) if left > 1 => drop(std::fs::write(&self.file, format!("{} {when}", left - 1))),
            _ => {
                let _ = std::fs::remove_file(&self.file);
                std::process::abort();
            }
        }
    }
}

#[async_trait]
impl CommitHook for CrashAt {
    async fn before(&self, txn: &Txn) {
        self.count(txn, "before");
    }

    async fn after(&self, txn: &Txn) {
        self.count(txn, "after");
    }
}

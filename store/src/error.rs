//! What can go wrong in a store, in the words that callers branch on.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use cellway_core::ids::Revision;

/// The cause of a [`StoreError`], shared so that one failure can answer many callers.
pub type Cause = Arc<dyn Error + Send + Sync + 'static>;

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A compare of the transaction failed; nothing was written.
    #[error("the stored records are not as the transaction requires")]
    Conflict,
    /// The revision asked for is not in the history: compacted away, or above the store's own
    /// (a store restored from a backup). The caller lists again.
    #[error("the history does not reach the revision asked for; it begins at {}", at.0)]
    Compacted {
        /// The oldest revision that can still be read, or the store's own when it fell back.
        at: Revision,
    },
    /// The lease has expired, was revoked, or never was.
    #[error("the lease has ended")]
    LeaseGone,
    /// The store did not answer. A commit that got this answer may have happened: read again.
    #[error("the store is unavailable while trying to {doing}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What came of it.
        #[source]
        source: Cause,
    },
    /// The transaction is above a limit; nothing was written.
    #[error("the transaction has {is} {what}, at most {max} are allowed")]
    TooLarge {
        /// What is counted: `operations` or `bytes`.
        what: &'static str,
        /// The size of this one.
        is: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// Another process (or another handle in this one) holds the store's directory.
    #[error("{} is held by another process{}", path.display(), pid_of(*holder))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, where it left its id.
        holder: Option<u32>,
    },
    /// What is stored cannot be understood.
    #[error("{place} is damaged or of an unknown format: {detail}")]
    Corrupt {
        /// The file, or the key.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The request makes no sense to the store; asking again will not help.
    #[error("the store refuses: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

impl StoreError {
    /// An [`StoreError::Unavailable`] with its cause.
    pub fn unavailable(doing: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { doing, source: Arc::new(source) }
    }

    /// An [`StoreError::Unavailable`] whose cause is only a sentence.
    pub fn unavailable_because(doing: &'static str, reason: impl Into<String>) -> Self {
        Self::unavailable(doing, Reason(reason.into()))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

fn pid_of(holder: Option<u32>) -> String {
    holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

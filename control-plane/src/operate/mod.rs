//! What operators and agents may do to the fleet: each action one transaction, audited in it.

mod agents;
mod brake;
mod cells;
mod certificates;
mod findings;
mod limits;
mod lookup;
mod moves;
mod places;
mod plan;
mod tenants;

pub(crate) use brake::brake_view;
pub(crate) use certificates::{KeptCertificate, certificate_view};
pub(crate) use findings::{finding_view, stuck_switch_id};
pub(crate) use limits::limits_view;
pub(crate) use places::Turns;
pub(crate) use tenants::tenant_view;

use crate::Replica;
use crate::advance::NotAdvanced;
use crate::clock;
use cellway_api::problem::Problem;
use cellway_core::ids::{InvalidId, Revision};
use cellway_core::placement::NoPlace;
use cellway_core::tenant_move::Refused;
use cellway_store::records::{Audit, Record};
use cellway_store::{StoreError, Txn, keys};

/// How often a lost compare-and-swap of an action is tried again.
pub(crate) const ATTEMPTS_MAX: u32 = 5;

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDone {
    /// What it is about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense, whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// It makes sense, but not now.
    #[error("{0}")]
    Conflict(String),
    /// Others write the same records all the time: nothing was changed, and it may be tried again.
    #[error("others are changing the same thing, so nothing was changed")]
    Contended,
    /// The view is not synced yet, or the store does not answer.
    #[error("the store cannot be reached, so nothing was changed")]
    Unavailable(#[source] Option<StoreError>),
}

impl From<InvalidId> for NotDone {
    fn from(error: InvalidId) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<NoPlace> for NotDone {
    fn from(error: NoPlace) -> Self {
        match error {
            NoPlace::Unknown(_) => Self::NotFound(error.to_string()),
            NoPlace::NotOpen { .. } | NoPlace::Full { .. } | NoPlace::Nowhere => Self::Conflict(error.to_string()),
        }
    }
}

impl From<NotAdvanced> for NotDone {
    fn from(error: NotAdvanced) -> Self {
        match error {
            NotAdvanced::Unknown(_) => Self::NotFound(error.to_string()),
            NotAdvanced::Refused(Refused::Ended) => Self::Conflict("the move has ended already".into()),
            NotAdvanced::Contended => Self::Contended,
            NotAdvanced::Store(source) => Self::Unavailable(Some(source)),
            _ => Self::Conflict(error.to_string()),
        }
    }
}

impl NotDone {
    /// The problem as it is answered.
    pub(crate) fn problem(&self) -> Problem {
        let (kind, status) = match self {
            Self::NotFound(_) => ("not_found", 404),
            Self::Invalid(_) => ("invalid", 400),
            Self::Conflict(_) => ("conflict", 409),
            Self::Contended => ("contended", 503),
            Self::Unavailable(_) => ("unavailable", 503),
        };
        let detail = match self {
            Self::Unavailable(Some(source)) => Some(source.to_string()),
            Self::Contended => Some("try again".to_owned()),
            Self::Unavailable(None) => Some("this replica has not read the store yet: try again".to_owned()),
            _ => None,
        };
        Problem { kind: kind.to_owned(), status, title: self.to_string(), detail }
    }
}

/// What an attempt at an action came to: a transaction with the answer that it makes true.
pub(crate) struct Attempt<T> {
    pub(crate) txn: Txn,
    pub(crate) answer: T,
}

impl Replica {
    /// Commits what `attempt` makes of the view; after a lost compare-and-swap it is made anew, from a newer view.
    pub(crate) async fn act<T>(
        &self,
        attempt: impl Fn(&crate::view::View) -> Result<Attempt<T>, NotDone>,
    ) -> Result<(T, Revision), NotDone> {
        let mut attempts = 0;
        loop {
            let (made, seen) = {
                let view = self.view.read();
                if !view.synced {
                    return Err(NotDone::Unavailable(None));
                }
                (attempt(&view)?, view.revision)
            };
            let place = places::place_of(&made.txn);
            match self.store.commit(made.txn).await {
                Ok(revision) => {
                    self.view.seen(revision).await;
                    return Ok((made.answer, revision));
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(NotDone::Unavailable(Some(error))),
            }
            attempts += 1;
            if attempts == if place.is_some() { places::ATTEMPTS_MAX } else { ATTEMPTS_MAX } {
                return Err(NotDone::Contended);
            }
            let given_at = match place {
                Some(key) => self.given_at(&key).await?,
                None => Revision(0),
            };
            self.view.seen(given_at.max(Revision(seen.0 + 1))).await;
        }
    }
}

/// Adds the audit of an action to its transaction.
pub(crate) fn audited(txn: Txn, who: &str, action: &str, subject: &str, why: &str) -> Txn {
    let at_ms = clock::now_ms();
    let audit = Audit {
        at_ms,
        who: who.to_owned(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        why: why.to_owned(),
    };
    txn.put(keys::audit(at_ms, &clock::token()), audit.encode())
}

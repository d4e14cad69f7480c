//! Facts on their way up: kept until they were heard, sent as soon as they are there.

use crate::control_plane::{BackOff, ControlPlane};
use cellway_api::agent::{FactHeard, FactUp, FactsUp};
use cellway_core::ids::InstanceId;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::Arc;
use tokio::sync::Notify;

/// How many facts wait at the most; the oldest measurements give way.
const PENDING_MAX: usize = 4_096;

/// How many go into one request.
const BATCH_MAX: usize = 64;

/// The first pause after facts were not heard.
const RETRY_MIN_MS: u64 = 20;

/// The longest one.
const RETRY_MAX_MS: u64 = 1_000;

/// The facts that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pending: Mutex<VecDeque<FactUp>>,
    news: Notify,
}

impl Facts {
    /// States a fact. A newer fact of a kind takes the place of an older one of the same move.
    pub(crate) fn state(&self, fact: FactUp) {
        {
            let mut pending = self.pending.lock();
            match pending.iter_mut().find(|known| supersedes(&fact, known)) {
                Some(known) => *known = fact,
                None => pending.push_back(fact),
            }
            if pending.len() > PENDING_MAX {
                let oldest = pending.iter().position(is_measurement).unwrap_or(0);
                pending.remove(oldest);
            }
        }
        self.news.notify_one();
    }

    /// How many facts wait.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.lock().len()
    }

    /// Sends facts until it is dropped.
    pub(crate) async fn send(self: Arc<Self>, control_plane: Arc<ControlPlane>, instance: InstanceId) {
        let mut back_off = BackOff::new(RETRY_MIN_MS, RETRY_MAX_MS);
        loop {
            let facts = self.take();
            if facts.is_empty() {
                self.news.notified().await;
                continue;
            }
            let client = control_plane.current().clone();
            let up = FactsUp { instance: instance.to_string(), facts };
            let heard = tokio::select! {
                heard = client.facts(control_plane.cell().as_str(), &up) => heard,
                () = control_plane.turned_from(&client) => {
                    self.put_back(up.facts);
                    continue;
                }
            };
            match heard {
                Ok(heard) => match self.settle(up.facts, heard.results) {
                    true => back_off.reset(),
                    false => back_off.pause().await,
                },
                Err(error) => {
                    tracing::warn!(%error, base = client.base(), "facts were not heard");
                    self.put_back(up.facts);
                    control_plane.turn_from(&client);
                    back_off.pause().await;
                }
            }
        }
    }

    fn take(&self) -> Vec<FactUp> {
        let mut pending = self.pending.lock();
        let count = pending.len().min(BATCH_MAX);
        pending.drain(..count).collect()
    }

    /// Keeps what has to be said again; false if anything has to.
    fn settle(&self, facts: Vec<FactUp>, results: Vec<FactHeard>) -> bool {
        let mut results = results.into_iter();
        let mut again = Vec::new();
        for fact in facts {
            match results.next() {
                Some(FactHeard::Recorded) => {}
                Some(FactHeard::Refused { why }) => {
                    tracing::debug!(move_id = fact.move_id(), ?fact, why, "a fact changes nothing");
                }
                Some(FactHeard::Later) | None => again.push(fact),
            }
        }
        let all_heard = again.is_empty();
        self.put_back(again);
        all_heard
    }

    /// A measurement is not worth repeating: the next one is on its way.
    fn put_back(&self, facts: Vec<FactUp>) {
        let mut pending = self.pending.lock();
        for fact in facts.into_iter().rev().filter(|fact| !is_measurement(fact)) {
            if !pending.iter().any(|newer| supersedes(newer, &fact)) {
                pending.push_front(fact);
            }
        }
    }
}

/// Whether `newer` says all that still matters of `older`.
fn supersedes(newer: &FactUp, older: &FactUp) -> bool {
    let same_home = match (newer, older) {
        (FactUp::Dropped { home: newer, .. }, FactUp::Dropped { home: older, .. }) => newer == older,
        _ => true,
    };
    same_home && newer.move_id() == older.move_id() && discriminant(newer) == discriminant(older)
}

/// Whether the fact is one of a series, each of which is soon out of date.
fn is_measurement(fact: &FactUp) -> bool {
    match fact {
        FactUp::Watched { .. } | FactUp::Followed { .. } => true,
        FactUp::Copied { complete, .. } => !complete,
        FactUp::Ready { .. }
        | FactUp::Fenced { .. }
        | FactUp::Positioned { .. }
        | FactUp::Reached { .. }
        | FactUp::Opened { .. }
        | FactUp::Dropped { .. }
        | FactUp::Failed { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(oldest_request_ms: u64) -> FactUp {
        FactUp::Watched { move_id: "m1".into(), oldest_request_ms, running_requests: 0, open_streams: 0 }
    }

    fn fenced(move_id: &str) -> FactUp {
        FactUp::Fenced { move_id: move_id.into(), epoch: 1, cut_requests: 0 }
    }

    #[test]
    fn a_newer_fact_takes_the_place_of_an_older_one_of_its_kind() {
        let facts = Facts::default();
        for fact in [watched(1), fenced("m1"), watched(2), fenced("m2"), fenced("m1")] {
            facts.state(fact);
        }
        assert_eq!(facts.take(), vec![watched(2), fenced("m1"), fenced("m2")]);
    }

    #[test]
    fn what_was_not_heard_is_said_again_but_no_old_measurement() {
        let facts = Facts::default();
        let said = vec![fenced("m1"), watched(1), fenced("m2"), fenced("m3")];
        let results = vec![FactHeard::Later, FactHeard::Later, FactHeard::Recorded];
        assert!(!facts.settle(said, results));
        assert_eq!(facts.take(), vec![fenced("m1"), fenced("m3")]);
        let refused = FactHeard::Refused { why: "it is about another move".into() };
        assert!(facts.settle(vec![fenced("m1")], vec![refused]));
        assert_eq!(facts.take(), vec![]);
    }
}

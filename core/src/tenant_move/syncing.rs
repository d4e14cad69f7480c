//! `syncing`: what a freeze would take, and whether that is within the tenant's budget.

use super::message::{Fact, FreezePart};
use super::record::{Admitted, Measured, REPORT_FRESH_MS};
use crate::ids::InstanceId;
use std::collections::{BTreeMap, BTreeSet};

/// What the predicted freeze is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Syncing {
    /// How long the target's last pass says that the data would be frozen.
    pub followed: Option<Measured<u64>>,
    /// The part of it that takes longest.
    pub longest: Option<FreezePart>,
    /// What each of the source's gates has admitted.
    pub watched: BTreeMap<InstanceId, Measured<Admitted>>,
}

impl Syncing {
    /// With what `fact` reports in it.
    pub(super) fn with_report(&self, fact: &Fact, now_ms: u64) -> Self {
        let mut syncing = self.clone();
        match fact {
            Fact::Followed(report) => {
                syncing.followed = Some(Measured { value: report.transfer_ms, at_ms: now_ms });
                syncing.longest.clone_from(&report.longest);
            }
            Fact::Watched(report) => {
                let measured = Measured { value: report.admitted, at_ms: now_ms };
                syncing.watched.insert(report.by.instance.clone(), measured);
            }
            _ => {}
        }
        syncing
    }

    /// What all gates that were heard have admitted: the oldest request, and the sum of the streams.
    pub fn admitted(&self) -> Option<Admitted> {
        let values = self.watched.values().map(|measured| measured.value);
        values.reduce(|all, one| Admitted {
            oldest_request_ms: all.oldest_request_ms.max(one.oldest_request_ms),
            requests: all.requests.saturating_add(one.requests),
            open_streams: all.open_streams.saturating_add(one.open_streams),
        })
    }

    /// The freeze to expect if traffic were held now, as far as both sides have reported.
    pub fn predicted_freeze_ms(&self) -> Option<u64> {
        Some(self.followed.as_ref()?.value + self.admitted()?.oldest_request_ms)
    }

    /// The part of the predicted freeze that takes longest.
    pub fn longest_part(&self) -> Option<FreezePart> {
        let oldest_ms = self.admitted()?.oldest_request_ms;
        let requests = FreezePart::new("for the oldest request that runs at the source", oldest_ms);
        let transfer = || Some(FreezePart::new("for the data", self.followed.as_ref()?.value));
        [self.longest.clone().or_else(transfer)?, requests].into_iter().max_by_key(|part| part.ms)
    }

    /// Why the tenant was not frozen in all the time that there was.
    pub(super) fn why_not_frozen(&self, gates: &BTreeSet<InstanceId>, budget_ms: u64) -> String {
        if self.followed.is_none() {
            return "the target did not say how long a freeze would take".to_owned();
        }
        if !gates.iter().all(|gate| self.watched.contains_key(gate)) {
            return "not every gate of the source said what it has admitted".to_owned();
        }
        match self.predicted_freeze_ms().zip(self.longest_part()) {
            Some((freeze_ms, longest)) if freeze_ms > budget_ms => format!(
                "a freeze would take {freeze_ms} ms, of which {longest}; the tenant's freeze budget is {budget_ms} ms"
            ),
            _ => "the target or a gate of the source fell silent before the tenant was frozen".to_owned(),
        }
    }

    /// Whether the tenant may be frozen within the budget, if the target and every gate of the source have reported
    /// lately.
    pub(super) fn readiness(&self, gates: &BTreeSet<InstanceId>, budget_ms: u64, now_ms: u64) -> Option<Readiness> {
        let fresh = |at_ms: u64| at_ms.saturating_add(REPORT_FRESH_MS) >= now_ms;
        let heard = |gate: &InstanceId| self.watched.get(gate).is_some_and(|measured| fresh(measured.at_ms));
        let (followed, admitted) = (self.followed.as_ref()?, self.admitted()?);
        if !fresh(followed.at_ms) || !gates.iter().all(heard) {
            return None;
        }
        if self.predicted_freeze_ms()? <= budget_ms {
            return Some(Readiness::Within(admitted));
        }
        (followed.value <= budget_ms).then_some(Readiness::ButForRequests(admitted))
    }
}

/// How near a move is to freezing its tenant within the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It may.
    Within(Admitted),
    /// It could, if it were not for requests that run.
    ButForRequests(Admitted),
}

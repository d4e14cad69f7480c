//! What a move would be: everything that asking for it would do but the commit, and what the source's agents say.

use super::NotDone;
use super::moves::{WantedMove, freeze_from_ms};
use super::tenants::refuse_unreadable;
use crate::Replica;
use crate::view::View;
use cellway_api::fleet::CreateMove;
use cellway_api::plan::{MovePlanView, Survey, Surveyed, together};
use cellway_core::tenant::Placement;
use cellway_core::tenant_move::{Admitted, MoveRecord, forecast};
use tokio::task::JoinSet;

/// A move that could be planned or not, with all that the agents are asked for.
struct Draft {
    /// The record that would be written, or why none would.
    record: Result<MoveRecord, String>,
    waits_for: Option<String>,
    freeze_from_ms: Option<u64>,
    placement: Placement,
    /// Where the agents of the source answer.
    endpoints: Vec<String>,
}

impl Replica {
    /// What a move would be. It changes nothing.
    pub(crate) async fn plan_move(&self, wanted: CreateMove) -> Result<MovePlanView, NotDone> {
        let wanted = WantedMove::of(wanted)?;
        let draft = self.draft(&self.view.read(), &wanted)?;
        let survey = Survey { tenant: wanted.tenant.to_string(), home: draft.placement.home.to_string() };
        let heard = self.survey(&draft.endpoints, &survey).await;
        Ok(self.judged(&self.view.read(), &wanted, draft, &heard))
    }

    /// By the very rules of the real thing.
    fn draft(&self, view: &View, wanted: &WantedMove) -> Result<Draft, NotDone> {
        if !view.synced {
            return Err(NotDone::Unavailable(None));
        }
        refuse_unreadable(view, &wanted.tenant)?;
        let record = match self.attempt_move(view, wanted) {
            Ok(attempt) => Ok(attempt.answer),
            Err(NotDone::Conflict(reason)) => Err(reason),
            Err(other) => return Err(other),
        };
        let no_tenant = || NotDone::NotFound(format!("there is no tenant {}", wanted.tenant));
        let (placement, _) = view.placed(&wanted.tenant).ok_or_else(no_tenant)?;
        let gates = view.gates.get(&placement.cell.name).filter(|gates| gates.value.uid == placement.cell.uid);
        let instances = gates.iter().flat_map(|gates| gates.value.instances.values());
        Ok(Draft {
            freeze_from_ms: record.as_ref().ok().and_then(freeze_from_ms),
            waits_for: record.as_ref().ok().and_then(|record| self.waits_for(view, record)),
            record,
            placement: placement.clone(),
            endpoints: instances.map(|listed| listed.transfer_endpoint.clone()).collect(),
        })
    }

    /// All agents at once: as many as a cell may have.
    async fn survey(&self, endpoints: &[String], survey: &Survey) -> Vec<Surveyed> {
        let mut asked = JoinSet::new();
        for endpoint in endpoints {
            let (surveyor, endpoint, survey) = (self.surveyor.clone(), endpoint.clone(), survey.clone());
            asked.spawn(async move { surveyor.ask(&endpoint, &survey).await });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    fn judged(&self, view: &View, wanted: &WantedMove, draft: Draft, heard: &[Surveyed]) -> MovePlanView {
        let now = together(heard.iter().copied());
        let all_heard = heard.len() == draft.endpoints.len();
        let admitted = now.filter(|_| all_heard).map(|now| Admitted {
            oldest_request_ms: now.oldest_request_ms,
            requests: now.running_requests,
            open_streams: now.open_streams,
        });
        let data_bytes = now.and_then(|now| now.data_bytes);
        let expected = draft.record.as_ref().map(|record| {
            let records = view.moves.values().map(|at| &at.value);
            forecast(records, record.driver, &record.limits, data_bytes, admitted)
        });
        let expected = expected.unwrap_or_default();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let known = view.tenants.get(&wanted.tenant).map(|at| &at.value);
        let limits = known.map(|tenant| self.limits_of(tenant)).unwrap_or_default();
        MovePlanView {
            tenant: wanted.tenant.to_string(),
            source: draft.placement.cell.name.to_string(),
            target: wanted.target.to_string(),
            driver: draft.record.as_ref().ok().map(|record| record.driver.as_str().to_owned()),
            refused: draft.record.err(),
            waits_for: draft.waits_for,
            freeze_from_ms: draft.freeze_from_ms,
            gates: count(draft.endpoints.len()),
            gates_heard: count(heard.len()),
            now,
            past_moves: count(expected.past_moves),
            copy_ms: expected.copy_ms,
            freeze_ms: expected.freeze_ms,
            freeze_budget_ms: limits.freeze_budget_ms,
            within_budget: expected.within_budget,
            long_requests_wait_ms: limits.long_requests.wait_ms.min(limits.syncing_ms),
            long_requests: limits.long_requests.then.into(),
        }
    }
}

//! Findings: what is wrong, with whom, and the command that helps.

use super::{Attempt, NotDone, audited};
use crate::view::View;
use crate::{Replica, clock};
use cellway_api::fleet::{Alert, AlertmanagerBody, FindingView};
use cellway_core::cell::{CellCondition, CellKind};
use cellway_core::ids::{CellName, TenantId};
use cellway_store::records::{Finding, Record};
use cellway_store::{Txn, keys};

/// The most alerts of one body.
const ALERTS_MAX: usize = 50;

/// The longest text that is taken from an alert.
const SUMMARY_MAX_CHARS: usize = 400;

impl Replica {
    /// Records the firing alerts of an Alertmanager body as findings: each names tenant, cell and the command to run.
    pub(crate) async fn take_alerts(&self, body: AlertmanagerBody) -> Result<Vec<FindingView>, NotDone> {
        if body.alerts.len() > ALERTS_MAX {
            return Err(NotDone::Invalid(format!("{} alerts in one body, at most {ALERTS_MAX}", body.alerts.len())));
        }
        let firing: Vec<&Alert> = body.alerts.iter().filter(|alert| alert.status == "firing").collect();
        let (made, _) = self
            .act(|view| {
                let mut txn = Txn::new();
                let mut made: Vec<Finding> = Vec::new();
                for alert in &firing {
                    let finding = self.finding_of(view, alert);
                    if made.iter().any(|other| other.id == finding.id) {
                        continue;
                    }
                    let key = keys::finding(&finding.id);
                    txn = match view.findings.get(&finding.id) {
                        Some(known) => txn.require_revision(key.clone(), known.revision),
                        None => txn.require_absent(key.clone()),
                    };
                    txn = txn.put(key, finding.encode());
                    made.push(finding);
                }
                if !made.is_empty() {
                    txn = audited(txn, "alertmanager", "record findings", &made.len().to_string(), "");
                }
                Ok(Attempt { txn, answer: made })
            })
            .await?;
        Ok(made.iter().map(finding_view).collect())
    }

    fn finding_of(&self, view: &View, alert: &Alert) -> Finding {
        let label = |name: &str| alert.labels.get(name).map(String::as_str);
        let tenant = label("tenant").and_then(|id| TenantId::new(id).ok()).filter(|id| view.placed(id).is_some());
        let placed = tenant.as_ref().and_then(|id| view.placed(id)).map(|(placement, _)| placement.cell.name.clone());
        let cell = placed.or_else(|| label("cell").and_then(|name| CellName::new(name).ok()));
        let text = |name: &str| alert.annotations.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let summary = text("summary").or(text("description")).or(label("alertname")).unwrap_or("an alert fired");
        let remedy = match (&tenant, &cell) {
            (Some(tenant), Some(cell)) => match self.emptiest_other(view, cell) {
                Some(target) => format!("cellway tenant move {tenant} --to {target}"),
                None => format!("cellway cell list  # no other open cell can take tenant {tenant}"),
            },
            (None, Some(cell)) => format!("cellway cell cordon {cell}"),
            (_, None) => "cellway cell list".to_owned(),
        };
        let about = format!("{}-{}", label("alertname").unwrap_or("alert"), alert.fingerprint.as_deref().unwrap_or(""));
        let id = finding_id("alert", &about, tenant.as_ref().map(TenantId::as_str).unwrap_or_default());
        Finding {
            times: view.findings.get(&id).map_or(1, |known| known.value.times + 1),
            id,
            at_ms: clock::now_ms(),
            source: "alertmanager".to_owned(),
            tenant: tenant.map(|id| id.to_string()),
            cell: cell.map(|name| name.to_string()),
            summary: summary.chars().take(SUMMARY_MAX_CHARS).collect(),
            remedy,
        }
    }

    /// The open, reachable agent cell with the fewest tenants, `not` aside.
    fn emptiest_other(&self, view: &View, not: &CellName) -> Option<CellName> {
        let fleet = view.fleet(|cell, instance| self.heard.is_reachable(cell, instance));
        let others = fleet.cells.iter().filter(|(name, found)| {
            *name != not
                && found.reachable
                && found.cell.kind == CellKind::Agent
                && found.cell.condition == CellCondition::Open
        });
        others.min_by_key(|(_, found)| found.tenants).map(|(name, _)| name.clone())
    }

    /// Records that a move's target owns its tenant but no gate of it is known to be open: the way out is the move
    /// back. Told once per move.
    pub(crate) async fn find_stuck_switch(&self, id: &cellway_core::ids::MoveId) -> Result<(), NotDone> {
        let finding_id = stuck_switch_id(id);
        self.act(|view| {
            let mut txn = Txn::new();
            let record = view.moves.get(id).map(|at| &at.value);
            if let Some(record) = record.filter(|_| !view.findings.contains_key(&finding_id)) {
                let finding = Finding {
                    id: finding_id.clone(),
                    at_ms: clock::now_ms(),
                    source: "mover".to_owned(),
                    tenant: Some(record.tenant.to_string()),
                    cell: Some(record.target.name.to_string()),
                    summary: format!(
                        "cell {} owns tenant {} since {} ms, but no gate there has opened",
                        record.target.name,
                        record.tenant,
                        clock::now_ms().saturating_sub(record.entered_ms)
                    ),
                    remedy: format!("cellway move undo {id}"),
                    times: 1,
                };
                let key = keys::finding(&finding_id);
                txn = txn.require_absent(key.clone()).put(key, finding.encode());
            }
            Ok(Attempt { txn, answer: () })
        })
        .await?;
        Ok(())
    }
}

/// The id of the finding about a move that got no open gate after its commit.
pub(crate) fn stuck_switch_id(id: &cellway_core::ids::MoveId) -> String {
    finding_id("switched", id.as_str(), "")
}

/// A key-safe id: the same for the same thing, so that a repeated alert is one finding.
fn finding_id(kind: &str, about: &str, whom: &str) -> String {
    let plain = |text: &str| -> String {
        let keep = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        text.chars().take(64).map(keep).collect()
    };
    format!("{kind}-{}-{}", plain(about), plain(whom)).trim_end_matches('-').to_owned()
}

/// A finding as the API shows it.
pub(crate) fn finding_view(finding: &Finding) -> FindingView {
    FindingView {
        id: finding.id.clone(),
        at_ms: finding.at_ms,
        source: finding.source.clone(),
        tenant: finding.tenant.clone(),
        cell: finding.cell.clone(),
        summary: finding.summary.clone(),
        remedy: finding.remedy.clone(),
        times: finding.times,
    }
}

//! `cellway tenant move … --dry-run`: what the move would be. Nothing is changed.

use crate::output::{Failure, Format, Table, bytes, facts, or_dash, print, until};
use cellway_api::fleet::{CreateMove, LongRequestsView};
use cellway_api::plan::MovePlanView;
use cellway_api::{ApiError, Client};
use cellway_core::freeze_window::weekday_time;
use serde::Serialize;

/// What is said below every plan of one move.
const EXPLAINED: &str = "\
Nothing was changed. A move copies while the source serves; then streams end, requests are held for the
freeze, and one transaction gives the tenant to the target: that commit (state `switched`) is the point of
no return. Before it `cellway move undo` undoes, and users notice nothing but the end of a hold; after it
the same command starts a move back, which freezes once more.";

/// One tenant's plan, or why there is none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Row {
    Plan(Box<MovePlanView>),
    Nothing { tenant: String, refused: String },
}

#[derive(Debug, Serialize)]
struct Plans {
    items: Vec<Row>,
}

/// The plan of one move.
pub(super) async fn one(client: &Client, wanted: &CreateMove, format: Format) -> Result<(), Failure> {
    let plan = client.plan_move(wanted).await?;
    print(format, &plan, |plan| format!("{}\n\n{EXPLAINED}", plan_facts(plan)))?;
    if plan.refused.is_some() { Err(Failure::Said) } else { Ok(()) }
}

/// The plans of many.
pub(super) fn many(items: Vec<Row>, format: Format) -> Result<(), Failure> {
    let plans = Plans { items };
    print(format, &plans, Plans::table)?;
    if plans.items.iter().any(|row| row.refused().is_some()) { Err(Failure::Said) } else { Ok(()) }
}

/// One row: a refusal by the API itself is the tenant's, not the command's.
pub(super) fn row(tenant: &str, planned: Result<MovePlanView, ApiError>) -> Result<Row, ApiError> {
    match planned {
        Ok(plan) => Ok(Row::Plan(Box::new(plan))),
        Err(ApiError::Refused(problem)) => Ok(Row::Nothing { tenant: tenant.to_owned(), refused: problem.title }),
        Err(error) => Err(error),
    }
}

impl Row {
    pub(super) fn refused(&self) -> Option<&String> {
        match self {
            Self::Plan(plan) => plan.refused.as_ref(),
            Self::Nothing { refused, .. } => Some(refused),
        }
    }

    fn cells(&self) -> [String; 8] {
        match self {
            Self::Plan(plan) => [
                plan.tenant.clone(),
                plan.source.clone(),
                plan.target.clone(),
                or_dash(plan.now.map(|now| now.running_requests)),
                or_dash(plan.now.map(|now| now.open_streams)),
                or_dash(plan.now.and_then(|now| now.data_bytes).map(bytes)),
                or_dash(plan.freeze_ms),
                outlook(plan),
            ],
            Self::Nothing { tenant, refused } => {
                let [a, b, c, d, e, f] = std::array::from_fn(|_| "-".to_owned());
                [tenant.clone(), a, b, c, d, e, f, format!("refused: {refused}")]
            }
        }
    }
}

impl Plans {
    fn table(&self) -> String {
        let headings = ["TENANT", "FROM", "TO", ">REQUESTS", ">STREAMS", ">DATA", ">FREEZE MS", "WOULD"];
        let mut table = Table::new(&headings);
        for row in &self.items {
            table.row(row.cells());
        }
        let refused = self.items.iter().filter(|row| row.refused().is_some()).count();
        let summary = format!("{} moves, {refused} of them would be refused. Nothing was changed.", self.items.len());
        format!("{}\n{summary}", table.or("").trim_end())
    }
}

/// What would become of the move, in a word or two.
fn outlook(plan: &MovePlanView) -> String {
    match (&plan.refused, &plan.waits_for, plan.within_budget) {
        (Some(reason), ..) => format!("be refused: {reason}"),
        (None, Some(reason), _) => format!("wait: {reason}"),
        (None, None, _) if plan.freeze_from_ms.is_some() => "start, and wait for the freeze window".to_owned(),
        (None, None, Some(false)) => "start, and wait for a freeze within the budget".to_owned(),
        (None, None, Some(true) | None) => "start".to_owned(),
    }
}

fn ms(value: u64) -> String {
    match value {
        0..10_000 => format!("{value} ms"),
        10_000..600_000 => format!("{} s", value / 1_000),
        _ => format!("{} min", value / 60_000),
    }
}

fn plan_facts(plan: &MovePlanView) -> String {
    let driver = plan.driver.as_deref().unwrap_or("its driver");
    let unknown = match plan.past_moves {
        _ if plan.now.is_none() => "unknown: no gate of the source has answered".to_owned(),
        _ if plan.refused.is_some() => "unknown: the move would be refused".to_owned(),
        0 => format!("unknown: no move by {driver} has been made yet"),
        _ if plan.gates_heard < plan.gates => "unknown: not every gate of the source has answered".to_owned(),
        _ => "unknown".to_owned(),
    };
    let by = format!("by the last {} moves by {driver}", plan.past_moves);
    let requests = plan.now.map(|now| match now.running_requests {
        0 => "none".to_owned(),
        count => format!("{count}, the oldest for {}", ms(now.oldest_request_ms)),
    });
    let streams = plan.now.map(|now| match now.open_streams {
        0 => "none".to_owned(),
        count => format!("{count} would be ended, and their clients connect again"),
    });
    let gates = format!("{} of {} have answered", plan.gates_heard, plan.gates);
    let size = plan.now.and_then(|now| now.data_bytes).map_or_else(
        || format!("unknown: {driver} cannot tell, or has not in time"),
        |size| format!("{} by {driver}", bytes(size)),
    );
    let window = plan.freeze_from_ms.map_or_else(
        || "the freeze may begin at any time now".to_owned(),
        |at| format!("the freeze waits for {}, in {}", weekday_time(at), until(at)),
    );
    let freeze = plan.freeze_ms.map_or_else(|| unknown.clone(), |freeze| format!("about {}, {by}", ms(freeze)));
    let budget = match plan.within_budget {
        Some(true) => "kept".to_owned(),
        Some(false) => format!(
            "not kept now: the move would follow changes for up to {} until it is, then {}",
            ms(plan.long_requests_wait_ms),
            match plan.long_requests {
                LongRequestsView::Undo => "be undone",
                LongRequestsView::Cut => "cut uploads and downloads that still run",
            }
        ),
        None => "cannot be judged yet".to_owned(),
    };
    facts(&[
        ("tenant", plan.tenant.clone()),
        ("from", plan.source.clone()),
        ("to", plan.target.clone()),
        ("the move would", outlook(plan)),
        ("gates of the source", gates),
        ("requests now", or_dash(requests)),
        ("streams now", or_dash(streams)),
        ("data", size),
        ("copy", plan.copy_ms.map_or_else(|| unknown.clone(), |copy| format!("about {}, {by}", ms(copy)))),
        ("freeze", freeze),
        ("freeze windows", window),
        ("freeze budget", format!("{}, {budget}", ms(plan.freeze_budget_ms))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellway_api::plan::Surveyed;

    fn plan() -> MovePlanView {
        MovePlanView {
            tenant: "acme".into(),
            source: "cell-a".into(),
            target: "cell-b".into(),
            refused: None,
            waits_for: None,
            freeze_from_ms: None,
            driver: Some("sqlite".into()),
            gates: 1,
            gates_heard: 1,
            now: Some(Surveyed {
                running_requests: 2,
                oldest_request_ms: 40,
                open_streams: 12,
                data_bytes: Some(3_000_000),
            }),
            past_moves: 0,
            copy_ms: None,
            freeze_ms: None,
            freeze_budget_ms: 250,
            within_budget: None,
            long_requests_wait_ms: 60_000,
            long_requests: LongRequestsView::Cut,
        }
    }

    #[test]
    fn a_plan_says_plainly_what_is_not_known() {
        let text = plan_facts(&plan());
        assert!(text.contains("unknown: no move by sqlite has been made yet"), "{text}");
        assert!(text.contains("12 would be ended") && text.contains("2, the oldest for 40 ms"), "{text}");
        let unheard = plan_facts(&MovePlanView { now: None, gates_heard: 0, ..plan() });
        assert!(unheard.contains("unknown: no gate of the source has answered"), "{unheard}");
    }

    #[test]
    fn a_plan_says_whether_the_budget_is_kept_and_what_is_in_the_way() {
        let known = MovePlanView { past_moves: 3, freeze_ms: Some(60), within_budget: Some(true), ..plan() };
        let text = plan_facts(&known);
        assert!(text.contains("about 60 ms, by the last 3 moves by sqlite") && text.contains("250 ms, kept"), "{text}");
        let over = plan_facts(&MovePlanView { within_budget: Some(false), ..known.clone() });
        assert!(over.contains("for up to 60 s until it is, then cut uploads"), "{over}");
        let waits = MovePlanView { waits_for: Some("the emergency brake is on".into()), ..known.clone() };
        assert!(plan_facts(&waits).contains("wait: the emergency brake is on"));
        let refused = MovePlanView { refused: Some("cell-b is full".into()), ..known };
        assert!(plan_facts(&refused).contains("be refused: cell-b is full"));
    }

    #[test]
    fn each_of_many_has_a_row_and_the_refused_are_counted() {
        let refused = Row::Nothing { tenant: "zeta".into(), refused: "there is no cell cell-x".into() };
        let table = Plans { items: vec![Row::Plan(Box::new(plan())), refused] }.table();
        assert!(table.contains("acme") && table.contains("there is no cell cell-x"), "{table}");
        assert!(table.ends_with("2 moves, 1 of them would be refused. Nothing was changed."), "{table}");
    }
}

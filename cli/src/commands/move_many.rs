//! `cellway tenant move --selector …`: the tenants that match, one move each. The control plane takes them in the order
//! of asking, as its budgets allow.

use super::move_plan;
use super::watch::{LiveLine, Seen, Until, judge, patiently};
use crate::output::{Failure, Format, Table, or_dash, print, talk};
use anyhow::bail;
use cellway_api::fleet::{CreateMove, MoveView, TenantView};
use cellway_api::{ApiError, Client};
use serde::Serialize;
use std::collections::VecDeque;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often some of the moves are looked at.
const LOOK_INTERVAL_MS: u64 = 250;

/// The most moves that are looked at in one turn.
const LOOKS_MAX: usize = 32;

/// How long all of them are waited for, unless said otherwise.
const WAIT_S: u64 = 24 * 3_600;

/// Which tenants: all that have each of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    tier: Option<String>,
    cell: Option<String>,
}

/// A text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidSelector {
    /// Not of the form.
    #[error("{0:?} is not of the form tier=TIER or cell=CELL (or both, joined by a comma)")]
    Form(String),
    /// It says the same twice.
    #[error("{0} is given twice")]
    Twice(String),
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        let mut selector = Self::default();
        for term in text.split(',') {
            let form = || InvalidSelector::Form(term.to_owned());
            let (key, value) = term.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(form)?;
            let field = match key {
                "tier" => &mut selector.tier,
                "cell" => &mut selector.cell,
                _ => return Err(form()),
            };
            if field.replace(value.to_owned()).is_some() {
                return Err(InvalidSelector::Twice(key.to_owned()));
            }
        }
        Ok(selector)
    }
}

impl Selector {
    fn matches(&self, tenant: &TenantView) -> bool {
        let is = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|wanted| wanted == has);
        is(&self.tier, &tenant.tier) && is(&self.cell, &tenant.cell)
    }
}

/// What is asked for.
pub(crate) struct ManyMoves {
    pub(crate) selector: Selector,
    /// Taken in turn; one that has no room is passed over.
    pub(crate) targets: Vec<String>,
    /// Of each move all but its tenant and its target.
    pub(crate) asked: CreateMove,
    /// `None`: not at all.
    pub(crate) wait: Option<Until>,
    pub(crate) timeout_s: Option<u64>,
}

impl ManyMoves {
    /// The targets, begun with the one whose turn it is.
    fn in_turn(&self, number: usize) -> impl Iterator<Item = &String> {
        let first = number % self.targets.len().max(1);
        self.targets[first..].iter().chain(&self.targets[..first])
    }
}

/// What became of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It was not to be waited for, or not long enough.
    Asked,
    Moved,
    /// The move was undone or taken back.
    Failed,
    /// No move could be planned.
    Refused,
}

/// A tenant and what became of it.
#[derive(Debug, Serialize)]
struct Row {
    tenant: String,
    outcome: Outcome,
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    the_move: Option<MoveView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    items: Vec<Row>,
}

impl Answer {
    fn count(&self, outcome: Outcome) -> usize {
        self.items.iter().filter(|row| row.outcome == outcome).count()
    }

    fn summary(&self) -> String {
        let counts = [
            (Outcome::Moved, "moved"),
            (Outcome::Asked, "on their way"),
            (Outcome::Failed, "undone"),
            (Outcome::Refused, "refused"),
        ];
        let said =
            counts.map(|(outcome, word)| (self.count(outcome), word)).into_iter().filter(|(count, _)| *count > 0);
        let said: Vec<String> = said.map(|(count, word)| format!("{count} {word}")).collect();
        format!("{} of {} tenants", said.join(", "), self.items.len())
    }

    /// Those that were moved need no line.
    fn table(&self) -> String {
        let mut table = Table::new(&["TENANT", "OUTCOME", "MOVE", "TO", "REASON"]);
        for row in self.items.iter().filter(|row| row.outcome != Outcome::Moved) {
            let outcome = match row.outcome {
                Outcome::Asked => row.the_move.as_ref().map_or("asked", |the_move| &the_move.state),
                Outcome::Moved => "moved",
                Outcome::Failed => "undone",
                Outcome::Refused => "refused",
            };
            let of = |field: fn(&MoveView) -> &String| or_dash(row.the_move.as_ref().map(field));
            table.row([
                row.tenant.clone(),
                outcome.to_owned(),
                of(|the_move| &the_move.id),
                of(|the_move| &the_move.target),
                or_dash(row.reason.as_ref()),
            ]);
        }
        format!("{}\n{}", table.or("").trim_end(), self.summary()).trim_start().to_owned()
    }
}

/// The tenants that match and are in none of the targets.
async fn matching(client: &Client, wanted: &ManyMoves) -> Result<Vec<TenantView>, Failure> {
    let mut matching = patiently(|| client.tenants()).await?.items;
    matching.retain(|tenant| wanted.selector.matches(tenant));
    let all = matching.len();
    matching.retain(|tenant| !wanted.targets.contains(&tenant.cell));
    match (all, matching.len()) {
        (0, _) => return Err(anyhow::anyhow!("no tenant matches the selector").into()),
        (all, 0) => talk(&format!("all {all} tenants that match are there already")),
        (all, left) if all > left => talk(&format!("{} of {all} tenants are there already", all - left)),
        _ => {}
    }
    Ok(matching)
}

/// Prints what each move would be: to the first target in turn that would not refuse it.
pub(crate) async fn plan(client: &Client, wanted: ManyMoves, format: Format) -> Result<(), Failure> {
    let matching = matching(client, &wanted).await?;
    let mut rows = Vec::with_capacity(matching.len());
    let mut line = LiveLine::new();
    for (number, tenant) in matching.iter().enumerate() {
        let mut planned = None;
        for to in wanted.in_turn(number) {
            let create = CreateMove { tenant: tenant.id.clone(), to: to.clone(), ..wanted.asked.clone() };
            let row = move_plan::row(&tenant.id, patiently(|| client.plan_move(&create)).await)?;
            let refused = row.refused().is_some();
            planned = Some(row);
            if !refused {
                break;
            }
        }
        rows.extend(planned);
        line.say("asking", &format!("looked at {} of {} tenants", number + 1, matching.len()));
    }
    drop(line);
    move_plan::many(rows, format)
}

/// Asks for the moves, waits, and prints what became of each tenant.
pub(crate) async fn run(client: &Client, wanted: ManyMoves, format: Format) -> Result<(), Failure> {
    let matching = matching(client, &wanted).await?;
    let mut answer = Answer { items: Vec::with_capacity(matching.len()) };
    let mut line = LiveLine::new();
    for (number, tenant) in matching.iter().enumerate() {
        answer.items.push(ask(client, &wanted, &tenant.id, number).await?);
        line.say("asking", &format!("asked for {} of {} moves", number + 1, matching.len()));
    }
    if let Some(until) = wanted.wait {
        let limit = Duration::from_secs(wanted.timeout_s.unwrap_or(WAIT_S));
        follow(client, &mut answer, until, limit, &mut line).await?;
    }
    drop(line);
    print(format, &answer, Answer::table)?;
    let failed = answer.count(Outcome::Failed) + answer.count(Outcome::Refused);
    let missed = if wanted.wait.is_some() { answer.count(Outcome::Asked) } else { 0 };
    if failed + missed > 0 { Err(Failure::Said) } else { Ok(()) }
}

/// Asks for one move. A tenant that is on its way to one of the targets already needs no other: so the whole command
/// may be run again.
async fn ask(client: &Client, wanted: &ManyMoves, tenant: &str, number: usize) -> anyhow::Result<Row> {
    let row = |outcome, the_move, reason| Row { tenant: tenant.to_owned(), outcome, the_move, reason };
    let mut reason = "no target is named".to_owned();
    for to in wanted.in_turn(number) {
        let create = CreateMove { tenant: tenant.to_owned(), to: to.clone(), ..wanted.asked.clone() };
        match patiently(|| client.create_move(&create)).await {
            Ok(the_move) => return Ok(row(Outcome::Asked, Some(the_move), None)),
            Err(ApiError::Refused(problem)) => reason = problem.title,
            Err(error) => return Err(error.into()),
        }
        if let Some(running) = running_move(client, tenant).await? {
            return Ok(match wanted.targets.contains(&running.target) {
                true => row(Outcome::Asked, Some(running), None),
                false => row(Outcome::Refused, Some(running), Some(reason)),
            });
        }
    }
    Ok(row(Outcome::Refused, None, Some(reason)))
}

async fn running_move(client: &Client, tenant: &str) -> anyhow::Result<Option<MoveView>> {
    match patiently(|| client.tenant(tenant)).await {
        Ok(TenantView { moving: Some(id), .. }) => Ok(Some(patiently(|| client.a_move(&id)).await?)),
        Ok(_) | Err(ApiError::Refused(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Looks at some of the unfinished moves at a time, in turn, until each is where it was waited for.
async fn follow(
    client: &Client,
    answer: &mut Answer,
    until: Until,
    limit: Duration,
    line: &mut LiveLine,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let is_open = |row: &Row| row.outcome == Outcome::Asked;
    let mut open: VecDeque<usize> = (0..answer.items.len()).filter(|index| is_open(&answer.items[*index])).collect();
    while !open.is_empty() {
        if began.elapsed() > limit {
            talk(&format!("{} moves go on: `cellway move list --running`", open.len()));
            return Ok(());
        }
        for _ in 0..open.len().min(LOOKS_MAX) {
            let Some(index) = open.pop_front() else { break };
            let row = &mut answer.items[index];
            look(client, row, until).await?;
            if is_open(row) {
                open.push_back(index);
            }
        }
        let failed = answer.count(Outcome::Failed);
        let moved = format!("{} of {} moved, {failed} undone", answer.count(Outcome::Moved), answer.items.len());
        line.say(&moved, &moved);
        if !open.is_empty() {
            sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
        }
    }
    Ok(())
}

async fn look(client: &Client, row: &mut Row, until: Until) -> anyhow::Result<()> {
    let Some(known) = &row.the_move else { bail!("a move that was asked for is unknown") };
    let id = known.retried_by.as_ref().unwrap_or(&known.id);
    let seen = patiently(|| client.a_move(id)).await?;
    match judge(&seen, until) {
        Seen::Under => {}
        Seen::Reached => row.outcome = Outcome::Moved,
        Seen::Failed(reason) => {
            row.outcome = Outcome::Failed;
            row.reason = Some(reason);
        }
    }
    row.the_move = Some(seen);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_says_what_is_wrong_with_it() {
        let parse = |text: &str| text.parse::<Selector>();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parse("tier=free"), Ok(Selector { tier: some("free"), cell: None }));
        assert_eq!(parse("cell=cell-a,tier=free"), Ok(Selector { tier: some("free"), cell: some("cell-a") }));
        for bad in ["", "tier", "tier=", "=free", "zone=a", "tier=free,", "tier=free;cell=a,"] {
            assert!(matches!(parse(bad), Err(InvalidSelector::Form(_))), "{bad}");
        }
        assert_eq!(parse("tier=a,tier=b"), Err(InvalidSelector::Twice("tier".into())));
    }

    #[test]
    fn the_answer_counts_all_and_shows_what_needs_somebody() {
        let row = |tenant: &str, outcome, reason: Option<&str>| Row {
            tenant: tenant.into(),
            outcome,
            the_move: None,
            reason: reason.map(Into::into),
        };
        let good = Answer { items: vec![row("a", Outcome::Moved, None), row("b", Outcome::Moved, None)] };
        assert_eq!(good.table(), "2 moved of 2 tenants");
        let mut mixed = good;
        mixed.items.push(row("c", Outcome::Failed, Some("the copy stalled")));
        mixed.items.push(row("d", Outcome::Refused, Some("cell b is full")));
        let table = mixed.table();
        assert!(table.ends_with("2 moved, 1 undone, 1 refused of 4 tenants"), "{table}");
        assert!(table.contains("the copy stalled") && table.contains("cell b is full"), "{table}");
        assert!(!table.contains("\na "), "{table}");
    }
}

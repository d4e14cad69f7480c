//! What several tests need of a move.

use cellway_api::Client;
use cellway_api::fleet::{CreateMove, MoveView, UndoMove};
use cellway_end_to_end::{eventually, within};

/// Asks for a move.
pub(crate) async fn start_move(client: &Client, tenant: &str, to: &str) -> String {
    let wanted = CreateMove { tenant: tenant.to_owned(), to: to.to_owned(), ..CreateMove::default() };
    client.create_move(&wanted).await.expect("planned").id
}

/// Starts a move that will be in `state` sooner or later, and keeps open what it takes for that: an event stream, so that
/// there is something to close, until the answer is dropped.
pub(crate) async fn start_towards(
    client: &Client,
    router: &str,
    (tenant, to): (&str, &str),
    state: &str,
) -> (String, Option<reqwest::Response>) {
    let feed = if state == "closing" {
        let request = cellway_end_to_end::writer::http().get(format!("http://{router}/events"));
        let request = request.header("host", format!("{tenant}.cells.localhost")).header("accept", "text/event-stream");
        Some(request.send().await.expect("an event stream"))
    } else {
        None
    };
    let id = start_move(client, tenant, to).await;
    if state == "undoing" {
        client.undo_move(&id, &UndoMove::default()).await.expect("undone before the commit");
    }
    (id, feed)
}

/// Waits until the move is in `state`, as in `syncing` or `holding data`.
pub(crate) async fn reaches(client: &Client, id: &str, state: &str) {
    let is_there = |view: &MoveView| match &view.stage {
        Some(stage) => format!("{} {stage}", view.state) == state,
        None => view.state == state,
    };
    eventually(&format!("the move is {state}"), async || client.a_move(id).await.ok().filter(is_there)).await;
}

/// Waits, at most `limit_ms`, until the move has an outcome: its target serves, or it is undone.
pub(crate) async fn has_outcome(client: &Client, id: &str, limit_ms: u64) -> MoveView {
    let settled = |view: &MoveView| {
        let serves = matches!(view.state.as_str(), "settling" | "cleaning" | "done");
        serves || view.state == "undone"
    };
    within(limit_ms, "the move is past `switched`, or undone", async || client.a_move(id).await.ok().filter(settled))
        .await
}

/// The states that a control plane or an agent can be killed in.
pub(crate) const STATES: [&str; 12] = [
    "planned",
    "preparing",
    "copying",
    "syncing",
    "closing",
    "holding gates",
    "holding data",
    "holding last",
    "switched",
    "settling",
    "cleaning",
    "undoing",
];

/// Waits until an ordinary move of the tenant may begin, further attempts included; whether the tenant was moved.
pub(crate) async fn settles(client: &Client, id: &str) -> bool {
    let mut id = id.to_owned();
    loop {
        let over = |view: &MoveView| view.ended || view.state == "cleaning";
        let last =
            eventually("the move is cleaning or has ended", async || client.a_move(&id).await.ok().filter(over)).await;
        match last.retried_by {
            Some(again) => id = again,
            None => return last.past_commit,
        }
    }
}

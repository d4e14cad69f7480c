//! Follows a move on stderr until it is where it was waited for.

use crate::output::{self, bytes, or_dash, shown, talk};
use anyhow::{Context, bail};
use cellway_api::fleet::MoveView;
use cellway_api::{ApiError, Client};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const POLL_INTERVAL_MS: u64 = 100;

/// How long the API may be away while a move is followed: leaders change.
const API_PATIENCE_MS: u64 = 30_000;

/// The status of an API that cannot reach its store, or has not read it yet.
const UNAVAILABLE: u16 = 503;

const SWITCHED_WAIT_S: u64 = 15 * 60;

/// Longer than the default bake and retention together.
const DONE_WAIT_S: u64 = 48 * 3_600;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Until {
    /// The target has answered for the tenant.
    Switched,
    /// Nothing is left to do.
    Done,
}

/// Where a move is, seen from one that waits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not there yet.
    Under,
    /// There.
    Reached,
    /// It will not get there, and why.
    Failed(String),
}

/// Follows `the_move` and answers it as it was last seen. A move that was undone, or taken back, is an error.
pub(crate) async fn follow(
    client: &Client,
    mut the_move: MoveView,
    until: Until,
    timeout_s: Option<u64>,
) -> anyhow::Result<MoveView> {
    let default_s = match until {
        Until::Switched => SWITCHED_WAIT_S,
        Until::Done => DONE_WAIT_S,
    };
    let limit = Duration::from_secs(timeout_s.unwrap_or(default_s));
    let began = Instant::now();
    let mut line = LiveLine::new();
    loop {
        line.show(&the_move);
        match judge(&the_move, until) {
            Seen::Reached => return Ok(the_move),
            Seen::Failed(reason) => bail!(reason),
            Seen::Under => {}
        }
        if began.elapsed() > limit {
            bail!(
                "the move {id} is still {state} after {s} s; it goes on: `cellway move show {id}`",
                id = the_move.id,
                state = the_move.state,
                s = limit.as_secs()
            );
        }
        sleep(Duration::from_millis(POLL_INTERVAL_MS)).await;
        let id = the_move.retried_by.as_ref().unwrap_or(&the_move.id);
        the_move = look(client, id).await?;
    }
}

async fn look(client: &Client, id: &str) -> anyhow::Result<MoveView> {
    let seen = patiently(|| client.a_move(id)).await;
    seen.with_context(|| format!("the move {id} can no longer be followed"))
}

/// Asks the API, which may be away for a moment: moves go on without it, or wait for it.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, ApiError>>>(ask: impl Fn() -> F) -> Result<T, ApiError> {
    let began = Instant::now();
    loop {
        let answer = ask().await;
        let is_away = match &answer {
            Err(ApiError::Unreachable { .. }) => true,
            Err(ApiError::Refused(problem)) => problem.status == UNAVAILABLE,
            _ => false,
        };
        if !is_away || began.elapsed() >= Duration::from_millis(API_PATIENCE_MS) {
            return answer;
        }
        sleep(Duration::from_millis(POLL_INTERVAL_MS)).await;
    }
}

pub(crate) fn judge(view: &MoveView, until: Until) -> Seen {
    if let Some(by) = &view.reversed_by {
        return Seen::Failed(format!("the move {} was taken back by the move {by}", view.id));
    }
    match (view.state.as_str(), until) {
        ("undoing" | "undone", _) if view.will_retry => Seen::Under,
        ("undoing" | "undone", _) => {
            let reason = view.undo_reason.as_deref().unwrap_or("no reason was recorded");
            let (tenant, source) = (&view.tenant, &view.source);
            Seen::Failed(format!("the move {} was undone: {reason}; {tenant} stays in {source}", view.id))
        }
        ("settling" | "cleaning", Until::Switched) | ("done", _) => Seen::Reached,
        _ => Seen::Under,
    }
}

/// How much of the data is there, while it is copied. The size is not known before the first report.
pub(crate) fn copied(view: &MoveView) -> Option<String> {
    Some(match (view.copied_bytes?, view.total_bytes?) {
        (0, 0) => "size not known yet".to_owned(),
        (copied, total) if total < copied => format!("{}, size not known yet", bytes(copied)),
        (copied, total) => format!("{} of {}", bytes(copied), bytes(total)),
    })
}

/// What the line says of a move.
fn described(view: &MoveView) -> String {
    let mut line = format!("{}: {} ▶ {}  {}", view.tenant, view.source, view.target, view.state);
    let mut add = |text: String| line.push_str(&text);
    if let Some(stage) = &view.stage {
        add(format!(" ({stage})"));
    }
    if let Some(copied) = copied(view) {
        add(format!("  {copied}"));
    }
    match view.freeze_ms {
        Some(freeze_ms) => add(format!("  freeze {freeze_ms} ms ({} predicted)", view.predicted_freeze_ms)),
        None if view.predicted_freeze_ms > 0 => add(format!("  freeze {} ms predicted", view.predicted_freeze_ms)),
        None => {}
    }
    match view.open_streams {
        Some(0) | None => {}
        Some(1) => add("  1 stream will be cut".to_owned()),
        Some(streams) => add(format!("  {streams} streams will be cut")),
    }
    if view.will_retry {
        add(format!("  {}: to be tried again", view.undo_reason.as_deref().unwrap_or("took too long")));
    }
    if let Some(waits_for) = &view.waits_for {
        add(format!("  waits for: {waits_for}"));
    }
    line
}

/// On a terminal one line that changes; elsewhere a line whenever the state does.
pub(crate) struct LiveLine {
    bar: Option<ProgressBar>,
    last: String,
}

impl LiveLine {
    pub(crate) fn new() -> Self {
        let bar = output::is_watched().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last: String::new() }
    }

    fn show(&mut self, view: &MoveView) {
        self.say(&format!("{} {}", view.state, or_dash(view.open_streams.or(Some(0)))), &described(view));
    }

    /// Shows `text`, in a `state`.
    pub(crate) fn say(&mut self, state: &str, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(shown(text));
                bar.tick();
            }
            None if self.last != state => talk(&shown(text)),
            None => {}
        }
        state.clone_into(&mut self.last);
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellway_api::fleet::MoveView;

    fn a_move(state: &str) -> MoveView {
        serde_json::from_value(serde_json::json!({
            "id": "m-1", "tenant": "acme", "source": "cell-a", "target": "cell-b", "state": state, "ended": false,
            "past_commit": false, "epoch": 7, "driver": "sqlite", "predicted_freeze_ms": 30, "cause": "asked",
            "created_ms": 0, "entered_ms": 0,
        }))
        .expect("a move's view")
    }

    #[test]
    fn the_target_must_have_answered_before_the_wait_is_over() {
        for state in ["planned", "preparing", "copying", "syncing", "closing", "holding", "switched"] {
            assert_eq!(judge(&a_move(state), Until::Switched), Seen::Under, "{state}");
        }
        for state in ["settling", "cleaning", "done"] {
            assert_eq!(judge(&a_move(state), Until::Switched), Seen::Reached, "{state}");
        }
        assert_eq!(judge(&a_move("cleaning"), Until::Done), Seen::Under);
        assert_eq!(judge(&a_move("done"), Until::Done), Seen::Reached);
    }

    #[test]
    fn a_move_that_was_undone_or_taken_back_fails_with_its_reason() {
        let undone = MoveView { undo_reason: Some("the copy stalled".into()), ..a_move("undoing") };
        let Seen::Failed(reason) = judge(&undone, Until::Switched) else { panic!("it failed") };
        assert_eq!(reason, "the move m-1 was undone: the copy stalled; acme stays in cell-a");
        let again = MoveView { will_retry: true, ..undone };
        assert_eq!(judge(&again, Until::Switched), Seen::Under);
        let reversed = MoveView { reversed_by: Some("m-2".into()), ..a_move("done") };
        assert!(matches!(judge(&reversed, Until::Done), Seen::Failed(_)));
    }

    #[test]
    fn the_line_says_what_a_user_will_notice() {
        let copying = MoveView { copied_bytes: Some(2 << 20), total_bytes: Some(4 << 20), ..a_move("copying") };
        assert_eq!(described(&copying), "acme: cell-a ▶ cell-b  copying  2.0 MiB of 4.0 MiB  freeze 30 ms predicted");
        let unknown = MoveView { copied_bytes: Some(0), total_bytes: Some(0), ..copying };
        assert!(described(&unknown).contains("copying  size not known yet"));
        let syncing = MoveView { open_streams: Some(3), ..a_move("syncing") };
        assert!(described(&syncing).ends_with("3 streams will be cut"));
        let settled = MoveView { freeze_ms: Some(41), ..a_move("settling") };
        assert!(described(&settled).ends_with("freeze 41 ms (30 predicted)"));
    }
}

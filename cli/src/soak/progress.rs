//! What is shown while a run goes on: a bar on a terminal, elsewhere a line every five seconds.

use super::Run;
use super::movements::Wanted;
use crate::output::{is_watched, talk};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const BAR_INTERVAL_MS: u64 = 200;
const LINE_INTERVAL_MS: u64 = 5_000;

/// Shows how the run goes until it stops.
pub(crate) async fn show(run: &Run, wanted: Wanted, at_least: Duration) {
    let bar = is_watched().then(new_bar);
    let interval_ms = if bar.is_some() { BAR_INTERVAL_MS } else { LINE_INTERVAL_MS };
    let mut ticks = interval(Duration::from_millis(interval_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one comes at once, when there is nothing to say.
    ticks.tick().await;
    while run.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match &bar {
            Some(bar) => {
                let (position, length) = position(run, wanted, at_least);
                bar.set_length(length);
                bar.set_position(position);
                bar.set_message(described(run, wanted));
            }
            None => talk(&format!("{} {}", run.clock(), described(run, wanted))),
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:24}] {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// Whichever is further from its end: the moves, or the time.
fn position(run: &Run, wanted: Wanted, at_least: Duration) -> (u64, u64) {
    let ended = run.tally.moves_past_switched.get() + run.tally.moves_undone.get();
    let per_mille = |part: f64, whole: f64| if whole > 0.0 { (part / whole * 1_000.0).min(1_000.0) } else { 1_000.0 };
    let of_moves = per_mille(ended as f64, wanted.moves as f64);
    let of_time = per_mille(run.began.elapsed().as_secs_f64(), at_least.as_secs_f64());
    (of_moves.min(of_time) as u64, 1_000)
}

fn described(run: &Run, wanted: Wanted) -> String {
    let tally = &run.tally;
    let failures = tally.failures.total() + tally.slow_upload_failures.total();
    format!(
        "moves {}/{} ({} undone)  requests {}  acknowledged {}  failed {failures}  broken {}",
        tally.moves_past_switched.get(),
        wanted.moves,
        tally.moves_undone.get(),
        tally.requests.get(),
        run.ledger.acknowledged_total(),
        tally.breaches.total(),
    )
}

//! Moves tenants at random, at a steady pace and only so many at once.

use super::Run;
use super::plan::{self, Strand};
use cellway_api::fleet::{CellKindView, CreateMove, MoveView};
use cellway_api::{ApiError, Client};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

const POLL_INTERVAL_MS: u64 = 100;

/// A move that is past `switched` is looked at so often, until its tenant may be moved again.
const RESTING_POLL_INTERVAL_MS: u64 = 1_000;

/// If no move can be started for so long, no more are tried.
const START_PATIENCE_MS: u64 = 60_000;

/// How long the last moves may take to get past `switched` or be undone.
const END_PATIENCE_MS: u64 = 60_000;

/// Tenants that are tried for one move: another operator may be moving some.
const CANDIDATES_MAX: usize = 5;

const CONFLICT_STATUS: u16 = 409;

/// The cause that the moves are recorded with.
const CAUSE: &str = "cellway soak";

/// How many moves, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) moves: u64,
    pub(crate) at_once: usize,
    pub(crate) pace: Duration,
}

/// What came of them.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Those that were asked for, as last seen: of a move that was made again, the last attempt.
    pub(crate) moves: Vec<MoveView>,
    /// Attempts whose hold took too long, so that they were undone and made again.
    pub(crate) retried: Vec<MoveView>,
    /// Those that were wanted and could not be asked for.
    pub(crate) not_started: u64,
    /// Why, where the API refused.
    pub(crate) refused: BTreeMap<String, u64>,
}

/// How far a move has come, as the promises count it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not past `switched`.
    Pending,
    /// The target has answered.
    PastSwitched,
    /// Undone or taken back, and why.
    Undone(String),
}

/// How far a move has come.
pub(crate) fn progress(view: &MoveView) -> Progress {
    if view.will_retry {
        return Progress::Pending;
    }
    match (view.state.as_str(), &view.reversed_by) {
        ("undoing" | "undone", _) => {
            Progress::Undone(view.undo_reason.clone().unwrap_or_else(|| "no reason was recorded".to_owned()))
        }
        (_, Some(_)) => Progress::Undone("taken back".to_owned()),
        ("settling" | "cleaning" | "done", None) => Progress::PastSwitched,
        _ => Progress::Pending,
    }
}

/// Whether the tenant can be moved again.
fn is_over(view: &MoveView) -> bool {
    (view.ended && !view.will_retry) || view.state == "cleaning"
}

struct Tracked {
    tenant: usize,
    view: MoveView,
    progress: Progress,
    look_at: Instant,
}

struct Driver<'a> {
    run: &'a Run,
    client: &'a Client,
    numbers: StdRng,
    tracked: Vec<Tracked>,
    moved: Moved,
}

/// Starts the wanted moves and waits until each is past `switched` or undone, or the run stops.
pub(crate) async fn drive(run: &Run, client: &Client, wanted: Wanted) -> Moved {
    let numbers = plan::numbers(run.seed, Strand::Moves);
    let mut driver = Driver { run, client, numbers, tracked: Vec::new(), moved: Moved::default() };
    let mut ticks = interval(Duration::from_millis(POLL_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut started, mut last_start, mut next_start) = (0, Instant::now(), Instant::now());
    loop {
        tokio::select! {
            biased;
            () = run.stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        driver.look().await;
        let now = Instant::now();
        if started == wanted.moves {
            if driver.pending() == 0 || now - last_start > Duration::from_millis(END_PATIENCE_MS) {
                break;
            }
        } else if now >= next_start && driver.pending() < wanted.at_once {
            if driver.start().await {
                started += 1;
                last_start = Instant::now();
                next_start += wanted.pace;
            } else if now - last_start > Duration::from_millis(START_PATIENCE_MS) {
                break;
            }
        }
    }
    driver.moved.not_started = wanted.moves - started;
    driver.moved.moves.extend(driver.tracked.into_iter().map(|tracked| tracked.view));
    driver.moved
}

impl Driver<'_> {
    fn pending(&self) -> usize {
        self.tracked.iter().filter(|tracked| tracked.progress == Progress::Pending).count()
    }

    /// Looks at the moves that are not over. That the API is away for a moment changes nothing.
    async fn look(&mut self) {
        for tracked in self.tracked.iter_mut().filter(|tracked| tracked.look_at <= Instant::now()) {
            let id = tracked.view.retried_by.as_ref().unwrap_or(&tracked.view.id);
            let Ok(view) = self.client.a_move(id).await else { continue };
            if view.id != tracked.view.id {
                self.moved.retried.push(tracked.view.clone());
            }
            let (before, after) = (&tracked.progress, progress(&view));
            if *before == Progress::Pending && after != Progress::Pending {
                self.run.tenants[tracked.tenant].moving.store(false, Ordering::Relaxed);
                match after {
                    Progress::PastSwitched => self.run.tally.moves_past_switched.add(),
                    Progress::Undone(_) => self.run.tally.moves_undone.add(),
                    Progress::Pending => {}
                }
            }
            let wait_ms = if after == Progress::Pending { POLL_INTERVAL_MS } else { RESTING_POLL_INTERVAL_MS };
            tracked.look_at = Instant::now() + Duration::from_millis(wait_ms / 2);
            (tracked.view, tracked.progress) = (view, after);
        }
        let over = self.tracked.extract_if(.., |tracked| is_over(&tracked.view));
        self.moved.moves.extend(over.map(|tracked| tracked.view));
    }

    /// Starts a move of a tenant that is not moving to another open cell. Answers whether one was started.
    async fn start(&mut self) -> bool {
        let Ok(cells) = self.client.cells().await else { return false };
        let open = cells.items.into_iter().filter(|cell| cell.kind == CellKindView::Agent && cell.condition == "open");
        let open: Vec<String> = open.map(|cell| cell.name).collect();
        let is_free = |tenant: &usize| self.tracked.iter().all(|tracked| tracked.tenant != *tenant);
        let mut free: Vec<usize> = (0..self.run.tenants.len()).filter(is_free).collect();
        for _ in 0..CANDIDATES_MAX.min(free.len()) {
            let tenant = free.swap_remove(self.numbers.random_range(0..free.len()));
            let choice: u32 = self.numbers.random();
            let Ok(view) = self.client.tenant(&self.run.tenants[tenant].id).await else { return false };
            let targets: Vec<&String> = open.iter().filter(|name| **name != view.cell).collect();
            let Some(place) = (choice as usize).checked_rem(targets.len()) else { continue };
            let wanted = CreateMove {
                tenant: view.id,
                to: targets[place].clone(),
                cause: Some(CAUSE.to_owned()),
                ..CreateMove::default()
            };
            match self.client.create_move(&wanted).await {
                Ok(view) => {
                    self.track(tenant, view);
                    return true;
                }
                Err(ApiError::Refused(problem)) if problem.status == CONFLICT_STATUS => {}
                Err(ApiError::Refused(problem)) => *self.moved.refused.entry(problem.title).or_default() += 1,
                Err(_) => return false,
            }
        }
        false
    }

    fn track(&mut self, tenant: usize, view: MoveView) {
        self.run.tally.moves_asked.add();
        self.run.tenants[tenant].moving.store(true, Ordering::Relaxed);
        self.tracked.push(Tracked { tenant, view, progress: Progress::Pending, look_at: Instant::now() });
    }
}

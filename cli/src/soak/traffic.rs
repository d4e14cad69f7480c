//! Starts requests and slow uploads on schedule, whether the system keeps up or not.

use super::Run;
use super::plan::{self, RequestPlan, Strand, UploadPlan};
use super::requests::{perform, upload_slowly};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::task::TaskTracker;

/// So many requests may be in flight; those that become due beyond are counted as late and not sent.
const IN_FLIGHT_MAX: usize = 512;

const SLOW_UPLOAD_INTERVAL_MS: u64 = 1_000;

/// Between two brief uploads to tenants that are being moved.
const BRIEF_UPLOAD_INTERVAL_MS: u64 = 80;

/// Slow uploads in flight; each takes up to 2 s.
const SLOW_UPLOADS_MAX: usize = 32;

/// Sends the plan's requests, so many per second, until the run stops and the last one is answered.
pub(crate) async fn send_requests(run: Arc<Run>, requests_per_s: f64) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let sending = TaskTracker::new();
    let began = Instant::now();
    for (number, planned) in (0_u64..).zip(RequestPlan::new(run.seed, run.tenants.len())) {
        let due = began + Duration::from_secs_f64(number as f64 / requests_per_s);
        tokio::select! {
            biased;
            () = run.stop.cancelled() => break,
            () = sleep_until(due) => {}
        }
        let Ok(slot) = Arc::clone(&in_flight).try_acquire_owned() else {
            run.tally.late.add();
            continue;
        };
        let run = Arc::clone(&run);
        sending.spawn(async move {
            perform(&run, number, planned, due).await;
            drop(slot);
        });
    }
    sending.close();
    sending.wait().await;
}

/// Sends one slow upload each second until the run stops and the last one is answered.
pub(crate) async fn send_slow_uploads(run: Arc<Run>) {
    let in_flight = Arc::new(Semaphore::new(SLOW_UPLOADS_MAX));
    let sending = TaskTracker::new();
    let mut ticks = interval(Duration::from_millis(SLOW_UPLOAD_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (number, planned) in (0_u64..).zip(UploadPlan::new(run.seed, run.tenants.len())) {
        tokio::select! {
            biased;
            () = run.stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let Ok(slot) = Arc::clone(&in_flight).try_acquire_owned() else {
            run.tally.late.add();
            continue;
        };
        let run = Arc::clone(&run);
        sending.spawn(async move {
            upload_slowly(&run, format!("s{number}"), planned).await;
            drop(slot);
        });
    }
    sending.close();
    sending.wait().await;
}

/// Keeps uploads under way to tenants that are being moved, for a hold to meet: what a gate admitted must be counted
/// until it ends. Until the run stops and the last one is answered.
pub(crate) async fn send_brief_uploads(run: Arc<Run>) {
    let in_flight = Arc::new(Semaphore::new(SLOW_UPLOADS_MAX));
    let sending = TaskTracker::new();
    let mut numbers = plan::numbers(run.seed, Strand::BriefUploads);
    let mut ticks = interval(Duration::from_millis(BRIEF_UPLOAD_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_u64.. {
        tokio::select! {
            biased;
            () = run.stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let tenants = run.tenants.iter().enumerate();
        let moving: Vec<usize> =
            tenants.filter(|(_, tenant)| tenant.moving.load(Ordering::Relaxed)).map(|(place, _)| place).collect();
        let Some(planned) = plan::brief_upload(&mut numbers, &moving) else { continue };
        let Ok(slot) = Arc::clone(&in_flight).try_acquire_owned() else { continue };
        let run = Arc::clone(&run);
        sending.spawn(async move {
            upload_slowly(&run, format!("b{number}"), planned).await;
            drop(slot);
        });
    }
    sending.close();
    sending.wait().await;
}

//! What will be sent and moved, decided by the seed alone: the same seed makes the same plan.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Nine writes in ten are at most this long.
pub(crate) const SMALL_MAX_BYTES: usize = 4 * 1024;

/// All but one write in a hundred are at most this long.
pub(crate) const MEDIUM_MAX_BYTES: usize = 64 * 1024;

/// No write is longer.
pub(crate) const LARGE_MAX_BYTES: usize = 4 * 1024 * 1024;

const SMALL_PERCENT: u32 = 90;
const MEDIUM_PERCENT: u32 = 9;
const WRITE_PERCENT: u32 = 50;
const CHUNKED_PERCENT: u32 = 20;
const READ_ENTRY_PERCENT: u32 = 60;
const READ_COUNT_PERCENT: u32 = 30;

/// A slow upload takes this long.
pub(crate) const SLOW_UPLOAD_MS: std::ops::RangeInclusive<u64> = 200..=2_000;

/// A brief upload takes this long: short enough for a hold to begin while it is under way.
pub(crate) const BRIEF_UPLOAD_MS: std::ops::RangeInclusive<u64> = 30..=120;

/// Each kind of decision has its own numbers, so that the timing of one does not change another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Strand {
    /// Requests.
    Requests,
    /// Slow uploads.
    SlowUploads,
    /// Moves.
    Moves,
    /// Long-lived streams.
    Streams,
    /// What bodies are made of.
    Bodies,
    /// Brief uploads to tenants that are being moved.
    BriefUploads,
}

/// The random numbers of one strand.
pub(crate) fn numbers(seed: u64, strand: Strand) -> StdRng {
    StdRng::seed_from_u64(seed ^ (strand as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedRequest {
    /// Which tenant, by its place among the run's tenants.
    pub(crate) tenant: usize,
    /// What is asked.
    pub(crate) kind: RequestKind,
}

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Read back one of the latest acknowledged writes: this one of them.
    ReadEntry {
        /// Reduced to how many there are.
        pick: u32,
    },
    /// How many entries there are.
    ReadCount,
    /// The app's page.
    ReadPage,
    /// Write an entry.
    Write(Body),
}

/// A body to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Body {
    /// How long it is.
    pub(crate) length: usize,
    /// Where in the run's random bytes it is cut from.
    pub(crate) cut: u32,
    /// Its length is not told in advance.
    pub(crate) chunked: bool,
}

/// The plan of the requests, without an end.
#[derive(Debug)]
pub(crate) struct RequestPlan {
    numbers: StdRng,
    tenants: usize,
}

impl RequestPlan {
    /// The plan for so many tenants.
    pub(crate) fn new(seed: u64, tenants: usize) -> Self {
        Self { numbers: numbers(seed, Strand::Requests), tenants }
    }
}

impl Iterator for RequestPlan {
    type Item = PlannedRequest;

    fn next(&mut self) -> Option<PlannedRequest> {
        let numbers = &mut self.numbers;
        let tenant = numbers.random_range(0..self.tenants);
        let kind = if numbers.random_range(0..100) < WRITE_PERCENT {
            RequestKind::Write(body(numbers))
        } else {
            match numbers.random_range(0..100) {
                n if n < READ_ENTRY_PERCENT => RequestKind::ReadEntry { pick: numbers.random() },
                n if n < READ_ENTRY_PERCENT + READ_COUNT_PERCENT => RequestKind::ReadCount,
                _ => RequestKind::ReadPage,
            }
        };
        Some(PlannedRequest { tenant, kind })
    }
}

/// 90 % up to 4 KiB, 9 % up to 64 KiB, 1 % up to 4 MiB.
fn body(numbers: &mut StdRng) -> Body {
    let length = match numbers.random_range(0..100) {
        n if n < SMALL_PERCENT => numbers.random_range(0..=SMALL_MAX_BYTES),
        n if n < SMALL_PERCENT + MEDIUM_PERCENT => numbers.random_range(SMALL_MAX_BYTES + 1..=MEDIUM_MAX_BYTES),
        _ => numbers.random_range(MEDIUM_MAX_BYTES + 1..=LARGE_MAX_BYTES),
    };
    Body { length, cut: numbers.random(), chunked: numbers.random_range(0..100) < CHUNKED_PERCENT }
}

/// One slow upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedUpload {
    /// Which tenant.
    pub(crate) tenant: usize,
    /// What is sent.
    pub(crate) body: Body,
    /// How long the sending takes.
    pub(crate) takes_ms: u64,
}

/// The plan of the slow uploads, without an end.
#[derive(Debug)]
pub(crate) struct UploadPlan {
    numbers: StdRng,
    tenants: usize,
}

impl UploadPlan {
    /// The plan for so many tenants.
    pub(crate) fn new(seed: u64, tenants: usize) -> Self {
        Self { numbers: numbers(seed, Strand::SlowUploads), tenants }
    }
}

impl Iterator for UploadPlan {
    type Item = PlannedUpload;

    fn next(&mut self) -> Option<PlannedUpload> {
        let numbers = &mut self.numbers;
        let tenant = numbers.random_range(0..self.tenants);
        let length = numbers.random_range(1..=MEDIUM_MAX_BYTES * 2);
        let body = Body { length, cut: numbers.random(), chunked: numbers.random() };
        Some(PlannedUpload { tenant, body, takes_ms: numbers.random_range(SLOW_UPLOAD_MS) })
    }
}

/// A brief upload to one of `moving`; `None` if there is none.
///
/// Its body is chunked, so that it is admitted at once and is still on its way when the tenant is held.
pub(crate) fn brief_upload(numbers: &mut StdRng, moving: &[usize]) -> Option<PlannedUpload> {
    let pick: u32 = numbers.random();
    let (length, cut) = (numbers.random_range(1..=SMALL_MAX_BYTES), numbers.random());
    let takes_ms = numbers.random_range(BRIEF_UPLOAD_MS);
    let place = (pick as usize).checked_rem(moving.len())?;
    Some(PlannedUpload { tenant: moving[place], body: Body { length, cut, chunked: true }, takes_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_plan_and_another_one_does_not() {
        let plan = |seed| RequestPlan::new(seed, 7).take(500).collect::<Vec<_>>();
        assert_eq!(plan(3), plan(3));
        assert_ne!(plan(3), plan(4));
        let uploads = |seed| UploadPlan::new(seed, 7).take(50).collect::<Vec<_>>();
        assert_eq!(uploads(3), uploads(3));
    }

    #[test]
    fn the_mix_is_as_documented() {
        let plan: Vec<_> = RequestPlan::new(1, 5).take(40_000).collect();
        let bodies: Vec<_> = plan
            .iter()
            .filter_map(|planned| match planned.kind {
                RequestKind::Write(body) => Some(body),
                _ => None,
            })
            .collect();
        let percent = |part: usize, whole: usize| part as f64 * 100.0 / whole as f64;
        let near = |seen: f64, wanted: f64| (seen - wanted).abs() < wanted.max(1.0) * 0.15 + 0.3;
        let up_to = |bytes: usize| bodies.iter().filter(|body| body.length <= bytes).count();
        assert!(near(percent(bodies.len(), plan.len()), 50.0));
        assert!(near(percent(up_to(SMALL_MAX_BYTES), bodies.len()), 90.0));
        assert!(near(percent(bodies.len() - up_to(MEDIUM_MAX_BYTES), bodies.len()), 1.0));
        assert!(near(percent(bodies.iter().filter(|body| body.chunked).count(), bodies.len()), 20.0));
        assert!(bodies.iter().all(|body| body.length <= LARGE_MAX_BYTES));
        assert!((0..5).all(|tenant| plan.iter().any(|planned| planned.tenant == tenant)));
    }
}

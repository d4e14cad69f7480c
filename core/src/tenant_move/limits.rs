//! The deadlines and budgets of a move.

use crate::freeze_window::FreezeWindows;
use crate::tenant::{FREEZE_BUDGET_MS, LongRequests};

/// The deadlines and budgets of a move, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MoveLimits {
    /// How long the tenant's requests may be held.
    pub freeze_budget_ms: u64,
    /// What becomes of requests that take longer than that.
    pub long_requests: LongRequests,
    /// When the freeze may begin.
    pub freeze_windows: FreezeWindows,
    /// Longest wait for a place among the moves in flight.
    pub planned_ms: u64,
    /// Longest making of an empty home.
    pub preparing_ms: u64,
    /// Longest time without a byte copied.
    pub copy_stall_ms: u64,
    /// Longest wait for a predicted freeze within the budget.
    pub syncing_ms: u64,
    /// How long streams are given to end before the fence cuts them.
    pub closing_ms: u64,
    /// Longest drain of admitted requests beyond the prediction.
    pub drain_ms: u64,
    /// Longest hold.
    pub holding_ms: u64,
    /// After this long without an open gate at the target an operator is told.
    pub switched_ms: u64,
    /// How long the target is watched before the move counts as good.
    pub bake_ms: u64,
    /// How long the source's home is kept.
    pub retention_ms: u64,
    /// Longest wait for a cell to drop a home.
    pub drop_ms: u64,
}

/// A request that has run for longer is likely to run on: the tenant's other requests would be held for it.
pub const QUIET_MS: u64 = 25;

/// How long a moment without such a request is waited for, where a freeze is within the budget anyway.
pub const QUIET_WAIT_MS: u64 = 3_000;

/// Which planned moves go before others. One of a higher priority starts before those of a lower one that were asked for
/// up to [`HEAD_START_MS`] earlier, for each step between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub enum Priority {
    /// It can wait.
    Low,
    /// An ordinary move.
    #[default]
    Normal,
    /// It is urgent.
    High,
}

/// What a step of [`Priority`] is worth: nobody who waits is overtaken for longer by those who come later.
pub const HEAD_START_MS: u64 = 600_000;

impl Priority {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// The time that counts for a move of this priority that was asked for at `created_ms`: the earlier, the sooner it
    /// starts.
    pub(super) fn counts_from_ms(self, created_ms: u64) -> u64 {
        let steps_below = match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        };
        created_ms.saturating_add(steps_below * HEAD_START_MS)
    }
}

impl Default for MoveLimits {
    fn default() -> Self {
        Self {
            freeze_budget_ms: FREEZE_BUDGET_MS,
            long_requests: LongRequests::default(),
            freeze_windows: FreezeWindows::default(),
            planned_ms: 3_600_000,
            preparing_ms: 30_000,
            copy_stall_ms: 60_000,
            syncing_ms: 600_000,
            closing_ms: 2_000,
            drain_ms: 200,
            holding_ms: 2_000,
            switched_ms: 10_000,
            bake_ms: 600_000,
            retention_ms: 86_400_000,
            drop_ms: 30_000,
        }
    }
}

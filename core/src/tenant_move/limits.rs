//! The deadlines and budgets of a move.

use crate::tenant::{FREEZE_BUDGET_MS, LongRequests};

/// The deadlines and budgets of a move, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MoveLimits {
    /// How long the tenant's requests may be held.
    pub freeze_budget_ms: u64,
    /// What becomes of requests that take longer than that.
    pub long_requests: LongRequests,
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

impl Default for MoveLimits {
    fn default() -> Self {
        Self {
            freeze_budget_ms: FREEZE_BUDGET_MS,
            long_requests: LongRequests::default(),
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

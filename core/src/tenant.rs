//! A tenant and its placement: which cell serves it, at which epoch.

use crate::cell::CellRef;
use crate::freeze_window::FreezeWindows;
use crate::ids::{Epoch, HomeId, MoveId, TenantId};

/// The default of [`Tenant::freeze_budget_ms`].
pub const FREEZE_BUDGET_MS: u64 = 250;

/// The default of [`LongRequests::wait_ms`].
pub const LONG_REQUESTS_WAIT_MS: u64 = 600_000;

/// What becomes of requests that take longer than a freeze may last: uploads and downloads, mostly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LongRequests {
    /// How long a move waits for them, following changes while the source serves, before it settles what becomes of them.
    pub wait_ms: u64,
    /// What becomes of those that are not over then.
    pub then: AfterWait,
}

/// What becomes of requests that were waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum AfterWait {
    /// They go on, and the move is undone.
    #[default]
    Undo,
    /// They are cut, and the move goes on.
    Cut,
}

impl Default for LongRequests {
    fn default() -> Self {
        Self { wait_ms: LONG_REQUESTS_WAIT_MS, then: AfterWait::default() }
    }
}

/// A customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id, the subdomain label.
    pub id: TenantId,
    /// A free word of the operator (free, pro …).
    pub tier: String,
    /// Its share of a cell, relative to others; 1 is ordinary.
    pub weight: u32,
    /// How long its requests may be held while it is moved.
    pub freeze_budget_ms: u64,
    /// What becomes of requests that take longer than that.
    pub long_requests: LongRequests,
    /// When it may be frozen; none: as the fleet has it.
    pub freeze_windows: FreezeWindows,
    /// When it was created.
    pub created_ms: u64,
}

/// Where a tenant is, and whether its traffic is held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    /// The cell that owns the tenant.
    pub cell: CellRef,
    /// Rises with each change of owner, and with each undo once traffic was held.
    pub epoch: Epoch,
    /// The copy of its data that the cell serves.
    pub home: HomeId,
    /// The move that holds its traffic, if one does.
    pub hold: Option<MoveId>,
}

/// What stands under `routes/placements/…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PlacementRecord {
    /// The tenant is there.
    Placed(Placement),
    /// The tenant was deleted at this epoch.
    Gone {
        /// Above every epoch it was served at.
        epoch: Epoch,
    },
}

impl PlacementRecord {
    /// The epoch, whichever form it is.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Placed(placement) => placement.epoch,
            Self::Gone { epoch } => *epoch,
        }
    }
}

//! A tenant and its placement: which cell serves it, at which epoch.

use crate::cell::CellRef;
use crate::ids::{Epoch, HomeId, MoveId, TenantId};

/// The default of [`Tenant::freeze_budget_ms`].
pub const FREEZE_BUDGET_MS: u64 = 250;

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

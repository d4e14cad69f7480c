//! Small types that several parts of the agent pass to each other.

use cellway_core::ids::{CellUid, Revision, TenantId};
use cellway_core::tenant::PlacementRecord;

/// A tenant's placement with the revision of the read that showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TenantPlacement {
    /// The tenant.
    pub(crate) tenant: TenantId,
    /// Its placement.
    pub(crate) record: PlacementRecord,
    /// The revision of the read.
    pub(crate) read_at: Revision,
}

impl TenantPlacement {
    /// Whether it names another cell than the one of this uid, or none.
    pub(crate) fn is_away_from(&self, uid: &CellUid) -> bool {
        match &self.record {
            PlacementRecord::Placed(placement) => placement.cell.uid != *uid,
            PlacementRecord::Gone { .. } => true,
        }
    }
}

//! Small types that several parts of the agent pass to each other.

use cellway_core::ids::{Revision, TenantId};
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

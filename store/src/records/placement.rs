//! Placements and tenants as stored.

use super::{Shape, id, record};
use cellway_core::cell::CellRef;
use cellway_core::freeze_window::FreezeWindows;
use cellway_core::ids::Epoch;
use cellway_core::tenant::{AfterWait, LongRequests, Placement, PlacementRecord, Tenant};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(super) struct StoredCellRef {
    name: String,
    uid: String,
}

impl StoredCellRef {
    pub(super) fn of(cell: &CellRef) -> Self {
        Self { name: cell.name.to_string(), uid: cell.uid.to_string() }
    }

    pub(super) fn into_value(self) -> Result<CellRef, String> {
        Ok(CellRef { name: id(&self.name)?, uid: id(&self.uid)? })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
enum StoredPlacement {
    Placed {
        cell: StoredCellRef,
        epoch: u64,
        home: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        hold: Option<String>,
    },
    Gone {
        epoch: u64,
    },
}

impl Shape for StoredPlacement {
    type Of = PlacementRecord;
    const WHAT: &'static str = "placement";

    fn of(value: &PlacementRecord) -> Self {
        match value {
            PlacementRecord::Placed(placement) => Self::Placed {
                cell: StoredCellRef::of(&placement.cell),
                epoch: placement.epoch.0,
                home: placement.home.to_string(),
                hold: placement.hold.as_ref().map(ToString::to_string),
            },
            PlacementRecord::Gone { epoch } => Self::Gone { epoch: epoch.0 },
        }
    }

    fn into_value(self) -> Result<PlacementRecord, String> {
        Ok(match self {
            Self::Placed { cell, epoch, home, hold } => PlacementRecord::Placed(Placement {
                cell: cell.into_value()?,
                epoch: Epoch(epoch),
                home: id(&home)?,
                hold: hold.as_deref().map(id).transpose()?,
            }),
            Self::Gone { epoch } => PlacementRecord::Gone { epoch: Epoch(epoch) },
        })
    }
}

record!(PlacementRecord, StoredPlacement);

/// What becomes of long requests; absent from records of before there was a choice.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredLongRequests {
    wait_ms: u64,
    cut: bool,
}

impl Default for StoredLongRequests {
    fn default() -> Self {
        LongRequests::default().into()
    }
}

impl From<LongRequests> for StoredLongRequests {
    fn from(value: LongRequests) -> Self {
        Self { wait_ms: value.wait_ms, cut: value.then == AfterWait::Cut }
    }
}

impl From<StoredLongRequests> for LongRequests {
    fn from(stored: StoredLongRequests) -> Self {
        Self { wait_ms: stored.wait_ms, then: if stored.cut { AfterWait::Cut } else { AfterWait::Undo } }
    }
}

pub(super) fn stored_windows(texts: &[String]) -> Result<FreezeWindows, String> {
    FreezeWindows::parse(texts).map_err(|error| error.to_string())
}

#[derive(Serialize, Deserialize)]
struct StoredTenant {
    id: String,
    tier: String,
    weight: u32,
    freeze_budget_ms: u64,
    #[serde(default)]
    long_requests: StoredLongRequests,
    #[serde(default)]
    freeze_windows: Vec<String>,
    created_ms: u64,
}

impl Shape for StoredTenant {
    type Of = Tenant;
    const WHAT: &'static str = "tenant";

    fn of(value: &Tenant) -> Self {
        Self {
            id: value.id.to_string(),
            tier: value.tier.clone(),
            weight: value.weight,
            freeze_budget_ms: value.freeze_budget_ms,
            long_requests: value.long_requests.into(),
            freeze_windows: value.freeze_windows.texts(),
            created_ms: value.created_ms,
        }
    }

    fn into_value(self) -> Result<Tenant, String> {
        Ok(Tenant {
            id: id(&self.id)?,
            tier: self.tier,
            weight: self.weight,
            freeze_budget_ms: self.freeze_budget_ms,
            long_requests: self.long_requests.into(),
            freeze_windows: stored_windows(&self.freeze_windows)?,
            created_ms: self.created_ms,
        })
    }
}

record!(Tenant, StoredTenant);

//! Tenants, as the API shows and takes them.

use crate::limits::LimitsView;
use cellway_core::tenant::{AfterWait, LONG_REQUESTS_WAIT_MS};
use serde::{Deserialize, Serialize};

/// What becomes of requests that take longer than a freeze may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongRequestsView {
    /// They go on, and the move is undone.
    #[default]
    Undo,
    /// They are cut, and the move goes on.
    Cut,
}

impl From<AfterWait> for LongRequestsView {
    fn from(then: AfterWait) -> Self {
        match then {
            AfterWait::Undo => Self::Undo,
            AfterWait::Cut => Self::Cut,
        }
    }
}

impl From<LongRequestsView> for AfterWait {
    fn from(view: LongRequestsView) -> Self {
        match view {
            LongRequestsView::Undo => Self::Undo,
            LongRequestsView::Cut => Self::Cut,
        }
    }
}

fn long_requests_wait_ms() -> u64 {
    LONG_REQUESTS_WAIT_MS
}

/// A tenant and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantView {
    /// Its id.
    pub id: String,
    /// The operator's word for its class.
    pub tier: String,
    /// Its share of a cell.
    pub weight: u32,
    /// How long its requests may be held while it is moved.
    pub freeze_budget_ms: u64,
    /// What becomes of requests that take longer.
    #[serde(default)]
    pub long_requests: LongRequestsView,
    /// How long a move waits for them first.
    #[serde(default = "long_requests_wait_ms")]
    pub long_requests_wait_ms: u64,
    /// When it may begin to be frozen, as in `mon-fri 22:00-04:00` (UTC); none: as the fleet has it.
    #[serde(default)]
    pub freeze_windows: Vec<String>,
    /// The cell that owns it; empty where that is not known, for its placement cannot be read.
    pub cell: String,
    /// At which epoch.
    pub epoch: u64,
    /// The move that it is in, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<String>,
    /// Its traffic is held.
    pub held: bool,
    /// A record of it cannot be read: which, why, and what to do. What else is shown may be out of date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// What it may use.
    #[serde(default)]
    pub limits: LimitsView,
    /// When it was created.
    pub created_ms: u64,
}

/// Create a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// Its id: the label of its subdomain.
    pub id: String,
    /// Where; without it the planner chooses.
    #[serde(default)]
    pub cell: Option<String>,
    /// The operator's word for its class.
    #[serde(default)]
    pub tier: Option<String>,
    /// Its share of a cell.
    #[serde(default)]
    pub weight: Option<u32>,
    /// How long its requests may be held while it is moved.
    #[serde(default)]
    pub freeze_budget_ms: Option<u64>,
    /// What becomes of requests that take longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_requests: Option<LongRequestsView>,
    /// How long a move waits for them first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_requests_wait_ms: Option<u64>,
    /// When it may begin to be frozen, as in `mon-fri 22:00-04:00` (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_windows: Option<Vec<String>>,
}

/// Change how a tenant is moved; what is left out stays. A move that runs keeps what it began with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeTenant {
    /// How long its requests may be held while it is moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_budget_ms: Option<u64>,
    /// What becomes of requests that take longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_requests: Option<LongRequestsView>,
    /// How long a move waits for them first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_requests_wait_ms: Option<u64>,
    /// When it may begin to be frozen; an empty list: as the fleet has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_windows: Option<Vec<String>>,
}

impl CreateTenant {
    /// What it says of how the tenant is moved.
    pub fn how_moved(&self) -> ChangeTenant {
        ChangeTenant {
            freeze_budget_ms: self.freeze_budget_ms,
            long_requests: self.long_requests,
            long_requests_wait_ms: self.long_requests_wait_ms,
            freeze_windows: self.freeze_windows.clone(),
        }
    }
}

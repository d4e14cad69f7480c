//! Cells, hosts, moves, look-ups and findings, as the API shows and takes them.

use cellway_core::cell::{Cell, CellKind};
use cellway_core::load::CellLoad;
use cellway_core::tenant_move::{HoldingStage, MoveRecord, MoveState, Priority};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use crate::tenants::*;

/// A list with the store's revision that it was read at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing<T> {
    /// The items, by id.
    pub items: Vec<T>,
    /// The revision.
    pub revision: u64,
}

/// Claim a host for a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimHost {
    /// The host, in any spelling.
    pub host: String,
    /// The owner.
    pub tenant: String,
}

/// A claimed host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// The normalised host.
    pub host: String,
    /// The owner.
    pub tenant: String,
}

/// Gates or plain origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellKindView {
    /// Agents with gates.
    Agent,
    /// Plain HTTP servers.
    Origin,
}

/// Create a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateCell {
    /// Its name.
    pub name: String,
    /// Gates or plain origins.
    pub kind: CellKindView,
    /// The release version that runs in it.
    #[serde(default)]
    pub version: Option<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Of plain origins: where they are, `host:port`. Of agent cells: empty, their gates register themselves.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// How many tenants it should hold at the most; 0 or nothing: no limit.
    #[serde(default)]
    pub capacity_tenants: u32,
}

/// Open or cordon a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeCell {
    /// `open` or `cordoned`.
    pub condition: String,
}

/// A cell with its gates and its load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Gates or plain origins.
    pub kind: CellKindView,
    /// Whether it takes tenants.
    pub condition: String,
    /// The release version that runs in it.
    pub version: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Where requests are sent.
    pub endpoints: Vec<String>,
    /// The most tenants; 0: no limit.
    pub capacity_tenants: u32,
    /// Tenants placed in it.
    pub tenants: u32,
    /// Its registered gate instances.
    pub instances: Vec<InstanceView>,
    /// Its load, if its agents reported lately to the replica that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadView>,
}

/// A registered gate instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its id.
    pub id: String,
    /// How often it was started.
    pub run: u64,
    /// Where routers reach it.
    pub endpoint: String,
    /// It has been heard lately.
    pub reachable: bool,
}

/// A cell's load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoadView {
    /// Requests ended per second.
    pub requests_per_s: f64,
    /// Requests admitted and not ended.
    pub in_flight: u64,
    /// How much of the hosts' processors is in use, 0 to 100.
    pub busy_percent: f64,
}

impl From<CellLoad> for LoadView {
    fn from(load: CellLoad) -> Self {
        Self { requests_per_s: load.requests_per_s, in_flight: load.in_flight, busy_percent: load.busy_percent }
    }
}

impl CellView {
    /// The view of a cell, without instances, load and count of tenants.
    pub fn of(cell: &Cell) -> Self {
        Self {
            name: cell.cell.name.to_string(),
            uid: cell.cell.uid.to_string(),
            kind: match cell.kind {
                CellKind::Agent => CellKindView::Agent,
                CellKind::Origin => CellKindView::Origin,
            },
            condition: cell.condition.as_str().to_owned(),
            version: cell.version.clone(),
            labels: cell.labels.clone(),
            endpoints: cell.endpoints.clone(),
            capacity_tenants: cell.capacity_tenants,
            tenants: 0,
            instances: Vec::new(),
            load: None,
        }
    }
}

/// What is as it always was is not sent, so that an older control plane takes it.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Start a move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateMove {
    /// Who.
    pub tenant: String,
    /// The target cell.
    pub to: String,
    /// Why, for the record.
    #[serde(default)]
    pub cause: Option<String>,
    /// How soon it starts, among those that wait.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: PriorityView,
    /// Its tenant may be frozen at once, whatever the freeze windows are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub now: bool,
}

/// How soon a move starts, among those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityView {
    /// It can wait.
    Low,
    /// An ordinary move.
    #[default]
    Normal,
    /// It is urgent.
    High,
}

impl From<Priority> for PriorityView {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }
}

impl From<PriorityView> for Priority {
    fn from(view: PriorityView) -> Self {
        match view {
            PriorityView::Low => Self::Low,
            PriorityView::Normal => Self::Normal,
            PriorityView::High => Self::High,
        }
    }
}

/// Let a move's tenant be frozen at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeNow {
    /// Why, for the record.
    #[serde(default)]
    pub cause: Option<String>,
}

/// Undo a move, or take it back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoMove {
    /// Why, for the record.
    #[serde(default)]
    pub cause: Option<String>,
}

/// A move as people and scripts see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveView {
    /// Its id.
    pub id: String,
    /// Who.
    pub tenant: String,
    /// From.
    pub source: String,
    /// To.
    pub target: String,
    /// The state.
    pub state: String,
    /// In `holding`: the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// It has ended.
    pub ended: bool,
    /// The target owns the tenant.
    pub past_commit: bool,
    /// The epoch that the source served at when it began.
    pub epoch: u64,
    /// How the data goes.
    pub driver: String,
    /// Bytes copied so far, while copying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_bytes: Option<u64>,
    /// Bytes to copy, while copying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Requests that run at the source, as last reported: what a hold waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_requests: Option<u32>,
    /// Uploads and downloads that were cut, so that it could go on.
    #[serde(default)]
    pub cut_requests: u32,
    /// Long-lived streams that the hold will cut, as last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_streams: Option<u32>,
    /// The freeze that was predicted.
    pub predicted_freeze_ms: u64,
    /// The part of it that takes longest, while the move waits for it to become shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_part: Option<String>,
    /// From the commit of the hold until requests could go again: a gate of the target is known to be open, or the move
    /// is being undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_ms: Option<u64>,
    /// Why it was started.
    pub cause: String,
    /// Why it is or was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_reason: Option<String>,
    /// The move that took this one back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reversed_by: Option<String>,
    /// Its hold took too long: it is undone, and made again.
    #[serde(default)]
    pub will_retry: bool,
    /// The next attempt, once this one is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_by: Option<String>,
    /// Which attempt it is, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// Why a planned move has not started, or one that follows changes does not freeze its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// When the freeze window opens, before which the tenant is not frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_from_ms: Option<u64>,
    /// An operator has put the freeze windows aside.
    #[serde(default)]
    pub freeze_now: bool,
    /// How soon it starts, among those that wait.
    #[serde(default)]
    pub priority: PriorityView,
    /// When it was asked for.
    pub created_ms: u64,
    /// When it came into its state.
    pub entered_ms: u64,
}

impl MoveView {
    /// The view of a record.
    pub fn of(record: &MoveRecord) -> Self {
        let mut view = Self {
            id: record.id.to_string(),
            tenant: record.tenant.to_string(),
            source: record.source.name.to_string(),
            target: record.target.name.to_string(),
            state: record.state.as_str().to_owned(),
            stage: None,
            ended: record.state.is_last(),
            past_commit: record.state.is_past_commit(),
            epoch: record.epoch.0,
            driver: record.driver.as_str().to_owned(),
            copied_bytes: None,
            total_bytes: None,
            running_requests: None,
            cut_requests: record.cut_requests,
            open_streams: None,
            predicted_freeze_ms: record.predicted_freeze_ms,
            longest_part: None,
            freeze_ms: record.freeze_ms(),
            cause: record.cause.clone(),
            undo_reason: None,
            reversed_by: None,
            will_retry: record.will_retry(),
            retried_by: None,
            attempt: record.attempt,
            waits_for: None,
            freeze_from_ms: None,
            freeze_now: record.freeze_now_ms.is_some(),
            priority: record.priority.into(),
            created_ms: record.created_ms,
            entered_ms: record.entered_ms,
        };
        match &record.state {
            MoveState::Copying(copying) => {
                view.copied_bytes = Some(copying.copied_bytes);
                view.total_bytes = Some(copying.total_bytes);
            }
            MoveState::Syncing(syncing) => {
                let admitted = syncing.admitted();
                view.open_streams = admitted.map(|admitted| admitted.open_streams);
                view.running_requests = admitted.map(|admitted| admitted.requests);
                view.longest_part = syncing.longest_part().map(|part| part.to_string());
            }
            MoveState::Holding(holding) => {
                let stage = match holding.stage {
                    HoldingStage::Gates => "gates",
                    HoldingStage::Data => "data",
                    HoldingStage::Last => "last",
                };
                view.stage = Some(stage.to_owned());
                view.running_requests =
                    Some(holding.running.values().fold(0, |all: u32, one| all.saturating_add(*one)));
            }
            MoveState::Undoing(undoing) => view.undo_reason = Some(undoing.reason.clone()),
            MoveState::Undone(undone) => {
                view.undo_reason = Some(undone.reason.clone());
                view.retried_by = undone.retried_by.as_ref().map(ToString::to_string);
            }
            MoveState::Done(done) => view.reversed_by = done.reversed_by.as_ref().map(ToString::to_string),
            MoveState::Planned
            | MoveState::Preparing
            | MoveState::Closing(_)
            | MoveState::Switched
            | MoveState::Settling
            | MoveState::Cleaning(_) => {}
        }
        view
    }
}

/// What a host or a tenant resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupView {
    /// The normalised host, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Why it resolves as it does, step by step.
    pub steps: Vec<String>,
    /// The tenant, if it resolves to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// Its epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The move that holds its traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// Where requests go.
    pub endpoints: Vec<String>,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingView {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub at_ms: u64,
    /// Where it comes from.
    pub source: String,
    /// The tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// What was observed.
    pub summary: String,
    /// The command to run.
    pub remedy: String,
    /// How often it was reported.
    pub times: u64,
}

/// The emergency brake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakeView {
    /// Whether it is on: no move starts then, and none that runs freezes its tenant.
    pub on: bool,
    /// Since when it is on, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Why it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// How the brake should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBrake {
    /// Whether it should be on.
    pub on: bool,
    /// Why, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// What Alertmanager posts to a webhook (its version 4); fields that are not used are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertmanagerBody {
    /// The alerts of the group.
    pub alerts: Vec<Alert>,
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// `firing` or `resolved`.
    pub status: String,
    /// What identifies it; `tenant` and `cell` are looked at.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it says; `summary` and `description` are looked at.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Alertmanager's own identity of the alert.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

//! Moves as stored.

use super::cell::StoredDriver;
use super::placement::{StoredCellRef, StoredLongRequests, stored_windows};
use super::{Shape, id, record};
use cellway_core::cell::ListedGates;
use cellway_core::ids::{Epoch, InstanceId, Revision};
use cellway_core::tenant_move::{
    Admitted, Cleaning, Closing, CopyMade, Copying, Done, FreezePart, Holding, HoldingStage, Measured, MoveLimits,
    MoveRecord, MoveState, Position, Priority, Syncing, Undoing, Undone,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Serialize, Deserialize)]
struct StoredLimits {
    freeze_budget_ms: u64,
    #[serde(default)]
    long_requests: StoredLongRequests,
    #[serde(default)]
    freeze_windows: Vec<String>,
    planned_ms: u64,
    preparing_ms: u64,
    copy_stall_ms: u64,
    syncing_ms: u64,
    closing_ms: u64,
    drain_ms: u64,
    holding_ms: u64,
    switched_ms: u64,
    bake_ms: u64,
    retention_ms: u64,
    drop_ms: u64,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum StoredPriority {
    Low,
    #[default]
    Normal,
    High,
}

impl StoredPriority {
    fn of(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }

    fn into_value(self) -> Priority {
        match self {
            Self::Low => Priority::Low,
            Self::Normal => Priority::Normal,
            Self::High => Priority::High,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredMove {
    id: String,
    tenant: String,
    source: StoredCellRef,
    target: StoredCellRef,
    epoch: u64,
    source_home: String,
    target_home: String,
    keeps_target_home: bool,
    source_gates: Vec<String>,
    driver: StoredDriver,
    cause: String,
    limits: StoredLimits,
    #[serde(default)]
    priority: StoredPriority,
    #[serde(default)]
    freeze_now_ms: Option<u64>,
    attempt: u32,
    not_before_ms: u64,
    created_ms: u64,
    entered_ms: u64,
    predicted_freeze_ms: u64,
    #[serde(default)]
    copied: Option<StoredCopied>,
    held_ms: Option<u64>,
    #[serde(default)]
    cut_requests: u32,
    released_ms: Option<u64>,
    state: StoredState,
}

#[derive(Serialize, Deserialize)]
struct StoredCopied {
    bytes: u64,
    took_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredList {
    revision: u64,
    instances: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredStage {
    Gates,
    Data,
    Last,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
enum StoredState {
    Planned,
    Preparing,
    Copying {
        copied_bytes: u64,
        total_bytes: u64,
        advanced_ms: u64,
    },
    Syncing {
        followed: Option<StoredFollowed>,
        watched: BTreeMap<String, StoredWatched>,
    },
    Closing {
        ended: Vec<String>,
    },
    Holding {
        stage: StoredStage,
        list: Option<StoredList>,
        fenced: Vec<String>,
        position: Option<String>,
        #[serde(default)]
        cut: bool,
        #[serde(default)]
        running: BTreeMap<String, u32>,
    },
    Switched,
    Settling,
    Cleaning {
        due: bool,
    },
    Done {
        leftover: Option<String>,
        reversed_by: Option<String>,
    },
    Undoing {
        reason: String,
        held: bool,
        retry: bool,
    },
    Undone {
        reason: String,
        held: bool,
        leftover: Option<String>,
        retried_by: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredFollowed {
    transfer_ms: u64,
    at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    longest: Option<StoredPart>,
}

#[derive(Serialize, Deserialize)]
struct StoredPart {
    what: String,
    ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredWatched {
    oldest_request_ms: u64,
    #[serde(default)]
    requests: u32,
    open_streams: u32,
    at_ms: u64,
}

impl StoredWatched {
    fn of(measured: &Measured<Admitted>) -> Self {
        let Admitted { oldest_request_ms, requests, open_streams } = measured.value;
        Self { oldest_request_ms, requests, open_streams, at_ms: measured.at_ms }
    }

    fn into_value(self) -> Measured<Admitted> {
        let Self { oldest_request_ms, requests, open_streams, at_ms } = self;
        Measured { value: Admitted { oldest_request_ms, requests, open_streams }, at_ms }
    }
}

/// Instance ids from stored texts.
fn ids(texts: &[String]) -> Result<BTreeSet<InstanceId>, String> {
    texts.iter().map(|text| id(text)).collect()
}

impl StoredState {
    fn of(state: &MoveState) -> Self {
        match state {
            MoveState::Planned => Self::Planned,
            MoveState::Preparing => Self::Preparing,
            MoveState::Copying(copying) => Self::Copying {
                copied_bytes: copying.copied_bytes,
                total_bytes: copying.total_bytes,
                advanced_ms: copying.advanced_ms,
            },
            MoveState::Syncing(syncing) => Self::Syncing {
                followed: syncing.followed.as_ref().map(|m| StoredFollowed {
                    transfer_ms: m.value,
                    at_ms: m.at_ms,
                    longest: syncing.longest.as_ref().map(|part| StoredPart { what: part.what.clone(), ms: part.ms }),
                }),
                watched: syncing.watched.iter().map(|(gate, m)| (gate.to_string(), StoredWatched::of(m))).collect(),
            },
            MoveState::Closing(closing) => {
                Self::Closing { ended: closing.ended.iter().map(ToString::to_string).collect() }
            }
            MoveState::Holding(holding) => Self::of_holding(holding),
            MoveState::Switched => Self::Switched,
            MoveState::Settling => Self::Settling,
            MoveState::Cleaning(cleaning) => Self::Cleaning { due: cleaning.due },
            MoveState::Done(done) => Self::Done {
                leftover: done.leftover.as_ref().map(ToString::to_string),
                reversed_by: done.reversed_by.as_ref().map(ToString::to_string),
            },
            MoveState::Undoing(undoing) => {
                Self::Undoing { reason: undoing.reason.clone(), held: undoing.held, retry: undoing.retry }
            }
            MoveState::Undone(undone) => Self::Undone {
                reason: undone.reason.clone(),
                held: undone.held,
                leftover: undone.leftover.as_ref().map(ToString::to_string),
                retried_by: undone.retried_by.as_ref().map(ToString::to_string),
            },
        }
    }

    fn of_holding(holding: &Holding) -> Self {
        Self::Holding {
            stage: match holding.stage {
                HoldingStage::Gates => StoredStage::Gates,
                HoldingStage::Data => StoredStage::Data,
                HoldingStage::Last => StoredStage::Last,
            },
            list: holding.list.as_ref().map(|list| StoredList {
                revision: list.revision.0,
                instances: list.instances.iter().map(ToString::to_string).collect(),
            }),
            fenced: holding.fenced.iter().map(ToString::to_string).collect(),
            position: holding.position.as_ref().map(|position| position.0.clone()),
            cut: holding.cut,
            running: holding.running.iter().map(|(gate, requests)| (gate.to_string(), *requests)).collect(),
        }
    }

    fn into_value(self) -> Result<MoveState, String> {
        Ok(match self {
            Self::Planned => MoveState::Planned,
            Self::Preparing => MoveState::Preparing,
            Self::Copying { copied_bytes, total_bytes, advanced_ms } => {
                MoveState::Copying(Copying { copied_bytes, total_bytes, advanced_ms })
            }
            Self::Syncing { followed, watched } => MoveState::Syncing(Syncing {
                longest: (followed.as_ref().and_then(|m| m.longest.as_ref()))
                    .map(|part| FreezePart::new(&part.what, part.ms)),
                followed: followed.map(|m| Measured { value: m.transfer_ms, at_ms: m.at_ms }),
                watched: watched
                    .into_iter()
                    .map(|(gate, m)| Ok((id(&gate)?, m.into_value())))
                    .collect::<Result<_, String>>()?,
            }),
            Self::Closing { ended } => MoveState::Closing(Closing { ended: ids(&ended)? }),
            Self::Holding { stage, list, fenced, position, cut, running } => MoveState::Holding(Holding {
                stage: match stage {
                    StoredStage::Gates => HoldingStage::Gates,
                    StoredStage::Data => HoldingStage::Data,
                    StoredStage::Last => HoldingStage::Last,
                },
                list: list.map(StoredList::into_value).transpose()?,
                fenced: ids(&fenced)?,
                position: position.map(Position),
                cut,
                running: running
                    .into_iter()
                    .map(|(gate, requests)| Ok((id(&gate)?, requests)))
                    .collect::<Result<_, String>>()?,
            }),
            Self::Switched => MoveState::Switched,
            Self::Settling => MoveState::Settling,
            Self::Cleaning { due } => MoveState::Cleaning(Cleaning { due }),
            Self::Done { leftover, reversed_by } => MoveState::Done(Done {
                leftover: leftover.as_deref().map(id).transpose()?,
                reversed_by: reversed_by.as_deref().map(id).transpose()?,
            }),
            Self::Undoing { reason, held, retry } => MoveState::Undoing(Undoing { reason, held, retry }),
            Self::Undone { reason, held, leftover, retried_by } => MoveState::Undone(Undone {
                reason,
                held,
                leftover: leftover.as_deref().map(id).transpose()?,
                retried_by: retried_by.as_deref().map(id).transpose()?,
            }),
        })
    }
}

impl StoredList {
    fn into_value(self) -> Result<ListedGates, String> {
        Ok(ListedGates { revision: Revision(self.revision), instances: ids(&self.instances)? })
    }
}

/// Copies the fields of one struct of limits into another of the same field names.
macro_rules! copy_limits {
    ($from:expr, $to:ident, $windows:expr) => {{
        let from = $from;
        $to {
            freeze_budget_ms: from.freeze_budget_ms,
            long_requests: from.long_requests.into(),
            freeze_windows: $windows,
            planned_ms: from.planned_ms,
            preparing_ms: from.preparing_ms,
            copy_stall_ms: from.copy_stall_ms,
            syncing_ms: from.syncing_ms,
            closing_ms: from.closing_ms,
            drain_ms: from.drain_ms,
            holding_ms: from.holding_ms,
            switched_ms: from.switched_ms,
            bake_ms: from.bake_ms,
            retention_ms: from.retention_ms,
            drop_ms: from.drop_ms,
        }
    }};
}

impl Shape for StoredMove {
    type Of = MoveRecord;
    const WHAT: &'static str = "move";

    fn of(value: &MoveRecord) -> Self {
        Self {
            id: value.id.to_string(),
            tenant: value.tenant.to_string(),
            source: StoredCellRef::of(&value.source),
            target: StoredCellRef::of(&value.target),
            epoch: value.epoch.0,
            source_home: value.source_home.to_string(),
            target_home: value.target_home.to_string(),
            keeps_target_home: value.keeps_target_home,
            source_gates: value.source_gates.iter().map(ToString::to_string).collect(),
            driver: StoredDriver::of(value.driver),
            cause: value.cause.clone(),
            limits: copy_limits!(&value.limits, StoredLimits, value.limits.freeze_windows.texts()),
            priority: StoredPriority::of(value.priority),
            freeze_now_ms: value.freeze_now_ms,
            attempt: value.attempt,
            not_before_ms: value.not_before_ms,
            created_ms: value.created_ms,
            entered_ms: value.entered_ms,
            predicted_freeze_ms: value.predicted_freeze_ms,
            copied: value.copied.map(|CopyMade { bytes, took_ms }| StoredCopied { bytes, took_ms }),
            held_ms: value.held_ms,
            cut_requests: value.cut_requests,
            released_ms: value.released_ms,
            state: StoredState::of(&value.state),
        }
    }

    fn into_value(self) -> Result<MoveRecord, String> {
        let freeze_windows = stored_windows(&self.limits.freeze_windows)?;
        Ok(MoveRecord {
            id: id(&self.id)?,
            tenant: id(&self.tenant)?,
            source: self.source.into_value()?,
            target: self.target.into_value()?,
            epoch: Epoch(self.epoch),
            source_home: id(&self.source_home)?,
            target_home: id(&self.target_home)?,
            keeps_target_home: self.keeps_target_home,
            source_gates: ids(&self.source_gates)?,
            driver: self.driver.into_value(),
            cause: self.cause,
            limits: copy_limits!(self.limits, MoveLimits, freeze_windows),
            priority: self.priority.into_value(),
            freeze_now_ms: self.freeze_now_ms,
            attempt: self.attempt,
            not_before_ms: self.not_before_ms,
            created_ms: self.created_ms,
            entered_ms: self.entered_ms,
            predicted_freeze_ms: self.predicted_freeze_ms,
            copied: self.copied.map(|StoredCopied { bytes, took_ms }| CopyMade { bytes, took_ms }),
            held_ms: self.held_ms,
            cut_requests: self.cut_requests,
            released_ms: self.released_ms,
            state: self.state.into_value()?,
        })
    }
}

record!(MoveRecord, StoredMove);

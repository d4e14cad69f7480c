//! Orders and facts of moves on the wire.

use cellway_core::cell::CellRef;
use cellway_core::ids::{CellUid, Epoch, InstanceId, InvalidId, Revision};
use cellway_core::tenant_move::{
    Admitted, CopyReport, DropReport, Fact, FailReport, FenceReport, FollowReport, FreezePart, OpenReport, Order,
    Position, PositionReport, ReachReport, Task, WatchReport, Witness,
};
use serde::{Deserialize, Serialize};

/// An order to a cell's agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderDown {
    /// The move that orders it.
    pub move_id: String,
    /// The tenant.
    pub tenant: String,
    /// Where the data is, for tasks that fetch: at the source, on the way back at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceDown>,
    /// What to do.
    pub task: TaskDown,
}

/// A cell that has data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDown {
    /// Its name.
    pub cell: String,
    /// Where its agents hand data out.
    pub endpoints: Vec<String>,
}

/// See [`Task`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each field is documented at Task")]
pub enum TaskDown {
    Prepare {
        home: String,
    },
    Offer {
        home: String,
        to: String,
    },
    Copy {
        home: String,
        from: String,
    },
    Follow {
        home: String,
        from: String,
    },
    Watch {
        epoch: u64,
    },
    CloseStreams {
        epoch: u64,
    },
    Fence {
        epoch: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cut: bool,
    },
    FenceData {
        home: String,
        epoch: u64,
        list: u64,
    },
    Reach {
        home: String,
        from: String,
        epoch: u64,
        list: u64,
        position: String,
    },
    Open {
        home: String,
        epoch: u64,
    },
    Reverse {
        home: String,
        from: String,
        epoch: u64,
    },
    Drop {
        home: String,
    },
}

impl OrderDown {
    /// The order to send, with where the data is.
    pub fn of(order: &Order, source: SourceDown) -> Self {
        Self {
            move_id: order.move_id.to_string(),
            tenant: order.tenant.to_string(),
            source: Some(source),
            task: (&order.task).into(),
        }
    }

    /// The order as `cell` takes it.
    pub fn into_order(self, cell: &CellRef) -> Result<Order, InvalidId> {
        Ok(Order {
            move_id: self.move_id.parse()?,
            tenant: self.tenant.parse()?,
            cell: cell.clone(),
            task: self.task.try_into()?,
        })
    }
}

impl From<&Task> for TaskDown {
    fn from(task: &Task) -> Self {
        match task {
            Task::Prepare { home } => Self::Prepare { home: home.to_string() },
            Task::Offer { home, to } => Self::Offer { home: home.to_string(), to: to.to_string() },
            Task::Copy { home, from } => Self::Copy { home: home.to_string(), from: from.to_string() },
            Task::Follow { home, from } => Self::Follow { home: home.to_string(), from: from.to_string() },
            Task::Watch { epoch } => Self::Watch { epoch: epoch.0 },
            Task::CloseStreams { epoch } => Self::CloseStreams { epoch: epoch.0 },
            Task::Fence { epoch, cut } => Self::Fence { epoch: epoch.0, cut: *cut },
            Task::FenceData { home, epoch, list } => {
                Self::FenceData { home: home.to_string(), epoch: epoch.0, list: list.0 }
            }
            Task::Reach { home, from, epoch, list, position } => Self::Reach {
                home: home.to_string(),
                from: from.to_string(),
                epoch: epoch.0,
                list: list.0,
                position: position.0.clone(),
            },
            Task::Open { home, epoch } => Self::Open { home: home.to_string(), epoch: epoch.0 },
            Task::Reverse { home, from, epoch } => {
                Self::Reverse { home: home.to_string(), from: from.to_string(), epoch: epoch.0 }
            }
            Task::Drop { home } => Self::Drop { home: home.to_string() },
        }
    }
}

impl TryFrom<TaskDown> for Task {
    type Error = InvalidId;

    fn try_from(task: TaskDown) -> Result<Self, InvalidId> {
        Ok(match task {
            TaskDown::Prepare { home } => Self::Prepare { home: home.parse()? },
            TaskDown::Offer { home, to } => Self::Offer { home: home.parse()?, to: to.parse()? },
            TaskDown::Copy { home, from } => Self::Copy { home: home.parse()?, from: from.parse()? },
            TaskDown::Follow { home, from } => Self::Follow { home: home.parse()?, from: from.parse()? },
            TaskDown::Watch { epoch } => Self::Watch { epoch: Epoch(epoch) },
            TaskDown::CloseStreams { epoch } => Self::CloseStreams { epoch: Epoch(epoch) },
            TaskDown::Fence { epoch, cut } => Self::Fence { epoch: Epoch(epoch), cut },
            TaskDown::FenceData { home, epoch, list } => {
                Self::FenceData { home: home.parse()?, epoch: Epoch(epoch), list: Revision(list) }
            }
            TaskDown::Reach { home, from, epoch, list, position } => Self::Reach {
                home: home.parse()?,
                from: from.parse()?,
                epoch: Epoch(epoch),
                list: Revision(list),
                position: Position(position),
            },
            TaskDown::Open { home, epoch } => Self::Open { home: home.parse()?, epoch: Epoch(epoch) },
            TaskDown::Reverse { home, from, epoch } => {
                Self::Reverse { home: home.parse()?, from: from.parse()?, epoch: Epoch(epoch) }
            }
            TaskDown::Drop { home } => Self::Drop { home: home.parse()? },
        })
    }
}

/// The part of a freeze that takes longest. See [`FreezePart`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is documented at FreezePart")]
pub struct FreezePartUp {
    pub what: String,
    pub ms: u64,
}

/// A fact from an agent, quoting the move that ordered it. See [`Fact`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each field is documented at Fact")]
pub enum FactUp {
    Ready {
        move_id: String,
    },
    Copied {
        move_id: String,
        copied_bytes: u64,
        total_bytes: u64,
        complete: bool,
    },
    Followed {
        move_id: String,
        transfer_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        longest: Option<FreezePartUp>,
    },
    Watched {
        move_id: String,
        oldest_request_ms: u64,
        #[serde(default)]
        running_requests: u32,
        open_streams: u32,
    },
    Fenced {
        move_id: String,
        epoch: u64,
        #[serde(default)]
        cut_requests: u32,
    },
    Positioned {
        move_id: String,
        epoch: u64,
        list: u64,
        position: String,
    },
    Reached {
        move_id: String,
        list: u64,
        position: String,
    },
    Opened {
        move_id: String,
        epoch: u64,
    },
    Dropped {
        move_id: String,
        home: String,
    },
    Failed {
        move_id: String,
        reason: String,
    },
}

impl FactUp {
    /// The move that it is about.
    pub fn move_id(&self) -> &str {
        match self {
            Self::Ready { move_id }
            | Self::Copied { move_id, .. }
            | Self::Followed { move_id, .. }
            | Self::Watched { move_id, .. }
            | Self::Fenced { move_id, .. }
            | Self::Positioned { move_id, .. }
            | Self::Reached { move_id, .. }
            | Self::Opened { move_id, .. }
            | Self::Dropped { move_id, .. }
            | Self::Failed { move_id, .. } => move_id,
        }
    }

    /// The fact as stated by `instance` of the cell `cell`: who states it comes from the connection, never from the
    /// fact itself.
    pub fn into_fact(self, cell: CellUid, instance: InstanceId) -> Result<Fact, InvalidId> {
        let by = Witness { move_id: self.move_id().parse()?, cell, instance };
        Ok(match self {
            Self::Ready { .. } => Fact::Ready(by),
            Self::Copied { copied_bytes, total_bytes, complete, .. } => {
                Fact::Copied(CopyReport { by, copied_bytes, total_bytes, complete })
            }
            Self::Followed { transfer_ms, longest, .. } => {
                let longest = longest.map(|part| FreezePart::new(&part.what, part.ms));
                Fact::Followed(FollowReport { by, transfer_ms, longest })
            }
            Self::Watched { oldest_request_ms, running_requests, open_streams, .. } => {
                let admitted = Admitted { oldest_request_ms, requests: running_requests, open_streams };
                Fact::Watched(WatchReport { by, admitted })
            }
            Self::Fenced { epoch, cut_requests, .. } => {
                Fact::Fenced(FenceReport { by, epoch: Epoch(epoch), cut_requests })
            }
            Self::Positioned { epoch, list, position, .. } => Fact::Positioned(PositionReport {
                by,
                epoch: Epoch(epoch),
                list: Revision(list),
                position: Position(position),
            }),
            Self::Reached { list, position, .. } => {
                Fact::Reached(ReachReport { by, list: Revision(list), position: Position(position) })
            }
            Self::Opened { epoch, .. } => Fact::Opened(OpenReport { by, epoch: Epoch(epoch) }),
            Self::Dropped { home, .. } => Fact::Dropped(DropReport { by, home: home.parse()? }),
            Self::Failed { reason, .. } => Fact::Failed(FailReport { by, reason }),
        })
    }
}

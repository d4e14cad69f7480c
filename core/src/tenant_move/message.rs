//! What goes in and out of a move: facts that were observed, orders to the two cells, refusals.

use super::record::{Admitted, Position};
use crate::cell::{CellRef, ListedGates};
use crate::ids::{CellName, CellUid, Epoch, HomeId, InstanceId, MoveId, Revision, TenantId};

/// Who states a fact, and for which move.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Witness {
    /// The move it was ordered by.
    pub move_id: MoveId,
    /// The cell that the agent is of.
    pub cell: CellUid,
    /// The agent.
    pub instance: InstanceId,
}

/// What was observed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// The leader found: budgets allow it, the source's gates are reachable, the target is open.
    Start,
    /// The source's list of gates was read after the hold.
    Listed(ListedGates),
    /// Somebody looked at the clock.
    Elapsed,
    /// An operator or a policy wants the move undone.
    UndoAsked(String),
    /// Another move of this tenant begins where this one is.
    TakenOver(MoveId),
    /// The target has an empty home.
    Ready(Witness),
    /// The target copied.
    Copied(CopyReport),
    /// The target made a pass over the changes.
    Followed(FollowReport),
    /// The source looked at what its gate has admitted.
    Watched(WatchReport),
    /// A source gate is fenced and drained.
    Fenced(FenceReport),
    /// The source's data is fenced, at this position.
    Positioned(PositionReport),
    /// The target's data is at that position, and verified.
    Reached(ReachReport),
    /// A target gate is open.
    Opened(OpenReport),
    /// A home is dropped.
    Dropped(DropReport),
    /// A cell cannot do what it was ordered to do.
    Failed(FailReport),
}

impl Fact {
    /// Who states it, if it comes from an agent.
    pub fn witness(&self) -> Option<&Witness> {
        match self {
            Self::Start | Self::Listed(_) | Self::Elapsed | Self::UndoAsked(_) | Self::TakenOver(_) => None,
            Self::Ready(by) => Some(by),
            Self::Copied(report) => Some(&report.by),
            Self::Followed(report) => Some(&report.by),
            Self::Watched(report) => Some(&report.by),
            Self::Fenced(report) => Some(&report.by),
            Self::Positioned(report) => Some(&report.by),
            Self::Reached(report) => Some(&report.by),
            Self::Opened(report) => Some(&report.by),
            Self::Dropped(report) => Some(&report.by),
            Self::Failed(report) => Some(&report.by),
        }
    }
}

/// See [`Fact::Copied`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CopyReport {
    /// The target.
    pub by: Witness,
    /// Bytes that arrived.
    pub copied_bytes: u64,
    /// Bytes to copy, as known.
    pub total_bytes: u64,
    /// All of it.
    pub complete: bool,
}

/// See [`Fact::Followed`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FollowReport {
    /// The target.
    pub by: Witness,
    /// How long the data would be frozen if traffic were held now.
    pub transfer_ms: u64,
    /// The part of that which takes longest, where the target can tell.
    pub longest: Option<FreezePart>,
}

/// A part of a freeze, for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FreezePart {
    /// What it is for: it goes on after "300 ms".
    pub what: String,
    /// How long it takes.
    pub ms: u64,
}

/// The longest name of a part.
const FREEZE_PART_CHARS_MAX: usize = 120;

impl FreezePart {
    /// `what` is cut where it is too long.
    pub fn new(what: &str, ms: u64) -> Self {
        Self { what: what.chars().filter(|c| !c.is_control()).take(FREEZE_PART_CHARS_MAX).collect(), ms }
    }
}

impl std::fmt::Display for FreezePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms {}", self.ms, self.what)
    }
}

/// See [`Fact::Watched`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WatchReport {
    /// The source.
    pub by: Witness,
    /// What runs.
    pub admitted: Admitted,
}

/// See [`Fact::Fenced`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FenceReport {
    /// The source.
    pub by: Witness,
    /// The epoch fenced.
    pub epoch: Epoch,
    /// How many requests were cut for it.
    pub cut_requests: u32,
}

/// See [`Fact::Positioned`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PositionReport {
    /// The source.
    pub by: Witness,
    /// The epoch fenced.
    pub epoch: Epoch,
    /// The revision of the list under which all gates were fenced.
    pub list: Revision,
    /// The last position.
    pub position: Position,
}

/// See [`Fact::Reached`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReachReport {
    /// The target.
    pub by: Witness,
    /// The revision of the list that the position belongs to.
    pub list: Revision,
    /// The position reached.
    pub position: Position,
}

/// See [`Fact::Opened`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OpenReport {
    /// The target.
    pub by: Witness,
    /// The epoch at which the gate is open.
    pub epoch: Epoch,
}

/// See [`Fact::Dropped`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DropReport {
    /// Whoever had it.
    pub by: Witness,
    /// What was dropped.
    pub home: HomeId,
}

/// See [`Fact::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FailReport {
    /// The cell that cannot.
    pub by: Witness,
    /// Why, in words.
    pub reason: String,
}

/// Why a fact changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It quotes another move.
    #[error("it is about another move")]
    OtherMove,
    /// The witness is not of the cell that can know.
    #[error("it comes from a cell that cannot know")]
    OtherCell,
    /// It quotes another epoch.
    #[error("it is about another epoch")]
    OtherEpoch,
    /// It quotes another list of gates, or another stage.
    #[error("it is about another list of gates or another stage")]
    OtherList,
    /// It quotes another position.
    #[error("it is about another position")]
    OtherPosition,
    /// It quotes another home.
    #[error("it is about another home")]
    OtherHome,
    /// The state does not wait for it.
    #[error("the move does not wait for it")]
    NotNow,
    /// It is known, or no longer matters.
    #[error("it is known already")]
    NothingNew,
    /// The deadline has not passed.
    #[error("the deadline has not passed")]
    Early,
    /// The target owns the tenant: only a move back can return it.
    #[error("the target already owns the tenant: only a move back can return it")]
    PastTheCommit,
    /// The move has ended.
    #[error("the move has ended")]
    Ended,
}

/// What a cell is told to do, quoting move and home.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Order {
    /// The move that orders it.
    pub move_id: MoveId,
    /// The tenant.
    pub tenant: TenantId,
    /// The cell that is told.
    pub cell: CellRef,
    /// What to do.
    pub task: Task,
}

/// What an order asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Task {
    /// Target: make an empty home. Never empties one.
    Prepare {
        /// The home to make.
        home: HomeId,
    },
    /// Source: let the target, and no other cell, read this home.
    Offer {
        /// The home to offer.
        home: HomeId,
        /// The target.
        to: CellName,
    },
    /// Target: copy.
    Copy {
        /// Into this home.
        home: HomeId,
        /// From this one.
        from: HomeId,
    },
    /// Target: follow changes, and report how long a pass takes.
    Follow {
        /// Into this home.
        home: HomeId,
        /// From this one.
        from: HomeId,
    },
    /// Source: report what the gate has admitted.
    Watch {
        /// The epoch that is served.
        epoch: Epoch,
    },
    /// Source: admit no new stream, end the open ones, report how many are left.
    CloseStreams {
        /// The epoch that is served.
        epoch: Epoch,
    },
    /// Source: close, and report when drained.
    Fence {
        /// Everything up to this epoch.
        epoch: Epoch,
        /// Uploads and downloads that still run are cut; they count as running until the app has ended them.
        cut: bool,
    },
    /// Source: let nothing write, and report the last position.
    FenceData {
        /// The home to fence.
        home: HomeId,
        /// Everything up to this epoch.
        epoch: Epoch,
        /// The list to quote.
        list: Revision,
    },
    /// Target: reach the position, verify, detach.
    Reach {
        /// The home to bring there.
        home: HomeId,
        /// Where the changes come from.
        from: HomeId,
        /// The epoch that is fenced at the source: where a home was released above it, the order is late.
        epoch: Epoch,
        /// The list to quote.
        list: Revision,
        /// Where to get to.
        position: Position,
    },
    /// Target: release the data, open, report.
    Open {
        /// The home to serve.
        home: HomeId,
        /// The epoch to serve at.
        epoch: Epoch,
    },
    /// Source: keep the old home current, for a move back.
    Reverse {
        /// The old home.
        home: HomeId,
        /// The one that is served now.
        from: HomeId,
        /// The epoch that is fenced at the source: where a home was released above it, the order is late.
        epoch: Epoch,
    },
    /// Either: drop a home, unless it is served.
    Drop {
        /// The home to drop.
        home: HomeId,
    },
}

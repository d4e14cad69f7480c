//! The record of a move: everything that is known of it, and the placement that follows.

use crate::cell::{CellRef, ListedGates, MoverDriver};
use crate::freeze_window::FreezeWindows;
use crate::ids::{Epoch, HomeId, InstanceId, MoveId, Revision, TenantId};
use crate::tenant::{AfterWait, Placement};
use std::collections::{BTreeMap, BTreeSet};

use super::limits::{MoveLimits, Priority};
use super::message::Fact;
use super::syncing::Syncing;

/// How old a report may be to be counted in the decision to hold.
pub const REPORT_FRESH_MS: u64 = 1_000;

/// How often a move is made that is undone because its hold took too long.
pub const ATTEMPTS_MAX: u32 = 5;

/// The pause before the second attempt; it doubles with each further one.
pub const RETRY_FIRST_MS: u64 = 1_000;

/// Everything that is known of a move. What is ordered, and what the placement is, follow from it alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MoveRecord {
    /// The move.
    pub id: MoveId,
    /// Who is moved.
    pub tenant: TenantId,
    /// From where.
    pub source: CellRef,
    /// To where.
    pub target: CellRef,
    /// The epoch at which the source serves when the move begins.
    pub epoch: Epoch,
    /// The copy of the data at the source.
    pub source_home: HomeId,
    /// The copy of the data at the target.
    pub target_home: HomeId,
    /// The target's home was there before this move, which goes back to it: undoing must not drop it.
    pub keeps_target_home: bool,
    /// The source's gates when the move was asked for: each of them is heard before traffic is held.
    pub source_gates: BTreeSet<InstanceId>,
    /// How the data goes.
    pub driver: MoverDriver,
    /// Why the move was asked for, in the asker's words.
    pub cause: String,
    /// Its deadlines and budgets.
    pub limits: MoveLimits,
    /// How soon it starts, among those that wait.
    pub priority: Priority,
    /// Since when its freeze windows are in its way no more, by an operator's word.
    pub freeze_now_ms: Option<u64>,
    /// Which attempt it is, from 1: a move whose hold took too long is undone and made again.
    pub attempt: u32,
    /// Not to be started before this.
    pub not_before_ms: u64,
    /// When it was asked for.
    pub created_ms: u64,
    /// When it came into its state.
    pub entered_ms: u64,
    /// The freeze that was predicted when `syncing` was left.
    pub predicted_freeze_ms: u64,
    /// What the copy came to, once it was complete.
    pub copied: Option<CopyMade>,
    /// When traffic was held.
    pub held_ms: Option<u64>,
    /// How many requests were cut, so that it could go on.
    pub cut_requests: u32,
    /// When requests could go again: a gate of the target was known to be open or, after an undo, the source's to open.
    pub released_ms: Option<u64>,
    /// How far it is.
    pub state: MoveState,
}

/// How far a move is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MoveState {
    /// Waits for its turn.
    Planned,
    /// The target makes an empty home.
    Preparing,
    /// The target copies.
    Copying(Copying),
    /// The target follows changes.
    Syncing(Syncing),
    /// The source ends long-lived streams.
    Closing(Closing),
    /// Traffic is held.
    Holding(Holding),
    /// The target owns the tenant; no gate of it is known to be open yet.
    Switched,
    /// The target serves and is watched.
    Settling,
    /// The source's home is kept, then dropped.
    Cleaning(Cleaning),
    /// Ended at the target.
    Done(Done),
    /// The source serves; the target drops its home.
    Undoing(Undoing),
    /// Ended at the source.
    Undone(Undone),
}

/// The progress of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Copying {
    /// Bytes that arrived.
    pub copied_bytes: u64,
    /// Bytes to copy, as known.
    pub total_bytes: u64,
    /// When a byte last arrived.
    pub advanced_ms: u64,
}

/// A copy that was completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CopyMade {
    /// How much it was.
    pub bytes: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// A reported value with the time it was heard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Measured<T> {
    /// The value.
    pub value: T,
    /// When it was heard.
    pub at_ms: u64,
}

/// What one of the source's gates has admitted of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Admitted {
    /// The age of the oldest request that is not a long-lived stream; also taken as the time it still needs.
    pub oldest_request_ms: u64,
    /// How many such requests there are.
    pub requests: u32,
    /// WebSockets, event streams and the like.
    pub open_streams: u32,
}

/// The end of long-lived streams.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Closing {
    /// Gates of the source that have none left.
    pub ended: BTreeSet<InstanceId>,
}

/// The stages of `holding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub enum HoldingStage {
    /// Gates fence and drain.
    #[default]
    Gates,
    /// The source fences the data and says its last position.
    Data,
    /// The target reaches that position.
    Last,
}

/// What is known while traffic is held.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Holding {
    /// How far.
    pub stage: HoldingStage,
    /// The source's gates, read after the hold.
    pub list: Option<ListedGates>,
    /// Who has fenced and drained.
    pub fenced: BTreeSet<InstanceId>,
    /// The data's last position, good only for the list it was taken under.
    pub position: Option<Position>,
    /// What ran when the wait for it was over is cut.
    pub cut: bool,
    /// How many requests each gate still had running when it last said so, where there were any. Without any there is
    /// nothing to cut.
    pub running: BTreeMap<InstanceId, u32>,
}

impl Holding {
    pub(super) fn is_at(&self, revision: Revision) -> bool {
        self.list.as_ref().is_some_and(|list| list.revision == revision)
    }

    /// On to stage *data* once every listed gate has fenced and drained.
    pub(super) fn advanced(mut self) -> Self {
        let all_fenced = self.list.as_ref().is_some_and(|list| list.instances.is_subset(&self.fenced));
        if self.stage == HoldingStage::Gates && all_fenced {
            self.stage = HoldingStage::Data;
        }
        self
    }
}

/// A point in the history of a home's data, in the driver's own words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position(pub String);

/// The end of the retention.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cleaning {
    /// The retention is over: the source is ordered to drop its home.
    pub due: bool,
}

/// How a move ended at its target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Done {
    /// The home that the source still has to drop.
    pub leftover: Option<HomeId>,
    /// The move back that took over.
    pub reversed_by: Option<MoveId>,
}

/// Why a move is being undone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Undoing {
    /// In words, for people.
    pub reason: String,
    /// Traffic was held, so the source goes on at the next epoch.
    pub held: bool,
    /// It is to be made again.
    pub retry: bool,
}

/// How a move ended at its source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Undone {
    /// In words, for people.
    pub reason: String,
    /// Traffic was held, so the source goes on at the next epoch.
    pub held: bool,
    /// The home that the target still has to drop.
    pub leftover: Option<HomeId>,
    /// The next attempt.
    pub retried_by: Option<MoveId>,
}

impl MoveRecord {
    /// The record in `state`, with the times that follow from entering it.
    pub(super) fn entering(&self, state: MoveState, now_ms: u64) -> Self {
        let mut after = self.clone();
        let waits = |state: &MoveState| matches!(state, MoveState::Holding(_) | MoveState::Switched);
        if std::mem::discriminant(&state) != std::mem::discriminant(&self.state) {
            after.entered_ms = now_ms;
        }
        if waits(&state) && !waits(&self.state) {
            after.held_ms = Some(now_ms);
        }
        if waits(&self.state) && !waits(&state) {
            after.released_ms = Some(now_ms);
        }
        after.state = state;
        after
    }

    /// What the copy came to, with `fact` heard.
    pub(super) fn copied_with(&self, fact: &Fact, now_ms: u64) -> Option<CopyMade> {
        match (&self.state, fact) {
            (MoveState::Copying(_), Fact::Copied(report)) if report.complete => {
                Some(CopyMade { bytes: report.total_bytes, took_ms: now_ms.saturating_sub(self.entered_ms) })
            }
            _ => self.copied,
        }
    }

    /// How many requests were cut, with `fact` heard.
    pub(super) fn cut_with(&self, fact: &Fact) -> u32 {
        match fact {
            Fact::Fenced(report) => self.cut_requests.saturating_add(report.cut_requests),
            _ => self.cut_requests,
        }
    }

    /// Whether requests that are known to run at the source are to be cut when the wait for them is over, and are not yet.
    pub(super) fn may_cut(&self) -> bool {
        let MoveState::Holding(holding) = &self.state else { return false };
        let runs = holding.running.values().any(|running| *running > 0);
        runs && holding.stage == HoldingStage::Gates && !holding.cut && self.limits.long_requests.then == AfterWait::Cut
    }

    /// How long traffic was held, if it was and is no more.
    pub fn freeze_ms(&self) -> Option<u64> {
        self.held_ms.zip(self.released_ms).map(|(held, released)| released.saturating_sub(held))
    }

    /// What the next attempt is called, if one may be made: the first one's id and a number.
    pub(super) fn retry_id(&self) -> Option<MoveId> {
        let first = self.id.as_str().split('-').next()?;
        let next = MoveId::new(&format!("{first}-{}", self.attempt + 1)).ok()?;
        (self.attempt < ATTEMPTS_MAX).then_some(next)
    }

    /// Whether it is, or is being, undone to be made again.
    pub fn will_retry(&self) -> bool {
        match &self.state {
            MoveState::Undoing(undoing) => undoing.retry && self.retry_id().is_some(),
            MoveState::Undone(undone) => undone.retried_by.is_some(),
            _ => false,
        }
    }

    /// Its tenant is on its way to the target, or will be again, and counts there as one that is placed there.
    pub fn takes_place(&self) -> bool {
        match &self.state {
            MoveState::Undoing(_) => self.will_retry(),
            state => !state.is_past_commit() && !state.is_last(),
        }
    }

    /// The next attempt at an undone move, if it is to be made again; it takes the lock over.
    pub fn retry(&self, now_ms: u64) -> Option<Self> {
        let MoveState::Undone(Undone { retried_by: Some(id), .. }) = &self.state else { return None };
        let pause_ms = RETRY_FIRST_MS << (self.attempt - 1).min(ATTEMPTS_MAX);
        let target_home =
            if self.keeps_target_home { self.target_home.clone() } else { HomeId::new(id.as_str()).ok()? };
        Some(Self {
            id: id.clone(),
            epoch: placement_of(self).epoch,
            target_home,
            attempt: self.attempt + 1,
            not_before_ms: now_ms + pause_ms,
            created_ms: now_ms,
            entered_ms: now_ms,
            predicted_freeze_ms: 0,
            copied: None,
            held_ms: None,
            cut_requests: 0,
            released_ms: None,
            state: MoveState::Planned,
            ..self.clone()
        })
    }

    /// The move that takes this one back: from the target, to the source's kept home, starting where data is synced.
    ///
    /// Only `switched` and `settling` can be taken over so; `None` in any other state.
    pub fn back(&self, id: MoveId, cause: String, source_gates: BTreeSet<InstanceId>, now_ms: u64) -> Option<Self> {
        if !matches!(self.state, MoveState::Switched | MoveState::Settling) {
            return None;
        }
        Some(Self {
            id,
            tenant: self.tenant.clone(),
            source: self.target.clone(),
            target: self.source.clone(),
            epoch: self.epoch.next(),
            source_home: self.target_home.clone(),
            target_home: self.source_home.clone(),
            keeps_target_home: true,
            source_gates,
            driver: self.driver,
            cause,
            // To go back is never held up.
            limits: MoveLimits { freeze_windows: FreezeWindows::default(), ..self.limits.clone() },
            priority: Priority::High,
            freeze_now_ms: None,
            attempt: 1,
            not_before_ms: now_ms,
            created_ms: now_ms,
            entered_ms: now_ms,
            predicted_freeze_ms: 0,
            copied: None,
            held_ms: None,
            cut_requests: 0,
            released_ms: None,
            state: MoveState::Syncing(Syncing::default()),
        })
    }
}

impl MoveState {
    /// The word used in the API, the CLI and the metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Preparing => "preparing",
            Self::Copying(_) => "copying",
            Self::Syncing(_) => "syncing",
            Self::Closing(_) => "closing",
            Self::Holding(_) => "holding",
            Self::Switched => "switched",
            Self::Settling => "settling",
            Self::Cleaning(_) => "cleaning",
            Self::Done(_) => "done",
            Self::Undoing(_) => "undoing",
            Self::Undone(_) => "undone",
        }
    }

    /// Nothing will change any more.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Undone(_))
    }

    /// The target owns the tenant.
    pub fn is_past_commit(&self) -> bool {
        matches!(self, Self::Switched | Self::Settling | Self::Cleaning(_) | Self::Done(_))
    }
}

/// What the tenant's placement must be while the move is as recorded.
pub fn placement_of(record: &MoveRecord) -> Placement {
    let at_source =
        |epoch, hold| Placement { cell: record.source.clone(), epoch, home: record.source_home.clone(), hold };
    let undone = |held: bool| at_source(if held { record.epoch.next() } else { record.epoch }, None);
    match &record.state {
        MoveState::Planned
        | MoveState::Preparing
        | MoveState::Copying(_)
        | MoveState::Syncing(_)
        | MoveState::Closing(_) => at_source(record.epoch, None),
        MoveState::Holding(_) => at_source(record.epoch, Some(record.id.clone())),
        MoveState::Undoing(undoing) => undone(undoing.held),
        MoveState::Undone(end) => undone(end.held),
        MoveState::Switched | MoveState::Settling | MoveState::Cleaning(_) | MoveState::Done(_) => Placement {
            cell: record.target.clone(),
            epoch: record.epoch.next(),
            home: record.target_home.clone(),
            hold: None,
        },
    }
}

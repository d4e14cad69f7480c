//! Rules that can be switched off, one or several at a time, to prove that the model bites.

/// A rule of the move that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A fence is on disk before it is acknowledged.
    FenceIsDurable,
    /// A fence is acknowledged only when nothing admitted runs.
    AckWhenDrained,
    /// A gate opens only above its highest fence.
    OpenAboveFence,
    /// A gate opens only on a placement without a hold.
    OpenWithoutHold,
    /// A gate opens only on a placement read at or after its registration.
    ReadAfterRegistration,
    /// Every write of a move compares the move's record.
    CompareRecord,
    /// Every write of a move compares the tenant's lock.
    CompareLock,
    /// A write of a placement compares the placement.
    ComparePlacement,
    /// The commit compares the source's list of gates.
    CompareList,
    /// A position counts only for the list that it was taken under.
    PositionQuotesList,
    /// A fact quotes the move and the epoch that it is about.
    FactsQuoteMove,
    /// An undo after the hold raises the epoch.
    UndoRaisesEpoch,
    /// Hold and `holding` are written in one transaction.
    HoldInOneWrite,
    /// F1: the position is taken after all gates have drained.
    PositionAfterDrain,
    /// F3: after a crash the app is waited for.
    OrphansWaitedFor,
    /// F4a: whoever leaves has drained before it is off the list.
    LeaveDrained,
    /// F4b: whoever leaves erases its disk.
    LeaveErasesDisk,
    /// F4c: an id is never used again.
    IdsAreNew,
    /// F5: a drop names the home.
    DropNamesHome,
    /// F7: no end waits for a cell that may never answer.
    EndsByDeadline,
    /// F8: one open gate of the target is enough.
    OneOpenGate,
    /// F8, F9: a move back takes over from `switched` and `settling`.
    MoveBackTakesOver,
    /// F10: an undo before the hold leaves the placement alone.
    EarlyUndoKeepsEpoch,
    /// F11: time takes nobody off the list of gates.
    ListIgnoresTime,
    /// F12: the data fence looks at the epoch that was released.
    DataFenceHasEpoch,
    /// F12: a gate opens only on data that is released at its epoch.
    OpenNeedsRelease,
    /// F15: an id used again begins above every epoch it was served at.
    EpochsGoOn,
    /// F16: the word that an instance is dead is true.
    DeathIsTrue,
    /// F17: what a move back brings holds every write since the commit.
    BackBringsAll,
    /// F18: a cell is retired only when no placement names it.
    RetiredWhenUnused,
    /// F18: a gate compares the cell's uid, not its name.
    UidsCompared,
    /// An agent knows the newest list under which it was told to reach, for each move.
    ReachKnowsNewest,
    /// A source keeps nothing for a move that has ended.
    OffersEnd,
    /// A late `reach` is known by the epoch that it quotes.
    ReachQuotesEpoch,
}

/// Rules that are switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Broken(u64);

impl Broken {
    /// All rules are kept.
    pub const NONE: Self = Self(0);

    /// These are not kept.
    pub fn rules(rules: &[Rule]) -> Self {
        Self(rules.iter().fold(0, |bits, rule| bits | 1 << *rule as u64))
    }

    pub(crate) fn is(self, rule: Rule) -> bool {
        self.0 & 1 << rule as u64 != 0
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

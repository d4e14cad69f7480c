//! Rules that can be switched off one at a time, to prove that the checks bite.

/// A rule that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A gate acknowledges its fence while admitted requests run.
    AckBeforeDrained,
    /// After an unclean stop a gate acknowledges without waiting for what the app may still run.
    OrphansForgotten,
    /// A stop in good order wipes out the memory of the unclean one before it.
    CleanStopHidesOrphans,
    /// The fence is not on disk.
    FenceLostAtRestart,
    /// A fence is in force, and acknowledged, before the disk has it for certain.
    FenceBeforeSync,
    /// A gate opens on a placement read before its registration.
    ReadBeforeRegistration,
    /// A gate opens without the driver's release.
    OpenWithoutRelease,
    /// A fact counts whatever move and epoch it quotes.
    FactsQuoteNothing,
    /// A position counts whatever list of gates it quotes.
    PositionWithoutList,
    /// The commit does not compare the list of gates.
    CommitWithoutList,
    /// An undo compares nothing.
    BlindUndo,
    /// A drop names the tenant, not the home.
    DropByTenant,
    /// The data fence does not look at the epoch that was released.
    DataFenceWithoutEpoch,
    /// A late `reach` is taken although the home has served since: the order itself quotes no epoch.
    ReachWithoutEpoch,
    /// A late `reach` is taken although the same move has filled the home under a newer list of gates.
    ReachUnderOlderList,
    /// A router takes whatever its feed says.
    RouterTakesAnyEpoch,
    /// Nobody looks at the clock.
    NoDeadlines,
}

//! What a feed may not do to the table without an operator's word. Decisions only: no clock, no disk.
//!
//! A store that was restored from a backup, a member that lags, another cluster under the same name, a listing from
//! which most tenants are missing: a router that has routes goes on with them, and says why.

use std::fmt;

use cellway_core::ids::{ClusterId, Revision};
use serde::{Deserialize, Serialize};

/// A listing may drop this share of the tenants.
pub const MASS_DROP_PERCENT: u8 = 10;
/// A listing may drop this many tenants, whatever share they are.
pub const MASS_DROP_TENANTS: usize = 10;

/// How many tenants a listing may drop: more than both is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MassDropLimits {
    /// Their share.
    pub percent: u8,
    /// Their number.
    pub tenants: usize,
}

impl Default for MassDropLimits {
    fn default() -> Self {
        Self { percent: MASS_DROP_PERCENT, tenants: MASS_DROP_TENANTS }
    }
}

/// Why routes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Their revision is below the table's.
    LowerRevision,
    /// They are of another cluster.
    OtherCluster,
    /// They drop too many tenants.
    MassDrop,
}

/// Routes by what the guard looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Their cluster, where the feed knows it.
    pub cluster: Option<String>,
    /// Their revision.
    pub revision: u64,
    /// For the table: its tenants. For what a feed tells: how many of those it drops.
    pub tenants: usize,
}

impl Mark {
    pub(crate) fn new(cluster: Option<&ClusterId>, revision: Revision, tenants: usize) -> Self {
        Self { cluster: cluster.map(ToString::to_string), revision: revision.0, tenants }
    }
}

/// Routes that were refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// Why, each reason once, in the order of [`Reason`].
    pub reasons: Vec<Reason>,
    /// The table, which stays.
    pub table: Mark,
    /// What was told.
    pub told: Mark,
}

/// What an operator accepts: refused routes as they were shown. Good for one listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// All reasons of the refusal.
    pub reasons: Vec<Reason>,
    /// The refused routes.
    pub told: Mark,
}

/// Whether what is told may be applied. Revisions of two clusters are not compared: they mean nothing to each other.
pub fn judge(table: Mark, told: Mark, limits: MassDropLimits) -> Result<(), Refusal> {
    let other_cluster = table.cluster.is_some() && told.cluster.is_some() && table.cluster != told.cluster;
    let share_dropped = told.tenants.saturating_mul(100);
    let share_allowed = table.tenants.saturating_mul(usize::from(limits.percent));
    let checks = [
        (Reason::LowerRevision, !other_cluster && told.revision < table.revision),
        (Reason::OtherCluster, other_cluster),
        (Reason::MassDrop, told.tenants > limits.tenants && share_dropped > share_allowed),
    ];
    let reasons: Vec<Reason> = checks.into_iter().filter_map(|(reason, holds)| holds.then_some(reason)).collect();
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, table, told }) }
}

impl Word {
    /// Whether it names these refused routes.
    pub fn names(&self, refusal: &Refusal) -> bool {
        self.told == refusal.told && self.reasons == refusal.reasons
    }

    /// Whether it is good for routes that were listed again since: no reason is new, the cluster is the same, the
    /// revision is no lower still, and no more tenants are dropped.
    pub fn allows(&self, refusal: &Refusal) -> bool {
        let told = &refusal.told;
        refusal.reasons.iter().all(|reason| self.reasons.contains(reason))
            && told.cluster == self.told.cluster
            && told.revision >= self.told.revision
            && told.tenants <= self.told.tenants
    }
}

impl Reason {
    /// What it is called in metrics, and as a flag of `cellway router accept-routes` with `-` for `_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LowerRevision => "lower_revision",
            Self::OtherCluster => "other_cluster",
            Self::MassDrop => "mass_drop",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "unknown".to_owned();
        for (index, reason) in self.reasons.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "; " })?;
            match reason {
                Reason::LowerRevision => {
                    write!(f, "revision {} is below the table's {}", self.told.revision, self.table.revision)?;
                }
                Reason::OtherCluster => {
                    let told = self.told.cluster.clone().unwrap_or_else(unknown);
                    let known = self.table.cluster.clone().unwrap_or_else(unknown);
                    write!(f, "cluster {told} is not the table's {known}")?;
                }
                Reason::MassDrop => {
                    write!(f, "{} of {} tenants would be dropped", self.told.tenants, self.table.tenants)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mark(cluster: &str, revision: u64, tenants: usize) -> Mark {
        let cluster = Some(cluster).filter(|cluster| !cluster.is_empty()).map(str::to_owned);
        Mark { cluster, revision, tenants }
    }

    fn reasons(table: Mark, told: Mark) -> Vec<Reason> {
        judge(table, told, MassDropLimits::default()).err().map_or_else(Vec::new, |refusal| refusal.reasons)
    }

    #[test]
    fn a_lower_revision_is_refused() {
        assert_eq!(reasons(mark("a", 5, 0), mark("a", 4, 0)), [Reason::LowerRevision]);
        assert_eq!(reasons(mark("a", 5, 0), mark("", 4, 0)), [Reason::LowerRevision]);
        assert_eq!(reasons(mark("a", 5, 0), mark("a", 5, 0)), []);
    }

    #[test]
    fn another_cluster_is_refused_whatever_its_revision() {
        for revision in [4, 5, 6] {
            assert_eq!(reasons(mark("a", 5, 0), mark("b", revision, 0)), [Reason::OtherCluster]);
        }
        assert_eq!(reasons(mark("", 5, 0), mark("b", 6, 0)), [], "the first cluster is taken as it comes");
        assert_eq!(reasons(mark("a", 5, 0), mark("", 6, 0)), [], "a feed may not know");
    }

    #[test]
    fn a_mass_drop_is_more_than_the_share_and_more_than_the_number() {
        assert_eq!(reasons(mark("a", 5, 1_000), mark("a", 6, 101)), [Reason::MassDrop]);
        assert_eq!(reasons(mark("a", 5, 1_000), mark("a", 6, 100)), []);
        assert_eq!(reasons(mark("a", 5, 11), mark("a", 6, 11)), [Reason::MassDrop]);
        assert_eq!(reasons(mark("a", 5, 10), mark("a", 6, 10)), []);
    }

    #[test]
    fn a_word_is_good_for_what_it_was_given_for_and_for_nothing_worse() {
        let limits = MassDropLimits::default();
        let refused = |told| judge(mark("a", 50, 100), told, limits).unwrap_err();
        let shown = refused(mark("b", 20, 30));
        let word = Word { reasons: shown.reasons.clone(), told: shown.told.clone() };
        assert!(word.names(&shown) && word.allows(&shown));
        assert!(word.allows(&refused(mark("b", 21, 29))), "listed again a moment later");
        for worse in [mark("b", 19, 30), mark("b", 20, 31), mark("c", 20, 30), mark("a", 20, 30)] {
            assert!(!word.allows(&refused(worse.clone())), "{worse:?}");
        }
        let part = Word { reasons: vec![Reason::OtherCluster], ..word };
        assert!(!part.names(&shown) && !part.allows(&shown), "every reason has to be accepted");
    }
}

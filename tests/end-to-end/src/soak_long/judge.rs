//! Which failures of a round were under way while harm was done that may cost a request: those alone are excused.

use serde::Deserialize;
use std::collections::BTreeSet;

/// What was done to a part of the fleet, and when.
#[derive(Debug, Clone)]
pub struct Harm {
    /// What, and to whom.
    pub what: String,
    /// Whose requests it may cost; `None`: anybody's.
    pub excused: Option<BTreeSet<String>>,
    /// From when on, in milliseconds of Unix time.
    pub from_ms: u64,
    /// Until it was over, or a killed process and its sockets were gone, in milliseconds of Unix time.
    pub until_ms: u64,
}

/// A request that failed, as `cellway soak` reports it.
#[derive(Debug, Clone, Deserialize)]
pub struct FailedRequest {
    /// Whose.
    pub tenant: String,
    /// How.
    pub why: String,
    /// When it was sent, in milliseconds of Unix time.
    pub began_ms: u64,
    /// When it had failed, in milliseconds of Unix time.
    pub ended_ms: u64,
}

/// Whether the request was under way during a harm that may cost it.
pub fn is_excused(failed: &FailedRequest, harms: &[Harm]) -> bool {
    harms.iter().any(|harm| {
        let meant = harm.excused.as_ref().is_none_or(|tenants| tenants.contains(&failed.tenant));
        meant && failed.began_ms <= harm.until_ms && failed.ended_ms >= harm.from_ms
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_under_way_at_who_was_harmed_is_excused() {
        let failed = |tenant: &str, began_ms, ended_ms| FailedRequest {
            tenant: tenant.to_owned(),
            why: "status 502".to_owned(),
            began_ms,
            ended_ms,
        };
        let of_acme = Harm {
            what: "kill Agent".to_owned(),
            excused: Some(BTreeSet::from(["acme".to_owned()])),
            from_ms: 1_000,
            until_ms: 1_020,
        };
        let of_all = Harm { excused: None, from_ms: 5_000, until_ms: 5_010, ..of_acme.clone() };
        let harms = [of_acme, of_all];
        assert!(is_excused(&failed("acme", 900, 1_000), &harms));
        assert!(is_excused(&failed("acme", 1_020, 1_500), &harms));
        assert!(!is_excused(&failed("acme", 900, 999), &harms), "it had failed before");
        assert!(!is_excused(&failed("acme", 1_021, 1_500), &harms), "it began afterwards");
        assert!(!is_excused(&failed("globex", 900, 1_100), &harms), "it was elsewhere");
        assert!(is_excused(&failed("globex", 5_005, 5_006), &harms));
        assert!(!is_excused(&failed("globex", 900, 1_100), &[]));
    }
}

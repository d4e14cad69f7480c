//! Which failures of a round were in flight at a process that was killed: those alone are excused.

use serde::Deserialize;
use std::collections::BTreeSet;

/// A process that was killed, and when.
#[derive(Debug, Clone)]
pub struct Kill {
    /// What it is called.
    pub process: String,
    /// Whose requests it may have had; `None`: anybody's.
    pub tenants: Option<BTreeSet<String>>,
    /// From the signal on, in milliseconds of Unix time.
    pub from_ms: u64,
    /// Until the process and its sockets were gone, in milliseconds of Unix time.
    pub gone_ms: u64,
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

/// Whether the request was under way while a process died that it may have been at.
pub fn was_in_flight(failed: &FailedRequest, kills: &[Kill]) -> bool {
    kills.iter().any(|kill| {
        let served = kill.tenants.as_ref().is_none_or(|tenants| tenants.contains(&failed.tenant));
        served && failed.began_ms <= kill.gone_ms && failed.ended_ms >= kill.from_ms
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_under_way_at_the_killed_process_is_excused() {
        let failed = |tenant: &str, began_ms, ended_ms| FailedRequest {
            tenant: tenant.to_owned(),
            why: "status 502".to_owned(),
            began_ms,
            ended_ms,
        };
        let of_acme = Kill {
            process: "agent-cell-a".to_owned(),
            tenants: Some(BTreeSet::from(["acme".to_owned()])),
            from_ms: 1_000,
            gone_ms: 1_020,
        };
        let of_all = Kill { tenants: None, from_ms: 5_000, gone_ms: 5_010, ..of_acme.clone() };
        let kills = [of_acme, of_all];
        assert!(was_in_flight(&failed("acme", 900, 1_000), &kills));
        assert!(was_in_flight(&failed("acme", 1_020, 1_500), &kills));
        assert!(!was_in_flight(&failed("acme", 900, 999), &kills), "it had failed before");
        assert!(!was_in_flight(&failed("acme", 1_021, 1_500), &kills), "it began afterwards");
        assert!(!was_in_flight(&failed("globex", 900, 1_100), &kills), "it was elsewhere");
        assert!(was_in_flight(&failed("globex", 5_005, 5_006), &kills));
        assert!(!was_in_flight(&failed("globex", 900, 1_100), &[]));
    }
}

//! Which failures of a round were in flight at who was harmed in a way that may cost a request: those alone are excused.

use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Which requests a harm may cost.
#[derive(Debug, Clone)]
pub enum Excused {
    /// Those of these tenants that are under way meanwhile; `None`: of all.
    UnderWay(Option<BTreeSet<String>>),
    /// Those on a connection that the router's process at this address held, whoever sends them, and when: a client
    /// may send on a connection before it hears that its other end is gone.
    OnConnectionTo(SocketAddr),
}

/// What was done to a part of the fleet, and when.
#[derive(Debug, Clone)]
pub struct Harm {
    /// What, and to whom.
    pub what: String,
    /// What it may cost.
    pub excused: Excused,
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
    /// The router that ended the connection instead of answering, if that is how it failed.
    pub router: Option<SocketAddr>,
    /// When that connection was asked for, in milliseconds of Unix time.
    pub opened_ms: Option<u64>,
}

/// Whether the request was in flight at who was harmed in a way that may cost it.
pub fn is_excused(failed: &FailedRequest, harms: &[Harm]) -> bool {
    harms.iter().filter(|harm| failed.ended_ms >= harm.from_ms).any(|harm| match &harm.excused {
        Excused::UnderWay(whose) => {
            failed.began_ms <= harm.until_ms && whose.as_ref().is_none_or(|tenants| tenants.contains(&failed.tenant))
        }
        Excused::OnConnectionTo(router) => {
            failed.router == Some(*router) && failed.opened_ms.is_some_and(|opened_ms| opened_ms <= harm.until_ms)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harm(excused: Excused) -> Harm {
        Harm { what: "kill".to_owned(), excused, from_ms: 1_000, until_ms: 1_020 }
    }

    fn failed(tenant: &str, began_ms: u64, ended_ms: u64) -> FailedRequest {
        let (tenant, why) = (tenant.to_owned(), "status 502".to_owned());
        FailedRequest { tenant, why, began_ms, ended_ms, router: None, opened_ms: None }
    }

    #[test]
    fn only_what_was_under_way_at_who_was_harmed_is_excused() {
        let of_acme = [harm(Excused::UnderWay(Some(BTreeSet::from(["acme".to_owned()]))))];
        assert!(is_excused(&failed("acme", 900, 1_000), &of_acme));
        assert!(is_excused(&failed("acme", 1_020, 1_500), &of_acme));
        assert!(!is_excused(&failed("acme", 900, 999), &of_acme), "it had failed before");
        assert!(!is_excused(&failed("acme", 1_021, 1_500), &of_acme), "it began afterwards");
        assert!(!is_excused(&failed("globex", 900, 1_100), &of_acme), "it was elsewhere");
        assert!(is_excused(&failed("globex", 1_005, 1_006), &[harm(Excused::UnderWay(None))]));
        assert!(!is_excused(&failed("globex", 900, 1_100), &[]));
    }

    #[test]
    fn a_killed_router_excuses_what_was_sent_on_its_connections_and_nothing_else() {
        let killed: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
        let other: SocketAddr = "127.0.0.1:8081".parse().expect("an address");
        let harms = [harm(Excused::OnConnectionTo(killed))];
        let on = |router, opened_ms, ended_ms| FailedRequest {
            router: Some(router),
            opened_ms: Some(opened_ms),
            ..failed("acme", ended_ms - 1, ended_ms)
        };
        assert!(is_excused(&on(killed, 10, 1_000), &harms));
        assert!(is_excused(&on(killed, 10, 1_022), &harms), "the client had not heard of it");
        assert!(!is_excused(&on(killed, 10, 999), &harms), "it had failed before");
        assert!(!is_excused(&on(killed, 1_021, 1_030), &harms), "the next process took that connection");
        assert!(!is_excused(&on(other, 10, 1_005), &harms), "it was at the other router");
        assert!(!is_excused(&failed("acme", 900, 1_010), &harms), "it was answered");
    }
}

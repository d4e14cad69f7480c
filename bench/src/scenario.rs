//! What is asked of everybody.

/// How a scenario's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// HTTP/1.1 in clear.
    Http1,
    /// HTTP/1.1 over TLS.
    TlsHttp1,
    /// HTTP/2 over TLS.
    TlsHttp2,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// An answer of 1 KiB.
    Small,
    /// An answer of 100 KiB.
    Large,
    /// Takes a body of 16 KiB, and answers with two bytes.
    Post,
}

/// What is between the clients and the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hops {
    /// A proxy.
    One,
    /// A proxy, and another one in the cell: our router and a gate, or two of the peer.
    Two,
    /// The same, which show each other certificates.
    TwoWithTls,
}

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As much as is answered.
    Full,
    /// Of everybody the same: a part of what the slowest answers at full pace.
    Steady,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// Its name.
    pub(crate) name: &'static str,
    /// How its clients speak.
    pub(crate) speech: Speech,
    /// What they ask for.
    pub(crate) ask: Ask,
    /// Whether each request comes on a connection of its own.
    pub(crate) reconnects: bool,
    /// Tenants that the proxy knows.
    pub(crate) tenants: usize,
    /// Of these, the ones that are asked, in turn.
    pub(crate) asked: usize,
    /// What is between them and the app.
    pub(crate) hops: Hops,
    /// How much they ask.
    pub(crate) pace: Pace,
}

/// A table as most have it.
pub(crate) const FEW: usize = 1_000;
/// A large one.
pub(crate) const MANY: usize = 1_000_000;
/// Of a fleet, whose tenants are created one by one.
const OF_A_FLEET: usize = 100;
/// More than any processor's caches hold of a large table.
pub(crate) const ASKED_MAX: usize = 20_000;

const KEPT: Scenario = Scenario {
    name: "h1",
    speech: Speech::Http1,
    ask: Ask::Small,
    reconnects: false,
    tenants: FEW,
    asked: FEW,
    hops: Hops::One,
    pace: Pace::Full,
};
const TWO: Scenario = Scenario { name: "two_hop", tenants: OF_A_FLEET, asked: OF_A_FLEET, hops: Hops::Two, ..KEPT };
const TWO_TLS: Scenario = Scenario { name: "two_hop_tls", hops: Hops::TwoWithTls, ..TWO };

/// All of them, those for which the same targets are started next to each other.
pub(crate) const SCENARIOS: [Scenario; 15] = [
    KEPT,
    Scenario { name: "h1_steady", pace: Pace::Steady, ..KEPT },
    Scenario { name: "tls_h1", speech: Speech::TlsHttp1, ..KEPT },
    Scenario { name: "tls_h2", speech: Speech::TlsHttp2, ..KEPT },
    Scenario { name: "tls_h1_steady", speech: Speech::TlsHttp1, pace: Pace::Steady, ..KEPT },
    Scenario { name: "tls_h2_steady", speech: Speech::TlsHttp2, pace: Pace::Steady, ..KEPT },
    Scenario { name: "conn", reconnects: true, ..KEPT },
    Scenario { name: "body_100k", ask: Ask::Large, ..KEPT },
    Scenario { name: "post_16k", ask: Ask::Post, ..KEPT },
    Scenario { name: "h1_1m", tenants: MANY, asked: ASKED_MAX, ..KEPT },
    Scenario { name: "h1_1m_few", tenants: MANY, ..KEPT },
    TWO,
    Scenario { name: "two_hop_steady", pace: Pace::Steady, ..TWO },
    TWO_TLS,
    Scenario { name: "two_hop_tls_steady", pace: Pace::Steady, ..TWO_TLS },
];

/// The base domain of all tenants.
pub(crate) const BASE_DOMAIN: &str = "bench.localhost";

/// The host of a tenant.
pub(crate) fn host(tenant: usize) -> String {
    format!("t{tenant}.{BASE_DOMAIN}")
}

/// Hosts that may be asked for, spread over the table.
pub(crate) fn asked_hosts(tenants: usize) -> impl Iterator<Item = usize> {
    /// A prime that divides neither table, so that neighbours are not asked for one after the other.
    const STRIDE: usize = 7_919;
    (0..tenants.min(ASKED_MAX)).map(move |n| n * STRIDE % tenants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_asked_host_is_another_one() {
        for tenants in [FEW, MANY, OF_A_FLEET] {
            let mut asked: Vec<usize> = asked_hosts(tenants).collect();
            let all = asked.len();
            asked.sort_unstable();
            asked.dedup();
            assert_eq!(asked.len(), all);
            assert!(asked.iter().all(|tenant| *tenant < tenants));
        }
    }
}

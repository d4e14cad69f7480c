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
}

/// A table as most have it.
pub(crate) const FEW: usize = 1_000;
/// A large one.
pub(crate) const MANY: usize = 1_000_000;

const KEPT: Scenario = Scenario { name: "h1", speech: Speech::Http1, ask: Ask::Small, reconnects: false, tenants: FEW };

/// All of them, those of one table next to each other.
pub(crate) const SCENARIOS: [Scenario; 7] = [
    KEPT,
    Scenario { name: "tls_h1", speech: Speech::TlsHttp1, ..KEPT },
    Scenario { name: "tls_h2", speech: Speech::TlsHttp2, ..KEPT },
    Scenario { name: "conn", reconnects: true, ..KEPT },
    Scenario { name: "body_100k", ask: Ask::Large, ..KEPT },
    Scenario { name: "post_16k", ask: Ask::Post, ..KEPT },
    Scenario { name: "h1_1m", tenants: MANY, ..KEPT },
];

/// The base domain of all tenants.
pub(crate) const BASE_DOMAIN: &str = "bench.localhost";

/// The host of a tenant.
pub(crate) fn host(tenant: usize) -> String {
    format!("t{tenant}.{BASE_DOMAIN}")
}

/// Hosts that are asked for, spread over the table.
pub(crate) fn asked_hosts(tenants: usize) -> impl Iterator<Item = usize> {
    /// More than any processor's caches hold of a large table.
    const ASKED_MAX: usize = 20_000;
    /// A prime that divides neither table, so that neighbours are not asked for one after the other.
    const STRIDE: usize = 7_919;
    (0..tenants.min(ASKED_MAX)).map(move |n| n * STRIDE % tenants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_asked_host_is_another_one() {
        for tenants in [FEW, MANY] {
            let mut asked: Vec<usize> = asked_hosts(tenants).collect();
            let all = asked.len();
            asked.sort_unstable();
            asked.dedup();
            assert_eq!(asked.len(), all);
            assert!(asked.iter().all(|tenant| *tenant < tenants));
        }
    }
}

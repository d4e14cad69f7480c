//! Certificates that the store keeps for all routers, as the API takes and shows them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Keep a certificate. Both texts are PEM; the key is sealed before it is stored, and never answered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetCertificate {
    /// The chain, the end's own certificate first.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl fmt::Debug for SetCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A certificate that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// What it is kept under: a host, or a wildcard as in `*.cells.example`.
    pub name: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub ends_at_s: i64,
    /// The SHA-256 of the end's own certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// The id of the secret that its key is sealed with.
    pub sealed_with: String,
    /// The revision that wrote it.
    pub revision: u64,
}

/// What came of sealing again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedAgain {
    /// The id of the secret that seals now.
    pub sealed_with: String,
    /// How many were sealed anew.
    pub sealed: usize,
    /// How many are left for the next call.
    pub left: usize,
    /// Those that cannot be opened, and why.
    pub refused: Vec<RefusedCertificate>,
}

/// A certificate that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCertificate {
    /// What it is kept under.
    pub name: String,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_no_debug_text() {
        let set = SetCertificate { certificate: "chain".into(), key: "the key itself".into() };
        assert!(!format!("{set:?}").contains("the key itself"));
    }
}

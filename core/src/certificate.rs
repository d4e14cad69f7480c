//! Certificates that are kept for the whole fleet: what they are called, and their sealed form.

use crate::hostname::{Hostname, InvalidHostname};
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The longest chain: certificates of the largest kinds, several of them between an end and its CA.
pub const CHAIN_MAX_BYTES: usize = 48 * 1024;

/// The most certificates of a chain.
pub const CHAIN_MAX_CERTIFICATES: usize = 10;

/// The largest private key: one of RSA with 16,384 bits has 9 KiB.
pub const KEY_MAX_BYTES: usize = 16 * 1024;

/// In keys and paths, what stands for the `*.` of a wildcard.
const WILDCARD_KEY: &str = "_.";

/// What a certificate is kept under: a host, or a wildcard with everything one label below a host.
///
/// People read and write `*.cells.example`; in keys and paths it is `_.cells.example`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateName(Box<str>);

impl CertificateName {
    /// The name that a person writes, in either form.
    pub fn from_text(text: &str) -> Result<Self, InvalidHostname> {
        match text.strip_prefix("*.").or_else(|| text.strip_prefix(WILDCARD_KEY)) {
            Some(parent) => Ok(Self(format!("{WILDCARD_KEY}{}", Hostname::from_text(parent)?).into_boxed_str())),
            None => Ok(Self(Hostname::from_text(text)?.as_str().into())),
        }
    }

    /// The name that is stored under `key`; `None` if nothing is stored under such a key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::from_text(key).ok().filter(|name| name.as_key() == key)
    }

    /// The form for keys and paths.
    pub fn as_key(&self) -> &str {
        &self.0
    }

    /// Whether a certificate with these names (in lower case) may be kept under this one.
    pub fn is_covered_by<N: AsRef<str>>(&self, names: &[N]) -> bool {
        let host = self.0.strip_prefix(WILDCARD_KEY);
        let parent = self.0.split_once('.').map(|(_, parent)| parent);
        names.iter().any(|name| match (name.as_ref().strip_prefix("*."), host) {
            (Some(below), Some(host)) => below == host,
            (Some(below), None) => Some(below) == parent,
            (None, None) => name.as_ref() == &*self.0,
            (None, Some(_)) => false,
        })
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.strip_prefix(WILDCARD_KEY) {
            Some(host) => write!(f, "*.{host}"),
            None => f.write_str(&self.0),
        }
    }
}

impl Borrow<str> for CertificateName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Which secret sealed a key. It follows from the secret, and tells nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId(pub [u8; 8]);

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text is no id of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a secret has 16 hexadecimal digits")]
pub struct InvalidSecretId;

impl FromStr for SecretId {
    type Err = InvalidSecretId;

    fn from_str(text: &str) -> Result<Self, InvalidSecretId> {
        let right = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| right);
        number.map(|number| Self(number.to_be_bytes())).ok_or(InvalidSecretId)
    }
}

/// A certificate whose private key only those can read who have the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedCertificate {
    /// The chain in DER form, the end's own certificate first.
    pub chain: Box<[Box<[u8]>]>,
    /// Which secret sealed the key.
    pub sealed_with: SecretId,
    /// The key.
    pub sealed_key: Box<[u8]>,
}

/// Why something is no sealed certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSealed {
    /// No certificate, too many, or too large ones.
    #[error("a chain has 1 to {CHAIN_MAX_CERTIFICATES} certificates with at most {CHAIN_MAX_BYTES} bytes")]
    Chain,
    /// No key, or too large a one.
    #[error("a private key has 1 to {KEY_MAX_BYTES} bytes")]
    Key,
}

impl SealedCertificate {
    /// Checks the bounds. Whether it can be used is for those to say who have the secret.
    pub fn check(&self) -> Result<(), BadSealed> {
        let chain_bytes: usize = self.chain.iter().map(|certificate| certificate.len()).sum();
        if !(1..=CHAIN_MAX_CERTIFICATES).contains(&self.chain.len()) || !(1..=CHAIN_MAX_BYTES).contains(&chain_bytes) {
            return Err(BadSealed::Chain);
        }
        // Sealing adds a few dozen bytes.
        if !(1..=2 * KEY_MAX_BYTES).contains(&self.sealed_key.len()) {
            return Err(BadSealed::Key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CertificateName {
        CertificateName::from_text(text).expect("a name")
    }

    #[test]
    fn a_name_has_one_key_and_one_form_for_people() {
        for (text, key, shown) in [
            ("Shop.Example.", "shop.example", "shop.example"),
            ("*.cells.example", "_.cells.example", "*.cells.example"),
            ("_.cells.example", "_.cells.example", "*.cells.example"),
        ] {
            assert_eq!((name(text).as_key(), name(text).to_string().as_str()), (key, shown));
            assert_eq!(CertificateName::from_key(key), Some(name(text)));
        }
        for bad in ["", "*", "*.", "a.*.example", "127.0.0.1", "a/b", "../a", "*.*.example"] {
            assert!(CertificateName::from_text(bad).is_err(), "{bad}");
        }
        for key in ["Shop.example", "*.cells.example", "shop.example."] {
            assert_eq!(CertificateName::from_key(key), None, "{key}");
        }
    }

    #[test]
    fn a_wildcard_is_covered_by_itself_alone_and_a_host_by_the_wildcard_above() {
        assert!(name("a.example").is_covered_by(&["a.example"]));
        assert!(name("a.example").is_covered_by(&["b.example", "*.example"]));
        assert!(name("*.example").is_covered_by(&["*.example"]));
        for (wanted, names) in [("*.example", "a.example"), ("a.b.example", "*.example"), ("example", "*.example")] {
            assert!(!name(wanted).is_covered_by(&[names]), "{wanted} by {names}");
        }
    }

    #[test]
    fn an_id_of_a_secret_is_read_back() {
        let id = SecretId([0, 1, 2, 0xab, 4, 5, 6, 0xff]);
        assert_eq!(id.to_string(), "000102ab040506ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "0", "+00102ab040506ff", "000102ab040506fg", "000102ab040506ff0"] {
            assert_eq!(bad.parse::<SecretId>(), Err(InvalidSecretId), "{bad}");
        }
    }
}

//! Private keys under a seal: whoever can read the store, but does not have the secret, learns nothing of them and can
//! put no key in the place of another.
//!
//! A key is sealed with AES-256-GCM-SIV of the library that TLS is made of, whose nonces may repeat without harm. Its
//! name in the store and the fingerprint of its certificate are bound to it, so that a record that was renamed, or whose
//! certificate was replaced, cannot be opened.

use crate::certificate::{self, BadCertificate, Certificate, CertificateError};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{digest, hkdf, rand};
pub use cellway_core::certificate::{CertificateName, SealedCertificate, SecretId};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;

/// What the secret's key is derived for. Another number would be another way of sealing.
const PURPOSE: &[u8] = b"cellway certificate keys 1";

const KEY_BYTES: usize = 32;

/// Where the secrets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFiles {
    /// The one that seals.
    pub secret: PathBuf,
    /// The one before it: what it sealed can still be opened.
    pub previous: Option<PathBuf>,
}

/// The secrets: the first seals, both open.
#[derive(Debug)]
pub struct SealingSecrets {
    current: SealingSecret,
    previous: Option<SealingSecret>,
}

/// One secret.
struct SealingSecret {
    id: SecretId,
    key: LessSafeKey,
}

impl std::fmt::Debug for SealingSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealingSecret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why there are no secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A file.
    #[error(transparent)]
    File(#[from] CertificateError),
    /// The cryptography.
    #[error("no key can be derived from the secret")]
    NoKey,
}

/// Why a sealed certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadSeal {
    /// It was sealed with a secret that is not here.
    #[error(
        "its key was sealed with the secret {0}, which is not here: give this process the same secret as the control \
         plane, and during a change of it the previous one too"
    )]
    OtherSecret(SecretId),
    /// It was changed since, or belongs to another name or certificate.
    #[error("its sealed key is damaged, or was sealed for another name or certificate")]
    Broken,
    /// The certificate is for other hosts.
    #[error("it is for {names}, not for {wanted}")]
    Misnamed {
        /// Its names.
        names: String,
        /// Under which it is kept.
        wanted: CertificateName,
    },
    /// What is under the seal is not a key of this certificate.
    #[error(transparent)]
    Bad(#[from] BadCertificate),
}

/// How many bytes are to be derived.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl SealingSecret {
    fn derive(secret: &[u8]) -> Result<Self, Unspecified> {
        let source = hkdf::Salt::new(hkdf::HKDF_SHA256, PURPOSE).extract(secret);
        let mut id = SecretId([0; 8]);
        let mut key = [0; KEY_BYTES];
        source.expand(&[b"id"], Length(id.0.len()))?.fill(&mut id.0)?;
        source.expand(&[b"key"], Length(key.len()))?.fill(&mut key)?;
        Ok(Self { id, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &key)?) })
    }

    /// What is bound to a sealed key. The name has a fixed place, so that no two records bind the same bytes.
    fn binding(&self, name: &CertificateName, end: &[u8]) -> Aad<Vec<u8>> {
        let fingerprint = digest::digest(&digest::SHA256, end);
        Aad::from([&self.id.0[..], fingerprint.as_ref(), name.as_key().as_bytes()].concat())
    }

    fn seal(&self, name: &CertificateName, end: &[u8], key: &[u8]) -> Result<Box<[u8]>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let mut sealed = key.to_vec();
        let binding = self.binding(name, end);
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), binding, &mut sealed)?;
        Ok([&nonce[..], &sealed].concat().into())
    }

    fn open(&self, name: &CertificateName, end: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut key = sealed.to_vec();
        let length = self.key.open_in_place(nonce, self.binding(name, end), &mut key).ok()?.len();
        key.truncate(length);
        Some(key)
    }
}

impl SealingSecrets {
    /// Reads them.
    pub fn from_files(files: &SecretFiles) -> Result<Self, SecretError> {
        let current = certificate::read_secret(&files.secret)?;
        let previous = files.previous.as_deref().map(certificate::read_secret).transpose()?;
        Self::new(&current, previous.as_deref())
    }

    /// Secrets that are at hand.
    pub fn new(current: &[u8], previous: Option<&[u8]>) -> Result<Self, SecretError> {
        let derive = |secret| SealingSecret::derive(secret).map_err(|_| SecretError::NoKey);
        Ok(Self { current: derive(current)?, previous: previous.map(derive).transpose()? })
    }

    /// The secret that seals.
    pub fn current(&self) -> SecretId {
        self.current.id
    }

    /// Seals the key of a certificate that is kept under `name`. Whether the two belong together was checked before.
    pub fn seal(
        &self,
        name: &CertificateName,
        chain: &[CertificateDer<'_>],
        key: &PrivateKeyDer<'_>,
    ) -> Result<SealedCertificate, SecretError> {
        let end = chain.first().map_or(&[][..], |end| end.as_ref());
        let sealed_key = self.current.seal(name, end, key.secret_der()).map_err(|_| SecretError::NoKey)?;
        let chain = chain.iter().map(|certificate| certificate.as_ref().into()).collect();
        Ok(SealedCertificate { chain, sealed_with: self.current.id, sealed_key })
    }

    /// The certificate with its key, checked to belong together and to be for `name`.
    pub fn open(&self, name: &CertificateName, sealed: &SealedCertificate) -> Result<Certificate, BadSeal> {
        let key = self.open_key(name, sealed)?;
        let chain = sealed.chain.iter().map(|one| CertificateDer::from(one.to_vec())).collect();
        let certificate = Certificate::from_der(chain, key)?;
        let names = &certificate.facts.names;
        if !name.is_covered_by(names) {
            return Err(BadSeal::Misnamed { names: names.join(", "), wanted: name.clone() });
        }
        Ok(certificate)
    }

    /// The same certificate, sealed with the secret that seals now.
    pub fn seal_again(&self, name: &CertificateName, sealed: &SealedCertificate) -> Result<SealedCertificate, BadSeal> {
        let key = self.open_key(name, sealed)?;
        let end = sealed.chain.first().map_or(&[][..], |end| end);
        let sealed_key = self.current.seal(name, end, key.secret_der()).map_err(|_| BadSeal::Broken)?;
        Ok(SealedCertificate { chain: sealed.chain.clone(), sealed_with: self.current.id, sealed_key })
    }

    fn open_key(&self, name: &CertificateName, sealed: &SealedCertificate) -> Result<PrivateKeyDer<'static>, BadSeal> {
        let mut secrets = std::iter::once(&self.current).chain(&self.previous);
        let secret = secrets.find(|secret| secret.id == sealed.sealed_with);
        let secret = secret.ok_or(BadSeal::OtherSecret(sealed.sealed_with))?;
        let end = sealed.chain.first().ok_or(BadCertificate::NoCertificate)?;
        let key = secret.open(name, end, &sealed.sealed_key).ok_or(BadSeal::Broken)?;
        Ok(PrivateKeyDer::try_from(key).map_err(|_| BadCertificate::NoKey)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn name(text: &str) -> CertificateName {
        CertificateName::from_text(text).expect("a name")
    }

    fn secrets(current: u8, previous: Option<u8>) -> SealingSecrets {
        let previous = previous.map(|byte| [byte; 32]);
        SealingSecrets::new(&[current; 32], previous.as_ref().map(|bytes| &bytes[..])).expect("secrets")
    }

    fn pair(names: &[&str]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names).expect("names").self_signed(&key).expect("a certificate");
        (vec![certificate.der().clone()], certificate::key_in(key.serialize_pem().as_bytes()).expect("a key"))
    }

    fn sealed(secrets: &SealingSecrets, under: &str) -> SealedCertificate {
        let (chain, key) = pair(&["a.example", "b.example"]);
        let sealed = secrets.seal(&name(under), &chain, &key).expect("sealed");
        let plain = key.secret_der();
        assert!(!sealed.sealed_key.windows(16).any(|part| plain.windows(16).any(|plain| part == plain)), "in clear");
        sealed
    }

    #[test]
    fn who_has_the_secret_opens_what_was_sealed_and_nobody_else() {
        let ours = secrets(1, None);
        let sealed = sealed(&ours, "a.example");
        let opened = ours.open(&name("a.example"), &sealed).expect("opened");
        assert_eq!(opened.facts.names.join(" "), "a.example b.example");
        let other = secrets(2, None).open(&name("a.example"), &sealed);
        assert!(matches!(other, Err(BadSeal::OtherSecret(id)) if id == ours.current()));
        // A secret that only claims the right id.
        let mut forged = secrets(2, None);
        forged.current.id = ours.current();
        assert!(matches!(forged.open(&name("a.example"), &sealed), Err(BadSeal::Broken)));
        assert!(!format!("{ours:?} {sealed:?}").contains("key: LessSafeKey"));
    }

    #[test]
    fn a_record_that_was_renamed_changed_or_mixed_is_not_opened() {
        let secrets = secrets(1, None);
        let (one, other) = (sealed(&secrets, "a.example"), sealed(&secrets, "a.example"));
        let broken = |sealed: &SealedCertificate, under: &str| {
            matches!(secrets.open(&name(under), sealed), Err(BadSeal::Broken))
        };
        assert!(broken(&one, "b.example"), "under another of its names");
        assert!(broken(&SealedCertificate { chain: other.chain.clone(), ..one.clone() }, "a.example"));
        assert!(broken(&SealedCertificate { sealed_key: other.sealed_key, ..one.clone() }, "a.example"));
        for index in 0..one.sealed_key.len() {
            let mut changed = one.clone();
            changed.sealed_key[index] ^= 1;
            assert!(broken(&changed, "a.example"), "byte {index}");
            changed.sealed_key = one.sealed_key[..index].into();
            assert!(broken(&changed, "a.example"), "cut at {index}");
        }
    }

    #[test]
    fn the_previous_secret_still_opens_until_it_is_taken_away() {
        let old = sealed(&secrets(1, None), "a.example");
        let changing = secrets(2, Some(1));
        changing.open(&name("a.example"), &old).expect("opened");
        let new = changing.seal_again(&name("a.example"), &old).expect("sealed again");
        assert_eq!((new.sealed_with, &new.chain), (changing.current(), &old.chain));
        secrets(2, None).open(&name("a.example"), &new).expect("opened");
        assert!(secrets(2, None).open(&name("a.example"), &old).is_err());
    }

    #[test]
    fn a_certificate_for_other_hosts_is_not_opened() {
        let secrets = secrets(1, None);
        let wrong = secrets.open(&name("c.example"), &sealed(&secrets, "c.example"));
        assert!(wrong.expect_err("refused").to_string().contains("not for c.example"));
    }
}

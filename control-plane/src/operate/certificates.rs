//! Certificates of the store: checked and sealed here, opened by routers.

use super::{Attempt, NotDone, audited};
use crate::Replica;
use crate::view::{At, View};
use cellway_api::certificate::{self, Certificate, CertificateFacts};
use cellway_api::certificates::{CertificateView, RefusedCertificate, SealedAgain, SetCertificate};
use cellway_api::sealing::SealingSecrets;
use cellway_core::certificate::{CertificateName, KEY_MAX_BYTES, SealedCertificate, SecretId};
use cellway_store::records::{BadRecord, Record, Unknown};
use cellway_store::{StoreError, Txn, keys};
use std::error::Error;

/// How many keys one call seals anew: it is answered well within its caller's patience.
const SEALED_PER_CALL_MAX: usize = 1_000;

/// What a replica keeps in mind of a certificate: what it says of itself, and none of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptCertificate {
    pub(crate) facts: CertificateFacts,
    pub(crate) fingerprint: String,
    pub(crate) sealed_with: SecretId,
}

impl KeptCertificate {
    /// Of a stored record.
    pub(crate) fn read(record: &[u8]) -> Result<Self, BadRecord> {
        Self::of(&SealedCertificate::decode(record)?)
            .map_err(|error| BadRecord::Value { what: "certificate", why: error.to_string() })
    }

    fn of(sealed: &SealedCertificate) -> Result<Self, certificate::BadCertificate> {
        let end = sealed.chain.first().map_or(&[][..], |end| end);
        let (facts, fingerprint) = (CertificateFacts::of(end)?, certificate::fingerprint(end));
        Ok(Self { facts, fingerprint, sealed_with: sealed.sealed_with })
    }
}

/// A certificate as the API shows it.
pub(crate) fn certificate_view(name: &CertificateName, at: &At<KeptCertificate>) -> CertificateView {
    let KeptCertificate { facts, fingerprint, sealed_with } = &at.value;
    CertificateView {
        name: name.to_string(),
        names: facts.names.iter().map(ToString::to_string).collect(),
        ends_at_s: facts.not_after_s,
        fingerprint: fingerprint.clone(),
        sealed_with: sealed_with.to_string(),
        revision: at.revision.0,
    }
}

fn name_of(text: &str) -> Result<CertificateName, NotDone> {
    CertificateName::from_text(text).map_err(|error| {
        NotDone::Invalid(format!("{text:?} is neither a host nor a wildcard such as *.cells.example: {error}"))
    })
}

/// Checks everything that can be wrong with what an operator hands in, and seals it.
fn sealed(
    secrets: &SealingSecrets,
    name: &CertificateName,
    set: &SetCertificate,
    now_s: i64,
) -> Result<SealedCertificate, NotDone> {
    let invalid = |error: &dyn Error| {
        let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
        NotDone::Invalid(format!("{error}{source}"))
    };
    let chain = certificate::chain_in(set.certificate.as_bytes()).map_err(|error| invalid(&error))?;
    let key = certificate::key_in(set.key.as_bytes()).map_err(|error| invalid(&error))?;
    if key.secret_der().len() > KEY_MAX_BYTES {
        return Err(NotDone::Invalid(format!("the private key has more than {KEY_MAX_BYTES} bytes")));
    }
    let checked = Certificate::from_der(chain.clone(), key.clone_key()).map_err(|error| invalid(&error))?;
    let facts = &checked.facts;
    if !name.is_covered_by(&facts.names) {
        let names = if facts.names.is_empty() { "no host".to_owned() } else { facts.names.join(", ") };
        return Err(NotDone::Invalid(format!(
            "the certificate is for {names}, not for {name}: no browser would take it"
        )));
    }
    if facts.seconds_until_expiry(now_s) <= 0 {
        return Err(NotDone::Invalid(format!("the certificate ended at {}", certificate::date(facts.not_after_s))));
    }
    if facts.not_before_s > now_s {
        let begins = certificate::date(facts.not_before_s);
        return Err(NotDone::Invalid(format!("the certificate is not good before {begins}: set it then")));
    }
    let sealed = secrets.seal(name, &chain, &key).map_err(|error| invalid(&error))?;
    sealed.check().map_err(|error| invalid(&error))?;
    Ok(sealed)
}

impl Replica {
    /// The secrets as they are in their files now: sealing is seldom, and a new secret needs no restart.
    async fn sealing_secrets(&self) -> Result<SealingSecrets, NotDone> {
        let files = self.config.certificate_secrets.clone().ok_or_else(|| {
            NotDone::Conflict(
                "this control plane has no secret to seal keys with: name one in its file (`certificates: secret:`), \
                 and the same in the routers' (`tls: stored:`)"
                    .into(),
            )
        })?;
        let read = tokio::task::spawn_blocking(move || SealingSecrets::from_files(&files)).await;
        let problem = match read {
            Ok(Ok(secrets)) => return Ok(secrets),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(problem, "the secret of certificates cannot be used");
        Err(NotDone::Conflict(format!("the control plane's secret of certificates cannot be used: {problem}")))
    }

    /// Keeps a certificate under a name, in the place of the one before.
    pub(crate) async fn set_certificate(&self, name: &str, set: SetCertificate) -> Result<CertificateView, NotDone> {
        let name = name_of(name)?;
        let secrets = self.sealing_secrets().await?;
        let sealed = sealed(&secrets, &name, &set, certificate::now_s())?;
        let kept = KeptCertificate::of(&sealed).map_err(|error| NotDone::Invalid(error.to_string()))?;
        let what = format!("{}, ends at {}", kept.fingerprint, certificate::date(kept.facts.not_after_s));
        let ((), revision) = self.act(|view| attempt_put(view, &name, &sealed, &what)).await?;
        tracing::info!(%name, fingerprint = kept.fingerprint, sealed_with = %kept.sealed_with, "certificate set");
        Ok(certificate_view(&name, &At { value: kept, revision, unknown: Unknown::default() }))
    }

    /// Removes a certificate.
    pub(crate) async fn remove_certificate(&self, name: &str) -> Result<CertificateView, NotDone> {
        let name = name_of(name)?;
        let (removed, _) = self
            .act(|view| {
                let at = view.certificates.get(&name);
                let at = at.ok_or_else(|| NotDone::NotFound(format!("the store has no certificate {name}")))?;
                let key = keys::certificate(&name);
                let txn = Txn::new().require_revision(key.clone(), at.revision).delete(key);
                let txn = audited(txn, "api", "remove certificate", name.as_key(), &at.value.fingerprint);
                Ok(Attempt { txn, answer: certificate_view(&name, at) })
            })
            .await?;
        tracing::info!(%name, fingerprint = removed.fingerprint, "certificate removed");
        Ok(removed)
    }

    /// Seals every key with the secret that seals now, so that the previous one can be taken away. What cannot be opened
    /// is told and left alone; what somebody else changes meanwhile was sealed by that change.
    pub(crate) async fn seal_certificates_again(&self) -> Result<SealedAgain, NotDone> {
        let secrets = self.sealing_secrets().await?;
        let current = secrets.current();
        let wanted: Vec<CertificateName> = {
            let view = self.view.read();
            let others = view.certificates.iter().filter(|(_, at)| at.value.sealed_with != current);
            others.map(|(name, _)| name.clone()).collect()
        };
        let mut done = SealedAgain { sealed_with: current.to_string(), sealed: 0, left: 0, refused: Vec::new() };
        for name in wanted {
            if done.sealed >= SEALED_PER_CALL_MAX {
                done.left += 1;
                continue;
            }
            match self.seal_again(&secrets, &name).await? {
                Ok(sealed) => done.sealed += usize::from(sealed),
                Err(reason) => done.refused.push(RefusedCertificate { name: name.to_string(), reason }),
            }
        }
        let what = format!("{} of them, {} refused, {} left", done.sealed, done.refused.len(), done.left);
        self.act(|_| {
            let txn = audited(Txn::new(), "api", "seal certificates again", &done.sealed_with, &what);
            Ok(Attempt { txn, answer: () })
        })
        .await?;
        tracing::info!(sealed = done.sealed, refused = done.refused.len(), sealed_with = %current, "sealed again");
        Ok(done)
    }

    async fn seal_again(
        &self,
        secrets: &SealingSecrets,
        name: &CertificateName,
    ) -> Result<Result<bool, String>, NotDone> {
        let key = keys::certificate(name);
        let (entry, _) = self.store.get(&key).await.map_err(|error| NotDone::Unavailable(Some(error)))?;
        let Some(entry) = entry else { return Ok(Ok(false)) };
        let again = SealedCertificate::decode(&entry.value)
            .map_err(|error| error.to_string())
            .and_then(|sealed| secrets.seal_again(name, &sealed).map_err(|error| error.to_string()));
        let again = match again {
            Ok(again) => again,
            Err(reason) => return Ok(Err(reason)),
        };
        let txn = Txn::new().require_revision(key.clone(), entry.mod_revision).put(key, again.encode());
        match self.store.commit(txn).await {
            Ok(_) => Ok(Ok(true)),
            Err(StoreError::Conflict) => Ok(Ok(false)),
            Err(error) => Err(NotDone::Unavailable(Some(error))),
        }
    }
}

fn attempt_put(
    view: &View,
    name: &CertificateName,
    sealed: &SealedCertificate,
    why: &str,
) -> Result<Attempt<()>, NotDone> {
    let key = keys::certificate(name);
    let txn = match view.certificates.get(name) {
        Some(at) => Txn::new().require_revision(key.clone(), at.revision),
        None => Txn::new().require_absent(key.clone()),
    };
    let txn = audited(txn.put(key, sealed.encode()), "api", "set certificate", name.as_key(), why);
    Ok(Attempt { txn, answer: () })
}

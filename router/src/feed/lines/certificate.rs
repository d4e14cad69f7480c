//! A certificate within a line.

use super::text_of;
use crate::table::Change;
use base64::prelude::{BASE64_STANDARD, Engine};
use cellway_core::certificate::{CertificateName, SealedCertificate};
use serde::{Deserialize, Serialize};

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateLine {
    name: String,
    chain: Vec<String>,
    sealed_with: String,
    sealed_key: String,
}

impl CertificateLine {
    pub(super) fn of(name: &CertificateName, sealed: &SealedCertificate) -> Self {
        Self {
            name: name.as_key().to_owned(),
            chain: sealed.chain.iter().map(|one| BASE64_STANDARD.encode(one)).collect(),
            sealed_with: sealed.sealed_with.to_string(),
            sealed_key: BASE64_STANDARD.encode(&sealed.sealed_key),
        }
    }

    pub(super) fn change(self) -> Result<Change, String> {
        let bytes = |text: &str| BASE64_STANDARD.decode(text).map(Box::from).map_err(text_of);
        let sealed = SealedCertificate {
            chain: self.chain.iter().map(|text| bytes(text)).collect::<Result<_, _>>()?,
            sealed_with: self.sealed_with.parse().map_err(|error| format!("sealed_with: {error}"))?,
            sealed_key: bytes(&self.sealed_key)?,
        };
        sealed.check().map_err(text_of)?;
        Ok(Change::Certificate {
            name: CertificateName::from_text(&self.name).map_err(text_of)?,
            sealed: sealed.into(),
        })
    }
}

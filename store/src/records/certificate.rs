//! Certificates as stored: the chain in clear, its key sealed.

use super::{Shape, record};
use base64::prelude::{BASE64_STANDARD, Engine};
use cellway_core::certificate::SealedCertificate;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct StoredCertificate {
    /// DER in base64, the end's own first.
    chain: Vec<String>,
    sealed_with: String,
    /// In base64.
    sealed_key: String,
}

fn bytes(text: &str) -> Result<Box<[u8]>, String> {
    BASE64_STANDARD.decode(text).map(Into::into).map_err(|error| format!("it is not base64: {error}"))
}

impl Shape for StoredCertificate {
    type Of = SealedCertificate;
    const WHAT: &'static str = "certificate";

    fn of(value: &SealedCertificate) -> Self {
        Self {
            chain: value.chain.iter().map(|one| BASE64_STANDARD.encode(one)).collect(),
            sealed_with: value.sealed_with.to_string(),
            sealed_key: BASE64_STANDARD.encode(&value.sealed_key),
        }
    }

    fn into_value(self) -> Result<SealedCertificate, String> {
        let sealed = SealedCertificate {
            chain: self.chain.iter().map(|text| bytes(text)).collect::<Result<_, _>>()?,
            sealed_with: self.sealed_with.parse().map_err(|error| format!("{error}"))?,
            sealed_key: bytes(&self.sealed_key)?,
        };
        sealed.check().map_err(|error| error.to_string())?;
        Ok(sealed)
    }
}

record!(SealedCertificate, StoredCertificate);

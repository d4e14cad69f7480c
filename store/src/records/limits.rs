//! Limits of tenants as stored.

use super::{Shape, record};
use cellway_core::limit::{Mode, Rate, TenantLimits};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct StoredRate {
    per_second: u32,
    burst: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredMode {
    Open,
    ReadOnly,
    Paused,
}

#[derive(Serialize, Deserialize)]
struct StoredLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<StoredRate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bandwidth_bytes_per_second: Option<u64>,
    mode: StoredMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_text: Option<String>,
}

impl Shape for StoredLimits {
    type Of = TenantLimits;
    const WHAT: &'static str = "limit of a tenant";

    fn of(value: &TenantLimits) -> Self {
        Self {
            requests: value.requests.map(|Rate { per_second, burst }| StoredRate { per_second, burst }),
            concurrency: value.concurrency,
            bandwidth_bytes_per_second: value.bandwidth_bytes_per_second,
            mode: match value.mode {
                Mode::Open => StoredMode::Open,
                Mode::ReadOnly => StoredMode::ReadOnly,
                Mode::Paused => StoredMode::Paused,
            },
            message: value.message.clone(),
            retry_after_s: value.retry_after_s,
            error_text: value.error_text.clone(),
        }
    }

    fn into_value(self) -> Result<TenantLimits, String> {
        let limits = TenantLimits {
            requests: self.requests.map(|StoredRate { per_second, burst }| Rate { per_second, burst }),
            concurrency: self.concurrency,
            bandwidth_bytes_per_second: self.bandwidth_bytes_per_second,
            mode: match self.mode {
                StoredMode::Open => Mode::Open,
                StoredMode::ReadOnly => Mode::ReadOnly,
                StoredMode::Paused => Mode::Paused,
            },
            message: self.message,
            retry_after_s: self.retry_after_s,
            error_text: self.error_text,
        };
        limits.check().map_err(|error| error.to_string())?;
        Ok(limits)
    }
}

record!(TenantLimits, StoredLimits);

//! A tenant's limits within a line.

use cellway_core::limit::{BadLimits, Mode, Rate, TenantLimits};
use serde::{Deserialize, Serialize};

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<RateLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bandwidth_bytes_per_second: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<ModeLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_text: Option<String>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLine {
    per_second: u32,
    burst: u32,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModeLine {
    Open,
    ReadOnly,
    Paused,
}

impl LimitsLine {
    pub(super) fn of(limits: &TenantLimits) -> Self {
        Self {
            requests: limits.requests.map(|Rate { per_second, burst }| RateLine { per_second, burst }),
            concurrency: limits.concurrency,
            bandwidth_bytes_per_second: limits.bandwidth_bytes_per_second,
            mode: match limits.mode {
                Mode::Open => None,
                Mode::ReadOnly => Some(ModeLine::ReadOnly),
                Mode::Paused => Some(ModeLine::Paused),
            },
            message: limits.message.clone(),
            retry_after_s: limits.retry_after_s,
            error_text: limits.error_text.clone(),
        }
    }

    pub(super) fn limits(self) -> Result<TenantLimits, BadLimits> {
        let limits = TenantLimits {
            requests: self.requests.map(|RateLine { per_second, burst }| Rate { per_second, burst }),
            concurrency: self.concurrency,
            bandwidth_bytes_per_second: self.bandwidth_bytes_per_second,
            mode: match self.mode {
                None | Some(ModeLine::Open) => Mode::Open,
                Some(ModeLine::ReadOnly) => Mode::ReadOnly,
                Some(ModeLine::Paused) => Mode::Paused,
            },
            message: self.message,
            retry_after_s: self.retry_after_s,
            error_text: self.error_text,
        };
        limits.check()?;
        Ok(limits)
    }
}

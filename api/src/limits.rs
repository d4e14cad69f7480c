//! Limits of tenants, as the API shows and takes them.

use cellway_core::limit::{BadLimits, Mode, Rate, TenantLimits};
use serde::{Deserialize, Serialize};

/// Whether a tenant is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModeView {
    /// As always.
    #[default]
    Open,
    /// Only what cannot write.
    ReadOnly,
    /// Not at all.
    Paused,
}

/// How many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateView {
    /// In the long run.
    pub per_second: u32,
    /// At once, after a time without any.
    pub burst: u32,
}

/// What a tenant may use. Without limits it is the default: open, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitsView {
    /// Whether it is served.
    #[serde(default)]
    pub mode: ModeView,
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RateView>,
    /// Requests and WebSockets at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Bytes of bodies, both directions together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<u64>,
    /// What the page of a tenant that is not open says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When its clients shall come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    /// What its other error pages say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_text: Option<String>,
    /// The revision that set them; 0: there are none.
    #[serde(default)]
    pub revision: u64,
}

/// Set a tenant's limits, all at once: what is left out is lifted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLimits {
    /// Whether it is served.
    #[serde(default)]
    pub mode: ModeView,
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RateView>,
    /// Requests and WebSockets at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Bytes of bodies, both directions together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<u64>,
    /// What the page of a tenant that is not open says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When its clients shall come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    /// What its other error pages say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_text: Option<String>,
    /// Only if this revision set what is in force (0: nothing is). Without it, whatever is in force is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<u64>,
}

impl LimitsView {
    /// The view of limits that were set at `revision`.
    pub fn of(limits: &TenantLimits, revision: u64) -> Self {
        Self {
            mode: match limits.mode {
                Mode::Open => ModeView::Open,
                Mode::ReadOnly => ModeView::ReadOnly,
                Mode::Paused => ModeView::Paused,
            },
            requests: limits.requests.map(|Rate { per_second, burst }| RateView { per_second, burst }),
            concurrency: limits.concurrency,
            bandwidth_bytes_per_second: limits.bandwidth_bytes_per_second,
            message: limits.message.clone(),
            retry_after_s: limits.retry_after_s,
            error_text: limits.error_text.clone(),
            revision,
        }
    }

    /// What sets them again, if nobody else has changed them.
    pub fn to_set(&self) -> SetLimits {
        let Self {
            mode, requests, concurrency, bandwidth_bytes_per_second, message, retry_after_s, error_text, ..
        } = self.clone();
        SetLimits {
            mode,
            requests,
            concurrency,
            bandwidth_bytes_per_second,
            message,
            retry_after_s,
            error_text,
            if_revision: Some(self.revision),
        }
    }
}

impl ModeView {
    /// The mode of the decisions.
    pub fn mode(self) -> Mode {
        match self {
            Self::Open => Mode::Open,
            Self::ReadOnly => Mode::ReadOnly,
            Self::Paused => Mode::Paused,
        }
    }
}

impl SetLimits {
    /// The limits, if they are in their ranges.
    pub fn limits(self) -> Result<TenantLimits, BadLimits> {
        let limits = TenantLimits {
            requests: self.requests.map(|RateView { per_second, burst }| Rate { per_second, burst }),
            concurrency: self.concurrency,
            bandwidth_bytes_per_second: self.bandwidth_bytes_per_second,
            mode: self.mode.mode(),
            message: self.message,
            retry_after_s: self.retry_after_s,
            error_text: self.error_text,
        };
        limits.check()?;
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_sets_the_same_again_and_a_misspelt_limit_is_refused() {
        let text = r#"{"mode":"paused","requests":{"per_second":5,"burst":9},"concurrency":3,"message":"Soon."}"#;
        let set: SetLimits = serde_json::from_str(text).expect("valid");
        let limits = set.limits().expect("in range");
        assert_eq!((limits.mode, limits.concurrency), (Mode::Paused, Some(3)));
        let view = LimitsView::of(&limits, 7);
        assert_eq!(view.to_set().if_revision, Some(7));
        assert_eq!(view.to_set().limits(), Ok(limits));
        assert!(serde_json::from_str::<SetLimits>(r#"{"concurency":3}"#).is_err());
        assert_eq!(serde_json::to_string(&LimitsView::default()).expect("JSON"), r#"{"mode":"open","revision":0}"#);
    }
}

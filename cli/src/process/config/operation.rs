//! What those who run a router set: its logs, and the guard of its routes.

use crate::process::logging;
use cellway_router::{AccessLogConfig, LogTarget, MassDropLimits};
use serde::Deserialize;

/// The access log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessLogFile {
    to: TargetField,
    sample: Option<ShareField>,
    always_errors: Option<bool>,
    query: Option<bool>,
}

/// `stdout`, or a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct TargetField(LogTarget);

impl TryFrom<String> for TargetField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "stdout" => Ok(Self(LogTarget::Stdout)),
            path if path.starts_with('/') => Ok(Self(LogTarget::File(path.into()))),
            _ => Err(format!("{text:?} is neither `stdout` nor the whole path of a file, such as /var/log/access.log")),
        }
    }
}

/// A share from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
struct ShareField(f64);

impl TryFrom<f64> for ShareField {
    type Error = String;
    fn try_from(share: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&share) { Ok(Self(share)) } else { Err(format!("{share} is no share from 0 to 1")) }
    }
}

impl AccessLogFile {
    pub(crate) fn config(self) -> AccessLogConfig {
        let defaults = AccessLogConfig::new(self.to.0);
        AccessLogConfig {
            sample: self.sample.map_or(defaults.sample, |share| share.0),
            always_errors: self.always_errors.unwrap_or(defaults.always_errors),
            query: self.query.unwrap_or(defaults.query),
            ..defaults
        }
    }
}

/// How many tenants a listing may drop; what is left out has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MassDropFile {
    percent: Option<u8>,
    tenants: Option<usize>,
}

impl MassDropFile {
    pub(crate) fn limits(&self) -> MassDropLimits {
        let defaults = MassDropLimits::default();
        MassDropLimits {
            percent: self.percent.unwrap_or(defaults.percent),
            tenants: self.tenants.unwrap_or(defaults.tenants),
        }
    }
}

/// What is logged, as in `info` or `warn,cellway_router=debug`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct LogField(pub(crate) String);

impl TryFrom<String> for LogField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        logging::filter(&text).map_err(|error| error.to_string())?;
        Ok(Self(text))
    }
}

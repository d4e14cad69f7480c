//! What a tenant may use at a router: requests, concurrency, bytes, and whether it is served at all.
//!
//! Rates are kept by GCRA: the whole state of a bucket is one number, the *theoretical arrival time*, at which the
//! bucket would be full again. Times are nanoseconds since any fixed point; all of it is integer arithmetic.

use std::fmt;

/// The most requests per second, and the largest burst: above it a request costs less than the clock can tell.
pub const REQUESTS_MAX: u32 = 1_000_000;
/// The highest limit of concurrency.
pub const CONCURRENCY_MAX: u32 = 1_000_000;
/// The lowest limit of bandwidth: below it one frame of a body would wait for seconds.
pub const BANDWIDTH_MIN_BYTES_PER_SECOND: u64 = 16 * 1024;
/// The highest limit of bandwidth, 1 TiB/s.
pub const BANDWIDTH_MAX_BYTES_PER_SECOND: u64 = 1 << 40;
/// The longest text on a page: a few sentences, kept by every router.
pub const TEXT_MAX_BYTES: usize = 1_000;
/// The longest time that clients can be told to stay away: a day.
pub const RETRY_AFTER_MAX_S: u32 = 86_400;
/// When clients of a tenant that is not open shall come again, unless the operator says it.
pub const RETRY_AFTER_S: u32 = 30;
/// How far bytes may run ahead of their limit: what a connection takes at once must not be cut into crumbs.
pub const PACE_AHEAD_NS: u64 = 100_000_000;
/// The longest that a frame of a body waits for its tenant's bandwidth. Well below what peers take for a stall.
pub const PACE_WAIT_MAX_NS: u64 = 15_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// Whether a tenant is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As always.
    #[default]
    Open,
    /// Only what cannot write.
    ReadOnly,
    /// Not at all.
    Paused,
}

impl Mode {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::ReadOnly => "read-only",
            Self::Paused => "paused",
        }
    }

    /// Whether a request passes. One that opens a WebSocket may write, whatever its method.
    pub fn admits(self, method: &str, opens_websocket: bool) -> bool {
        match self {
            Self::Open => true,
            Self::ReadOnly => !opens_websocket && matches!(method, "GET" | "HEAD" | "OPTIONS"),
            Self::Paused => false,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many requests: a bucket of `burst`, which fills at `per_second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once, after a time without any.
    pub burst: u32,
}

impl Rate {
    /// How long the bucket takes to fill by one request.
    fn interval_ns(self) -> u64 {
        (SECOND_NS / u64::from(self.per_second.max(1))).max(1)
    }

    /// How long it takes to fill altogether, in whole seconds, rounded up.
    pub fn window_s(self) -> u64 {
        u64::from(self.burst).div_ceil(u64::from(self.per_second.max(1)))
    }
}

/// What a tenant may use; each router keeps it by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantLimits {
    /// Requests.
    pub requests: Option<Rate>,
    /// Requests and WebSockets at a time.
    pub concurrency: Option<u32>,
    /// Bytes of bodies, both directions together.
    pub bandwidth_bytes_per_second: Option<u64>,
    /// Whether it is served.
    pub mode: Mode,
    /// What the page of a tenant that is not open says.
    pub message: Option<String>,
    /// When its clients shall come again; [`RETRY_AFTER_S`] unless said.
    pub retry_after_s: Option<u32>,
    /// What its other error pages say below the router's own sentence.
    pub error_text: Option<String>,
}

/// Why limits are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLimits {
    /// A number is out of its range.
    #[error("{field} is {value}, allowed are {min} to {max}")]
    Range {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
        /// The lowest.
        min: u64,
        /// The highest.
        max: u64,
    },
    /// A text is too long, or has nothing in it.
    #[error("{field} is {length} bytes long, allowed are 1 to {TEXT_MAX_BYTES}")]
    Length {
        /// Which.
        field: &'static str,
        /// Its length.
        length: usize,
    },
    /// A text has a character that is none to read.
    #[error("{field} has the control character {character:?}; only line breaks are allowed")]
    Control {
        /// Which.
        field: &'static str,
        /// The character.
        character: char,
    },
}

impl TenantLimits {
    /// Whether they limit nothing and say nothing: as if there were none.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every number and text.
    pub fn check(&self) -> Result<(), BadLimits> {
        let range = |field, value: Option<u64>, min, max| match value {
            Some(value) if !(min..=max).contains(&value) => Err(BadLimits::Range { field, value, min, max }),
            _ => Ok(()),
        };
        let per_second = self.requests.map(|rate| u64::from(rate.per_second));
        let burst = self.requests.map(|rate| u64::from(rate.burst));
        range("requests per second", per_second, 1, u64::from(REQUESTS_MAX))?;
        range("burst", burst, 1, u64::from(REQUESTS_MAX))?;
        range("concurrency", self.concurrency.map(u64::from), 1, u64::from(CONCURRENCY_MAX))?;
        let (min, max) = (BANDWIDTH_MIN_BYTES_PER_SECOND, BANDWIDTH_MAX_BYTES_PER_SECOND);
        range("bandwidth in bytes per second", self.bandwidth_bytes_per_second, min, max)?;
        range("retry_after_s", self.retry_after_s.map(u64::from), 1, u64::from(RETRY_AFTER_MAX_S))?;
        check_text("message", self.message.as_deref())?;
        check_text("error_text", self.error_text.as_deref())
    }
}

fn check_text(field: &'static str, text: Option<&str>) -> Result<(), BadLimits> {
    let Some(text) = text else { return Ok(()) };
    if text.is_empty() || text.len() > TEXT_MAX_BYTES {
        return Err(BadLimits::Length { field, length: text.len() });
    }
    match text.chars().find(|character| character.is_control() && *character != '\n') {
        Some(character) => Err(BadLimits::Control { field, character }),
        None => Ok(()),
    }
}

impl fmt::Display for TenantLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mode)?;
        if let Some(Rate { per_second, burst }) = self.requests {
            write!(f, ", {per_second} requests/s, burst {burst}")?;
        }
        if let Some(concurrency) = self.concurrency {
            write!(f, ", {concurrency} at a time")?;
        }
        match self.bandwidth_bytes_per_second {
            Some(bandwidth) => write!(f, ", {bandwidth} bytes/s"),
            None => Ok(()),
        }
    }
}

/// What becomes of a request under a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it passes.
    pub allowed: bool,
    /// How many more would pass at this moment.
    pub remaining: u32,
    /// How long `remaining` tells the truth: if it is 0, until one more passes, else until the bucket is full.
    pub reset_ms: u64,
}

/// Takes one request out of the bucket whose theoretical arrival time is `tat_ns`. Gives the new time, which is the
/// old one if the request does not pass.
pub fn gcra(tat_ns: u64, now_ns: u64, rate: Rate) -> (u64, Decision) {
    let interval = rate.interval_ns();
    let full = interval.saturating_mul(u64::from(rate.burst.max(1)));
    // A time beyond what this rate can make is left over from one that was slower: it counts as an empty bucket.
    let tat = tat_ns.clamp(now_ns, now_ns.saturating_add(full));
    let wanted = tat.saturating_add(interval);
    let allowed = wanted - now_ns <= full;
    let new_tat = if allowed { wanted } else { tat };
    let used = new_tat - now_ns;
    let remaining = u32::try_from((full - used) / interval).unwrap_or(u32::MAX);
    let reset_ns = if remaining == 0 { used.saturating_add(interval).saturating_sub(full) } else { used };
    (new_tat, Decision { allowed, remaining, reset_ms: reset_ns.div_ceil(1_000_000) })
}

/// Charges `bytes` that have just passed to the limit whose theoretical arrival time is `tat_ns`. Gives the new time,
/// and how long to wait before more may pass.
pub fn pace(tat_ns: u64, now_ns: u64, bytes: u64, bytes_per_second: u64) -> (u64, u64) {
    let cost = u128::from(bytes) * u128::from(SECOND_NS) / u128::from(bytes_per_second.max(1));
    let cost = u64::try_from(cost).unwrap_or(u64::MAX);
    // What cannot be waited for is forgiven: debts stay as bounded as waits.
    let latest = now_ns.saturating_add(PACE_AHEAD_NS + PACE_WAIT_MAX_NS);
    let new_tat = tat_ns.max(now_ns).saturating_add(cost).min(latest);
    (new_tat, (new_tat - now_ns).saturating_sub(PACE_AHEAD_NS))
}

/// Whether a request is shed, where `max` may be in flight. It is counted already: as one of its tenant's `own`, one
/// of `total`, with its tenant as one of the `tenants` that have any.
///
/// In the upper half of what is allowed goes who has more than an equal part of the lower half. So a tenant alone
/// never has more than half, and who has little is served for as long as anybody is.
pub fn is_shed(own: u64, total: u64, max: u64, tenants: u64) -> bool {
    let half = max / 2;
    total > max || total > half && own.saturating_mul(tenants.max(1)) > half
}

#[cfg(test)]
mod tests;

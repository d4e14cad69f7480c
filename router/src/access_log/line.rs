//! What a line of the access log says.

use std::net::SocketAddr;

use cellway_core::ids::{CellName, TenantId};
use http::Version;
use serde::Serialize;

use crate::errand::REQUEST_ID_MAX_BYTES;

/// The longest method that is kept.
pub const METHOD_MAX_BYTES: usize = 32;
/// The longest host that is kept: the longest there is, and a port.
pub const HOST_MAX_BYTES: usize = 260;
/// The longest path, and the longest query, that is kept.
pub const PATH_MAX_BYTES: usize = 1_024;
/// The longest `user-agent`, and the longest `referer`, that is kept.
pub const HEADER_MAX_BYTES: usize = 512;

const TEXTS_MAX_BYTES: [usize; Texts::COUNT] = [
    REQUEST_ID_MAX_BYTES,
    METHOD_MAX_BYTES,
    HOST_MAX_BYTES,
    PATH_MAX_BYTES,
    PATH_MAX_BYTES,
    HEADER_MAX_BYTES,
    HEADER_MAX_BYTES,
];

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// All of it was passed on.
    Whole,
    /// The client went away before its end.
    Left,
    /// It broke off: its cell failed, or fell silent.
    Broken,
}

/// The client's own words, one after the other in one piece of memory: a record is made with one allocation.
#[derive(Debug)]
pub(crate) struct Texts {
    bytes: Vec<u8>,
    ends: [u16; Texts::COUNT],
}

impl Texts {
    const COUNT: usize = 7;

    /// The texts of one request, each cut to its bound: id, method, host, path, query, `user-agent`, `referer`.
    pub(crate) fn new(all: [&[u8]; Texts::COUNT]) -> Self {
        let length = |number: usize| all[number].len().min(TEXTS_MAX_BYTES[number]);
        let mut bytes = Vec::with_capacity((0..Self::COUNT).map(length).sum());
        let ends = std::array::from_fn(|number| {
            bytes.extend_from_slice(&all[number][..length(number)]);
            // The bounds add up to less than 64 KiB.
            u16::try_from(bytes.len()).unwrap_or(u16::MAX)
        });
        Self { bytes, ends }
    }

    fn get(&self, number: usize) -> std::borrow::Cow<'_, str> {
        let begin = if number == 0 { 0 } else { usize::from(self.ends[number - 1]) };
        String::from_utf8_lossy(&self.bytes[begin..usize::from(self.ends[number])])
    }
}

/// All that is told of a request.
#[derive(Debug)]
pub(crate) struct Record {
    /// When its head was there, since 1970.
    pub(crate) time_ms: u64,
    pub(crate) texts: Texts,
    pub(crate) version: Version,
    pub(crate) tls: Option<&'static str>,
    pub(crate) client: SocketAddr,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) cell: Option<CellName>,
    pub(crate) epoch: Option<u64>,
    /// None: the client left before there was one.
    pub(crate) status: Option<u16>,
    pub(crate) attempts: u32,
    pub(crate) held_us: u64,
    pub(crate) up_bytes: u64,
    pub(crate) down_bytes: u64,
    pub(crate) head_us: Option<u64>,
    pub(crate) total_us: u64,
    /// Why the router answered by itself.
    pub(crate) failure: Option<&'static str>,
    pub(crate) ending: Ending,
}

#[derive(Serialize)]
struct Line<'a> {
    time: Time,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cell: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    query: &'a str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    client: SocketAddr,
    status: Option<u16>,
    attempts: u32,
    held_ms: f64,
    up_bytes: u64,
    down_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_ms: Option<f64>,
    total_ms: f64,
    ended: Ending,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    referer: &'a str,
}

impl Record {
    /// Appends the line.
    #[expect(clippy::expect_used, reason = "a line has text keys, and a vector takes every write")]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let text = |number| self.texts.get(number);
        let line = Line {
            time: Time(self.time_ms),
            id: &text(0),
            tenant: self.tenant.as_ref().map(TenantId::as_str),
            cell: self.cell.as_ref().map(CellName::as_str),
            epoch: self.epoch,
            method: &text(1),
            host: &text(2),
            path: &text(3),
            query: &text(4),
            protocol: protocol(self.version),
            tls: self.tls,
            client: self.client,
            status: self.status,
            attempts: self.attempts,
            held_ms: ms(self.held_us),
            up_bytes: self.up_bytes,
            down_bytes: self.down_bytes,
            head_ms: self.head_us.map(ms),
            total_ms: ms(self.total_us),
            ended: self.ending,
            failure: self.failure,
            user_agent: &text(5),
            referer: &text(6),
        };
        serde_json::to_writer(&mut *out, &line).expect("a line has text keys, and a vector takes every write");
        out.push(b'\n');
    }
}

#[allow(clippy::cast_precision_loss, reason = "exact up to 285 years")]
fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// Milliseconds since 1970, shown as RFC 3339.
struct Time(u64);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, ms) = (self.0 / 1_000, self.0 % 1_000);
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

/// The Gregorian date of a day, counted from 1970. Years begin in March here, so that a leap day is a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    let days = days + 719_468;
    let (era, of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_107_542_399_001, "2100-02-28T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599_123, "2026-12-31T23:59:59.123Z"),
        ];
        for (ms, shown) in cases {
            assert_eq!(Time(ms).to_string(), shown);
        }
    }
}

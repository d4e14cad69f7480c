//! When a tenant may be frozen: weekly windows, in UTC.

use std::fmt;
use std::str::FromStr;

/// The most windows of one tenant.
pub const FREEZE_WINDOWS_MAX: usize = 16;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const EVERY_DAY: u8 = 0b111_1111;
const MINUTE_MS: u64 = 60_000;
const DAY_MIN: u64 = 24 * 60;
const WEEK_MIN: u64 = 7 * DAY_MIN;
const WEEK_MS: u64 = WEEK_MIN * MINUTE_MS;

/// 1 January 1970 was a Thursday: weeks begin on Monday.
const SINCE_MONDAY_MS: u64 = 3 * DAY_MIN * MINUTE_MS;

/// A window that is open on some days of the week, from one time to another; one that ends earlier than it begins ends on
/// the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FreezeWindow {
    /// Bit 0 is Monday.
    days: u8,
    from_min: u16,
    to_min: u16,
}

/// A text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindow {
    /// Not of the form.
    #[error(
        "{0:?} is no freeze window: they look like \"mon-fri 22:00-04:00\", \"sat,sun 00:00-24:00\", \"daily 01:30-05:00\""
    )]
    Form(String),
    /// A window that is never open.
    #[error("the freeze window {0:?} ends when it begins: a whole day is 00:00-24:00")]
    Empty(String),
    /// More than are taken.
    #[error("{0} freeze windows are too many: at most {FREEZE_WINDOWS_MAX}")]
    TooMany(usize),
}

impl FromStr for FreezeWindow {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let form = || InvalidWindow::Form(text.to_owned());
        let (days, times) = text.trim().split_once(char::is_whitespace).ok_or_else(form)?;
        let (from, to) = times.trim().split_once('-').ok_or_else(form)?;
        let days = read_days(&days.to_ascii_lowercase()).ok_or_else(form)?;
        let (from_min, to_min) = (read_time(from).ok_or_else(form)?, read_time(to).ok_or_else(form)?);
        if u64::from(from_min) == DAY_MIN {
            return Err(form());
        }
        if from_min == to_min {
            return Err(InvalidWindow::Empty(text.to_owned()));
        }
        Ok(Self { days, from_min, to_min })
    }
}

/// `daily`, or days and ranges of days.
fn read_days(text: &str) -> Option<u8> {
    if text == "daily" {
        return Some(EVERY_DAY);
    }
    let day = |name: &str| DAYS.iter().position(|known| *known == name);
    text.split(',').try_fold(0, |days, part| {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(part)?, day(part)?),
        };
        // A range may go over the end of the week.
        let length = (last + DAYS.len() - first) % DAYS.len();
        Some((first..=first + length).fold(days, |days, at| days | 1 << (at % DAYS.len())))
    })
}

/// `HH:MM`, up to `24:00`.
fn read_time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':').filter(|(hours, minutes)| hours.len() == 2 && minutes.len() == 2)?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    let is_time = hours < 24 && minutes < 60 || hours == 24 && minutes == 0;
    is_time.then_some(hours * 60 + minutes)
}

impl fmt::Display for FreezeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days == EVERY_DAY {
            f.write_str("daily")?;
        } else {
            let mut first = true;
            for (at, name) in DAYS.iter().enumerate().filter(|(at, _)| self.days & (1 << at) != 0) {
                let before = at > 0 && self.days & (1 << (at - 1)) != 0;
                let after = at + 1 < DAYS.len() && self.days & (1 << (at + 1)) != 0;
                match (before, after) {
                    (true, true) => {}
                    (true, false) => write!(f, "-{name}")?,
                    (false, _) => write!(f, "{}{name}", if first { "" } else { "," })?,
                }
                first = false;
            }
        }
        let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        write!(f, " {}-{}", time(self.from_min), time(self.to_min))
    }
}

/// All windows of a tenant. None at all means: at any time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct FreezeWindows(Vec<FreezeWindow>);

impl FreezeWindows {
    /// The windows that these texts say.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, InvalidWindow> {
        if texts.len() > FREEZE_WINDOWS_MAX {
            return Err(InvalidWindow::TooMany(texts.len()));
        }
        texts.iter().map(|text| text.as_ref().parse()).collect::<Result<_, _>>().map(Self)
    }

    /// These windows; more than [`FREEZE_WINDOWS_MAX`] are left out.
    pub fn of(windows: impl IntoIterator<Item = FreezeWindow>) -> Self {
        Self(windows.into_iter().take(FREEZE_WINDOWS_MAX).collect())
    }

    /// Each as a text that [`FreezeWindows::parse`] takes.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Whether there are none, so that they are in nobody's way.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The earliest time, from `now_ms` on, when a window is open and stays so for `needs_ms` more. Where no window is as
    /// long as that, when one opens.
    pub fn next_fit(&self, now_ms: u64, needs_ms: u64) -> u64 {
        let spans = self.spans();
        let Some(longest_ms) = spans.iter().map(|(from, to)| to - from).max() else { return now_ms };
        let needs_ms = needs_ms.min(longest_ms);
        let fits = |(from, to): (u64, u64)| {
            let begins = from.max(now_ms.saturating_add(SINCE_MONDAY_MS));
            (begins.saturating_add(needs_ms) <= to).then_some(begins)
        };
        open_spans(&spans, now_ms).find_map(fits).map_or(u64::MAX, |begins| begins - SINCE_MONDAY_MS)
    }

    /// When windows were open for `open_ms` in all, counted from `from_ms`.
    pub fn after_open(&self, from_ms: u64, open_ms: u64) -> u64 {
        let spans = self.spans();
        let per_week_ms: u64 = spans.iter().map(|(from, to)| to - from).sum();
        if per_week_ms == 0 {
            return from_ms.saturating_add(open_ms);
        }
        let from_ms = from_ms.saturating_add((open_ms / per_week_ms).saturating_mul(WEEK_MS));
        let mut left_ms = open_ms % per_week_ms;
        if left_ms == 0 || from_ms > u64::MAX / 2 {
            return from_ms;
        }
        for (from, to) in open_spans(&spans, from_ms) {
            let from = from.max(from_ms + SINCE_MONDAY_MS);
            if to - from >= left_ms {
                return from + left_ms - SINCE_MONDAY_MS;
            }
            left_ms -= to - from;
        }
        u64::MAX
    }

    /// When it is open in a week, in milliseconds since its Monday: apart from each other, in order, each as long as it
    /// can be. One that goes over the end of the week ends after it. Nothing for what is always open.
    fn spans(&self) -> Vec<(u64, u64)> {
        let day = |window: &FreezeWindow, at: u64| {
            let (from, to) = (u64::from(window.from_min), u64::from(window.to_min));
            let to = if to > from { to } else { to + DAY_MIN };
            ((at * DAY_MIN + from) * MINUTE_MS, (at * DAY_MIN + to) * MINUTE_MS)
        };
        let of = |window: &FreezeWindow| {
            let window = *window;
            (0..7_u64).filter(move |at| window.days & (1 << at) != 0).map(move |at| day(&window, at))
        };
        // The second half of what goes over the end is in the next week's beginning as well.
        let halves = |(from, to): (u64, u64)| [(from, to.min(WEEK_MS)), (0, to.saturating_sub(WEEK_MS))];
        let mut all: Vec<(u64, u64)> =
            self.0.iter().flat_map(of).flat_map(halves).filter(|(from, to)| from < to).collect();
        all.sort_unstable();
        let mut spans: Vec<(u64, u64)> = Vec::new();
        for (from, to) in all {
            match spans.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => spans.push((from, to)),
            }
        }
        if spans == [(0, WEEK_MS)] {
            return Vec::new();
        }
        if let (Some(&(0, over)), Some(last)) = (spans.first(), spans.last().copied())
            && last.1 == WEEK_MS
        {
            spans.remove(0);
            if let Some(last) = spans.last_mut() {
                last.1 += over;
            }
        }
        spans
    }
}

/// The open times that are not over at `now_ms`, in order and without an end, each counted from the Monday of 1969.
fn open_spans(spans: &[(u64, u64)], now_ms: u64) -> impl Iterator<Item = (u64, u64)> {
    let now = now_ms.saturating_add(SINCE_MONDAY_MS);
    // The week before may not be over yet: its last window may go over its end.
    let first_week = (now / WEEK_MS).saturating_sub(1);
    let weeks = (first_week..u64::MAX / WEEK_MS - 1).map(|week| week * WEEK_MS);
    let all = weeks.flat_map(move |begins| spans.iter().map(move |(from, to)| (begins + from, begins + to)));
    all.filter(move |(_, to)| *to > now)
}

/// A time within a week, as in `mon 22:00 UTC`.
pub fn weekday_time(at_ms: u64) -> String {
    let minutes = at_ms.saturating_add(SINCE_MONDAY_MS) % WEEK_MS / MINUTE_MS;
    let day = usize::try_from(minutes / DAY_MIN).ok().and_then(|day| DAYS.get(day)).copied().unwrap_or("?");
    format!("{day} {:02}:{:02} UTC", minutes % DAY_MIN / 60, minutes % 60)
}

#[cfg(test)]
mod tests;

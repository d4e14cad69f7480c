//! Windows against a reading of the same words minute by minute.

use super::*;
use proptest::prelude::*;

/// Monday, 7 September 2026, 00:00 UTC.
const MONDAY_MS: u64 = 1_788_739_200_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn windows(texts: &[&str]) -> FreezeWindows {
    FreezeWindows::parse(texts).expect("legal")
}

#[test]
fn windows_are_read_and_written() {
    for (text, shown) in [
        ("mon-fri 22:00-04:00", "mon-fri 22:00-04:00"),
        ("  MON,tue,Wed   1:00-02:00", ""),
        ("MON,tue,Wed 01:00-02:00", "mon-wed 01:00-02:00"),
        ("fri-mon 00:00-24:00", "mon,fri-sun 00:00-24:00"),
        ("mon-sun 22:00-00:00", "daily 22:00-00:00"),
        ("daily 00:00-24:00", "daily 00:00-24:00"),
        ("tue 23:59-00:01", "tue 23:59-00:01"),
    ] {
        let read = text.parse::<FreezeWindow>().map(|window| window.to_string()).unwrap_or_default();
        assert_eq!(read, shown, "{text}");
    }
    for bad in
        ["", "mon", "22:00-04:00", "mon 22:00", "mon 22-04", "mon 24:00-04:00", "mon 25:00-26:00", "xyz 01:00-02:00"]
    {
        assert!(matches!(bad.parse::<FreezeWindow>(), Err(InvalidWindow::Form(_))), "{bad}");
    }
    assert!(matches!("mon 04:00-04:00".parse::<FreezeWindow>(), Err(InvalidWindow::Empty(_))));
    assert_eq!(FreezeWindows::parse(&["daily 01:00-02:00"; 17]), Err(InvalidWindow::TooMany(17)));
}

#[test]
fn a_night_belongs_to_the_day_on_which_it_begins() {
    let nights = windows(&["mon-fri 22:00-04:00"]);
    assert_eq!(nights.next_fit(MONDAY_MS, 0), MONDAY_MS + 22 * HOUR_MS);
    let saturday_ms = MONDAY_MS + 5 * 24 * HOUR_MS;
    assert_eq!(nights.next_fit(saturday_ms + 3 * HOUR_MS, 0), saturday_ms + 3 * HOUR_MS, "of Friday");
    let opens_ms = nights.next_fit(saturday_ms + 4 * HOUR_MS, 0);
    assert_eq!(weekday_time(opens_ms), "mon 22:00 UTC");
    assert_eq!(opens_ms, MONDAY_MS + (7 * 24 + 22) * HOUR_MS);
}

#[test]
fn a_freeze_needs_enough_of_the_window_that_is_left() {
    let nights = windows(&["daily 22:00-04:00"]);
    let near_the_end_ms = MONDAY_MS + 4 * HOUR_MS - 2_000;
    assert_eq!(nights.next_fit(near_the_end_ms, 2_000), near_the_end_ms);
    assert_eq!(nights.next_fit(near_the_end_ms, 2_001), MONDAY_MS + 22 * HOUR_MS);
    assert_eq!(nights.next_fit(near_the_end_ms, 9 * HOUR_MS), MONDAY_MS + 22 * HOUR_MS, "no window is so long");
}

#[test]
fn windows_that_touch_are_one_also_over_the_end_of_the_week() {
    let weekend = windows(&["sat,sun 00:00-24:00", "mon 00:00-02:00"]);
    let sunday_night_ms = MONDAY_MS - 1_000;
    assert_eq!(weekend.next_fit(sunday_night_ms, 2 * HOUR_MS), sunday_night_ms);
    assert_eq!(weekend.after_open(sunday_night_ms, HOUR_MS), sunday_night_ms + HOUR_MS);
    for always in [windows(&[]), windows(&["daily 00:00-24:00"]), windows(&["daily 00:00-12:00", "daily 11:00-00:00"])]
    {
        assert_eq!(always.next_fit(MONDAY_MS + 7, u64::MAX), MONDAY_MS + 7);
        assert_eq!(always.after_open(5, u64::MAX), u64::MAX);
    }
}

#[test]
fn time_outside_of_windows_does_not_count() {
    let hour = windows(&["mon 10:00-11:00"]);
    assert_eq!(hour.after_open(MONDAY_MS, 1), MONDAY_MS + 10 * HOUR_MS + 1);
    assert_eq!(hour.after_open(MONDAY_MS + 10 * HOUR_MS + 30 * MINUTE_MS, 45 * MINUTE_MS), {
        MONDAY_MS + WEEK_MS + 10 * HOUR_MS + 15 * MINUTE_MS
    });
    assert_eq!(hour.after_open(MONDAY_MS, u64::MAX), u64::MAX);
    assert_eq!(hour.next_fit(u64::MAX - 5, 1), u64::MAX, "the end of all time");
}

fn any_window() -> impl Strategy<Value = FreezeWindow> {
    (1..=EVERY_DAY, 0..1_440_u16, 0..=1_440_u16)
        .prop_filter("open at some time", |(_, from, to)| from != to && (*from, *to) != (0, 0))
        .prop_map(|(days, from_min, to_min)| FreezeWindow { days, from_min, to_min })
}

/// Whether any of the windows is open in this minute of the week, by their words.
fn is_open(windows: &FreezeWindows, minute: u64) -> bool {
    let (day, time) = (minute % WEEK_MIN / DAY_MIN, minute % DAY_MIN);
    let on = |window: &FreezeWindow, day: u64| window.days & (1 << (day % 7)) != 0;
    windows.0.iter().any(|window| {
        let (from, to) = (u64::from(window.from_min), u64::from(window.to_min));
        match from < to {
            true => on(window, day) && (from..to).contains(&time),
            false => on(window, day) && time >= from || on(window, day + 6) && time < to,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_reads_back(window in any_window()) {
        prop_assert_eq!(window.to_string().parse::<FreezeWindow>(), Ok(window));
    }

    #[test]
    fn a_fit_is_the_first_minute_that_is_open_long_enough(
        all in proptest::collection::vec(any_window(), 1..4),
        minute in 0..2 * WEEK_MIN,
        needs_min in 1..240_u64,
    ) {
        let windows = FreezeWindows(all);
        let longest = (0..WEEK_MIN).scan(0, |run, at| {
            *run = if is_open(&windows, at) { *run + 1 } else { 0 };
            Some(*run)
        });
        // A run over the end of the week is shorter here: never too much is asked of it.
        let needs_min = needs_min.min(longest.max().unwrap_or(0)).max(1);
        let fits = |at: &u64| (*at..*at + needs_min).all(|at| is_open(&windows, at));
        let expected = (minute..minute + 2 * WEEK_MIN).find(fits).expect("within a week");
        let fit_ms = windows.next_fit(MONDAY_MS + minute * MINUTE_MS, needs_min * MINUTE_MS);
        prop_assert_eq!(fit_ms, MONDAY_MS + expected * MINUTE_MS);
    }

    #[test]
    fn open_time_is_counted_as_minute_by_minute(
        all in proptest::collection::vec(any_window(), 1..4),
        minute in 0..2 * WEEK_MIN,
        open_min in 1..3 * DAY_MIN,
    ) {
        let windows = FreezeWindows(all);
        let begins_ms = MONDAY_MS + minute * MINUTE_MS;
        let after = (windows.after_open(begins_ms, open_min * MINUTE_MS) - begins_ms) / MINUTE_MS;
        let counted = (minute..minute + after).filter(|at| is_open(&windows, *at)).count() as u64;
        prop_assert_eq!(counted, open_min);
    }

    #[test]
    fn no_time_and_no_need_is_too_much(all in proptest::collection::vec(any_window(), 0..4), now in any::<u64>(), ms in any::<u64>()) {
        let windows = FreezeWindows(all);
        prop_assert!(windows.next_fit(now, ms) >= now);
        prop_assert!(windows.after_open(now, ms) >= now);
    }
}

//! What a move would be like, by what is known before it begins: how much there is to copy, what runs at the source, and
//! how long the moves before it took.

use super::limits::MoveLimits;
use super::record::{Admitted, CopyMade, MoveRecord};
use crate::cell::MoverDriver;

/// How many of a driver's latest moves are looked at.
pub const PAST_MOVES_MAX: usize = 50;

/// What is to be expected of a move. Where nothing is known, nothing is guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forecast {
    /// How many moves of the same driver it stands on.
    pub past_moves: usize,
    /// How long the copy will take.
    pub copy_ms: Option<u64>,
    /// How long requests will be held: as long as in the moves before, and for what runs now.
    pub freeze_ms: Option<u64>,
    /// Whether that is within the tenant's freeze budget: if not, the move waits while it follows changes, and is undone
    /// when that takes too long.
    pub within_budget: Option<bool>,
}

/// The forecast of a move by `driver`, from the records of others in any order. `data_bytes` and `admitted` are what the
/// source said, if it was heard.
pub fn forecast<'a>(
    records: impl Iterator<Item = &'a MoveRecord>,
    driver: MoverDriver,
    limits: &MoveLimits,
    data_bytes: Option<u64>,
    admitted: Option<Admitted>,
) -> Forecast {
    let mut past: Vec<&MoveRecord> =
        records.filter(|record| record.driver == driver && record.state.is_past_commit()).collect();
    past.sort_by_key(|record| std::cmp::Reverse(record.created_ms));
    past.truncate(PAST_MOVES_MAX);
    let copies = past.iter().filter_map(|record| record.copied);
    let copy_ms = data_bytes.and_then(|bytes| copy_ms(copies, bytes));
    let freezes = past.iter().filter_map(|record| record.freeze_ms()).collect();
    let freeze_ms = median(freezes).zip(admitted).map(|(held_ms, now)| held_ms.saturating_add(now.oldest_request_ms));
    let within_budget = freeze_ms.map(|freeze_ms| freeze_ms <= limits.freeze_budget_ms);
    Forecast { past_moves: past.len(), copy_ms, freeze_ms, within_budget }
}

/// As long as the copy that was as large or just larger; beyond the largest one, in proportion to it. A small copy is
/// mostly round trips, and says nothing of the pace of a large one.
fn copy_ms(copies: impl Iterator<Item = CopyMade> + Clone, bytes: u64) -> Option<u64> {
    if let Some(larger) =
        copies.clone().filter(|copy| copy.bytes >= bytes).min_by_key(|copy| (copy.bytes, copy.took_ms))
    {
        return Some(larger.took_ms);
    }
    let largest = copies.max_by_key(|copy| (copy.bytes, copy.took_ms)).filter(|copy| copy.bytes > 0)?;
    let scaled = u128::from(largest.took_ms) * u128::from(bytes) / u128::from(largest.bytes);
    Some(u64::try_from(scaled).unwrap_or(u64::MAX))
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant_move::tests::{NOW_MS, record};
    use crate::tenant_move::{Done, MoveState};
    use proptest::prelude::*;

    fn past(bytes: u64, took_ms: u64, freeze_ms: u64) -> MoveRecord {
        MoveRecord {
            copied: Some(CopyMade { bytes, took_ms }),
            held_ms: Some(NOW_MS),
            released_ms: Some(NOW_MS + freeze_ms),
            ..record(MoveState::Done(Done { leftover: None, reversed_by: None }))
        }
    }

    fn of(past: &[MoveRecord], bytes: u64, oldest_request_ms: u64) -> Forecast {
        let admitted = Some(Admitted { oldest_request_ms, ..Admitted::default() });
        forecast(past.iter(), MoverDriver::Sqlite, &MoveLimits::default(), Some(bytes), admitted)
    }

    #[test]
    fn nothing_is_guessed_where_nothing_is_known() {
        assert_eq!(of(&[], 1_000, 0), Forecast::default());
        let undone = [record(MoveState::Planned)];
        assert_eq!(of(&undone, 1_000, 0), Forecast::default(), "only moves that came to their end count");
        let unheard = forecast([past(1_000, 10, 20)].iter(), MoverDriver::Sqlite, &MoveLimits::default(), None, None);
        assert_eq!((unheard.past_moves, unheard.copy_ms, unheard.freeze_ms), (1, None, None));
        let other = forecast([past(1, 1, 1)].iter(), MoverDriver::Postgres, &MoveLimits::default(), Some(1), None);
        assert_eq!(other, Forecast::default(), "another driver's moves say nothing");
    }

    #[test]
    fn a_running_request_may_take_the_freeze_over_the_budget() {
        let past = [past(1_000, 10, 20), past(1_000, 10, 40), past(1_000, 10, 30)];
        assert_eq!((of(&past, 1, 0).freeze_ms, of(&past, 1, 0).within_budget), (Some(30), Some(true)));
        assert_eq!((of(&past, 1, 5_000).freeze_ms, of(&past, 1, 5_000).within_budget), (Some(5_030), Some(false)));
    }

    #[test]
    fn a_small_copy_says_little_of_a_large_one() {
        let past = [past(4_096, 300, 1), past(1_000_000, 500, 1)];
        assert_eq!(of(&past, 100, 0).copy_ms, Some(300));
        assert_eq!(of(&past, 500_000, 0).copy_ms, Some(500));
        assert_eq!(of(&past, 10_000_000, 0).copy_ms, Some(5_000));
    }

    proptest! {
        #[test]
        fn twice_the_data_beyond_what_was_seen_takes_twice_as_long(took_ms in 1..100_000_u64, bytes in 1..1_u64 << 40) {
            let past = [past(bytes, took_ms, 1)];
            prop_assert_eq!(of(&past, bytes * 2, 0).copy_ms, Some(took_ms * 2));
            prop_assert_eq!(of(&past, bytes, 0).copy_ms, Some(took_ms));
        }
    }
}

//! How long things took: a histogram of bounded size, exact to 3 % and in its maximum.

use serde::Serialize;

/// Each power of two is cut into this many steps.
const STEPS: u64 = 32;
const STEPS_LOG2: u32 = 5;
const BUCKETS: usize = (64 - STEPS_LOG2 as usize + 1) * STEPS as usize;

/// Durations, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_us: u64,
}

/// Of a histogram, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    /// How many there were.
    pub(crate) count: u64,
    /// Half of them took at most so long.
    pub(crate) p50: f64,
    /// All but one in a hundred.
    pub(crate) p99: f64,
    /// The longest.
    pub(crate) max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Adds one.
    pub(crate) fn add(&mut self, us: u64) {
        self.counts[bucket(us)] += 1;
        self.total += 1;
        self.max_us = self.max_us.max(us);
    }

    /// The percentiles; zeros if there is nothing.
    pub(crate) fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.total,
            p50: self.at_us(50) as f64 / 1_000.0,
            p99: self.at_us(99) as f64 / 1_000.0,
            max: self.max_us as f64 / 1_000.0,
        }
    }

    /// The upper end of the step in which the percentile is.
    fn at_us(&self, percent: u64) -> u64 {
        let rank = (self.total * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return upper_end(index).min(self.max_us);
            }
        }
        0
    }
}

fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let shift = us.ilog2() - STEPS_LOG2;
    ((u64::from(shift) + 1) * STEPS + (us >> shift) - STEPS) as usize
}

fn upper_end(index: usize) -> u64 {
    let (row, step) = (index as u64 / STEPS, index as u64 % STEPS);
    if row == 0 {
        return step;
    }
    let shift = row - 1;
    let lower = (STEPS + step) << shift;
    lower + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_the_step_that_covers_it() {
        for us in (0..5_000).chain([65_535, 65_536, 1 << 40, u64::MAX]) {
            let end = upper_end(bucket(us));
            assert!(end >= us && (end - us) as f64 <= us as f64 / 30.0, "{us} {end}");
        }
    }

    #[test]
    fn percentiles_are_exact_to_a_few_percent_and_the_maximum_is_exact() {
        let mut histogram = Histogram::default();
        (1..=1_000).for_each(|ms| histogram.add(ms * 1_000));
        let seen = histogram.percentiles();
        assert!((seen.p50 - 500.0).abs() < 16.0 && (seen.p99 - 990.0).abs() < 32.0, "{seen:?}");
        assert_eq!((seen.count, seen.max), (1_000, 1_000.0));
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }
}

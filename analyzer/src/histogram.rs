//! A histogram of whole numbers in constant memory: exact up to 255, and within one part in 128 above.

/// Numbers below this have a bucket each.
const EXACT: u64 = 256;
/// Buckets for each doubling above.
const STEPS: u64 = 128;

/// A distribution.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let doublings = u64::from(value.ilog2() - STEPS.ilog2());
    (doublings * STEPS + (value >> doublings)) as usize
}

/// The largest number of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT {
        return bucket;
    }
    let doublings = bucket / STEPS - 1;
    let within = bucket % STEPS + STEPS;
    (within << doublings) + ((1 << doublings) - 1)
}

impl Histogram {
    /// Counts a number.
    pub fn add(&mut self, value: u64) {
        let at = bucket(value);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum, exact.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest, exact; 0 for none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The least number that `percent` of all are not above: the nearest-rank percentile, rounded up to its bucket's end.
    pub fn percentile(&self, percent: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(percent)).div_ceil(100).max(1) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(at).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_numbers_are_exact() {
        let mut of = Histogram::default();
        (1..=100).for_each(|value| of.add(value));
        assert_eq!((of.percentile(50), of.percentile(90), of.percentile(99), of.max()), (50, 90, 99, 100));
        assert_eq!((of.count(), of.sum()), (100, 5050));
        assert_eq!(Histogram::default().percentile(50), 0);
    }

    proptest! {
        #[test]
        fn buckets_hold_their_numbers(value: u64) {
            let at = bucket(value);
            prop_assert!(value <= upper(at));
            prop_assert!(at == 0 || upper(at - 1) < value);
            prop_assert!(upper(at) - value <= value / 128);
        }

        #[test]
        fn percentiles_are_the_nearest_rank_within_a_bucket(mut values in prop::collection::vec(0..100_000_u64, 1..200), percent in 1..=100_u64) {
            let mut of = Histogram::default();
            values.iter().for_each(|&value| of.add(value));
            values.sort_unstable();
            let exact = values[(values.len() as u64 * percent).div_ceil(100) as usize - 1];
            let got = of.percentile(percent);
            prop_assert!(got >= exact && got <= exact + exact / 128, "{got} for {exact}");
        }
    }
}

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

    /// Counts all numbers of another.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// The numbers by powers of two: of each power from the least that holds any to the greatest, the number that all are
    /// below, and how many there are. The first is of 0 alone, below 1.
    pub fn doublings(&self) -> Vec<(u64, u64)> {
        let mut sums = [0_u64; 65];
        for (at, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            sums[(u64::BITS - upper(at).leading_zeros()) as usize] += count;
        }
        let (Some(first), Some(last)) =
            (sums.iter().position(|count| *count > 0), sums.iter().rposition(|count| *count > 0))
        else {
            return Vec::new();
        };
        (first..=last).map(|power| (1_u64.checked_shl(power as u32).unwrap_or(u64::MAX), sums[power])).collect()
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

    #[test]
    fn doublings_are_powers_of_two() {
        let mut of = Histogram::default();
        assert_eq!(of.doublings(), []);
        [0, 1, 2, 3, 4, 7, 300, 511].iter().for_each(|&value| of.add(value));
        assert_eq!(
            of.doublings(),
            [(1, 1), (2, 1), (4, 2), (8, 2), (16, 0), (32, 0), (64, 0), (128, 0), (256, 0), (512, 2)]
        );
        let mut most = Histogram::default();
        most.add(u64::MAX);
        assert_eq!(most.doublings(), [(u64::MAX, 1)]);
    }

    proptest! {
        #[test]
        fn merging_is_counting_both(a in prop::collection::vec(any::<u64>(), 0..50), b in prop::collection::vec(0..1000_u64, 0..50)) {
            let of = |values: &[u64]| {
                let mut of = Histogram::default();
                values.iter().for_each(|&value| of.add(value));
                of
            };
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(&merged, &of(&[a, b].concat()));
            prop_assert_eq!(merged.doublings().iter().map(|(_, count)| count).sum::<u64>(), merged.count());
        }

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

//! Records of several rings in the order of their times.
//!
//! A ring holds what its CPU wrote, and the rings are read one after another: what one was asked for first may be older than
//! what another gives later. So records wait until they are older than [`WINDOW`] before the last look at the rings: by then
//! all that is older has been seen.

use super::rings::Record;

/// How long a CPU may take between the time of a record and its being in the ring, in nanoseconds: with steal, milliseconds.
const WINDOW: u64 = 10_000_000;

/// Records that wait.
#[derive(Debug, Default)]
pub(super) struct Order {
    waiting: Vec<Record>,
    /// The time of the last that was given.
    last: u64,
    /// Records that came too late for their place.
    late: u64,
}

impl Order {
    /// One more.
    pub(super) fn push(&mut self, record: Record) {
        self.waiting.push(record);
    }

    /// Gives the records whose place is sure, by rising time: after a look at the rings that began at `now`.
    pub(super) fn give(&mut self, now: u64, take: impl FnMut(Record)) {
        self.give_until(now.saturating_sub(WINDOW), take);
    }

    /// Gives all that wait.
    pub(super) fn give_all(&mut self, take: impl FnMut(Record)) {
        self.give_until(u64::MAX, take);
    }

    fn give_until(&mut self, until: u64, mut take: impl FnMut(Record)) {
        // Runs that are sorted already, as each ring's is, are merged. What is alike keeps its order.
        self.waiting.sort_by_key(|record| record.time);
        let sure = self.waiting.partition_point(|record| record.time < until);
        for mut record in self.waiting.drain(..sure) {
            if record.time < self.last {
                self.late += 1;
                record.time = self.last;
            }
            self.last = record.time;
            take(record);
        }
    }

    /// Records that came too late for their place and stand where they came, with the time of the one before.
    pub(super) fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::super::rings::Of;
    use super::*;

    #[test]
    fn times_rise_across_rings() {
        let record = |time, cpu| Record { time, process: 0, thread: 0, cpu, what: Of::Lost(1) };
        let mut order = Order::default();
        let mut got = Vec::new();
        // What each ring gave, one after the other.
        [(10, 0), (30, 0), (WINDOW + 20, 0), (5, 1), (30, 1)]
            .into_iter()
            .for_each(|(time, cpu)| order.push(record(time, cpu)));
        order.give(WINDOW + 31, |record| got.push((record.time, record.cpu)));
        assert_eq!(got, [(5, 1), (10, 0), (30, 0), (30, 1)]);
        // One that is late, and one that still fits.
        [(25, 1), (WINDOW, 1)].into_iter().for_each(|(time, cpu)| order.push(record(time, cpu)));
        got.clear();
        order.give_all(|record| got.push((record.time, record.cpu)));
        assert_eq!(got, [(30, 1), (WINDOW, 1), (WINDOW + 20, 0)]);
        assert_eq!(order.late(), 1);
        assert!(order.waiting.is_empty());
    }
}

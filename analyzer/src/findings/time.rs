//! Time: what ran at each level and what L0 took, in all and over the trace.

use super::exits::ExitRow;
use super::tree::{Totals, Works};
use crate::histogram::Histogram;
use hv_defs::cost::Costs;

/// What one level ran, and what its exits cost.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LevelTime {
    /// The level; 0 for what passed between an exit and an entry: of our own recordings while nothing ran, of others in the
    /// host.
    pub level: u8,
    /// What passed while it ran, in the trace's clock.
    pub ran: u64,
    /// Its exits.
    pub exits: u64,
    /// Its stretches from an entry to the exit, in the trace's clock.
    pub stretches: Histogram,
    /// Modelled cycles of handling one of its exits.
    pub handling: Histogram,
    /// Handling one of its exits, in the clock of a foreign trace.
    pub elapsed: Histogram,
}

/// Where the time of a trace went.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Time {
    /// By level, lowest first. What they ran and [`Time::l0_cycles`] are the whole.
    pub levels: Vec<LevelTime>,
    /// L0's work.
    pub work: Works,
    /// Modelled cycles of L0's work.
    pub l0_cycles: u64,
    /// Over the trace.
    pub slices: Slices,
}

impl Time {
    pub(super) fn of(exits: &[ExitRow], totals: Totals, slices: Slices, costs: &Costs) -> Self {
        let mut levels: Vec<LevelTime> =
            totals.ran.iter().map(|&(level, ran)| LevelTime { level, ran, ..LevelTime::default() }).collect();
        for row in exits {
            let at = levels.iter().position(|level| level.level == row.level).unwrap_or_else(|| {
                levels.push(LevelTime { level: row.level, ..LevelTime::default() });
                levels.len() - 1
            });
            let level = &mut levels[at];
            level.exits += row.count;
            level.stretches.merge(&row.guest);
            level.handling.merge(&row.handling);
            level.elapsed.merge(&row.elapsed);
        }
        levels.sort_by_key(|level| level.level);
        Self { levels, l0_cycles: totals.work.cycles(costs), work: totals.work, slices }
    }
}

/// A slice of the trace's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slice {
    /// Exits of L1.
    pub l1_exits: u64,
    /// Exits of L2.
    pub l2_exits: u64,
    /// Exits of L3 and deeper.
    pub deeper_exits: u64,
    /// Flushes made, by whomever.
    pub flushes: u64,
    /// Requests of the vmcs02 pool that found none.
    pub pool_misses: u64,
    /// Modelled cycles of L0's work.
    pub l0_cycles: u64,
}

impl Slice {
    pub(super) fn exit(&mut self, level: u8) {
        *match level {
            0 | 1 => &mut self.l1_exits,
            2 => &mut self.l2_exits,
            _ => &mut self.deeper_exits,
        } += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.l1_exits += other.l1_exits;
        self.l2_exits += other.l2_exits;
        self.deeper_exits += other.deeper_exits;
        self.flushes += other.flushes;
        self.pool_misses += other.pool_misses;
        self.l0_cycles += other.l0_cycles;
    }
}

/// Slices at most; from half as many on they are not made wider.
const SLICES: u64 = 64;

/// A trace cut into equal slices of its clock. Their width is a power of two that doubles as the trace goes on, so that their
/// number stays, and what is in each does not depend on the order in which it came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slices {
    doublings: u32,
    /// The slices, the first from stamp 0 on; the last are left out if nothing is in them.
    pub rows: Vec<Slice>,
}

impl Slices {
    /// How much of the clock is in a slice.
    pub fn width(&self) -> u64 {
        1 << self.doublings
    }

    /// The stamp at which a slice begins.
    pub fn start(&self, slice: usize) -> u64 {
        (slice as u64) << self.doublings
    }

    /// The slice of a stamp.
    pub fn index(&self, stamp: u64) -> usize {
        (stamp >> self.doublings) as usize
    }

    pub(super) fn at(&mut self, stamp: u64) -> &mut Slice {
        while stamp >> self.doublings >= SLICES {
            self.doublings += 1;
            let half = self.rows.len().div_ceil(2);
            for at in 0..half {
                let mut both = self.rows[2 * at];
                if let Some(second) = self.rows.get(2 * at + 1) {
                    both.merge(second);
                }
                self.rows[at] = both;
            }
            self.rows.truncate(half);
        }
        let index = self.index(stamp);
        if index >= self.rows.len() {
            self.rows.resize(index + 1, Slice::default());
        }
        &mut self.rows[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_hold_the_same_in_any_order(stamps in prop::collection::vec(0..u64::MAX, 1..100), shift in 0..63_u32) {
            let mut stamps: Vec<u64> = stamps.into_iter().map(|stamp| stamp >> shift).collect();
            let fill = |stamps: &[u64]| {
                let mut slices = Slices::default();
                stamps.iter().for_each(|&stamp| slices.at(stamp).flushes += 1);
                slices
            };
            let forwards = fill(&stamps);
            stamps.reverse();
            prop_assert_eq!(&fill(&stamps), &forwards);
            stamps.sort_unstable();
            prop_assert_eq!(&fill(&stamps), &forwards);
            prop_assert!(forwards.rows.len() as u64 <= SLICES);
            let last = stamps[stamps.len() - 1];
            prop_assert!(last < SLICES || forwards.rows.len() as u64 > SLICES / 2);
            for (at, slice) in forwards.rows.iter().enumerate() {
                let within = stamps.iter().filter(|&&stamp| forwards.index(stamp) == at).count() as u64;
                prop_assert_eq!(slice.flushes, within);
            }
        }
    }
}

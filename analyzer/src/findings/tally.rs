//! Flushes added up: how many of each verdict, what they dropped and what was wasted.

use super::exits::flush_cost;
use crate::judge::{Judged, JudgedBy, Verdict};
use hv_defs::cost::Costs;
use hv_defs::event::Actor;

/// A sum of flushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// How many of each verdict, in the order of [`Verdict::ALL`].
    verdicts: [u64; Verdict::ALL.len()],
    /// How many of the verdicts a second execution gave.
    pub by_replay: u64,
    /// TLB entries dropped: as many misses may follow.
    pub dropped: u64,
    /// How many of the flushes dropped nothing.
    pub dropped_nothing: u64,
    /// Modelled cycles of the flushes themselves; 0 for a guest's own, which L0 carries out.
    pub cycles: u64,
    /// Modelled cycles of filling again what was dropped, if all of it is wanted again.
    pub refill_cycles: u64,
    /// Modelled cycles wasted: docs/waste.md says which these are.
    pub wasted: u64,
}

/// Modelled cycles that a flush wastes. Of a redundant one all: itself and its refills, and where a guest asked for it the
/// exit to L0 and back. Of one that is too broad its refills, at most.
pub(crate) fn wasted(judged: &Judged, costs: &Costs) -> u64 {
    let flush = &judged.flush;
    let refills = costs.refill(flush.dropped.into(), true);
    match judged.verdict {
        Verdict::Redundant if flush.actor == Actor::L0 => flush_cost(flush, costs) + refills,
        Verdict::Redundant => costs.round_trip(),
        Verdict::TooBroad => refills,
        _ => 0,
    }
}

impl Tally {
    pub(super) fn add(&mut self, judged: &Judged, costs: &Costs) {
        self.verdicts[judged.verdict as usize] += 1;
        self.by_replay += u64::from(judged.judged_by == JudgedBy::Replay);
        if judged.verdict == Verdict::Missing {
            return;
        }
        let dropped = u64::from(judged.flush.dropped);
        self.dropped += dropped;
        self.dropped_nothing += u64::from(dropped == 0);
        self.wasted += wasted(judged, costs);
        if judged.flush.actor == Actor::L0 {
            self.cycles += flush_cost(&judged.flush, costs);
            self.refill_cycles += costs.refill(dropped, true);
        }
    }

    pub(super) fn and(&mut self, other: &Self) {
        self.verdicts.iter_mut().zip(other.verdicts).for_each(|(sum, count)| *sum += count);
        self.by_replay += other.by_replay;
        self.dropped += other.dropped;
        self.dropped_nothing += other.dropped_nothing;
        self.cycles += other.cycles;
        self.refill_cycles += other.refill_cycles;
        self.wasted += other.wasted;
    }

    /// How many have this verdict.
    pub const fn count(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict as usize]
    }

    /// How many were made, missing ones not counted.
    pub fn made(&self) -> u64 {
        self.verdicts.iter().sum::<u64>() - self.count(Verdict::Missing)
    }

    /// What the verdicts rest on: `rule`, `replay`, or both.
    pub fn judged_by(&self) -> &'static str {
        match self.verdicts.iter().sum::<u64>() - self.by_replay {
            0 if self.by_replay > 0 => JudgedBy::Replay.name(),
            _ if self.by_replay == 0 => JudgedBy::Rule.name(),
            _ => "rule, replay",
        }
    }
}

/// The first rows of a list, and the sum of the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Top<T> {
    /// The first ones, in order.
    pub rows: Vec<T>,
    /// How many more there are.
    pub left: u64,
    /// Their sum.
    pub rest: Tally,
}

impl<T> Default for Top<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), left: 0, rest: Tally::default() }
    }
}

impl<T> Top<T> {
    /// The first `kept` of `rows`, whose tallies `of` gives.
    pub(super) fn of(mut rows: Vec<T>, kept: usize, of: impl Fn(&T) -> &Tally) -> Self {
        let (mut rest, left) = (Tally::default(), rows.len().saturating_sub(kept));
        rows.iter().skip(kept).for_each(|row| rest.and(of(row)));
        rows.truncate(kept);
        Self { rows, left: left as u64, rest }
    }

    /// How many there are beyond the first `shown`, and their sum.
    pub fn beyond(&self, shown: usize, of: impl Fn(&T) -> &Tally) -> (u64, Tally) {
        let mut rest = self.rest;
        self.rows.iter().skip(shown).for_each(|row| rest.and(of(row)));
        (self.left + self.rows.len().saturating_sub(shown) as u64, rest)
    }
}

//! Flushes: by cause, kind and actor, with verdicts, what they dropped and what the refills cost.

use super::exits::flush_cost;
use super::sites::{self, LevelRow, SiteRow, TagRow};
use super::tally::{Tally, Top};
use crate::judge::{Judged, Rule, Verdict};
use hv_defs::cost::Costs;
use hv_defs::event::{Actor, Cause, Event, FlushKind};
use std::collections::BTreeMap;

/// Flushes that agree in all but place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlushRow {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that gave it.
    pub rule: Rule,
    /// Why it was made; for a missing one, what changed the mapping.
    pub cause: Cause,
    /// How much it drops.
    pub kind: FlushKind,
    /// Who asked for it; for a missing one, who owed it.
    pub actor: Actor,
    /// For a flush that is too broad, the kind that would do.
    pub narrower: Option<&'static str>,
    /// Of a wasted one by replay, the rule by which L0 could have known it: see [`Judged::known_by`].
    pub known_by: Option<Rule>,
    /// How many.
    pub count: u64,
    /// TLB entries dropped.
    pub dropped: u64,
    /// How many of them dropped nothing.
    pub dropped_nothing: u64,
    /// Modelled cycles of the flushes themselves; 0 for a guest's own, which L0 carries out.
    pub cycles: u64,
    /// Modelled cycles of filling again what was dropped, if all of it is wanted again.
    pub refill_cycles: u64,
    /// The first one's event.
    pub first: u64,
}

/// All flushes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flushes {
    /// Missing ones first; then by waste.
    pub rows: Vec<FlushRow>,
    /// The first of the missing ones, up to a hundred, in the order of events.
    pub missing: Vec<Judged>,
    /// By site: sites of missing ones first, then by waste.
    pub sites: Top<SiteRow>,
    /// By what they name, likewise.
    pub tags: Top<TagRow>,
    /// By the levels whose translations they drop, likewise.
    pub levels: Vec<LevelRow>,
}

/// How many missing flushes are listed one by one.
pub(crate) const MISSING_KEPT: usize = 100;

impl Flushes {
    /// Flushes that were made, missing ones not counted.
    pub fn made(&self) -> u64 {
        self.rows.iter().filter(|row| row.verdict != Verdict::Missing).map(|row| row.count).sum()
    }

    /// How many have this verdict.
    pub fn count(&self, verdict: Verdict) -> u64 {
        self.rows.iter().filter(|row| row.verdict == verdict).map(|row| row.count).sum()
    }

    /// Modelled cycles of the flushes with this verdict and their refills.
    pub fn cycles(&self, verdict: Verdict) -> u64 {
        self.rows.iter().filter(|row| row.verdict == verdict).map(|row| row.cycles + row.refill_cycles).sum()
    }

    /// What the verdicts rest on, as [`Tally::judged_by`] says it; `None` without any.
    pub fn judged_by(&self) -> Option<&'static str> {
        let mut all = Tally::default();
        self.levels.iter().for_each(|row| all.and(&row.tally));
        (!self.levels.is_empty()).then(|| all.judged_by())
    }

    /// TLB entries dropped in all.
    pub fn dropped(&self) -> u64 {
        self.rows.iter().map(|row| row.dropped).sum()
    }
}

type Key = (Verdict, Rule, Cause, FlushKind, Actor, Option<&'static str>, Option<Rule>);

#[derive(Debug, Default)]
pub(super) struct Fold {
    rows: BTreeMap<Key, FlushRow>,
    missing: Vec<Judged>,
    sites: sites::Fold,
}

impl Fold {
    /// With the verdicts that a second execution gave.
    pub(super) fn with(given: Option<&[Judged]>) -> Self {
        Self { sites: sites::Fold::with(given), ..Self::default() }
    }

    /// An event, before any verdict on it.
    pub(super) fn before(&mut self, number: u64, event: &Event) {
        self.sites.before(number, event);
    }

    /// An event, when the verdicts that it brought are in.
    pub(super) fn after(&mut self, number: u64, event: &Event) {
        self.sites.after(number, event);
    }

    pub(super) fn judged(&mut self, judged: Judged, costs: &Costs) {
        self.sites.judged(&judged, costs);
        let flush = &judged.flush;
        let key = (judged.verdict, judged.rule, flush.cause, flush.kind, flush.actor, judged.narrower, judged.known_by);
        let row = self.rows.entry(key).or_insert_with(|| FlushRow {
            verdict: judged.verdict,
            rule: judged.rule,
            cause: flush.cause,
            kind: flush.kind,
            actor: flush.actor,
            narrower: judged.narrower,
            known_by: judged.known_by,
            count: 0,
            dropped: 0,
            dropped_nothing: 0,
            cycles: 0,
            refill_cycles: 0,
            first: judged.event,
        });
        row.count += 1;
        row.first = row.first.min(judged.event);
        let dropped = u64::from(flush.dropped);
        row.dropped += dropped;
        if judged.verdict == Verdict::Missing {
            if self.missing.len() < MISSING_KEPT {
                self.missing.push(judged);
            }
        } else {
            row.dropped_nothing += u64::from(dropped == 0);
            if flush.actor == Actor::L0 {
                row.cycles += flush_cost(flush, costs);
                row.refill_cycles += costs.refill(dropped, true);
            }
        }
    }

    pub(super) fn finish(self) -> Flushes {
        let mut rows: Vec<FlushRow> = self.rows.into_values().collect();
        rows.sort_by_key(|row| {
            let wasted = matches!(row.verdict, Verdict::Redundant | Verdict::TooBroad);
            let cost = row.cycles + row.refill_cycles;
            (row.verdict != Verdict::Missing, !wasted, core::cmp::Reverse((cost, row.count)))
        });
        let (sites, tags, levels) = self.sites.finish();
        Flushes { rows, missing: self.missing, sites, tags, levels }
    }
}

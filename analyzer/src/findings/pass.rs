//! The one pass over a source's events, and the folds that it feeds.
//!
//! A fold is fed in one of three ways. [`vmcs`] takes all VMCS accesses by tiles of columns, and nothing else: no other event
//! stands between for it. Folds that look at few of the accesses are given those, which a [`Sieve`] finds; and how many there
//! were between two other events, and of what, is counted for them by [`Work`]. All other events come one by one.

use super::{
    Findings, Overview, cpus, ept, exits, flushes, injections, mistakes, phases, pool, returns, shadow, storms, vmcs,
    vpids,
};
use crate::chunk::{Chunk, Room};
use crate::judge::{Bench, Flaw, Judged, Verdict};
use hv_defs::config::Clock;
use hv_defs::cost::Costs;
use hv_defs::event::{Event, Kind, What};
use std::collections::BTreeMap;

mod sieve;
#[cfg(test)]
mod tests;

pub(super) use sieve::Work;
use sieve::{Concern, Found, Sieve};

/// The folds over the events, side by side.
#[derive(Debug)]
pub(super) struct Pass {
    costs: Costs,
    overview: Overview,
    cpus: cpus::Cpus,
    failed: BTreeMap<String, u64>,
    bench: Bench,
    exits: exits::Fold,
    flushes: flushes::Fold,
    mistakes: mistakes::Fold,
    pools: pool::Fold,
    vmcs: vmcs::Fold,
    vpids: vpids::Fold,
    ept: ept::Fold,
    storms: storms::Fold,
    returns: returns::Fold,
    injections: injections::Fold,
    phases: phases::Phases,
    sieve: Sieve,
    room: Box<Room>,
    /// Of the chunk: its rows by vCPU, the next row, and which of them that is in.
    spans: Vec<(u32, u16)>,
    row: u32,
    span: usize,
    /// The number behind the last event that was given to the judge, or that it need not be given.
    judged_to: u64,
    /// Flushes that were not required, where they are asked for.
    flaws: Option<Vec<Flaw>>,
}

impl Pass {
    /// A pass with these verdicts on flushes: see [`Bench::with`].
    pub(super) fn new(verdicts: Option<&[Judged]>) -> Self {
        Self {
            costs: hv_defs::cost::DEFAULT,
            overview: Overview::default(),
            cpus: cpus::Cpus::default(),
            failed: BTreeMap::new(),
            bench: Bench::with(verdicts),
            exits: exits::Fold::default(),
            flushes: flushes::Fold::with(verdicts),
            mistakes: mistakes::Fold::default(),
            pools: pool::Fold::default(),
            vmcs: vmcs::Fold::default(),
            vpids: vpids::Fold::default(),
            ept: ept::Fold::default(),
            storms: storms::Fold::default(),
            returns: returns::Fold::default(),
            injections: injections::Fold::default(),
            phases: phases::Phases::default(),
            sieve: Sieve::default(),
            room: Box::default(),
            spans: Vec::new(),
            row: 0,
            span: 0,
            judged_to: 0,
            flaws: None,
        }
    }

    /// Keeps the flushes that were not required one by one.
    pub(super) fn keep_flaws(&mut self) {
        self.flaws = Some(Vec::new());
    }

    /// What the stamps count: instructions, unless this says otherwise.
    pub(super) fn stamped_in(&mut self, clock: Clock) {
        self.exits.stamped_in(clock);
    }

    /// The next events.
    pub(super) fn chunk(&mut self, chunk: &Chunk) {
        let Some(&(_, last)) = chunk.stamps.last() else { return };
        self.overview.events += u64::from(chunk.len());
        for (_, at) in &chunk.stamps {
            self.overview.instructions = self.overview.instructions.max(at.instruction);
            self.cpus.see(*at);
        }
        self.cpus.count(&chunk.counts);
        let marked =
            chunk.others.first().is_some_and(|other| other.place == 0 && other.event.what.kind() == Kind::Mark);
        self.phases.begin(chunk.first, marked);
        self.sieve.begin();
        for from in (0..chunk.rows()).step_by(crate::chunk::TILE) {
            let tile = chunk.tile(from, &mut self.room);
            self.vmcs.accesses(chunk, &tile);
            self.sieve.sift(chunk, &tile);
        }
        chunk.spans(&mut self.spans);
        (self.row, self.span) = (0, 0);
        for other in &chunk.others {
            self.run(chunk, other.row);
            let number = chunk.first + u64::from(other.place);
            self.see(number, &other.event);
        }
        self.run(chunk, chunk.rows());
        self.phases.end(chunk.first + u64::from(chunk.len()), last.instruction);
    }

    /// The accesses up to a row, none of which was seen.
    fn run(&mut self, chunk: &Chunk, end: u32) {
        while self.row < end {
            let (upto, vcpu) = self.spans[self.span];
            let upto = upto.min(end);
            self.phases.accesses((upto - self.row).into());
            self.exits.accesses(vcpu, self.sieve.work(self.row..upto), &self.costs);
            while let Some(found) = self.sieve.next_before(upto) {
                self.access(chunk, vcpu, &found);
            }
            self.row = upto;
            self.span += usize::from(upto == self.spans[self.span].0);
        }
    }

    /// An access that concerns a fold.
    fn access(&mut self, chunk: &Chunk, vcpu: u16, found: &Found) {
        let &Found { row, concern, ref access } = found;
        if concern.contains(Concern::JUDGE) {
            self.settle();
            self.bench.guest_access(access);
        }
        if concern.contains(Concern::POOL) {
            self.pools.access(vcpu, access);
        }
        if concern.contains(Concern::MISTAKES) {
            self.mistakes.access(|| (chunk.number_of(row), chunk.stamp_of(row)), access);
        }
    }

    /// What is no VMCS access.
    fn see(&mut self, number: u64, event: &Event) {
        let overview = &mut self.overview;
        self.exits.see(number, event, &self.costs);
        self.phases.see(number, event, self.exits.so_far());
        match &event.what {
            What::Pool(pool) => self.pools.see(event.at.vcpu, pool),
            What::Entry(entry) => {
                if let Some(check) = entry.failed {
                    *self.failed.entry(check.name().to_owned()).or_default() += 1;
                }
            }
            What::Vpid(vpid) => self.vpids.see(event.at, vpid),
            What::Injection(injection) => self.injections.see(injection),
            What::Lost(count) => overview.lost += count,
            What::Stop(stop) => overview.stop = Some(stop.clone()),
            _ => {}
        }
        self.ept.see(event);
        self.storms.see(number, event);
        self.returns.see(number, event);
        self.mistakes.see(number, event);
        if self.judged_to != number {
            // Events were passed over that tell the judge no more than that the run went on.
            self.settle();
        }
        self.judged_to = number + 1;
        self.flushes.before(number, event);
        if !matches!(event.what.kind(), Kind::Pool | Kind::Injection) {
            self.bench.see(number, event);
            self.verdicts();
        }
        self.flushes.after(number, event);
    }

    fn settle(&mut self) {
        if self.bench.settle() {
            self.verdicts();
        }
    }

    fn verdicts(&mut self) {
        for judged in self.bench.verdicts() {
            self.phases.judged(&judged);
            self.flushes.judged(judged, &self.costs);
            self.flaws.iter_mut().for_each(|flaws| flaws.extend(Flaw::of(&judged)));
        }
    }

    /// What was found, and the flushes that were not required if they were asked for, in the order of events.
    pub(super) fn finish(mut self) -> (Findings, Vec<Flaw>) {
        for judged in self.bench.close() {
            self.phases.judged(&judged);
            self.flushes.judged(judged, &self.costs);
            self.flaws.iter_mut().for_each(|flaws| flaws.extend(Flaw::of(&judged)));
        }
        let mut flaws = self.flaws.unwrap_or_default();
        flaws.sort_unstable_by_key(|flaw| (flaw.event, flaw.verdict == Verdict::Missing));
        let mut overview = self.overview;
        (overview.vcpus, overview.pcpus, overview.counts) = self.cpus.finish();
        overview.lacks_tags = self.bench.lacks_tags();
        overview.failed_entries = self.failed.into_iter().collect();
        overview.failed_entries.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
        let exits::Found { exits, multiplication, time, cycles, so_far } =
            self.exits.finish(overview.instructions, &self.costs);
        overview.cycles = cycles;
        let ept = self.ept.finish();
        let vmcs = self.vmcs.finish();
        let (vpids, vpid_uses) = self.vpids.finish();
        let found = Findings {
            name: String::new(),
            overview,
            shadowing: shadow::shadowing(&vmcs, &exits, &self.costs),
            exits,
            multiplication,
            time,
            flushes: self.flushes.finish(),
            mistakes: self.mistakes.finish(),
            pools: self.pools.finish(&self.costs),
            vmcs,
            vpids,
            vpid_uses,
            returns: self.returns.finish(),
            storms: self.storms.finish(),
            ept_levels: ept.levels,
            ept: ept.roots,
            ept_pages: ept.pages,
            ept_page_count: ept.page_count,
            injections: self.injections.finish(),
            phases: self.phases.finish(so_far),
            advice: Vec::new(),
        };
        (found, flaws)
    }
}

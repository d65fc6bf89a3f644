//! Exits: how many, of what, how long, and how many each exit of L2 and of L3 causes.

use super::pass;
use super::time::{Slices, Time};
use super::tree::{Builder, Tree, Work, Works};
use crate::histogram::Histogram;
use hv_defs::config::Clock;
use hv_defs::cost::Costs;
use hv_defs::event::{Actor, Event, Flush, FlushKind, PoolOp, Stamp, What};
use hv_defs::exit::Reason;
use std::collections::BTreeMap;

/// Exits of one level, reason and handler.
#[derive(Clone, PartialEq, Debug)]
pub struct ExitRow {
    /// The guest that was running.
    pub level: u8,
    /// The basic reason.
    pub reason: Reason,
    /// L0, or L1 when the exit is reflected.
    pub handled_by: Actor,
    /// How many.
    pub count: u64,
    /// Instructions that the guest ran from its entry to the exit.
    pub guest: Histogram,
    /// Modelled cycles of the exit, L0's work and the entry that followed on that vCPU.
    pub handling: Histogram,
    /// From the exit to the next entry of that vCPU in the clock of a foreign trace; none of our own recordings, where L0
    /// takes no time.
    pub elapsed: Histogram,
}

/// Exits of L1 that came between exits of L2 for one reason and the next entries of L2; of an L3's exits also the exits of
/// L2, and those of L1 that these cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CausedExits {
    /// The guest that exited.
    pub level: u8,
    /// The reason of its exit.
    pub reason: Reason,
    /// The reason of the exit between it and the first, which caused it: of an L2, where the first is of an L3.
    pub under: Option<Reason>,
    /// How many.
    pub count: u64,
    /// Modelled cycles of their handling.
    pub cycles: u64,
}

/// Exits of L2 or of L3 for one reason with what they caused.
#[derive(Clone, PartialEq, Debug)]
pub struct NestedExit {
    /// The guest: 2, 3 and so on.
    pub level: u8,
    /// The reason.
    pub reason: Reason,
    /// How many exits.
    pub count: u64,
    /// How many of them were reflected to L1.
    pub reflected: u64,
    /// After how many the guest, or one below it, was entered again. The figures below are of these.
    pub resumed: u64,
    /// Exits of its hypervisors until it was entered again, by level and reason, most first.
    pub caused: Vec<CausedExits>,
    /// Instructions of its hypervisors from the exit to the next entry.
    pub l1_instructions: Histogram,
    /// Modelled cycles from the exit to the next entry, its hypervisors' instructions and L0's work together.
    pub cycles: Histogram,
    /// L0's VMREADs and VMWRITEs meanwhile.
    pub accesses: u64,
}

impl NestedExit {
    /// Exits caused.
    pub fn caused_total(&self) -> u64 {
        self.caused.iter().map(|caused| caused.count).sum()
    }

    /// Exits that silicon takes for one of these: itself and those it causes.
    pub fn factor(&self) -> f64 {
        if self.resumed == 0 { 1.0 } else { ratio(self.resumed + self.caused_total(), self.resumed) }
    }
}

/// One exit of L2, or of L3, with all that it caused.
#[derive(Clone, PartialEq, Debug)]
pub struct OneExit {
    /// Its event.
    pub event: u64,
    /// The vCPU.
    pub vcpu: u16,
    /// The guest that exited.
    pub level: u8,
    /// The reason.
    pub reason: Reason,
    /// Exits of silicon until the guest was entered again, itself included.
    pub exits: u64,
    /// What its hypervisors ran, in the trace's clock.
    pub ran: u64,
    /// L0's work.
    pub work: Works,
    /// Modelled cycles of both.
    pub cycles: u64,
    /// What it caused, most first.
    pub caused: Vec<CausedExits>,
}

/// How many single exits are kept.
pub(crate) const ONES_KEPT: usize = 10;

/// How exits of L2, and of L3, multiply.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Multiplication {
    /// By level and reason, most silicon exits first.
    pub reasons: Vec<NestedExit>,
    /// All exits, each below the one that caused it, with L0's work and what guests ran.
    pub tree: Tree,
    /// The single exits that cost most, the dearest first.
    pub dearest: Vec<OneExit>,
    /// L1 exits caused, each once: by the exit of L2 or of L3 that came last before it.
    l1_exits: u64,
}

impl Multiplication {
    /// Exits of L2 and deeper.
    pub fn l2_exits(&self) -> u64 {
        self.reasons.iter().map(|reason| reason.count).sum()
    }

    /// L1 exits caused by them.
    pub fn caused(&self) -> u64 {
        self.l1_exits
    }

    /// Those after which their guest was entered again.
    pub fn resumed(&self) -> u64 {
        self.reasons.iter().map(|reason| reason.resumed).sum()
    }

    /// Exits that silicon takes for one of them, itself included, over those after which their guest was entered again;
    /// `None` without any.
    pub fn factor(&self) -> Option<f64> {
        let resumed = self.resumed();
        (resumed > 0).then(|| ratio(resumed + self.caused(), resumed))
    }
}

pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

type Key = (u8, Reason, Actor);

#[derive(Debug, Default)]
struct Totals {
    count: u64,
    guest: Histogram,
    handling: Histogram,
    elapsed: Histogram,
}

/// What an exit caused: level, reason, and the reason of the exit between.
type Caused = (u8, Reason, Option<Reason>);

#[derive(Debug, Default)]
struct Nested {
    count: u64,
    reflected: u64,
    resumed: u64,
    caused: BTreeMap<Caused, (u64, u64)>,
    l1_instructions: Histogram,
    cycles: Histogram,
    accesses: u64,
}

/// Where a vCPU's clock and L0's work for it stood.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    clock: u64,
    cycles: u64,
    work: Works,
}

/// An exit of L2, or of L3, whose vCPU has not entered that guest again.
#[derive(Debug)]
struct Open {
    level: u8,
    reason: Reason,
    event: u64,
    node: u32,
    start: Standing,
    /// Exits so far: of what, how many, cycles.
    caused: Vec<(Caused, u64, u64)>,
    /// L1 exits so far that no later exit of L2 caused.
    l1_exits: u64,
}

impl Open {
    fn caused(&mut self, what: Caused) -> &mut (Caused, u64, u64) {
        let at = self.caused.iter().position(|caused| caused.0 == what).unwrap_or_else(|| {
            self.caused.push((what, 0, 0));
            self.caused.len() - 1
        });
        &mut self.caused[at]
    }
}

#[derive(Debug, Default)]
struct Vcpu {
    now: Standing,
    /// Whether it had an event, and the stamp of its last.
    seen: bool,
    last: u64,
    /// The level that runs and since when; none while L0 handles an exit.
    running: Option<(u8, Standing)>,
    /// The exit being handled, and since when.
    exit: Option<(Key, Standing)>,
    /// Where in the tree its work and its guests' instructions count.
    node: u32,
    /// Work while a guest runs: what silicon does for an entry, which counts for the exit that follows.
    pending: Option<Works>,
    /// Cycles that are in the slices of time.
    told: u64,
    wrote: bool,
    /// Exits that are open, each of a lower level than the one before it.
    open: Vec<Open>,
}

impl Vcpu {
    /// Has all open exits of deeper guests than `level` note an exit of it, or what one cost.
    fn caused(&mut self, level: u8, reason: Reason, count: u64, cycles: u64) {
        let mut below = None;
        for open in self.open.iter_mut().rev().filter(|open| open.level > level) {
            let caused = open.caused((level, reason, below));
            (caused.1, caused.2) = (caused.1 + count, caused.2 + cycles);
            below = below.or(Some(open.reason));
        }
    }

    /// The node of the innermost open exit; the root without one.
    fn under(&self) -> u32 {
        self.open.last().map_or(0, |open| open.node)
    }
}

/// What has been counted so far: a phase is what lies between two of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SoFar {
    /// Modelled cycles of L0's work.
    pub(super) l0_cycles: u64,
    /// Exits of L2 and deeper that were resumed.
    pub(super) resumed: u64,
    /// L1 exits that these caused.
    pub(super) l1_exits: u64,
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    rows: BTreeMap<Key, Totals>,
    nested: BTreeMap<(u8, Reason), Nested>,
    tree: Builder,
    dearest: Vec<(u64, OneExit)>,
    slices: Slices,
    so_far: SoFar,
    vcpus: Vec<Vcpu>,
    last: u64,
    /// The stamp of the last event.
    at: Stamp,
    /// Whether the stamps count something else than instructions of the whole machine.
    foreign: bool,
}

/// What a fold of exits gives.
pub(super) struct Found {
    pub(super) exits: Vec<ExitRow>,
    pub(super) multiplication: Multiplication,
    pub(super) time: Time,
    /// Modelled cycles of all.
    pub(super) cycles: u64,
    pub(super) so_far: SoFar,
}

impl Fold {
    /// What the stamps count: instructions of the whole machine, unless this says otherwise.
    pub(super) fn stamped_in(&mut self, clock: Clock) {
        self.foreign = clock != Clock::Instructions;
    }

    /// What has been counted before the last mark, or entry of a guest.
    pub(super) fn so_far(&self) -> SoFar {
        self.so_far
    }

    fn reach(&mut self, vcpu: u16) -> usize {
        let index = usize::from(vcpu);
        if index >= self.vcpus.len() {
            self.vcpus.resize_with(index + 1, Vcpu::default);
        }
        index
    }

    /// Brings the clock of an event's vCPU up to it, and gives its index. Instructions are counted on all CPUs together, so
    /// that what passed since the event before, of whichever vCPU, was run on this one; other clocks go on everywhere.
    fn advance(&mut self, at: Stamp) -> usize {
        self.at = at;
        let index = self.reach(at.vcpu);
        let vcpu = &mut self.vcpus[index];
        if !core::mem::replace(&mut vcpu.seen, true) && self.foreign {
            // Of what was before its first event nothing is known.
            vcpu.last = at.instruction;
        }
        let since = if self.foreign { vcpu.last } else { self.last };
        if at.instruction > since {
            let passed = at.instruction - since;
            self.last = self.last.max(at.instruction);
            vcpu.last = at.instruction;
            vcpu.now.clock += passed;
            self.tree.node(vcpu.node).run(vcpu.running.map_or(0, |(level, _)| level), passed);
        }
        index
    }

    /// L0 works for what it handles on a vCPU.
    fn work(&mut self, vcpu: u16, work: Work, count: u64, costs: &Costs) {
        let vcpu = &mut self.vcpus[usize::from(vcpu)];
        vcpu.now.work.add(work, count);
        vcpu.now.cycles += count * work.cycles(costs);
        if vcpu.running.is_some() {
            vcpu.pending.get_or_insert_default().add(work, count);
        } else {
            self.tree.node(vcpu.node).work.add(work, count);
        }
    }

    /// L0's VMCS accesses on behalf of a vCPU.
    pub(super) fn accesses(&mut self, vcpu: u16, made: pass::Work, costs: &Costs) {
        self.reach(vcpu);
        self.vcpus[usize::from(vcpu)].wrote |= made.writes > 0;
        for (work, count) in [(Work::Vmread, made.reads), (Work::Vmwrite, made.writes), (Work::Vmptrld, made.pointers)]
        {
            if count > 0 {
                self.work(vcpu, work, count, costs);
            }
        }
    }

    /// What is no VMCS access.
    pub(super) fn see(&mut self, number: u64, event: &Event, costs: &Costs) {
        let at = event.at;
        let index = self.advance(at);
        match &event.what {
            What::Flush(flush) => {
                self.slices.at(at.instruction).flushes += 1;
                if flush.actor == Actor::L0 {
                    self.work(at.vcpu, flush_work(flush), 1, costs);
                }
            }
            What::Ept(_) => self.work(at.vcpu, Work::Ept02, 1, costs),
            What::Pool(pool) if matches!(pool.op, PoolOp::Miss | PoolOp::Recycle) => {
                self.slices.at(at.instruction).pool_misses += 1;
                self.work(at.vcpu, Work::PoolMiss, 1, costs);
            }
            What::Exit(exit) => {
                self.slices.at(at.instruction).exit(exit.level);
                self.exit(number, index, (exit.level, exit.basic(), exit.handled_by));
                self.work(at.vcpu, Work::Exit, 1, costs);
            }
            What::Entry(entry) => {
                self.left(index);
                // Without VMCS accesses in the trace, the entry tells how many fields were written.
                if !core::mem::take(&mut self.vcpus[index].wrote) && entry.fields_written > 0 {
                    self.work(at.vcpu, Work::Vmwrite, entry.fields_written.into(), costs);
                }
                self.work(at.vcpu, Work::Entry, 1, costs);
                self.entry(index, at, entry.failed.is_none().then_some(entry.level), costs);
            }
            What::Mark(_) => self.tell(index, at.instruction),
            _ => {}
        }
    }

    /// Puts the cycles of a vCPU's work into the slice of time.
    fn tell(&mut self, vcpu: usize, instruction: u64) {
        let vcpu = &mut self.vcpus[vcpu];
        let new = vcpu.now.cycles - vcpu.told;
        if new > 0 {
            vcpu.told = vcpu.now.cycles;
            self.so_far.l0_cycles += new;
            self.slices.at(instruction).l0_cycles += new;
        }
    }

    /// A guest that is said to run has left, if no exit says so.
    fn left(&mut self, index: usize) {
        let vcpu = &mut self.vcpus[index];
        if vcpu.running.take().is_some()
            && let Some(pending) = vcpu.pending.take()
        {
            self.tree.node(vcpu.node).work.merge(&pending);
        }
    }

    /// A guest exits: what follows is work for that.
    fn exit(&mut self, number: u64, index: usize, key: Key) {
        let (level, reason, handled_by) = key;
        let vcpu = &mut self.vcpus[index];
        let row = self.rows.entry(key).or_default();
        row.count += 1;
        let mut start = vcpu.now;
        if let Some((_, entered)) = vcpu.running.take() {
            row.guest.add(vcpu.now.clock - entered.clock);
            // What silicon did at the entry counts for this exit.
            (start.cycles, start.work) = (entered.cycles, entered.work);
        }
        vcpu.exit = Some((key, start));
        if reason == Reason::VMXOFF {
            // It enters no guest of its own again.
            vcpu.open.clear();
        } else if level >= 2 {
            // It was entered meanwhile, whatever the events say.
            vcpu.open.retain(|open| open.level > level);
        }
        let node = self.tree.child(vcpu.under(), level, reason);
        vcpu.node = node;
        let here = self.tree.node(node);
        here.exits += 1;
        if let Some(pending) = vcpu.pending.take() {
            here.work.merge(&pending);
        }
        vcpu.caused(level, reason, 1, 0);
        if level >= 2 {
            let nested = self.nested.entry((level, reason)).or_default();
            nested.count += 1;
            nested.reflected += u64::from(handled_by != Actor::L0);
            vcpu.open.push(Open { level, reason, event: number, node, start, caused: Vec::new(), l1_exits: 0 });
        } else if let Some(open) = vcpu.open.last_mut() {
            open.l1_exits += 1;
        }
    }

    /// L0 enters a guest of that level, or tries to, for none.
    fn entry(&mut self, index: usize, at: Stamp, level: Option<u8>, costs: &Costs) {
        let vcpu = &mut self.vcpus[index];
        let now = vcpu.now;
        if let Some((key, start)) = vcpu.exit.take() {
            let row = self.rows.entry(key).or_default();
            row.handling.add(now.cycles - start.cycles);
            if self.foreign {
                row.elapsed.add(now.clock - start.clock);
            }
            vcpu.caused(key.0, key.1, 0, now.cycles - start.cycles);
        }
        let Some(level) = level else { return };
        while let Some(open) = vcpu.open.pop_if(|open| open.level <= level) {
            self.so_far.resumed += 1;
            self.so_far.l1_exits += open.l1_exits;
            let nested = self.nested.entry((open.level, open.reason)).or_default();
            let ran = now.clock - open.start.clock;
            let cycles = now.cycles - open.start.cycles + ran * costs.instruction;
            let work = now.work.since(&open.start.work);
            nested.l1_instructions.add(ran);
            nested.cycles.add(cycles);
            nested.accesses += work.of(Work::Vmread) + work.of(Work::Vmwrite);
            nested.resumed += 1;
            if vcpu.open.is_empty() {
                let cost = if self.foreign { ran } else { cycles };
                keep(&mut self.dearest, index, &open, cost, (ran, cycles, work));
            }
            for (what, count, cycles) in open.caused {
                let caused = nested.caused.entry(what).or_default();
                *caused = (caused.0 + count, caused.1 + cycles);
            }
        }
        vcpu.running = Some((level, now));
        vcpu.node = vcpu.under();
        self.tell(index, at.instruction);
    }

    /// What was found in a run of so many instructions.
    pub(super) fn finish(mut self, instructions: u64, costs: &Costs) -> Found {
        if !self.foreign && instructions > self.last {
            // Behind the last event are VMCS accesses alone.
            self.advance(Stamp { instruction: instructions, ..self.at });
        }
        for index in 0..self.vcpus.len() {
            self.left(index);
            let last = self.vcpus[index].last;
            self.tell(index, last);
        }
        let rows = self.rows.into_iter().map(|((level, reason, handled_by), totals)| ExitRow {
            level,
            reason,
            handled_by,
            count: totals.count,
            guest: totals.guest,
            handling: totals.handling,
            elapsed: totals.elapsed,
        });
        let mut exits: Vec<ExitRow> = rows.filter(|row| row.count > 0).collect();
        exits.sort_by_key(|row| core::cmp::Reverse(row.count));
        let reasons = self.nested.into_iter().map(|((level, reason), nested)| NestedExit {
            level,
            reason,
            count: nested.count,
            reflected: nested.reflected,
            resumed: nested.resumed,
            caused: most_first(nested.caused.into_iter().map(|(what, (count, cycles))| (what, count, cycles))),
            l1_instructions: nested.l1_instructions,
            cycles: nested.cycles,
            accesses: nested.accesses,
        });
        let mut reasons: Vec<NestedExit> = reasons.collect();
        reasons.sort_by_key(|reason| core::cmp::Reverse(reason.count + reason.caused_total()));
        let tree = self.tree.finish();
        let totals = tree.totals();
        let cycles = totals.cycles(costs);
        let time = Time::of(&exits, totals, self.slices, costs);
        let multiplication = Multiplication {
            reasons,
            tree,
            dearest: self.dearest.into_iter().map(|(_, one)| one).collect(),
            l1_exits: self.so_far.l1_exits,
        };
        Found { exits, multiplication, time, cycles, so_far: self.so_far }
    }
}

fn most_first(caused: impl Iterator<Item = (Caused, u64, u64)>) -> Vec<CausedExits> {
    let caused =
        caused.map(|((level, reason, under), count, cycles)| CausedExits { level, reason, under, count, cycles });
    let mut caused: Vec<CausedExits> = caused.collect();
    caused.sort_by_key(|caused| (core::cmp::Reverse(caused.count), caused.level, caused.reason, caused.under));
    caused
}

/// Keeps an exit that was served if it is among the dearest by that cost; of equal ones the earlier.
fn keep(
    dearest: &mut Vec<(u64, OneExit)>,
    vcpu: usize,
    open: &Open,
    cost: u64,
    (ran, cycles, work): (u64, u64, Works),
) {
    let rank = |cost: u64, event: u64| (core::cmp::Reverse(cost), event);
    let at = dearest.partition_point(|(other, one)| rank(*other, one.event) < rank(cost, open.event));
    if at >= ONES_KEPT {
        return;
    }
    dearest.truncate(ONES_KEPT - 1);
    let (event, vcpu, level, reason) = (open.event, vcpu as u16, open.level, open.reason);
    let exits = 1 + open.caused.iter().map(|(_, count, _)| count).sum::<u64>();
    let caused = most_first(open.caused.iter().copied());
    dearest.insert(at, (cost, OneExit { event, vcpu, level, reason, exits, ran, work, cycles, caused }));
}

const fn flush_work(flush: &Flush) -> Work {
    match flush.kind {
        FlushKind::InveptSingle | FlushKind::InveptAll => Work::Invept,
        FlushKind::Transition => Work::TransitionFlush,
        _ => Work::Invvpid,
    }
}

/// Modelled cycles of a flush that L0 or silicon makes, without the refills.
pub(super) const fn flush_cost(flush: &Flush, costs: &Costs) -> u64 {
    flush_work(flush).cycles(costs)
}

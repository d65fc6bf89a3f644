//! Exits: how many, of what, how long, and how many each exit of L2 and of L3 causes.

use super::pass::Work;
use crate::histogram::Histogram;
use hv_defs::cost::Costs;
use hv_defs::event::{Actor, Event, Flush, FlushKind, What};
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

/// How exits of L2, and of L3, multiply.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Multiplication {
    /// By level and reason, most silicon exits first.
    pub reasons: Vec<NestedExit>,
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

/// An exit of L2, or of L3, whose vCPU has not entered that guest again.
#[derive(Debug)]
struct Open {
    level: u8,
    reason: Reason,
    instruction: u64,
    cycles: u64,
    accesses: u64,
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
    /// Instruction of the last entry, while a guest runs.
    entered: Option<u64>,
    /// The exit being handled, and its cycles so far.
    exit: Option<Key>,
    cycles: u64,
    writes: u64,
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
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    rows: BTreeMap<Key, Totals>,
    nested: BTreeMap<(u8, Reason), Nested>,
    /// L1 exits caused.
    l1_exits: u64,
    vcpus: Vec<Vcpu>,
    cycles: u64,
}

impl Fold {
    /// L0's VMCS accesses on behalf of a vCPU.
    pub(super) fn accesses(&mut self, vcpu: u16, work: Work, costs: &Costs) {
        let vcpu = self.vcpu(vcpu);
        let Work { reads, writes, pointers } = work;
        vcpu.cycles += reads * costs.vmread + writes * costs.vmwrite + pointers * costs.vmptrld;
        vcpu.writes += writes;
        vcpu.open.iter_mut().for_each(|open| open.accesses += reads + writes);
    }

    fn vcpu(&mut self, vcpu: u16) -> &mut Vcpu {
        let index = usize::from(vcpu);
        if index >= self.vcpus.len() {
            self.vcpus.resize_with(index + 1, Vcpu::default);
        }
        &mut self.vcpus[index]
    }

    /// What is no VMCS access.
    pub(super) fn see(&mut self, event: &Event, costs: &Costs) {
        let at = event.at;
        self.vcpu(at.vcpu);
        let vcpu = &mut self.vcpus[usize::from(at.vcpu)];
        match &event.what {
            What::Flush(flush) if flush.actor == Actor::L0 => vcpu.cycles += flush_cost(flush, costs),
            What::Ept(_) => vcpu.cycles += costs.ept_entry,
            What::Exit(exit) => {
                let key = (exit.level, exit.basic(), exit.handled_by);
                let row = self.rows.entry(key).or_default();
                row.count += 1;
                if let Some(entered) = vcpu.entered.take() {
                    row.guest.add(at.instruction.saturating_sub(entered));
                }
                vcpu.exit = Some(key);
                vcpu.cycles += costs.exit;
                let (level, reason, instruction) = (exit.level, exit.basic(), at.instruction);
                if reason == Reason::VMXOFF {
                    // It enters no guest of its own again.
                    vcpu.open.clear();
                } else if level >= 2 {
                    // It was entered meanwhile, whatever the events say.
                    vcpu.open.retain(|open| open.level > level);
                }
                vcpu.caused(level, reason, 1, 0);
                if level >= 2 {
                    let nested = self.nested.entry((level, reason)).or_default();
                    nested.count += 1;
                    nested.reflected += u64::from(exit.handled_by != Actor::L0);
                    let caused = Vec::new();
                    vcpu.open.push(Open { level, reason, instruction, cycles: 0, accesses: 0, caused, l1_exits: 0 });
                } else if let Some(open) = vcpu.open.last_mut() {
                    open.l1_exits += 1;
                }
            }
            What::Entry(entry) => {
                // Without VMCS accesses in the trace, the entry tells how many fields were written.
                if vcpu.writes == 0 {
                    vcpu.cycles += u64::from(entry.fields_written) * costs.vmwrite;
                }
                let cycles = core::mem::take(&mut vcpu.cycles) + costs.entry;
                vcpu.writes = 0;
                self.cycles += cycles;
                if let Some(key) = vcpu.exit.take() {
                    self.rows.entry(key).or_default().handling.add(cycles);
                    vcpu.caused(key.0, key.1, 0, cycles);
                }
                vcpu.open.iter_mut().for_each(|open| open.cycles += cycles);
                if entry.failed.is_none() {
                    vcpu.entered = Some(at.instruction);
                    while let Some(open) = vcpu.open.pop_if(|open| open.level <= entry.level) {
                        self.l1_exits += open.l1_exits;
                        let nested = self.nested.entry((open.level, open.reason)).or_default();
                        let instructions = at.instruction.saturating_sub(open.instruction);
                        nested.l1_instructions.add(instructions);
                        nested.cycles.add(open.cycles + instructions * costs.instruction);
                        nested.accesses += open.accesses;
                        nested.resumed += 1;
                        for (what, count, cycles) in open.caused {
                            let caused = nested.caused.entry(what).or_default();
                            *caused = (caused.0 + count, caused.1 + cycles);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// The rows, and the modelled cycles of a run of so many instructions.
    pub(super) fn finish(self, instructions: u64) -> (Vec<ExitRow>, Multiplication, u64) {
        let rows = self.rows.into_iter().map(|((level, reason, handled_by), totals)| ExitRow {
            level,
            reason,
            handled_by,
            count: totals.count,
            guest: totals.guest,
            handling: totals.handling,
        });
        let mut rows: Vec<ExitRow> = rows.filter(|row| row.count > 0).collect();
        rows.sort_by_key(|row| core::cmp::Reverse(row.count));
        let reasons = self.nested.into_iter().map(|((level, reason), nested)| {
            let caused = nested.caused.into_iter().map(|((level, reason, under), (count, cycles))| CausedExits {
                level,
                reason,
                under,
                count,
                cycles,
            });
            let mut caused: Vec<CausedExits> = caused.collect();
            caused.sort_by_key(|caused| core::cmp::Reverse(caused.count));
            NestedExit {
                level,
                reason,
                count: nested.count,
                reflected: nested.reflected,
                resumed: nested.resumed,
                caused,
                l1_instructions: nested.l1_instructions,
                cycles: nested.cycles,
                accesses: nested.accesses,
            }
        });
        let mut reasons: Vec<NestedExit> = reasons.collect();
        reasons.sort_by_key(|reason| core::cmp::Reverse(reason.count + reason.caused_total()));
        (rows, Multiplication { reasons, l1_exits: self.l1_exits }, self.cycles + instructions)
    }
}

/// Modelled cycles of a flush that L0 or silicon makes, without the refills.
pub(super) const fn flush_cost(flush: &Flush, costs: &Costs) -> u64 {
    match flush.kind {
        FlushKind::InveptSingle | FlushKind::InveptAll => costs.invept,
        FlushKind::Transition => costs.transition_flush,
        _ => costs.invvpid,
    }
}

//! Small findings: VPIDs, EPT, injections, and the phases between marks.

use crate::judge::{Judged, Verdict};
use hv_defs::event::{EptOp, Event, Kind, PoolOp, Stamp, VpidOp, What};
use hv_defs::exit::{EventType, Reason};
use std::collections::{BTreeMap, HashMap};

/// What the VPID map did on one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VpidRow {
    /// The vCPU.
    pub vcpu: u16,
    /// What it did.
    pub op: VpidOp,
    /// How often.
    pub count: u64,
}

/// Changes of one EPT02.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EptRow {
    /// L1's EPT pointer.
    pub eptp12: u64,
    /// Silicon's.
    pub eptp02: u64,
    /// Entries added.
    pub maps: u64,
    /// Entries removed.
    pub zaps: u64,
    /// Entries changed.
    pub syncs: u64,
    /// Times that it came into use.
    pub switches: u64,
}

/// EPT violations in one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptPage {
    /// The guest that was running.
    pub level: u8,
    /// The page, in that guest's physical memory.
    pub page: u64,
    /// How many.
    pub count: u64,
}

/// Injections of one event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InjectionRow {
    /// The guest.
    pub level: u8,
    /// The type.
    pub kind: EventType,
    /// The vector.
    pub vector: u8,
    /// How many.
    pub count: u64,
}

/// A stretch of the trace between two marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Phase {
    /// The mark that it begins at; `None` for the start of the trace.
    pub mark: Option<u64>,
    /// Its first event: that of the mark.
    pub first: u64,
    /// Its events.
    pub events: u64,
    /// Instructions retired at its start.
    pub start: u64,
    /// Instructions retired within it.
    pub instructions: u64,
    /// L1 exits.
    pub l1_exits: u64,
    /// Exits of L2 and deeper.
    pub l2_exits: u64,
    /// VMCS accesses.
    pub vmcs: u64,
    /// Flushes made.
    pub flushes: u64,
    /// Redundant ones.
    pub redundant: u64,
    /// Missing ones.
    pub missing: u64,
    /// Pool requests that found no vmcs02.
    pub pool_missed: u64,
}

/// How many pages the list of EPT violations has.
pub(crate) const PAGES_KEPT: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Fold {
    vpids: BTreeMap<(u16, VpidOp), u64>,
    ept: BTreeMap<(u64, u64), EptRow>,
    pages: HashMap<(u8, u64), u64>,
    injections: BTreeMap<(u8, u8, u8), u64>,
}

impl Fold {
    pub(super) fn see(&mut self, event: &Event) {
        match &event.what {
            What::Vpid(vpid) => *self.vpids.entry((event.at.vcpu, vpid.op)).or_default() += 1,
            What::Ept(change) => {
                let row = self.ept.entry((change.eptp12, change.eptp02)).or_default();
                (row.eptp12, row.eptp02) = (change.eptp12, change.eptp02);
                *match change.op {
                    EptOp::Map => &mut row.maps,
                    EptOp::Zap => &mut row.zaps,
                    EptOp::Sync => &mut row.syncs,
                    EptOp::Switch => &mut row.switches,
                } += 1;
            }
            What::Exit(exit) if exit.basic() == Reason::EPT_VIOLATION => {
                *self.pages.entry((exit.level, exit.gpa & !0xfff)).or_default() += 1;
            }
            What::Injection(injection) => {
                let key = (injection.level, injection.info.kind().into_bits(), injection.info.vector());
                *self.injections.entry(key).or_default() += 1;
            }
            _ => {}
        }
    }

    #[allow(clippy::type_complexity)] // Taken apart at once by the only caller.
    pub(super) fn finish(self) -> (Vec<VpidRow>, Vec<EptRow>, Vec<EptPage>, u64, Vec<InjectionRow>) {
        let vpids = self.vpids.into_iter().map(|((vcpu, op), count)| VpidRow { vcpu, op, count }).collect();
        let count = self.pages.len() as u64;
        let mut pages: Vec<EptPage> =
            self.pages.into_iter().map(|((level, page), count)| EptPage { level, page, count }).collect();
        pages.sort_by_key(|page| (core::cmp::Reverse(page.count), page.level, page.page));
        pages.truncate(PAGES_KEPT);
        let injections = self.injections.into_iter().map(|((level, kind, vector), count)| InjectionRow {
            level,
            kind: EventType::from_bits(kind),
            vector,
            count,
        });
        let mut injections: Vec<InjectionRow> = injections.collect();
        injections.sort_by_key(|row| core::cmp::Reverse(row.count));
        (vpids, self.ept.into_values().collect(), pages, count, injections)
    }
}

/// Which CPUs were seen, and events by kind.
#[derive(Debug, Default)]
pub(super) struct Cpus {
    vcpus: Vec<bool>,
    pcpus: Vec<bool>,
    counts: [u64; Kind::ALL.len()],
}

impl Cpus {
    pub(super) fn see(&mut self, at: Stamp) {
        for (seen, cpu) in [(&mut self.vcpus, at.vcpu), (&mut self.pcpus, at.pcpu)] {
            let cpu = usize::from(cpu);
            if cpu >= seen.len() {
                seen.resize(cpu + 1, false);
            }
            seen[cpu] = true;
        }
    }

    pub(super) fn count(&mut self, kind: Kind) {
        self.counts[kind as usize] += 1;
    }

    pub(super) fn finish(self) -> (u64, u64, Vec<(Kind, u64)>) {
        let seen = |cpus: Vec<bool>| cpus.into_iter().filter(|seen| *seen).count() as u64;
        let counts = Kind::ALL.iter().copied().zip(self.counts).filter(|(_, count)| *count > 0).collect();
        (seen(self.vcpus), seen(self.pcpus), counts)
    }
}

/// The trace cut at its marks.
#[derive(Debug, Default)]
pub(super) struct Phases {
    phases: Vec<Phase>,
}

impl Phases {
    pub(super) fn see(&mut self, number: u64, event: &Event) {
        let start = event.at.instruction;
        if let What::Mark(mark) = event.what {
            if let Some(phase) = self.phases.last_mut() {
                phase.instructions = start.saturating_sub(phase.start);
            }
            self.phases.push(Phase { mark: Some(mark.into()), first: number, start, ..Phase::default() });
        } else if self.phases.is_empty() {
            self.phases.push(Phase { first: number, ..Phase::default() });
        }
        let Some(phase) = self.phases.last_mut() else { return };
        phase.events += 1;
        phase.instructions = start.saturating_sub(phase.start);
        match &event.what {
            What::Exit(exit) if exit.level == 1 => phase.l1_exits += 1,
            What::Exit(_) => phase.l2_exits += 1,
            What::Vmcs(_) => phase.vmcs += 1,
            What::Flush(_) => phase.flushes += 1,
            What::Pool(pool) if matches!(pool.op, PoolOp::Miss | PoolOp::Recycle) => phase.pool_missed += 1,
            _ => {}
        }
    }

    /// A verdict, which may come after its event's phase.
    pub(super) fn judged(&mut self, judged: &Judged) {
        let at = self.phases.partition_point(|phase| phase.first <= judged.event);
        let Some(phase) = at.checked_sub(1).and_then(|at| self.phases.get_mut(at)) else { return };
        match judged.verdict {
            Verdict::Redundant => phase.redundant += 1,
            Verdict::Missing => phase.missing += 1,
            _ => {}
        }
    }

    pub(super) fn finish(self) -> Vec<Phase> {
        self.phases
    }
}

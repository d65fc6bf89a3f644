//! The trace cut at its marks.

use crate::judge::{Judged, Verdict};
use hv_defs::event::{Event, PoolOp, What};

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

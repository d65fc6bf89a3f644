//! The trace cut at its marks.

use super::exits::{SoFar, ratio};
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
    /// Modelled cycles of L0's work.
    pub l0_cycles: u64,
    /// L1 exits.
    pub l1_exits: u64,
    /// Exits of L2 and deeper.
    pub l2_exits: u64,
    /// Exits of L2 and deeper after which their guest was entered again, in this phase.
    pub resumed: u64,
    /// L1 exits that those caused.
    pub caused: u64,
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

impl Phase {
    /// Exits that silicon takes for one of L2 or deeper, itself included; `None` without any.
    pub fn factor(&self) -> Option<f64> {
        (self.resumed > 0).then(|| ratio(self.resumed + self.caused, self.resumed))
    }
}

/// The trace cut at its marks.
#[derive(Debug, Default)]
pub(super) struct Phases {
    phases: Vec<Phase>,
    /// What had been counted when the last one began.
    began: SoFar,
}

/// Phases that are kept apart: what comes behind counts for the last of them.
const PHASES: usize = 1000;

impl Phases {
    /// Events come, the first of which is number `first`, and a mark or not.
    pub(super) fn begin(&mut self, first: u64, marked: bool) {
        if self.phases.is_empty() && !marked {
            self.phases.push(Phase { first, ..Phase::default() });
        }
    }

    /// VMCS accesses.
    pub(super) fn accesses(&mut self, count: u64) {
        self.phases.last_mut().into_iter().for_each(|phase| phase.vmcs += count);
    }

    /// What is no VMCS access. `so_far` is what was counted up to here.
    pub(super) fn see(&mut self, number: u64, event: &Event, so_far: SoFar) {
        if let What::Mark(mark) = event.what
            && self.phases.len() < PHASES
        {
            let start = event.at.instruction;
            self.end(number, start);
            self.close(so_far);
            self.phases.push(Phase { mark: Some(mark.into()), first: number, start, ..Phase::default() });
        }
        let Some(phase) = self.phases.last_mut() else { return };
        match &event.what {
            What::Exit(exit) if exit.level == 1 => phase.l1_exits += 1,
            What::Exit(_) => phase.l2_exits += 1,
            What::Flush(_) => phase.flushes += 1,
            What::Pool(pool) if matches!(pool.op, PoolOp::Miss | PoolOp::Recycle) => phase.pool_missed += 1,
            _ => {}
        }
    }

    /// All events up to this number have come, and so far the run has come.
    pub(super) fn end(&mut self, number: u64, instruction: u64) {
        if let Some(phase) = self.phases.last_mut() {
            phase.events = number - phase.first;
            phase.instructions = instruction.saturating_sub(phase.start);
        }
    }

    /// Gives the last phase what was counted since it began.
    fn close(&mut self, so_far: SoFar) {
        let began = core::mem::replace(&mut self.began, so_far);
        let Some(phase) = self.phases.last_mut() else { return };
        phase.l0_cycles = so_far.l0_cycles - began.l0_cycles;
        phase.resumed = so_far.resumed - began.resumed;
        phase.caused = so_far.l1_exits - began.l1_exits;
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

    /// The phases. `so_far` is what was counted in all.
    pub(super) fn finish(mut self, so_far: SoFar) -> Vec<Phase> {
        self.close(so_far);
        self.phases
    }
}

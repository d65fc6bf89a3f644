//! What is open on a vCPU: the guest that runs, the exits that wait for their guest to be entered again, the counters.

use super::tracks::COUNTERS;
use hv_defs::event::{Event, Stamp, VmcsAccess, VmcsOp, What};
use std::collections::BTreeMap;

/// VMCS fields that are told of one by one for an exit: more than there are. A trace may name any number that do not
/// exist.
const MAX_FIELDS: usize = 512;

/// An exit whose guest was not entered again yet.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// The guest that exited.
    pub(super) level: u8,
    /// The level that it was reflected to; 0 for none.
    pub(super) handler: u8,
    /// The exit's number.
    pub(super) event: u64,
    /// Exits of lower levels since: what it took to handle it.
    pub(super) caused: u64,
    pub(super) accesses: Accesses,
    pub(super) registers: Option<Box<Event>>,
}

/// Reads and writes of VMCS fields.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    pub(super) reads: u64,
    pub(super) writes: u64,
    /// Reads and writes by the field's encoding.
    pub(super) fields: BTreeMap<u32, (u64, u64)>,
}

impl Accesses {
    pub(super) fn see(&mut self, access: &VmcsAccess) {
        let (read, write) = (access.op == VmcsOp::Read, access.op == VmcsOp::Write);
        if !read && !write {
            return;
        }
        self.reads += u64::from(read);
        self.writes += u64::from(write);
        if self.fields.len() < MAX_FIELDS || self.fields.contains_key(&access.field.0) {
            let (reads, writes) = self.fields.entry(access.field.0).or_default();
            *reads += u64::from(read);
            *writes += u64::from(write);
        }
    }
}

/// A vCPU as far as it was followed.
#[derive(Debug, Default)]
pub(super) struct Vcpu {
    /// The time of its last event. Sources that are not ours may step back: it does not.
    pub(super) now: u64,
    /// The guest that runs.
    pub(super) runs: Option<u8>,
    /// Exits that are open. Each is of a lower level than the one before it, so that their slices nest.
    pub(super) open: Vec<Open>,
    pub(super) counts: Counts,
}

impl Vcpu {
    /// The time of an event, and of the one before it.
    pub(super) fn step(&mut self, at: Stamp) -> (u64, u64) {
        let before = self.now;
        self.now = self.now.max(at.instruction);
        (self.now, before)
    }

    /// The exit that ends next when a guest of that level is entered, or exits again.
    pub(super) fn close(&mut self, level: u8) -> Option<Open> {
        self.open.pop_if(|open| open.level <= level)
    }
}

/// Counters over stretches of a trace that have one length.
#[derive(Debug, Default)]
pub(super) struct Counts {
    stretch: u64,
    now: [u64; COUNTERS.len()],
    /// What was told last: a counter that stays at 0 is not told of.
    told: [u64; COUNTERS.len()],
}

/// A value to be told of: when, which counter, how much.
pub(super) type Told = (u64, usize, u64);

impl Counts {
    /// Adds to a counter at a time; what is then certain about earlier stretches goes to `told`.
    pub(super) fn add(&mut self, at: u64, length: u64, counter: usize, by: u64, told: &mut Vec<Told>) {
        let stretch = at / length;
        if stretch != self.stretch {
            self.close(length, told);
            if stretch > self.stretch + 1 {
                // Nothing was counted between.
                self.stretch += 1;
                self.close(length, told);
            }
            self.stretch = stretch;
        }
        self.now[counter] += by;
    }

    /// The stretch is over.
    pub(super) fn close(&mut self, length: u64, told: &mut Vec<Told>) {
        for (counter, (now, was)) in self.now.iter_mut().zip(&mut self.told).enumerate() {
            if *now > 0 || *was > 0 {
                told.push((self.stretch * length, counter, *now));
                *was = *now;
            }
            *now = 0;
        }
    }
}

/// The counter that an event counts for, and by how much.
pub(super) fn counted(what: &What) -> Option<(usize, u64)> {
    use hv_defs::event::PoolOp;
    match what {
        What::Exit(exit) => (1..=3).contains(&exit.level).then(|| (usize::from(exit.level) - 1, 1)),
        What::Vmcs(VmcsAccess { op: VmcsOp::Read, .. }) => Some((3, 1)),
        What::Vmcs(VmcsAccess { op: VmcsOp::Write, .. }) => Some((4, 1)),
        What::Flush(flush) if flush.dropped > 0 => Some((5, flush.dropped.into())),
        What::Pool(pool) => match pool.op {
            PoolOp::Hit => Some((6, 1)),
            PoolOp::Miss | PoolOp::Recycle => Some((7, 1)),
            PoolOp::Free => None,
        },
        _ => None,
    }
}

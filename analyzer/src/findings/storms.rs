//! Bursts of zaps and syncs: how much of EPT02 changes between two runs of a nested guest, and what L1 did meanwhile.

use crate::histogram::Histogram;
use hv_defs::event::{EptChange, EptOp, Event, Stamp, What};
use hv_defs::exit::Reason;
use std::collections::BTreeMap;

/// Zaps and syncs on one vCPU with no nested guest run between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Burst {
    /// Its first change.
    pub event: u64,
    /// That event's stamp.
    pub at: Stamp,
    /// Entries removed.
    pub zaps: u64,
    /// Entries changed.
    pub syncs: u64,
    /// The root with most of them, by L1's EPT pointer and silicon's.
    pub root: (u64, u64),
    /// How many it has.
    pub of_root: u64,
    /// The exit in whose handling most of them came, by level and reason; `None` before the vCPU's first.
    pub exit: Option<(u8, Reason)>,
    /// How many came then.
    pub of_exit: u64,
    /// Exits of L1 from the first to the last change.
    pub l1_exits: u64,
}

impl Burst {
    /// Changes.
    pub fn changes(&self) -> u64 {
        self.zaps + self.syncs
    }
}

/// All bursts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Storms {
    /// Changes in each burst.
    pub sizes: Histogram,
    /// Bursts of at least [`STORM`] changes.
    pub storms: u64,
    /// Changes in these.
    pub changes: u64,
    /// The largest bursts, twenty at most.
    pub largest: Vec<Burst>,
}

/// From so many changes on a burst is a storm.
pub const STORM: u64 = 32;
/// Bursts that a finding lists.
const KEPT: usize = 20;

type Handled = Option<(u8, Reason)>;

#[derive(Debug)]
struct Open {
    event: u64,
    at: Stamp,
    zaps: u64,
    syncs: u64,
    roots: BTreeMap<(u64, u64), u64>,
    exits: BTreeMap<Handled, u64>,
    l1_exits: u64,
    /// Those behind the last change.
    later: u64,
}

#[derive(Debug, Default)]
struct Vcpu {
    handled: Handled,
    open: Option<Open>,
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    vcpus: BTreeMap<u16, Vcpu>,
    storms: Storms,
}

/// The key with the largest count, the first of several.
fn most<K: Copy>(counts: &BTreeMap<K, u64>) -> Option<(K, u64)> {
    counts.iter().rev().max_by_key(|(_, count)| **count).map(|(key, count)| (*key, *count))
}

impl Fold {
    pub(super) fn see(&mut self, number: u64, event: &Event) {
        match &event.what {
            What::Exit(exit) => {
                let vcpu = self.vcpus.entry(event.at.vcpu).or_default();
                vcpu.handled = Some((exit.level, exit.basic()));
                if let Some(open) = vcpu.open.as_mut().filter(|_| exit.level == 1) {
                    open.later += 1;
                }
            }
            What::Entry(entry) if entry.level >= 2 && entry.failed.is_none() => {
                if let Some(open) = self.vcpus.get_mut(&event.at.vcpu).and_then(|vcpu| vcpu.open.take()) {
                    self.storms.add(&open);
                }
            }
            What::Ept(change) => self.changed(number, event.at, change),
            _ => {}
        }
    }

    fn changed(&mut self, number: u64, at: Stamp, change: &EptChange) {
        let (zaps, syncs) = match change.op {
            EptOp::Zap => (1, 0),
            EptOp::Sync => (0, 1),
            EptOp::Map | EptOp::Switch => return,
        };
        let vcpu = self.vcpus.entry(at.vcpu).or_default();
        let open = vcpu.open.get_or_insert_with(|| Open {
            event: number,
            at,
            zaps: 0,
            syncs: 0,
            roots: BTreeMap::new(),
            exits: BTreeMap::new(),
            l1_exits: 0,
            later: 0,
        });
        open.zaps += zaps;
        open.syncs += syncs;
        open.l1_exits += core::mem::take(&mut open.later);
        *open.roots.entry((change.eptp12, change.eptp02)).or_default() += 1;
        *open.exits.entry(vcpu.handled).or_default() += 1;
    }

    pub(super) fn finish(mut self) -> Storms {
        self.vcpus.values().filter_map(|vcpu| vcpu.open.as_ref()).for_each(|open| self.storms.add(open));
        self.storms
    }
}

impl Storms {
    fn add(&mut self, open: &Open) {
        let (Some((root, of_root)), Some((exit, of_exit))) = (most(&open.roots), most(&open.exits)) else { return };
        let Open { event, at, zaps, syncs, l1_exits, .. } = *open;
        let burst = Burst { event, at, zaps, syncs, root, of_root, exit, of_exit, l1_exits };
        let changes = burst.changes();
        self.sizes.add(changes);
        if changes >= STORM {
            self.storms += 1;
            self.changes += changes;
        }
        let place = self.largest.partition_point(|other| {
            (other.changes(), core::cmp::Reverse(other.event)) > (changes, core::cmp::Reverse(event))
        });
        if place < KEPT {
            self.largest.insert(place, burst);
            self.largest.truncate(KEPT);
        }
    }
}

//! The VPID map: what it did on each vCPU, how often silicon's VPIDs changed hands, and how long each was kept.

use crate::histogram::Histogram;
use hv_defs::event::{Stamp, Vpid, VpidOp};
use std::collections::BTreeMap;

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

/// What became of one of silicon's VPIDs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VpidUse {
    /// Silicon's VPID.
    pub vpid02: u16,
    /// Times that it was given to a vpid12.
    pub given: u64,
    /// How many of them to another than the one that had it before, be it of another vCPU.
    pub changed_hands: u64,
    /// How many of them it was taken from its vpid12 for.
    pub recycled: u64,
    /// Times that its vpid12 asked for it again.
    pub hits: u64,
}

/// How silicon's VPIDs for nested guests were used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VpidUses {
    /// The VPIDs that changed hands most, up to a hundred.
    pub rows: Vec<VpidUse>,
    /// How many VPIDs there were.
    pub vpids: u64,
    /// Sums of all.
    pub all: VpidUse,
    /// From being given to a vpid12 to being taken or given up, on the trace's clock.
    pub lifetimes: Histogram,
    /// How many were kept to the end.
    pub kept: u64,
}

/// VPIDs that a finding lists.
const KEPT: usize = 100;

#[derive(Debug, Default)]
struct One {
    of: VpidUse,
    /// The vCPU and vpid12 that had it last.
    holder: Option<(u16, u16)>,
    /// Since when they have it.
    since: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    counts: BTreeMap<(u16, VpidOp), u64>,
    vpids: BTreeMap<u16, One>,
    lifetimes: Histogram,
}

impl Fold {
    pub(super) fn see(&mut self, at: Stamp, vpid: &Vpid) {
        *self.counts.entry((at.vcpu, vpid.op)).or_default() += 1;
        let one = self.vpids.entry(vpid.vpid02).or_default();
        if vpid.op == VpidOp::Hit {
            one.of.hits += 1;
            return;
        }
        if let Some(since) = one.since.take() {
            self.lifetimes.add(at.instruction.saturating_sub(since));
        }
        if vpid.op == VpidOp::Free {
            return;
        }
        let holder = (at.vcpu, vpid.vpid12);
        one.of.given += 1;
        one.of.changed_hands += u64::from(one.holder.is_some_and(|before| before != holder));
        one.of.recycled += u64::from(vpid.op == VpidOp::Recycle);
        (one.holder, one.since) = (Some(holder), Some(at.instruction));
    }

    pub(super) fn finish(self) -> (Vec<VpidRow>, VpidUses) {
        let counts = self.counts.into_iter().map(|((vcpu, op), count)| VpidRow { vcpu, op, count });
        let mut uses = VpidUses { vpids: self.vpids.len() as u64, lifetimes: self.lifetimes, ..VpidUses::default() };
        for (vpid02, one) in self.vpids {
            let all = &mut uses.all;
            all.given += one.of.given;
            all.changed_hands += one.of.changed_hands;
            all.recycled += one.of.recycled;
            all.hits += one.of.hits;
            uses.kept += u64::from(one.since.is_some());
            uses.rows.push(VpidUse { vpid02, ..one.of });
        }
        uses.rows.sort_by_key(|row| core::cmp::Reverse((row.changed_hands, row.given, row.hits)));
        uses.rows.truncate(KEPT);
        (counts.collect(), uses)
    }
}

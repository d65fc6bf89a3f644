//! The VPID map: what it did on each vCPU.

use hv_defs::event::{Vpid, VpidOp};
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

#[derive(Debug, Default)]
pub(super) struct Fold {
    counts: BTreeMap<(u16, VpidOp), u64>,
}

impl Fold {
    pub(super) fn see(&mut self, vcpu: u16, vpid: &Vpid) {
        *self.counts.entry((vcpu, vpid.op)).or_default() += 1;
    }

    pub(super) fn finish(self) -> Vec<VpidRow> {
        self.counts.into_iter().map(|((vcpu, op), count)| VpidRow { vcpu, op, count }).collect()
    }
}

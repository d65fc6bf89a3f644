//! The vmcs02 pool of each vCPU: what it did, and what pools of other sizes would have done.

use crate::curve::{Curve, Requests};
use hv_defs::cost::Costs;
use hv_defs::event::{Actor, Pool, PoolOp, VmcsAccess, VmcsOp, Which};
use std::collections::BTreeMap;

/// The pool of one vCPU, or those of several with one size for all.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolFinding {
    /// The vCPU; `None` for several.
    pub vcpu: Option<u16>,
    /// Requests that found their vmcs02.
    pub hits: u64,
    /// Requests that took a free slot.
    pub misses: u64,
    /// Requests that took another vmcs12's slot.
    pub recycles: u64,
    /// Slots given up.
    pub frees: u64,
    /// Slots that were used; of several vCPUs, by the one that used most.
    pub slots: u64,
    /// Fields written at hits.
    pub written_at_hits: u64,
    /// Fields written at misses and recycles.
    pub written_at_misses: u64,
    /// Fields that needed no writing.
    pub skipped: u64,
    /// Misses at every size.
    pub curve: Curve,
    /// VMWRITEs that one hit saves: the mean of a miss less the mean of a hit. `None` when the trace has not both.
    pub saved_by_a_hit: Option<f64>,
    /// Modelled cycles that one miss costs more than a hit.
    pub miss_cycles: f64,
}

impl PoolFinding {
    /// Requests that found no vmcs02: misses and recycles.
    pub fn missed(&self) -> u64 {
        self.misses + self.recycles
    }

    /// Several as one.
    pub fn sum(of: &[Self], costs: &Costs) -> Self {
        let total = |pick: fn(&Self) -> u64| of.iter().map(pick).sum();
        Self {
            vcpu: None,
            hits: total(|pool| pool.hits),
            misses: total(|pool| pool.misses),
            recycles: total(|pool| pool.recycles),
            frees: total(|pool| pool.frees),
            slots: of.iter().map(|pool| pool.slots).max().unwrap_or(0),
            written_at_hits: total(|pool| pool.written_at_hits),
            written_at_misses: total(|pool| pool.written_at_misses),
            skipped: total(|pool| pool.skipped),
            curve: Curve::sum(of.iter().map(|pool| &pool.curve)),
            saved_by_a_hit: None,
            miss_cycles: 0.0,
        }
        .priced(costs)
    }

    /// With what a hit saves, by its counts.
    fn priced(self, costs: &Costs) -> Self {
        let mean = |sum: u64, count: u64| sum as f64 / count as f64;
        let saved_by_a_hit = (self.hits > 0 && self.missed() > 0)
            .then(|| (mean(self.written_at_misses, self.missed()) - mean(self.written_at_hits, self.hits)).max(0.0));
        // Another vmcs02 is cleared and the new one loaded; what a hit would have kept is written.
        let writes = saved_by_a_hit.unwrap_or(0.0) * costs.vmwrite as f64;
        Self { saved_by_a_hit, miss_cycles: costs.vmptrld as f64 + writes, ..self }
    }

    /// VMWRITEs that so many misses less would save; `None` where the trace has not both hits and misses.
    pub fn writes_of(&self, misses: u64) -> Option<u64> {
        self.saved_by_a_hit.map(|saved| (misses as f64 * saved) as u64)
    }

    /// Modelled cycles that so many misses less would save.
    pub fn cycles_of(&self, misses: u64) -> u64 {
        (misses as f64 * self.miss_cycles) as u64
    }
}

#[derive(Debug, Default)]
struct One {
    counts: [u64; 4],
    slots: u64,
    written_at_hits: u64,
    written_at_misses: u64,
    skipped: u64,
    requests: Requests,
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    vcpus: BTreeMap<u16, One>,
}

impl Fold {
    pub(super) fn see(&mut self, vcpu: u16, pool: &Pool) {
        let one = self.vcpus.entry(vcpu).or_default();
        one.counts[pool.op as usize] += 1;
        one.slots = one.slots.max(u64::from(pool.slot) + 1);
        let written = u64::from(pool.written);
        one.skipped += u64::from(pool.skipped);
        match pool.op {
            PoolOp::Hit => one.written_at_hits += written,
            PoolOp::Miss | PoolOp::Recycle => one.written_at_misses += written,
            PoolOp::Free => {}
        }
        match pool.op {
            PoolOp::Free => one.requests.gives_up(pool.vmcs12),
            _ => one.requests.wants(pool.vmcs12),
        }
    }

    /// VMCLEAR by L1 gives up the vmcs02 in a pool that is large enough to have it, whether or not this one had.
    pub(super) fn access(&mut self, vcpu: u16, access: &VmcsAccess) {
        if access.op == VmcsOp::Clear
            && (access.actor, access.which) == (Actor::L1, Which::Vmcs12)
            && let Some(one) = self.vcpus.get_mut(&vcpu)
        {
            one.requests.gives_up(access.address);
        }
    }

    pub(super) fn finish(self, costs: &Costs) -> Vec<PoolFinding> {
        let finding = |(vcpu, one): (u16, One)| {
            let [hits, misses, recycles, frees] = one.counts;
            PoolFinding {
                vcpu: Some(vcpu),
                hits,
                misses,
                recycles,
                frees,
                slots: one.slots,
                written_at_hits: one.written_at_hits,
                written_at_misses: one.written_at_misses,
                skipped: one.skipped,
                curve: one.requests.curve(),
                saved_by_a_hit: None,
                miss_cycles: 0.0,
            }
            .priced(costs)
        };
        self.vcpus.into_iter().map(finding).collect()
    }
}

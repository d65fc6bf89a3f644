//! What L0 keeps of its own, for a look from outside: the vmcs02 pool, the VPID map, the roots of EPT.

use super::L0;
use super::vcpu::VMCS01;
use super::vpid::VpidMap;
use crate::silicon::Silicon;
use hv_defs::addr::{Gpa, Hpa};

/// A place in a vCPU's vmcs02 pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolSlot {
    /// Its number, from 0.
    pub slot: usize,
    /// The L1-physical address of the vmcs12 that it is for; `None` when it is free.
    pub vmcs12: Option<Gpa>,
    /// Where its vmcs02 lies.
    pub vmcs02: Hpa,
    /// Whether its vmcs12 is current.
    pub current: bool,
    /// Whether L2 runs on it.
    pub runs: bool,
}

/// An EPT02: what silicon walks for one EPT12 of a vCPU's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptRoot {
    /// The vCPU.
    pub vcpu: u16,
    /// L1's EPT pointer.
    pub eptp12: u64,
    /// Silicon's.
    pub eptp02: u64,
    /// Whether the vCPU's L2 runs on it now.
    pub in_use: bool,
}

impl<S: Silicon> L0<S> {
    /// A vCPU's vmcs02 pool in the order in which its places go to another vmcs12: free ones first, then what the policy
    /// recycles first. Places that no vmcs12 has needed yet are not among them.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn pool(&self, vcpu: usize) -> Vec<PoolSlot> {
        let it = &self.vcpus[vcpu];
        let current = it.vmx.current.then_some(it.vmcs12.gpa);
        let place = |slot: usize| {
            let found = &it.pool.slots[slot];
            PoolSlot {
                slot,
                vmcs12: found.vmcs12,
                vmcs02: it.saved[found.saved].hpa,
                current: found.vmcs12.is_some() && found.vmcs12 == current,
                runs: it.level == 2 && it.current == found.saved,
            }
        };
        it.pool.order().into_iter().map(place).collect()
    }

    /// The VPIDs that a vCPU holds.
    ///
    /// # Panics
    /// As [`L0::pool`].
    pub fn vpids(&self, vcpu: usize) -> VpidMap {
        self.vcpus[vcpu].tagging.shown()
    }

    /// The EPT02s, the one loaded last first.
    pub fn ept_roots(&self) -> Vec<EptRoot> {
        let mut roots: Vec<_> =
            self.ept02.roots.iter().enumerate().filter_map(|(number, root)| Some((number, root.as_ref()?))).collect();
        roots.sort_unstable_by_key(|(_, root)| core::cmp::Reverse(root.used));
        let shown = |(number, root): (usize, &super::ept02::Root)| EptRoot {
            vcpu: root.vcpu,
            eptp12: root.eptp12.into_bits(),
            eptp02: root.eptp02.into_bits(),
            in_use: self.shared.roots_in_use.get(usize::from(root.vcpu)) == Some(&Some(number)),
        };
        roots.into_iter().map(shown).collect()
    }

    /// Where a vCPU's vmcs01 lies.
    ///
    /// # Panics
    /// As [`L0::pool`].
    pub fn vmcs01_at(&self, vcpu: usize) -> Hpa {
        self.vcpus[vcpu].saved[VMCS01].hpa
    }

    /// The EPT pointer that silicon runs L1 under.
    pub fn eptp01(&self) -> u64 {
        self.shared.ept01.pointer.into_bits()
    }
}

//! Modelled cycles: what things of the VMX world cost on hardware, as one small table.
//!
//! The machine counts instructions, and a guest never sees these figures. They turn counts into one scale, on which an
//! avoided flush can be held against an avoided exit. They are round numbers of the order that is published, not
//! measurements of one processor; docs/cost-model.md says where each comes from and how to check it.

/// Cycles for each thing that is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// One instruction retired by a guest.
    pub instruction: u64,
    /// A VM entry: checks and loading of guest state.
    pub entry: u64,
    /// The further checks of an entry after a write to a major control field.
    pub control_check: u64,
    /// A VM exit: saving guest state and loading host state.
    pub exit: u64,
    /// VMREAD of the current VMCS.
    pub vmread: u64,
    /// VMWRITE to the current VMCS.
    pub vmwrite: u64,
    /// Making another VMCS the current one: VMPTRLD, and VMCLEAR of one that is given up.
    pub vmptrld: u64,
    /// INVVPID, whatever its type.
    pub invvpid: u64,
    /// INVEPT, whatever its type.
    pub invept: u64,
    /// What a VM entry or exit needs more when it drops mappings by itself.
    pub transition_flush: u64,
    /// A page walk without EPT, its paging-structure entries in the caches.
    pub walk: u64,
    /// A two-dimensional walk, through the guest's tables and EPT: what refilling one dropped entry costs.
    pub nested_walk: u64,
    /// Adding, changing or removing one EPT02 entry, bookkeeping included.
    pub ept_entry: u64,
}

/// The table that reports use.
pub const DEFAULT: Costs = Costs {
    instruction: 1,
    entry: 600,
    control_check: 400,
    exit: 700,
    vmread: 40,
    vmwrite: 40,
    vmptrld: 300,
    invvpid: 300,
    invept: 400,
    transition_flush: 100,
    walk: 30,
    nested_walk: 100,
    ept_entry: 150,
};

impl Costs {
    /// Refilling `entries` dropped translations of a guest that runs with EPT, or without.
    pub const fn refill(&self, entries: u64, ept: bool) -> u64 {
        entries * if ept { self.nested_walk } else { self.walk }
    }

    /// One exit and the entry that follows it.
    pub const fn round_trip(&self) -> u64 {
        self.exit + self.entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_that_published_work_agrees_on() {
        // A two-dimensional walk is dearer than a plain one, a transition than any single VMCS access or flush.
        const { assert!(DEFAULT.nested_walk > DEFAULT.walk) };
        assert!(DEFAULT.round_trip() > DEFAULT.invept + DEFAULT.vmread + DEFAULT.vmwrite);
        assert_eq!(DEFAULT.refill(3, true), 300);
        assert_eq!(DEFAULT.refill(3, false), 90);
    }
}

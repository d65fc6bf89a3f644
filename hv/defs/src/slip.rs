//! Slips: mistakes that nested hypervisors have made, to be switched on by `--fault`, so that what is meant to notice them
//! can be tested. None of them lets a guest out of its memory: they are wrong about what a guest sees, not about whose it is.

use crate::policy::words;
use core::fmt;
use serde::{Deserialize, Serialize};

words! {
    /// A mistake of L0's that can be switched on.
    Slip {
        /// The flush of a root load names the EPT pointer that is left, not the one that is entered.
        FlushLeftEptp = "flush-left-eptp",
        /// INVVPID by L1 is carried out on L1's own VPID instead of the vpid02.
        InvvpidWrongVpid = "invvpid-wrong-vpid",
        /// INVVPID by L1 drops guest-physical mappings, and none of the VPID that it names.
        InvvpidAsInvept = "invvpid-as-invept",
        /// INVEPT by L1 drops linear mappings where guest-physical ones were meant.
        InveptAsInvvpid = "invept-as-invvpid",
        /// A vpid02 that goes from one vpid12 to another is not flushed.
        Vpid12Unflushed = "vpid12-unflushed",
        /// The last vpid12 outlives VMXOFF, and a freed VPID keeps its translations, which meet whoever gets it next.
        LastVpidKept = "last-vpid-kept",
        /// VMXOFF frees again the VPIDs that the VMXOFF before it freed, whoever has them now.
        VpidFreedTwice = "vpid-freed-twice",
        /// VMXOFF forgets the VPIDs of L2s without freeing them.
        VpidLeaked = "vpid-leaked",
        /// A VPID that is freed or recycled is flushed on this CPU alone.
        VpidStaleCpu = "vpid-stale-cpu",
        /// A vCPU that comes back to a physical CPU finds there what it left.
        MigrationUnflushed = "migration-unflushed",
        /// EPT02 is loaded without being synced with EPT12.
        Ept02Unsynced = "ept02-unsynced",
        /// L1 and an L2 that share a tag, as an L2 without EPT may, take turns without a flush.
        SharedTagUnflushed = "shared-tag-unflushed",
        /// L2's VMWRITE of access rights to a shadow VMCS keeps bits that are not defined.
        RightsUnmasked = "rights-unmasked",
        /// A hit of the vmcs02 pool is taken to mean that nothing in vmcs12 has changed meanwhile.
        PoolStaleHit = "pool-stale-hit",
        /// A new vpid12 does not sync the EPT02s, where the policy has it count as a flush of the guest's own.
        Vpid12Unsynced = "vpid12-unsynced",
        /// L2 without EPT runs under L1's own EPT pointer, and nothing is flushed for its APIC-access page.
        ApicAccessUnflushed = "apic-access-unflushed",
    }
}

/// A set of slips.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Slips(u32);

const _: () = assert!(Slip::ALL.len() <= u32::BITS as usize);

impl Slips {
    /// The set and one more.
    pub const fn with(self, slip: Slip) -> Self {
        Self(self.0 | 1 << slip as u8)
    }

    /// Whether it holds one.
    #[inline]
    pub const fn has(self, slip: Slip) -> bool {
        self.0 >> slip as u8 & 1 != 0
    }

    /// Whether it holds none: L0 does all that it owes.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that it holds, in the order of [`Slip::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Slip> {
        Slip::ALL.iter().copied().filter(move |slip| self.has(*slip))
    }
}

impl FromIterator<Slip> for Slips {
    fn from_iter<I: IntoIterator<Item = Slip>>(slips: I) -> Self {
        slips.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Debug for Slips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let none = Slips::default();
        assert!(none.is_empty() && none.iter().next().is_none());
        for &slip in Slip::ALL {
            let one = none.with(slip);
            assert!(one.has(slip) && one.iter().eq([slip]), "{slip}");
        }
        let all: Slips = Slip::ALL.iter().copied().collect();
        assert!(all.iter().eq(Slip::ALL.iter().copied()));
    }
}

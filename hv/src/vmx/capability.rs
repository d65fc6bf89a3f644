//! What the silicon offers: the VMX capability MSRs. A control is offered only if it works.
//!
//! See: SDM Appendix A "VMX Capability Reporting Facility".

use crate::vmcs::REVISION;
use hv_defs::controls::{
    Allowed, EntryControls, EptVpidCap, ExitControls, PinBased, PrimaryControls, SecondaryControls,
};
use hv_defs::vmcs::TABLE;
use hv_defs::x86::{Cr4, msr};
use serde::{Deserialize, Serialize};

/// The capabilities of some VMX: the silicon's, or what a hypervisor shows its guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Capabilities {
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// Pin-based controls, as the true MSR has them.
    pub pin: Allowed,
    /// Primary processor-based controls, as the true MSR has them.
    pub primary: Allowed,
    /// Secondary processor-based controls.
    pub secondary: Allowed,
    /// VM-exit controls, as the true MSR has them.
    pub exit: Allowed,
    /// VM-entry controls, as the true MSR has them.
    pub entry: Allowed,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// Bits of CR0 that must be one.
    pub cr0_fixed0: u64,
    /// Bits of CR0 that may be one.
    pub cr0_fixed1: u64,
    /// Bits of CR4 that must be one.
    pub cr4_fixed0: u64,
    /// Bits of CR4 that may be one.
    pub cr4_fixed1: u64,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid: EptVpidCap,
    /// IA32_VMX_VMFUNC.
    pub vm_functions: u64,
}

/// Controls that are one in every VMX, the default1 class, where the true MSRs do not say otherwise.
const PIN_DEFAULT1: u32 = 0x16;
const PRIMARY_DEFAULT1: u32 = 0x0401_e172;
const EXIT_DEFAULT1: u32 = 0x0003_6dff;
const ENTRY_DEFAULT1: u32 = 0x11ff;

/// The VMX-preemption timer counts once in this many (log2) ticks of the time-stamp counter.
pub const PREEMPTION_TIMER_SHIFT: u32 = 5;

/// IA32_VMX_MISC: an exit stores IA32_EFER.LMA into "IA-32e mode guest".
const MISC_STORES_LMA: u64 = 1 << 5;
/// IA32_VMX_MISC: the HLT, shutdown and wait-for-SIPI activity states.
const MISC_ACTIVITY: u64 = 7 << 6;
/// IA32_VMX_MISC: how many CR3-target values there are.
const MISC_CR3_TARGETS: u64 = 4 << 16;
/// IA32_VMX_MISC: VMWRITE takes every field, the read-only ones too.
pub const MISC_VMWRITE_ANY: u64 = 1 << 29;
/// IA32_VMX_MISC: software events may be injected with an instruction length of 0.
pub const MISC_ZERO_LENGTH: u64 = 1 << 30;

/// CR4's bits that the software CPU has.
const CR4: Cr4 = Cr4::all().difference(Cr4::LA57).difference(Cr4::SMXE).difference(Cr4::CET).difference(Cr4::PKS);

impl Capabilities {
    /// What the software silicon offers, without 5-level paging.
    pub const SOFT: Self = Self {
        // 4 KiB regions of write-back memory; INS and OUTS tell their operands; the true MSRs exist.
        basic: REVISION as u64 | 4096 << 32 | 6 << 50 | 1 << 54 | 1 << 55,
        pin: Allowed {
            zero: PIN_DEFAULT1,
            one: PIN_DEFAULT1
                | PinBased::EXTERNAL_INTERRUPT_EXITING
                    .union(PinBased::NMI_EXITING)
                    .union(PinBased::VIRTUAL_NMIS)
                    .union(PinBased::PREEMPTION_TIMER)
                    .union(PinBased::POSTED_INTERRUPTS)
                    .bits(),
        },
        primary: Allowed {
            zero: PRIMARY_DEFAULT1
                & !PrimaryControls::CR3_LOAD_EXITING.union(PrimaryControls::CR3_STORE_EXITING).bits(),
            one: PRIMARY_DEFAULT1 | PrimaryControls::all().difference(PrimaryControls::ACTIVATE_TERTIARY).bits(),
        },
        secondary: Allowed {
            zero: 0,
            one: SecondaryControls::VIRTUALIZE_APIC_ACCESSES
                .union(SecondaryControls::EPT)
                .union(SecondaryControls::DESCRIPTOR_TABLE_EXITING)
                .union(SecondaryControls::RDTSCP)
                .union(SecondaryControls::VIRTUALIZE_X2APIC)
                .union(SecondaryControls::VPID)
                .union(SecondaryControls::WBINVD_EXITING)
                .union(SecondaryControls::UNRESTRICTED_GUEST)
                .union(SecondaryControls::APIC_REGISTER_VIRTUALIZATION)
                .union(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY)
                .union(SecondaryControls::PAUSE_LOOP_EXITING)
                .union(SecondaryControls::RDRAND_EXITING)
                .union(SecondaryControls::INVPCID)
                .union(SecondaryControls::VM_FUNCTIONS)
                .union(SecondaryControls::VMCS_SHADOWING)
                .union(SecondaryControls::RDSEED_EXITING)
                .union(SecondaryControls::PML)
                .union(SecondaryControls::XSAVES)
                .union(SecondaryControls::MODE_BASED_EXECUTE)
                .union(SecondaryControls::TSC_SCALING)
                .bits(),
        },
        exit: Allowed {
            zero: EXIT_DEFAULT1 & !ExitControls::SAVE_DEBUG_CONTROLS.bits(),
            one: EXIT_DEFAULT1
                | ExitControls::HOST_ADDRESS_SPACE_SIZE
                    .union(ExitControls::ACKNOWLEDGE_INTERRUPT)
                    .union(ExitControls::SAVE_PAT)
                    .union(ExitControls::LOAD_PAT)
                    .union(ExitControls::SAVE_EFER)
                    .union(ExitControls::LOAD_EFER)
                    .union(ExitControls::SAVE_PREEMPTION_TIMER)
                    .bits(),
        },
        entry: Allowed {
            zero: ENTRY_DEFAULT1 & !EntryControls::LOAD_DEBUG_CONTROLS.bits(),
            one: ENTRY_DEFAULT1
                | EntryControls::IA32E_MODE_GUEST.union(EntryControls::LOAD_PAT).union(EntryControls::LOAD_EFER).bits(),
        },
        misc: PREEMPTION_TIMER_SHIFT as u64
            | MISC_STORES_LMA
            | MISC_ACTIVITY
            | MISC_CR3_TARGETS
            | MISC_VMWRITE_ANY
            | MISC_ZERO_LENGTH,
        // PE, NE and PG.
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: Cr4::VMXE.bits(),
        cr4_fixed1: CR4.bits(),
        ept_vpid: EptVpidCap::all().difference(EptVpidCap::WALK_LENGTH_5),
        // VMFUNC exits, for a hypervisor to carry out.
        vm_functions: 0,
    };

    /// That, with 5-level paging or without.
    pub fn soft(la57: bool) -> Self {
        let cr4_fixed1 = Self::SOFT.cr4_fixed1 | if la57 { Cr4::LA57.bits() } else { 0 };
        Self { cr4_fixed1, ..Self::SOFT }
    }

    /// The same without what the host's KVM cannot do when it executes the instructions: it sets no accessed and dirty flags
    /// in EPT, and so fills no page-modification log.
    pub fn without_ept_dirty(self) -> Self {
        let secondary = Allowed { one: self.secondary.one & !SecondaryControls::PML.bits(), zero: self.secondary.zero };
        Self { secondary, ept_vpid: self.ept_vpid.difference(EptVpidCap::ACCESSED_DIRTY), ..self }
    }

    /// The value of a capability MSR; `None` for an MSR that is none.
    pub fn msr(&self, number: u32) -> Option<u64> {
        let classic = |allowed: Allowed, default1: u32| Allowed { zero: allowed.zero | default1, ..allowed }.msr();
        Some(match number {
            msr::VMX_BASIC => self.basic,
            msr::VMX_PINBASED_CTLS => classic(self.pin, PIN_DEFAULT1),
            msr::VMX_PROCBASED_CTLS => classic(self.primary, PRIMARY_DEFAULT1),
            msr::VMX_EXIT_CTLS => classic(self.exit, EXIT_DEFAULT1),
            msr::VMX_ENTRY_CTLS => classic(self.entry, ENTRY_DEFAULT1),
            msr::VMX_MISC => self.misc,
            msr::VMX_CR0_FIXED0 => self.cr0_fixed0,
            msr::VMX_CR0_FIXED1 => self.cr0_fixed1,
            msr::VMX_CR4_FIXED0 => self.cr4_fixed0,
            msr::VMX_CR4_FIXED1 => self.cr4_fixed1,
            msr::VMX_VMCS_ENUM => highest_index() << 1,
            msr::VMX_PROCBASED_CTLS2 => self.secondary.msr(),
            msr::VMX_EPT_VPID_CAP => self.ept_vpid.bits(),
            msr::VMX_TRUE_PINBASED_CTLS => self.pin.msr(),
            msr::VMX_TRUE_PROCBASED_CTLS => self.primary.msr(),
            msr::VMX_TRUE_EXIT_CTLS => self.exit.msr(),
            msr::VMX_TRUE_ENTRY_CTLS => self.entry.msr(),
            msr::VMX_VMFUNC => self.vm_functions,
            _ => return None,
        })
    }

    /// How many CR3-target values there are.
    pub const fn cr3_targets(&self) -> u32 {
        (self.misc >> 16) as u32 & 0x1ff
    }

    /// Whether the guest may be entered in the activity state of that number.
    pub const fn has_activity_state(&self, state: u32) -> bool {
        state == 0 || state <= 3 && self.misc >> (5 + state) & 1 != 0
    }
}

fn highest_index() -> u64 {
    TABLE.iter().map(|row| u64::from(row.field.0 >> 1 & 0x1ff)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_msrs_agree_with_each_other() {
        let soft = Capabilities::SOFT;
        for (classic, truth) in [
            (msr::VMX_PINBASED_CTLS, msr::VMX_TRUE_PINBASED_CTLS),
            (msr::VMX_PROCBASED_CTLS, msr::VMX_TRUE_PROCBASED_CTLS),
            (msr::VMX_EXIT_CTLS, msr::VMX_TRUE_EXIT_CTLS),
            (msr::VMX_ENTRY_CTLS, msr::VMX_TRUE_ENTRY_CTLS),
        ] {
            let [classic, truth] = [classic, truth].map(|number| soft.msr(number).unwrap());
            let [must, may] = [truth as u32, (truth >> 32) as u32];
            assert_eq!(must & !may, 0, "what must be one may be one");
            assert_eq!(classic >> 32, u64::from(may));
            assert_eq!(classic as u32 & must, must);
        }
        assert_eq!(soft.msr(msr::VMX_PROCBASED_CTLS).unwrap() as u32, 0x0401_e172);
        assert_eq!(soft.msr(msr::VMX_TRUE_PROCBASED_CTLS).unwrap() as u32, 0x0400_6172);
        assert_eq!(soft.msr(msr::VMX_BASIC).unwrap() >> 32 & 0x1fff, 4096);
        assert_eq!(soft.msr(msr::FEATURE_CONTROL), None);
    }
}

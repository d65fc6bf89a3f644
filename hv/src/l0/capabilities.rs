//! What VMX L1 is offered: the capability MSRs. A feature is offered if L0 virtualizes it and silicon has it, and if the CPU
//! has what it controls: ENCLS exiting is not, since without SGX ENCLS is #UD whatever a bitmap says; nor are the controls
//! of TPAUSE and UMWAIT, Intel PT, CET, MPX and the performance counters, none of which CPUID shows.
//! See: SDM Appendix A "VMX Capability Reporting Facility".

use super::vmcs12::REVISION;
use crate::silicon::Silicon;
pub(super) use crate::vmx::capability::{Capabilities, MISC_VMWRITE_ANY};
use hv_defs::controls::{
    Allowed, EntryControls, EptVpidCap, ExitControls, PinBased, PrimaryControls, SecondaryControls,
};
use hv_defs::x86::{Cr0, Cr4, msr};

/// Bits that must be one in the MSRs that are not "true".
const PIN_DEFAULT1: u32 = 0x16;
const PRIMARY_DEFAULT1: u32 = 0x0401_e172;
const EXIT_DEFAULT1: u32 = 0x0003_6dff;
const ENTRY_DEFAULT1: u32 = 0x0000_11ff;
/// Bits of those that may be zero, as the "true" MSRs say: CR3 exiting, and the loading and saving of debug controls.
const PRIMARY_MAY_CLEAR: u32 = PrimaryControls::CR3_LOAD_EXITING.bits() | PrimaryControls::CR3_STORE_EXITING.bits();
const EXIT_MAY_CLEAR: u32 = ExitControls::SAVE_DEBUG_CONTROLS.bits();
const ENTRY_MAY_CLEAR: u32 = EntryControls::LOAD_DEBUG_CONTROLS.bits();

const PIN: PinBased = PinBased::EXTERNAL_INTERRUPT_EXITING
    .union(PinBased::NMI_EXITING)
    .union(PinBased::VIRTUAL_NMIS)
    .union(PinBased::PREEMPTION_TIMER)
    .union(PinBased::POSTED_INTERRUPTS);

const PRIMARY: PrimaryControls = PrimaryControls::INTERRUPT_WINDOW_EXITING
    .union(PrimaryControls::TSC_OFFSETTING)
    .union(PrimaryControls::HLT_EXITING)
    .union(PrimaryControls::INVLPG_EXITING)
    .union(PrimaryControls::MWAIT_EXITING)
    .union(PrimaryControls::RDPMC_EXITING)
    .union(PrimaryControls::RDTSC_EXITING)
    .union(PrimaryControls::CR3_LOAD_EXITING)
    .union(PrimaryControls::CR3_STORE_EXITING)
    .union(PrimaryControls::CR8_LOAD_EXITING)
    .union(PrimaryControls::CR8_STORE_EXITING)
    .union(PrimaryControls::TPR_SHADOW)
    .union(PrimaryControls::NMI_WINDOW_EXITING)
    .union(PrimaryControls::MOV_DR_EXITING)
    .union(PrimaryControls::UNCONDITIONAL_IO_EXITING)
    .union(PrimaryControls::IO_BITMAPS)
    .union(PrimaryControls::MONITOR_TRAP_FLAG)
    .union(PrimaryControls::MSR_BITMAPS)
    .union(PrimaryControls::MONITOR_EXITING)
    .union(PrimaryControls::PAUSE_EXITING)
    .union(PrimaryControls::ACTIVATE_SECONDARY);

const SECONDARY: SecondaryControls = SecondaryControls::EPT
    .union(SecondaryControls::VIRTUALIZE_APIC_ACCESSES)
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
    .union(SecondaryControls::RDSEED_EXITING)
    .union(SecondaryControls::PML)
    .union(SecondaryControls::XSAVES)
    .union(SecondaryControls::MODE_BASED_EXECUTE)
    .union(SecondaryControls::TSC_SCALING);

const EXIT: ExitControls = ExitControls::SAVE_DEBUG_CONTROLS
    .union(ExitControls::HOST_ADDRESS_SPACE_SIZE)
    .union(ExitControls::ACKNOWLEDGE_INTERRUPT)
    .union(ExitControls::SAVE_PAT)
    .union(ExitControls::LOAD_PAT)
    .union(ExitControls::SAVE_EFER)
    .union(ExitControls::LOAD_EFER)
    .union(ExitControls::SAVE_PREEMPTION_TIMER);

const ENTRY: EntryControls = EntryControls::LOAD_DEBUG_CONTROLS
    .union(EntryControls::IA32E_MODE_GUEST)
    .union(EntryControls::LOAD_PAT)
    .union(EntryControls::LOAD_EFER);

const EPT_VPID: EptVpidCap = EptVpidCap::EXECUTE_ONLY
    .union(EptVpidCap::WALK_LENGTH_4)
    .union(EptVpidCap::WRITE_BACK)
    .union(EptVpidCap::UNCACHEABLE)
    .union(EptVpidCap::PAGE_2M)
    .union(EptVpidCap::PAGE_1G)
    .union(EptVpidCap::INVEPT)
    .union(EptVpidCap::ACCESSED_DIRTY)
    .union(EptVpidCap::ADVANCED_EXIT_INFORMATION)
    .union(EptVpidCap::INVEPT_SINGLE)
    .union(EptVpidCap::INVEPT_ALL)
    .union(EptVpidCap::INVVPID)
    .union(EptVpidCap::INVVPID_ADDRESS)
    .union(EptVpidCap::INVVPID_SINGLE)
    .union(EptVpidCap::INVVPID_ALL)
    .union(EptVpidCap::INVVPID_RETAIN_GLOBALS);

/// CR0 bits that VMX operation wants set.
pub(super) const CR0_FIXED0: u64 = Cr0::PE.bits() | Cr0::NE.bits() | Cr0::PG.bits();
/// CR0 bits that VMX operation permits.
pub(super) const CR0_FIXED1: u64 = u32::MAX as u64;
/// CR4 bits that VMX operation wants set.
pub(super) const CR4_FIXED0: u64 = Cr4::VMXE.bits();

/// What silicon offers of a control field, by the MSR that applies.
pub(super) fn silicon<S: Silicon>(silicon: &S, plain: u32, true_: u32) -> Allowed {
    let number = if silicon.capability(msr::VMX_BASIC) >> 55 & 1 != 0 { true_ } else { plain };
    let value = silicon.capability(number);
    Allowed { zero: value as u32, one: (value >> 32) as u32 }
}

/// What silicon and L0 can do together for L1. `cr4` holds the bits that L1 may set; `shadowing` offers VMCS shadowing,
/// which L0 can emulate where silicon does not have it.
pub(super) fn offered<S: Silicon>(from: &S, cr4: u64, shadowing: bool) -> Capabilities {
    let pin = silicon(from, msr::VMX_PINBASED_CTLS, msr::VMX_TRUE_PINBASED_CTLS);
    let primary = silicon(from, msr::VMX_PROCBASED_CTLS, msr::VMX_TRUE_PROCBASED_CTLS);
    let exit = silicon(from, msr::VMX_EXIT_CTLS, msr::VMX_TRUE_EXIT_CTLS);
    let entry = silicon(from, msr::VMX_ENTRY_CTLS, msr::VMX_TRUE_ENTRY_CTLS);
    // What L0 emulates by itself does not need silicon's leave.
    let emulated = PrimaryControls::UNCONDITIONAL_IO_EXITING | PrimaryControls::IO_BITMAPS;
    let emulated_exit = ExitControls::ACKNOWLEDGE_INTERRUPT.bits();
    let emulated_pin = PinBased::POSTED_INTERRUPTS.bits();
    let offer = |wanted: u32, default1: u32, may_clear: u32, silicon: u32| Allowed {
        zero: default1 & !may_clear,
        one: wanted & silicon | default1,
    };
    let mut secondary = SECONDARY.bits() & (from.capability(msr::VMX_PROCBASED_CTLS2) >> 32) as u32;
    let tells_users = from.capability(msr::VMX_EPT_VPID_CAP) & EptVpidCap::ADVANCED_EXIT_INFORMATION.bits() != 0;
    if !tells_users {
        // Without it an exit does not say whether a fetch was from a user-mode address.
        secondary &= !SecondaryControls::MODE_BASED_EXECUTE.bits();
    }
    // L0 keeps L1's log by itself.
    let secondary = secondary | SecondaryControls::PML.bits();
    let secondary = secondary | if shadowing { SecondaryControls::VMCS_SHADOWING.bits() } else { 0 };
    let vm_functions = u64::from(secondary & SecondaryControls::VM_FUNCTIONS.bits() != 0);
    let ept_vpid = from.capability(msr::VMX_EPT_VPID_CAP) | EptVpidCap::ACCESSED_DIRTY.bits();
    Capabilities {
        basic: u64::from(REVISION) | 4096 << 32 | 6 << 50 | 1 << 54 | 1 << 55,
        pin: offer(PIN.bits(), PIN_DEFAULT1, 0, pin.one | emulated_pin),
        primary: offer(PRIMARY.bits(), PRIMARY_DEFAULT1, PRIMARY_MAY_CLEAR, primary.one | emulated.bits()),
        secondary: Allowed { zero: 0, one: secondary },
        exit: offer(EXIT.bits(), EXIT_DEFAULT1, EXIT_MAY_CLEAR, exit.one | emulated_exit),
        entry: offer(ENTRY.bits(), ENTRY_DEFAULT1, ENTRY_MAY_CLEAR, entry.one),
        // The preemption timer's rate and injection of length 0 are silicon's; LMA is stored, HLT is a state, and there
        // are 4 CR3 targets.
        misc: from.capability(msr::VMX_MISC) & (0x1f | 1 << 30)
            | 1 << 5
            | 1 << 6
            | 4 << 16
            | if shadowing { MISC_VMWRITE_ANY } else { 0 },
        cr0_fixed0: CR0_FIXED0,
        cr0_fixed1: CR0_FIXED1,
        cr4_fixed0: CR4_FIXED0,
        cr4_fixed1: cr4 | CR4_FIXED0,
        ept_vpid: EPT_VPID & EptVpidCap::from_bits_retain(ept_vpid),
        vm_functions,
    }
}

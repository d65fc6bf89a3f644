//! VM-execution, VM-exit and VM-entry controls, and the capability MSRs that allow them.
//! See: SDM "VM-Execution Control Fields" and Appendix A "VMX Capability Reporting Facility".

#![allow(missing_docs)] // The names are the SDM's, which says what each means.

use crate::stored::stored_as_bits;
use bitflags::bitflags;
use serde::{Deserialize, Serialize};

macro_rules! controls {
    ($(#[$doc:meta])* $name:ident { $($flag:ident = $bit:literal,)* }) => {
        bitflags! {
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
            pub struct $name: u32 {
                $(const $flag = 1 << $bit;)*
            }
        }
        stored_as_bits!($name as u32);
    };
}

controls! {
    /// Pin-based VM-execution controls.
    PinBased {
        EXTERNAL_INTERRUPT_EXITING = 0,
        NMI_EXITING = 3,
        VIRTUAL_NMIS = 5,
        PREEMPTION_TIMER = 6,
        POSTED_INTERRUPTS = 7,
    }
}

controls! {
    /// Primary processor-based VM-execution controls.
    PrimaryControls {
        INTERRUPT_WINDOW_EXITING = 2,
        TSC_OFFSETTING = 3,
        HLT_EXITING = 7,
        INVLPG_EXITING = 9,
        MWAIT_EXITING = 10,
        RDPMC_EXITING = 11,
        RDTSC_EXITING = 12,
        CR3_LOAD_EXITING = 15,
        CR3_STORE_EXITING = 16,
        ACTIVATE_TERTIARY = 17,
        CR8_LOAD_EXITING = 19,
        CR8_STORE_EXITING = 20,
        TPR_SHADOW = 21,
        NMI_WINDOW_EXITING = 22,
        MOV_DR_EXITING = 23,
        UNCONDITIONAL_IO_EXITING = 24,
        IO_BITMAPS = 25,
        MONITOR_TRAP_FLAG = 27,
        MSR_BITMAPS = 28,
        MONITOR_EXITING = 29,
        PAUSE_EXITING = 30,
        ACTIVATE_SECONDARY = 31,
    }
}

controls! {
    /// Secondary processor-based VM-execution controls.
    SecondaryControls {
        VIRTUALIZE_APIC_ACCESSES = 0,
        EPT = 1,
        DESCRIPTOR_TABLE_EXITING = 2,
        RDTSCP = 3,
        VIRTUALIZE_X2APIC = 4,
        VPID = 5,
        WBINVD_EXITING = 6,
        UNRESTRICTED_GUEST = 7,
        APIC_REGISTER_VIRTUALIZATION = 8,
        VIRTUAL_INTERRUPT_DELIVERY = 9,
        PAUSE_LOOP_EXITING = 10,
        RDRAND_EXITING = 11,
        INVPCID = 12,
        VM_FUNCTIONS = 13,
        VMCS_SHADOWING = 14,
        ENCLS_EXITING = 15,
        RDSEED_EXITING = 16,
        PML = 17,
        EPT_VIOLATION_VE = 18,
        CONCEAL_FROM_PT = 19,
        XSAVES = 20,
        PASID_TRANSLATION = 21,
        MODE_BASED_EXECUTE = 22,
        SUB_PAGE_WRITE = 23,
        PT_GUEST_PHYSICAL = 24,
        TSC_SCALING = 25,
        USER_WAIT_PAUSE = 26,
        PCONFIG = 27,
        ENCLV_EXITING = 28,
        BUS_LOCK_DETECTION = 30,
        INSTRUCTION_TIMEOUT = 31,
    }
}

controls! {
    /// VM-exit controls.
    ExitControls {
        SAVE_DEBUG_CONTROLS = 2,
        HOST_ADDRESS_SPACE_SIZE = 9,
        LOAD_PERF_GLOBAL_CTRL = 12,
        ACKNOWLEDGE_INTERRUPT = 15,
        SAVE_PAT = 18,
        LOAD_PAT = 19,
        SAVE_EFER = 20,
        LOAD_EFER = 21,
        SAVE_PREEMPTION_TIMER = 22,
        CLEAR_BNDCFGS = 23,
        CONCEAL_FROM_PT = 24,
        CLEAR_RTIT_CTL = 25,
        CLEAR_LBR_CTL = 26,
        LOAD_CET = 28,
        LOAD_PKRS = 29,
        SAVE_PERF_GLOBAL_CTRL = 30,
        ACTIVATE_SECONDARY = 31,
    }
}

controls! {
    /// VM-entry controls.
    EntryControls {
        LOAD_DEBUG_CONTROLS = 2,
        IA32E_MODE_GUEST = 9,
        ENTRY_TO_SMM = 10,
        DEACTIVATE_DUAL_MONITOR = 11,
        LOAD_PERF_GLOBAL_CTRL = 13,
        LOAD_PAT = 14,
        LOAD_EFER = 15,
        LOAD_BNDCFGS = 16,
        CONCEAL_FROM_PT = 17,
        LOAD_RTIT_CTL = 18,
        LOAD_UINV = 19,
        LOAD_CET = 20,
        LOAD_LBR_CTL = 21,
        LOAD_PKRS = 22,
    }
}

/// What a capability MSR says of one 32-bit control field: which bits must be one and which may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Allowed {
    /// Bits that must be one (the MSR's low half).
    pub zero: u32,
    /// Bits that may be one (the MSR's high half).
    pub one: u32,
}

impl Allowed {
    /// As the MSR shows it.
    pub const fn msr(self) -> u64 {
        (self.one as u64) << 32 | self.zero as u64
    }

    /// Whether hardware takes `value`.
    pub const fn permits(self, value: u32) -> bool {
        value & self.zero == self.zero && value & !self.one == 0
    }
}

bitflags! {
    /// IA32_VMX_EPT_VPID_CAP.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EptVpidCap: u64 {
        const EXECUTE_ONLY = 1 << 0;
        const WALK_LENGTH_4 = 1 << 6;
        const WALK_LENGTH_5 = 1 << 7;
        const UNCACHEABLE = 1 << 8;
        const WRITE_BACK = 1 << 14;
        const PAGE_2M = 1 << 16;
        const PAGE_1G = 1 << 17;
        const INVEPT = 1 << 20;
        const ACCESSED_DIRTY = 1 << 21;
        const ADVANCED_EXIT_INFORMATION = 1 << 22;
        const INVEPT_SINGLE = 1 << 25;
        const INVEPT_ALL = 1 << 26;
        const INVVPID = 1 << 32;
        const INVVPID_ADDRESS = 1 << 40;
        const INVVPID_SINGLE = 1 << 41;
        const INVVPID_ALL = 1 << 42;
        const INVVPID_RETAIN_GLOBALS = 1 << 43;
    }
}

bitflags! {
    /// The guest-interruptibility field.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Interruptibility: u32 {
        const STI = 1 << 0;
        const MOV_SS = 1 << 1;
        const SMI = 1 << 2;
        const NMI = 1 << 3;
        const ENCLAVE = 1 << 4;
    }
}

/// The guest-activity-state field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[repr(u32)]
pub enum ActivityState {
    Active = 0,
    Hlt = 1,
    Shutdown = 2,
    WaitForSipi = 3,
}

impl ActivityState {
    /// The state of that number, if there is one.
    pub const fn new(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Active),
            1 => Some(Self::Hlt),
            2 => Some(Self::Shutdown),
            3 => Some(Self::WaitForSipi),
            _ => None,
        }
    }
}

stored_as_bits!(EptVpidCap as u64, Interruptibility as u32);

//! For each row a VMCS that fails it: one that passes, changed in one way.

use super::*;
use hv_defs::controls::{Allowed, EptVpidCap};
use hv_defs::ept::Eptp;
use hv_defs::x86::{Cr0, Cr4, Efer};

mod rows;
mod silicon;

/// The VMCS's own address, a shadow VMCS, and an ordinary one that is not.
pub(crate) const SELF: u64 = 0x1_1000;
const SHADOW_VMCS: u64 = 0x5_2000;
const OTHER_VMCS: u64 = 0x5_3000;
/// A virtual-APIC page with a task priority of 0x50.
const VIRTUAL_APIC: u64 = 0x5_4000;
/// PDPTEs of which the second has a reserved bit set.
const BAD_PDPTES: u64 = 0x5_5000;

/// The words of memory that the VMCSs lead to.
pub(crate) const MEMORY: [(u64, u32); 5] = [
    (SELF, crate::vmcs::REVISION),
    (SHADOW_VMCS, crate::vmcs::REVISION | crate::vmcs::SHADOW),
    (OTHER_VMCS, crate::vmcs::REVISION),
    (VIRTUAL_APIC + 0x80, 0x50),
    (BAD_PDPTES + 8, 7),
];

struct Ram;

impl Physical for Ram {
    fn read_u32(&self, at: u64) -> u32 {
        MEMORY.iter().find(|word| word.0 == at).map_or(0, |word| word.1)
    }
}

/// An entry that one row refuses.
pub(crate) struct Broken {
    /// The row's name.
    pub(crate) name: &'static str,
    pub(crate) vmcs: Vmcs,
    /// Whether it is tried in IA-32e mode.
    pub(crate) long_mode_host: bool,
    /// What the VMX offers that it is tried on.
    pub(crate) capabilities: Capabilities,
}

/// At least one for each row, in the SDM's order: of controls, of host state, of guest state.
pub(crate) fn broken() -> [Vec<Broken>; 3] {
    let case = |(name, vmcs)| Broken { name, vmcs, long_mode_host: true, capabilities: capabilities() };
    let mut broken =
        [broken_controls(), broken_host(), broken_guest()].map(|cases| cases.into_iter().map(case).collect::<Vec<_>>());
    broken[0].push(Broken {
        name: "eptp-accessed-dirty",
        vmcs: ept(GOOD_EPTP.with_accessed_dirty(true)),
        long_mode_host: true,
        capabilities: Capabilities { ept_vpid: EptVpidCap::all() - EptVpidCap::ACCESSED_DIRTY, ..capabilities() },
    });
    broken[1].extend(broken_32_bit_host().into_iter().map(|(name, vmcs)| Broken {
        name,
        vmcs,
        long_mode_host: false,
        capabilities: capabilities(),
    }));
    broken
}

/// The exit qualification of a guest that fails a row.
pub(crate) fn qualification(name: &str) -> u64 {
    match name {
        "guest-interruptibility-nmi-sti" => 3,
        name if name.starts_with("guest-link-pointer") => 4,
        name if name.starts_with("guest-pdptes") => 2,
        _ => 0,
    }
}

/// Entries that no row refuses.
pub(crate) fn valid() -> Vec<Vmcs> {
    let mut valid = vec![
        plain(),
        pae(),
        v86(),
        ept(GOOD_EPTP),
        with(injecting(0x8000_0480), |v| v.set(ENTRY_INSTRUCTION_LENGTH, 2)),
        with(plain(), |v| v.set(GUEST_ACTIVITY_STATE, 1)),
        with(secondary(SecondaryControls::VMCS_SHADOWING), |v| v.set(VMCS_LINK_POINTER, SHADOW_VMCS)),
        with(plain(), |v| v.set(VMCS_LINK_POINTER, OTHER_VMCS)),
        // Behind the last instruction of the lower half of linear addresses.
        with(plain(), |v| v.set(GUEST_RIP, 1 << 47)),
        // A breakpoint pends, and so does a single step behind STI.
        with(plain(), |v| v.set(GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1001)),
        with(plain(), |v| {
            v.set(GUEST_INTERRUPTIBILITY, 1);
            v.set(GUEST_RFLAGS, 0x302);
            v.set(GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14);
        }),
        // A real-mode guest, unrestricted.
        with(with_ept(SecondaryControls::UNRESTRICTED_GUEST), |v| {
            v.set(ENTRY_CONTROLS, EntryControls::empty());
            v.set(GUEST_CR0, Cr0::NE.bits());
            v.set(GUEST_CS_ACCESS_RIGHTS, 0x9b);
            v.set(GUEST_CS_LIMIT, 0xffff);
        }),
    ];
    // An interrupt, an NMI, a page fault, #UD, a monitor-trap exit, and a vector that means nothing without CET.
    valid.extend([0x8000_0030u32, 0x8000_0202, 0x8000_0b0e, 0x8000_0306, 0x8000_0700, 0x8000_0315].map(injecting));
    // To a CPU that halts: what may wake it.
    for info in [0x8000_0030u32, 0x8000_0202, 0x8000_0301, 0x8000_0312, 0x8000_0700] {
        valid.push(with(injecting(info), |v| v.set(GUEST_ACTIVITY_STATE, 1)));
    }
    // To one that is shut down.
    for info in [0x8000_0202u32, 0x8000_0312] {
        valid.push(with(injecting(info), |v| v.set(GUEST_ACTIVITY_STATE, 2)));
    }
    valid
}

/// A VMX that offers every control, so that each row can be reached.
pub(crate) fn capabilities() -> Capabilities {
    let all = Allowed { zero: 0, one: u32::MAX };
    Capabilities {
        pin: Allowed { zero: 0, one: 0xff },
        primary: Allowed { one: !3, ..all },
        secondary: Allowed { one: !(1 << 29), ..all },
        exit: Allowed { one: !3, ..all },
        entry: Allowed { one: !3, ..all },
        vm_functions: 1,
        misc: Capabilities::SOFT.misc & !super::super::capability::MISC_ZERO_LENGTH & !(1 << 8),
        ..Capabilities::SOFT
    }
}

/// A guest in 64-bit mode, that passes every check.
fn plain() -> Vmcs {
    let mut v = Vmcs::default();
    v.set(PIN_BASED_CONTROLS, PinBased::EXTERNAL_INTERRUPT_EXITING | PinBased::NMI_EXITING);
    v.set(PRIMARY_CONTROLS, PrimaryControls::ACTIVATE_SECONDARY);
    v.set(EXIT_CONTROLS, ExitControls::HOST_ADDRESS_SPACE_SIZE | ExitControls::LOAD_EFER | ExitControls::LOAD_PAT);
    v.set(
        ENTRY_CONTROLS,
        EntryControls::IA32E_MODE_GUEST
            | EntryControls::LOAD_EFER
            | EntryControls::LOAD_PAT
            | EntryControls::LOAD_DEBUG_CONTROLS,
    );
    v.set(VMCS_LINK_POINTER, u64::MAX);
    v.set(HOST_CR0, 0x8000_0033);
    v.set(HOST_CR3, 0x1000);
    v.set(HOST_RIP, 0xa000);
    v.set(HOST_RSP, 0xb000);
    v.set(HOST_FS_BASE, 0x1234);
    v.set(HOST_GDTR_BASE, 0x5678);
    v.set(HOST_CR4, 0x2020);
    v.set(HOST_EFER, 0x500);
    v.set(HOST_CS_SELECTOR, 8);
    v.set(HOST_TR_SELECTOR, 16);
    v.set(GUEST_CR0, 0x8000_0033);
    v.set(GUEST_CR4, 0x2020);
    v.set(GUEST_EFER, 0x500);
    v.set(GUEST_RFLAGS, 2);
    v.set(GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    v.set(GUEST_CS_LIMIT, u32::MAX);
    for rights in [GUEST_SS_ACCESS_RIGHTS, GUEST_DS_ACCESS_RIGHTS, GUEST_ES_ACCESS_RIGHTS] {
        v.set(rights, 0x93);
    }
    for rights in [GUEST_FS_ACCESS_RIGHTS, GUEST_GS_ACCESS_RIGHTS] {
        v.set(rights, 0x93);
    }
    v.set(GUEST_TR_ACCESS_RIGHTS, 0x8b);
    v.set(GUEST_LDTR_ACCESS_RIGHTS, 0x82);
    v
}

/// A guest in 32-bit protected mode with PAE paging.
fn pae() -> Vmcs {
    let mut v = plain();
    v.set(ENTRY_CONTROLS, EntryControls::empty());
    v.set(GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    v
}

/// A guest in virtual-8086 mode.
fn v86() -> Vmcs {
    let mut v = pae();
    v.set(GUEST_RFLAGS, 2 | Rflags::VM.bits());
    for (limit, rights) in [
        (GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS),
        (GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS),
        (GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS),
        (GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS),
        (GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS),
        (GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS),
    ] {
        v.set(limit, 0xffff);
        v.set(rights, 0xf3);
    }
    v
}

/// A guest that injects an event.
fn injecting(info: u32) -> Vmcs {
    let mut v = plain();
    v.set(GUEST_RFLAGS, 0x202);
    v.set(ENTRY_INTERRUPTION_INFO, InterruptionInfo::from_bits(info));
    v
}

fn with(mut v: Vmcs, change: impl FnOnce(&mut Vmcs)) -> Vmcs {
    change(&mut v);
    v
}

fn secondary(controls: SecondaryControls) -> Vmcs {
    with(plain(), |v| v.set(SECONDARY_CONTROLS, controls))
}

fn primary(controls: PrimaryControls) -> Vmcs {
    with(plain(), |v| v.set(PRIMARY_CONTROLS, controls | PrimaryControls::ACTIVATE_SECONDARY))
}

fn ept(eptp: Eptp) -> Vmcs {
    with(secondary(SecondaryControls::EPT), |v| v.set(EPT_POINTER, eptp))
}

const GOOD_EPTP: Eptp = Eptp::new().with_memory_type(6).with_walk_length_less_one(3);

/// EPT with other controls.
fn with_ept(controls: SecondaryControls) -> Vmcs {
    with(ept(GOOD_EPTP), |v| v.set(SECONDARY_CONTROLS, controls | SecondaryControls::EPT))
}

macro_rules! broken {
    ($($name:literal: $from:expr $(, $field:ident = $value:expr)*;)*) => {
        vec![$(($name, {
            #[allow(unused_mut)]
            let mut v: Vmcs = $from;
            $(v.set($field, $value);)*
            v
        }),)*]
    };
}

/// A row's name, and a VMCS that fails it first.
fn broken_controls() -> Vec<(&'static str, Vmcs)> {
    use PrimaryControls as P;
    use SecondaryControls as S;
    let virtual_apic = |threshold| {
        with(primary(P::TPR_SHADOW), |v| {
            v.set(VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
            v.set(TPR_THRESHOLD, threshold);
        })
    };
    let delivery = || with(virtual_apic(0), |v| v.set(SECONDARY_CONTROLS, S::VIRTUAL_INTERRUPT_DELIVERY));
    let pin = PinBased::EXTERNAL_INTERRUPT_EXITING | PinBased::NMI_EXITING;
    let posted = || {
        with(delivery(), |v| {
            v.set(PIN_BASED_CONTROLS, pin | PinBased::POSTED_INTERRUPTS);
            v.set(EXIT_CONTROLS, v.get(EXIT_CONTROLS) | ExitControls::ACKNOWLEDGE_INTERRUPT);
        })
    };
    let switching = |v: Vmcs| {
        with(v, |v| {
            v.set(SECONDARY_CONTROLS, v.get(SECONDARY_CONTROLS) | S::VM_FUNCTIONS);
            v.set(VM_FUNCTION_CONTROLS, 1);
        })
    };
    let exits = plain().get(EXIT_CONTROLS);
    broken! {
        "pin-based-controls-reserved": plain(), PIN_BASED_CONTROLS = PinBased::from_bits_retain(1 << 8);
        "primary-controls-reserved": primary(P::from_bits_retain(1));
        "secondary-controls-reserved": secondary(S::from_bits_retain(1 << 29));
        "cr3-target-count": plain(), CR3_TARGET_COUNT = 5;
        "io-bitmap-a-address": primary(P::IO_BITMAPS), IO_BITMAP_A = 1;
        "io-bitmap-b-address": primary(P::IO_BITMAPS), IO_BITMAP_B = 1 << PHYSICAL_BITS;
        "msr-bitmap-address": primary(P::MSR_BITMAPS), MSR_BITMAP = 0x800;
        "virtual-apic-address": virtual_apic(0), VIRTUAL_APIC_ADDRESS = 8;
        "tpr-threshold-reserved": virtual_apic(0x10);
        "tpr-threshold-above-vtpr": virtual_apic(6);
        "nmi-exiting-without-virtual-nmis": plain(), PIN_BASED_CONTROLS = PinBased::VIRTUAL_NMIS;
        "virtual-nmis-without-nmi-window": primary(P::NMI_WINDOW_EXITING);
        "apic-access-address": secondary(S::VIRTUALIZE_APIC_ACCESSES), APIC_ACCESS_ADDRESS = 0xfff;
        "tpr-shadow-for-virtual-apic": secondary(S::APIC_REGISTER_VIRTUALIZATION);
        "x2apic-and-apic-accesses": virtual_apic(0),
            SECONDARY_CONTROLS = S::VIRTUALIZE_X2APIC | S::VIRTUALIZE_APIC_ACCESSES;
        "virtual-interrupts-without-exiting": delivery(), PIN_BASED_CONTROLS = PinBased::empty();
        "posted-interrupts-without-virtual": plain(), PIN_BASED_CONTROLS = pin | PinBased::POSTED_INTERRUPTS;
        "posted-interrupts-without-acknowledge": posted(), EXIT_CONTROLS = exits;
        "posted-interrupt-vector": posted(), POSTED_INTERRUPT_VECTOR = 256;
        "posted-interrupt-descriptor-address": posted(), POSTED_INTERRUPT_DESCRIPTOR_ADDRESS = 32;
        "vpid-zero": secondary(S::VPID);
        "eptp-memory-type": ept(GOOD_EPTP.with_memory_type(1));
        "eptp-walk-length": ept(GOOD_EPTP.with_walk_length_less_one(4));
        "eptp-reserved": ept(Eptp::from_bits(GOOD_EPTP.into_bits() | 1 << 8));
        "pml-without-ept": secondary(S::PML);
        "pml-address": with_ept(S::PML), PML_ADDRESS = 1;
        "unrestricted-guest-without-ept": secondary(S::UNRESTRICTED_GUEST);
        "mode-based-execute-without-ept": secondary(S::MODE_BASED_EXECUTE);
        "vm-function-controls-reserved": with_ept(S::VM_FUNCTIONS), VM_FUNCTION_CONTROLS = 2;
        "eptp-switching-without-ept": switching(plain());
        "eptp-list-address": switching(with_ept(S::empty())), EPTP_LIST_ADDRESS = 8;
        "vmread-bitmap-address": secondary(S::VMCS_SHADOWING), VMREAD_BITMAP = 1;
        "vmwrite-bitmap-address": secondary(S::VMCS_SHADOWING), VMWRITE_BITMAP = 1;
        "virtualization-exception-address": secondary(S::EPT_VIOLATION_VE), VIRTUALIZATION_EXCEPTION_ADDRESS = 1;
        "exit-controls-reserved": plain(), EXIT_CONTROLS = ExitControls::from_bits_retain(1);
        "save-preemption-timer-without-timer": plain(), EXIT_CONTROLS = exits | ExitControls::SAVE_PREEMPTION_TIMER;
        "exit-msr-store-address": plain(), VM_EXIT_MSR_STORE_COUNT = 1, VM_EXIT_MSR_STORE_ADDRESS = 8;
        "exit-msr-load-address": plain(), VM_EXIT_MSR_LOAD_COUNT = 2,
            VM_EXIT_MSR_LOAD_ADDRESS = (1 << PHYSICAL_BITS) - 16;
        "entry-controls-reserved": plain(), ENTRY_CONTROLS = EntryControls::from_bits_retain(1);
        "entry-interruption-type": injecting(0x8000_0100);
        "entry-interruption-vector": injecting(0x8000_0203);
        "entry-interruption-vector": injecting(0x8000_0320);
        "entry-interruption-vector": injecting(0x8000_0701);
        "entry-interruption-error-code": injecting(0x8000_030e);
        "entry-interruption-error-code": injecting(0x8000_0806);
        "entry-interruption-reserved": injecting(0x8000_1202);
        "entry-exception-error-code-reserved": injecting(0x8000_0b0e), ENTRY_EXCEPTION_ERROR_CODE = 1 << 16;
        "entry-instruction-length": injecting(0x8000_0480);
        "entry-instruction-length": injecting(0x8000_0603), ENTRY_INSTRUCTION_LENGTH = 16;
        "entry-msr-load-address": plain(), VM_ENTRY_MSR_LOAD_COUNT = 1, VM_ENTRY_MSR_LOAD_ADDRESS = !15;
    }
}

fn broken_host() -> Vec<(&'static str, Vmcs)> {
    const BAD: u64 = 1 << 47;
    // A host of 32 bits is refused before what only it can be.
    let not_long = |v: Vmcs| with(v, |v| v.set(EXIT_CONTROLS, ExitControls::empty()));
    broken! {
        "host-cr0": plain(), HOST_CR0 = 0x33;
        "host-cr4": plain(), HOST_CR4 = 0x20;
        "host-cr3": plain(), HOST_CR3 = 1 << PHYSICAL_BITS;
        "host-sysenter-esp": plain(), HOST_SYSENTER_ESP = BAD;
        "host-sysenter-eip": plain(), HOST_SYSENTER_EIP = BAD;
        "host-pat": plain(), HOST_PAT = 2;
        "host-efer-reserved": plain(), HOST_EFER = 0x502;
        "host-efer-mode": plain(), HOST_EFER = 0x100;
        "host-es-selector": plain(), HOST_ES_SELECTOR = 3;
        "host-cs-selector": plain(), HOST_CS_SELECTOR = 0xc;
        "host-ss-selector": plain(), HOST_SS_SELECTOR = 1;
        "host-ds-selector": plain(), HOST_DS_SELECTOR = 2;
        "host-fs-selector": plain(), HOST_FS_SELECTOR = 4;
        "host-gs-selector": plain(), HOST_GS_SELECTOR = 7;
        "host-tr-selector": plain(), HOST_TR_SELECTOR = 0x13;
        "host-cs-null": plain(), HOST_CS_SELECTOR = 0;
        "host-tr-null": plain(), HOST_TR_SELECTOR = 0;
        "host-ss-null": not_long(plain());
        "host-fs-base": plain(), HOST_FS_BASE = BAD;
        "host-gs-base": plain(), HOST_GS_BASE = BAD;
        "host-gdtr-base": plain(), HOST_GDTR_BASE = BAD;
        "host-idtr-base": plain(), HOST_IDTR_BASE = BAD;
        "host-tr-base": plain(), HOST_TR_BASE = BAD;
        "host-address-space-size": not_long(plain()), HOST_SS_SELECTOR = 8;
        "host-64-bit-pae": plain(), HOST_CR4 = 0x2000;
        "host-64-bit-rip": plain(), HOST_RIP = BAD;
    }
}

/// Of a CPU outside IA-32e mode.
fn broken_32_bit_host() -> Vec<(&'static str, Vmcs)> {
    let host = || {
        with(pae(), |v| {
            v.set(EXIT_CONTROLS, ExitControls::empty());
            v.set(HOST_SS_SELECTOR, 8);
        })
    };
    broken! {
        "host-long-mode-guest": host(), ENTRY_CONTROLS = EntryControls::IA32E_MODE_GUEST;
        "host-address-space-size": host(), EXIT_CONTROLS = ExitControls::HOST_ADDRESS_SPACE_SIZE;
        "host-32-bit-pcide": host(), HOST_CR4 = 0x2000 | Cr4::PCIDE.bits();
        "host-32-bit-rip": host(), HOST_RIP = 1 << 32;
    }
}

fn broken_guest() -> Vec<(&'static str, Vmcs)> {
    const BAD: u64 = 1 << 47;
    let unrestricted = || with_ept(SecondaryControls::UNRESTRICTED_GUEST);
    let usable = |field| with(plain(), |v| v.set(field, 0x93));
    let halted = || with(plain(), |v| v.set(GUEST_ACTIVITY_STATE, 1));
    let blocked = |by: u32, flags: u64| {
        with(plain(), |v| {
            v.set(GUEST_INTERRUPTIBILITY, by);
            v.set(GUEST_RFLAGS, flags);
        })
    };
    let virtual_nmis = || {
        with(injecting(0x8000_0202), |v| {
            v.set(PIN_BASED_CONTROLS, v.get(PIN_BASED_CONTROLS) | PinBased::VIRTUAL_NMIS);
        })
    };
    let pae_ept = || {
        with(pae(), |v| {
            v.set(SECONDARY_CONTROLS, SecondaryControls::EPT);
            v.set(EPT_POINTER, GOOD_EPTP);
        })
    };
    broken! {
        "guest-cr0": plain(), GUEST_CR0 = 0x33;
        "guest-cr0-paging-unprotected": unrestricted(), GUEST_CR0 = 0x8000_0020;
        "guest-cr4": plain(), GUEST_CR4 = 0x20;
        "guest-debugctl-reserved": plain(), GUEST_DEBUGCTL = 4;
        "guest-long-mode-without-paging": unrestricted(), GUEST_CR0 = 0x21;
        "guest-long-mode-without-pae": plain(), GUEST_CR4 = 0x2000;
        "guest-pcide-outside-long-mode": pae(), GUEST_CR4 = 0x2020 | Cr4::PCIDE.bits();
        "guest-cr3": plain(), GUEST_CR3 = 1 << PHYSICAL_BITS;
        "guest-dr7-high": plain(), GUEST_DR7 = 1 << 32;
        "guest-sysenter-esp": plain(), GUEST_SYSENTER_ESP = BAD;
        "guest-sysenter-eip": plain(), GUEST_SYSENTER_EIP = BAD;
        "guest-pat": plain(), GUEST_PAT = 3;
        "guest-efer-reserved": plain(), GUEST_EFER = 0x502;
        "guest-efer-lma": plain(), GUEST_EFER = 0x100;
        "guest-efer-lme": plain(), GUEST_EFER = Efer::LMA.bits();
        "guest-tr-selector": plain(), GUEST_TR_SELECTOR = 4;
        "guest-ldtr-selector": plain(), GUEST_LDTR_SELECTOR = 4;
        "guest-ss-selector-rpl": plain(), GUEST_CS_SELECTOR = 1;
        "guest-cs-base-v86": v86(), GUEST_CS_BASE = 16;
        "guest-ss-base-v86": v86(), GUEST_SS_SELECTOR = 16;
        "guest-ds-base-v86": v86(), GUEST_DS_BASE = 16;
        "guest-es-base-v86": v86(), GUEST_ES_BASE = 16;
        "guest-fs-base-v86": v86(), GUEST_FS_BASE = 16;
        "guest-gs-base-v86": v86(), GUEST_GS_BASE = 16;
        "guest-tr-base-canonical": plain(), GUEST_TR_BASE = BAD;
        "guest-fs-base-canonical": plain(), GUEST_FS_BASE = BAD;
        "guest-gs-base-canonical": plain(), GUEST_GS_BASE = BAD;
        "guest-ldtr-base-canonical": plain(), GUEST_LDTR_BASE = BAD;
        "guest-cs-base-high": plain(), GUEST_CS_BASE = 1 << 32;
        "guest-ss-base-high": plain(), GUEST_SS_BASE = 1 << 32;
        "guest-ds-base-high": plain(), GUEST_DS_BASE = 1 << 32;
        "guest-es-base-high": plain(), GUEST_ES_BASE = 1 << 32;
        "guest-cs-limit-v86": v86(), GUEST_CS_LIMIT = 0xfffe;
        "guest-ss-limit-v86": v86(), GUEST_SS_LIMIT = 0xfffe;
        "guest-ds-limit-v86": v86(), GUEST_DS_LIMIT = 0xfffe;
        "guest-es-limit-v86": v86(), GUEST_ES_LIMIT = 0xfffe;
        "guest-fs-limit-v86": v86(), GUEST_FS_LIMIT = 0xfffe;
        "guest-gs-limit-v86": v86(), GUEST_GS_LIMIT = 0xfffe;
        "guest-cs-rights-v86": v86(), GUEST_CS_ACCESS_RIGHTS = 0x93;
        "guest-ss-rights-v86": v86(), GUEST_SS_ACCESS_RIGHTS = 0x93;
        "guest-ds-rights-v86": v86(), GUEST_DS_ACCESS_RIGHTS = 0x93;
        "guest-es-rights-v86": v86(), GUEST_ES_ACCESS_RIGHTS = 0x93;
        "guest-fs-rights-v86": v86(), GUEST_FS_ACCESS_RIGHTS = 0x93;
        "guest-gs-rights-v86": v86(), GUEST_GS_ACCESS_RIGHTS = 0x93;
        "guest-cs-type": plain(), GUEST_CS_ACCESS_RIGHTS = 0xa093;
        "guest-cs-type": unrestricted(), GUEST_CS_ACCESS_RIGHTS = 0xa091;
        "guest-ss-type": plain(), GUEST_SS_ACCESS_RIGHTS = 0x91;
        "guest-ds-type": plain(), GUEST_DS_ACCESS_RIGHTS = 0x92;
        "guest-es-type": plain(), GUEST_ES_ACCESS_RIGHTS = 0x99;
        "guest-fs-type": plain(), GUEST_FS_ACCESS_RIGHTS = 0x90;
        "guest-gs-type": plain(), GUEST_GS_ACCESS_RIGHTS = 0x9a;
        "guest-cs-system": plain(), GUEST_CS_ACCESS_RIGHTS = 0xa08b;
        "guest-ss-system": plain(), GUEST_SS_ACCESS_RIGHTS = 0x83;
        "guest-ds-system": plain(), GUEST_DS_ACCESS_RIGHTS = 0x83;
        "guest-es-system": plain(), GUEST_ES_ACCESS_RIGHTS = 0x83;
        "guest-fs-system": plain(), GUEST_FS_ACCESS_RIGHTS = 0x83;
        "guest-gs-system": plain(), GUEST_GS_ACCESS_RIGHTS = 0x83;
        "guest-cs-dpl": plain(), GUEST_CS_ACCESS_RIGHTS = 0xa0fb;
        "guest-cs-dpl": plain(), GUEST_CS_ACCESS_RIGHTS = 0xa0ff;
        "guest-ss-dpl-rpl": plain(), GUEST_CS_SELECTOR = 11, GUEST_SS_SELECTOR = 3;
        "guest-ss-dpl-zero": unrestricted(), GUEST_CS_ACCESS_RIGHTS = 0xa093, GUEST_SS_ACCESS_RIGHTS = 0xf3;
        "guest-ds-dpl": plain(), GUEST_DS_SELECTOR = 3;
        "guest-es-dpl": plain(), GUEST_ES_SELECTOR = 3;
        "guest-fs-dpl": plain(), GUEST_FS_SELECTOR = 3;
        "guest-gs-dpl": plain(), GUEST_GS_SELECTOR = 3;
        "guest-cs-present": plain(), GUEST_CS_ACCESS_RIGHTS = 0xa01b;
        "guest-ss-present": plain(), GUEST_SS_ACCESS_RIGHTS = 0x13;
        "guest-ds-present": plain(), GUEST_DS_ACCESS_RIGHTS = 0x13;
        "guest-es-present": plain(), GUEST_ES_ACCESS_RIGHTS = 0x13;
        "guest-fs-present": plain(), GUEST_FS_ACCESS_RIGHTS = 0x13;
        "guest-gs-present": plain(), GUEST_GS_ACCESS_RIGHTS = 0x13;
        "guest-cs-rights-reserved": plain(), GUEST_CS_ACCESS_RIGHTS = 0xa19b;
        "guest-ss-rights-reserved": plain(), GUEST_SS_ACCESS_RIGHTS = 0x893;
        "guest-ds-rights-reserved": plain(), GUEST_DS_ACCESS_RIGHTS = 0x193;
        "guest-es-rights-reserved": plain(), GUEST_ES_ACCESS_RIGHTS = 0x493;
        "guest-fs-rights-reserved": plain(), GUEST_FS_ACCESS_RIGHTS = 0x193;
        "guest-gs-rights-reserved": plain(), GUEST_GS_ACCESS_RIGHTS = 0x193;
        "guest-cs-long-and-big": plain(), GUEST_CS_ACCESS_RIGHTS = 0xe09b;
        "guest-cs-granularity": plain(), GUEST_CS_LIMIT = 0xffff_f000;
        "guest-ss-granularity": plain(), GUEST_SS_LIMIT = 1 << 20;
        "guest-ds-granularity": plain(), GUEST_DS_LIMIT = 1 << 31;
        "guest-es-granularity": plain(), GUEST_ES_LIMIT = u32::MAX;
        "guest-fs-granularity": plain(), GUEST_FS_ACCESS_RIGHTS = 0x8093, GUEST_FS_LIMIT = 0xffe;
        "guest-gs-granularity": usable(GUEST_GS_ACCESS_RIGHTS), GUEST_GS_LIMIT = 1 << 20;
        "guest-cs-rights-high": plain(), GUEST_CS_ACCESS_RIGHTS = 0x2_a09b;
        "guest-ss-rights-high": plain(), GUEST_SS_ACCESS_RIGHTS = 0x4_0093;
        "guest-ds-rights-high": plain(), GUEST_DS_ACCESS_RIGHTS = 0x2_0093;
        "guest-es-rights-high": plain(), GUEST_ES_ACCESS_RIGHTS = 0x8000_0093;
        "guest-fs-rights-high": plain(), GUEST_FS_ACCESS_RIGHTS = 0x2_0093;
        "guest-gs-rights-high": plain(), GUEST_GS_ACCESS_RIGHTS = 0x2_0093;
        "guest-tr-type": plain(), GUEST_TR_ACCESS_RIGHTS = 0x83;
        "guest-tr-type": pae(), GUEST_TR_ACCESS_RIGHTS = 0x89;
        "guest-tr-system": plain(), GUEST_TR_ACCESS_RIGHTS = 0x9b;
        "guest-tr-present": plain(), GUEST_TR_ACCESS_RIGHTS = 0xb;
        "guest-tr-rights-reserved": plain(), GUEST_TR_ACCESS_RIGHTS = 0x18b;
        "guest-tr-granularity": plain(), GUEST_TR_LIMIT = 1 << 20;
        "guest-tr-unusable": plain(), GUEST_TR_ACCESS_RIGHTS = 0x1_008b;
        "guest-tr-rights-high": plain(), GUEST_TR_ACCESS_RIGHTS = 0x2_008b;
        "guest-ldtr-type": plain(), GUEST_LDTR_ACCESS_RIGHTS = 0x83;
        "guest-ldtr-system": plain(), GUEST_LDTR_ACCESS_RIGHTS = 0x92;
        "guest-ldtr-present": plain(), GUEST_LDTR_ACCESS_RIGHTS = 0x2;
        "guest-ldtr-rights-reserved": plain(), GUEST_LDTR_ACCESS_RIGHTS = 0x182;
        "guest-ldtr-granularity": plain(), GUEST_LDTR_LIMIT = 1 << 20;
        "guest-ldtr-rights-high": plain(), GUEST_LDTR_ACCESS_RIGHTS = 0x2_0082;
        "guest-gdtr-base": plain(), GUEST_GDTR_BASE = BAD;
        "guest-idtr-base": plain(), GUEST_IDTR_BASE = BAD;
        "guest-gdtr-limit": plain(), GUEST_GDTR_LIMIT = 1 << 16;
        "guest-idtr-limit": plain(), GUEST_IDTR_LIMIT = 1 << 16;
        "guest-rip-high": pae(), GUEST_RIP = 1 << 32;
        "guest-rip-high": plain(), GUEST_CS_ACCESS_RIGHTS = 0xc09b, GUEST_RIP = 1 << 32;
        "guest-rip-identical": plain(), GUEST_RIP = 1 << 48;
        "guest-rip-identical": plain(), GUEST_RIP = u64::MAX >> 1;
        "guest-rflags-reserved": plain(), GUEST_RFLAGS = 2 | 1 << 22;
        "guest-rflags-reserved": plain(), GUEST_RFLAGS = 2 | 1 << 3;
        "guest-rflags-one": plain(), GUEST_RFLAGS = 0;
        "guest-rflags-vm": with(unrestricted(), |v| {
            let from = v86();
            for (index, row) in TABLE.iter().enumerate() {
                let field = row.field;
                if field.class() == Class::Guest && field != GUEST_CR0.field() {
                    v.set_row(index, from.row(index));
                }
            }
            v.set(ENTRY_CONTROLS, EntryControls::empty());
        }), GUEST_CR0 = Cr0::NE.bits();
        "guest-rflags-if": injecting(0x8000_0030), GUEST_RFLAGS = 2;
        "guest-activity-state": plain(), GUEST_ACTIVITY_STATE = 4;
        "guest-activity-state": plain(), GUEST_ACTIVITY_STATE = 3;
        "guest-activity-halted-above-ring-0": halted(), GUEST_CS_SELECTOR = 3, GUEST_SS_SELECTOR = 3,
            GUEST_CS_ACCESS_RIGHTS = 0xa0fb, GUEST_SS_ACCESS_RIGHTS = 0xf3;
        "guest-activity-blocked": halted(), GUEST_INTERRUPTIBILITY = 1, GUEST_RFLAGS = 0x202;
        "guest-activity-injection": injecting(0x8000_0306), GUEST_ACTIVITY_STATE = 1;
        "guest-activity-injection": injecting(0x8000_0030), GUEST_ACTIVITY_STATE = 2;
        "guest-activity-injection": injecting(0x8000_0301), GUEST_ACTIVITY_STATE = 2;
        "guest-interruptibility-reserved": plain(), GUEST_INTERRUPTIBILITY = 32;
        "guest-interruptibility-sti-and-mov-ss": blocked(3, 0x202);
        "guest-interruptibility-sti-without-if": blocked(1, 2);
        "guest-interruptibility-interrupt": injecting(0x8000_0030), GUEST_INTERRUPTIBILITY = 2;
        "guest-interruptibility-interrupt": injecting(0x8000_0030), GUEST_INTERRUPTIBILITY = 1;
        "guest-interruptibility-nmi-mov-ss": injecting(0x8000_0202), GUEST_INTERRUPTIBILITY = 2;
        "guest-interruptibility-nmi-sti": injecting(0x8000_0202), GUEST_INTERRUPTIBILITY = 1;
        "guest-interruptibility-smi": blocked(4, 2);
        "guest-interruptibility-virtual-nmi": virtual_nmis(), GUEST_INTERRUPTIBILITY = 8;
        "guest-interruptibility-enclave": blocked(16, 2);
        "guest-pending-debug-reserved": plain(), GUEST_PENDING_DEBUG_EXCEPTIONS = 1 << 13;
        "guest-pending-debug-single-step": blocked(1, 0x302);
        "guest-pending-debug-single-step": halted(), GUEST_PENDING_DEBUG_EXCEPTIONS = 1 << 14;
        "guest-pending-debug-single-step": blocked(2, 0x102);
        "guest-pending-debug-rtm": plain(), GUEST_PENDING_DEBUG_EXCEPTIONS = 1 << 16 | 1 << 12;
        "guest-link-pointer-address": plain(), VMCS_LINK_POINTER = SHADOW_VMCS + 8;
        "guest-link-pointer-revision": plain(), VMCS_LINK_POINTER = SHADOW_VMCS;
        "guest-link-pointer-revision": secondary(SecondaryControls::VMCS_SHADOWING), VMCS_LINK_POINTER = OTHER_VMCS;
        "guest-link-pointer-current": plain(), VMCS_LINK_POINTER = SELF;
        "guest-pdptes": pae_ept(), GUEST_PDPTE2 = 3;
        "guest-pdptes-in-memory": pae(), GUEST_CR3 = BAD_PDPTES;
    }
}

//! Guest state on its way between a VMCS and the CPU.
//!
//! Some of it is *hot*: hypervisors read or write it at almost every exit, and entry checks on hot fields depend on it.
//! It moves at each transition. The rest moves when another VMCS's guest is to run on the CPU, or when someone looks.
//!
//! See: SDM "Loading Guest State" and "Saving Guest State".

use crate::cpu::{Cpu, Segment, Table};
use crate::vmcs::Vmcs;
use hv_defs::controls::{ActivityState, EntryControls, ExitControls, Interruptibility, SecondaryControls};
use hv_defs::vmcs::*;
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer, Seg};

/// Whether the CPU's copy of a guest-state field goes to the VMCS at every exit, so that the VMCS is right about it.
pub fn is_saved_at_exit(field: VmcsField) -> bool {
    [
        GUEST_RIP.field(),
        GUEST_RSP.field(),
        GUEST_RFLAGS.field(),
        GUEST_CR0.field(),
        GUEST_CR3.field(),
        GUEST_CR4.field(),
        GUEST_CS_ACCESS_RIGHTS.field(),
        GUEST_SS_ACCESS_RIGHTS.field(),
        GUEST_INTERRUPTIBILITY.field(),
        GUEST_ACTIVITY_STATE.field(),
        GUEST_PENDING_DEBUG_EXCEPTIONS.field(),
        GUEST_INTERRUPT_STATUS.field(),
        PREEMPTION_TIMER_VALUE.field(),
        PML_INDEX.field(),
    ]
    .contains(&field)
}

/// Loads what hypervisors write at almost every entry.
pub(crate) fn load_hot(cpu: &mut Cpu, vmcs: &Vmcs) {
    cpu.rip = vmcs.get(GUEST_RIP);
    cpu.regs.gpr[4] = vmcs.get(GUEST_RSP);
    cpu.set_rflags(vmcs.get(GUEST_RFLAGS));
    cpu.cr3 = vmcs.get(GUEST_CR3);
    cpu.interruptibility = Interruptibility::from_bits_retain(vmcs.get(GUEST_INTERRUPTIBILITY));
    cpu.activity = ActivityState::new(vmcs.get(GUEST_ACTIVITY_STATE)).unwrap_or(ActivityState::Active);
    cpu.pending_debug = vmcs.get(GUEST_PENDING_DEBUG_EXCEPTIONS);
    [cpu.rvi, cpu.svi] = vmcs.get(GUEST_INTERRUPT_STATUS).to_le_bytes();
}

/// Loads all guest state, but for what the MSR-load area holds.
pub(crate) fn load(cpu: &mut Cpu, vmcs: &Vmcs) {
    load_hot(cpu, vmcs);
    let entry = vmcs.get(ENTRY_CONTROLS);
    // What an entry never changes: ET is one, reserved bits, CD and NW are zero, as the host has them.
    let cr0 = Cr0::from_bits_truncate(vmcs.get(GUEST_CR0)) - Cr0::CD - Cr0::NW;
    cpu.cr0 = (cr0 | Cr0::ET).bits();
    cpu.cr4 = vmcs.get(GUEST_CR4);
    if entry.contains(EntryControls::LOAD_DEBUG_CONTROLS) {
        cpu.dr7 = vmcs.get(GUEST_DR7) & 0xffff_2fff | 0x400;
        cpu.debugctl = vmcs.get(GUEST_DEBUGCTL);
    }
    if entry.contains(EntryControls::LOAD_PAT) {
        cpu.pat = vmcs.get(GUEST_PAT);
    }
    if entry.contains(EntryControls::LOAD_EFER) {
        cpu.efer = vmcs.get(GUEST_EFER);
    } else {
        let long = entry.contains(EntryControls::IA32E_MODE_GUEST);
        let mut efer = Efer::from_bits_retain(cpu.efer);
        efer.set(Efer::LMA, long);
        if cpu.cr0 & Cr0::PG.bits() != 0 {
            efer.set(Efer::LME, long);
        }
        cpu.efer = efer.bits();
    }
    cpu.sysenter_cs = vmcs.get(GUEST_SYSENTER_CS);
    cpu.sysenter_esp = vmcs.get(GUEST_SYSENTER_ESP);
    cpu.sysenter_eip = vmcs.get(GUEST_SYSENTER_EIP);
    macro_rules! segment {
        ($selector:ident, $base:ident, $limit:ident, $rights:ident) => {
            Segment {
                selector: vmcs.get($selector),
                base: vmcs.get($base),
                limit: vmcs.get($limit),
                rights: AccessRights::from_bits(vmcs.get($rights)),
            }
        };
    }
    cpu.seg = [
        segment!(GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS),
        segment!(GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS),
        segment!(GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS),
        segment!(GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS),
        segment!(GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS),
        segment!(GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS),
    ];
    cpu.ldtr = segment!(GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS);
    cpu.tr = segment!(GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS);
    cpu.gdtr = Table { base: vmcs.get(GUEST_GDTR_BASE), limit: vmcs.get(GUEST_GDTR_LIMIT) as u16 };
    cpu.idtr = Table { base: vmcs.get(GUEST_IDTR_BASE), limit: vmcs.get(GUEST_IDTR_LIMIT) as u16 };
    cpu.pdptes = [GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3].map(|field| vmcs.get(field));
}

/// Saves what a VMCS is to be right about after every exit.
pub(crate) fn save_hot(cpu: &Cpu, vmcs: &mut Vmcs) {
    vmcs.set(GUEST_RIP, cpu.rip);
    vmcs.set(GUEST_RSP, cpu.regs.gpr[4]);
    vmcs.set(GUEST_RFLAGS, cpu.rflags());
    vmcs.set(GUEST_CR0, cpu.cr0);
    vmcs.set(GUEST_CR3, cpu.cr3);
    vmcs.set(GUEST_CR4, cpu.cr4);
    vmcs.set(GUEST_CS_ACCESS_RIGHTS, cpu.seg[Seg::Cs as usize].rights.into_bits());
    vmcs.set(GUEST_SS_ACCESS_RIGHTS, cpu.seg[Seg::Ss as usize].rights.into_bits());
    vmcs.set(GUEST_INTERRUPTIBILITY, cpu.interruptibility.bits());
    vmcs.set(GUEST_ACTIVITY_STATE, cpu.activity as u32);
    vmcs.set(GUEST_PENDING_DEBUG_EXCEPTIONS, cpu.pending_debug);
    if cpu.controls.secondary(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY) {
        vmcs.set(GUEST_INTERRUPT_STATUS, cpu.interrupt_status());
    }
    let mut entry = vmcs.get(ENTRY_CONTROLS);
    entry.set(EntryControls::IA32E_MODE_GUEST, cpu.efer & Efer::LMA.bits() != 0);
    vmcs.set(ENTRY_CONTROLS, entry);
}

/// Saves the rest.
pub(crate) fn save_cold(cpu: &Cpu, vmcs: &mut Vmcs) {
    let exit = vmcs.get(EXIT_CONTROLS);
    if exit.contains(ExitControls::SAVE_DEBUG_CONTROLS) {
        vmcs.set(GUEST_DR7, cpu.dr7);
        vmcs.set(GUEST_DEBUGCTL, cpu.debugctl);
    }
    if exit.contains(ExitControls::SAVE_PAT) {
        vmcs.set(GUEST_PAT, cpu.pat);
    }
    if exit.contains(ExitControls::SAVE_EFER) {
        vmcs.set(GUEST_EFER, cpu.efer);
    }
    vmcs.set(GUEST_SYSENTER_CS, cpu.sysenter_cs);
    vmcs.set(GUEST_SYSENTER_ESP, cpu.sysenter_esp);
    vmcs.set(GUEST_SYSENTER_EIP, cpu.sysenter_eip);
    macro_rules! segment {
        ($from:expr, $selector:ident, $base:ident, $limit:ident, $rights:ident) => {{
            let from: &Segment = $from;
            vmcs.set($selector, from.selector);
            vmcs.set($base, from.base);
            vmcs.set($limit, from.limit);
            vmcs.set($rights, from.rights.into_bits());
        }};
    }
    let [es, cs, ss, ds, fs, gs] = &cpu.seg;
    segment!(es, GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS);
    segment!(cs, GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS);
    segment!(ss, GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS);
    segment!(ds, GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS);
    segment!(fs, GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS);
    segment!(gs, GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS);
    segment!(&cpu.ldtr, GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS);
    segment!(&cpu.tr, GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS);
    vmcs.set(GUEST_GDTR_BASE, cpu.gdtr.base);
    vmcs.set(GUEST_GDTR_LIMIT, u32::from(cpu.gdtr.limit));
    vmcs.set(GUEST_IDTR_BASE, cpu.idtr.base);
    vmcs.set(GUEST_IDTR_LIMIT, u32::from(cpu.idtr.limit));
    if uses_pdptes(cpu) {
        for (field, value) in [GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3].into_iter().zip(cpu.pdptes) {
            vmcs.set(field, value);
        }
    }
}

/// Whether it uses PAE paging, whose first level is in registers.
pub(crate) fn uses_pdptes(cpu: &Cpu) -> bool {
    cpu.cr0 & Cr0::PG.bits() != 0 && cpu.cr4 & Cr4::PAE.bits() != 0 && cpu.efer & Efer::LMA.bits() == 0
}

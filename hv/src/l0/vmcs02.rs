//! What a vmcs02 holds: vmcs12's wishes and L0's own.

use super::capabilities::CR0_FIXED0;
use super::cx::Cx;
use super::fields::{FieldSet, field_set};
use super::monitor::Wait;
use super::shadow02::Shadowed;
use super::vpid::Tag;
use crate::silicon::Silicon;
use hv_defs::controls::SecondaryControls;
use hv_defs::controls::{ActivityState, EntryControls, ExitControls, Interruptibility, PinBased, PrimaryControls};
use hv_defs::ept::Eptp;
use hv_defs::policy::{Tags, Vmcs02Writes};
use hv_defs::vmcs::{self, Field, FieldValue};
use hv_defs::x86::{Cr0, Cr4, Efer, Rflags};

/// Segment and table registers, which L1 rarely reads: under [`Vmcs02Writes::Dirty`] they stay in vmcs02 until it does.
pub(super) const RARE: FieldSet = field_set!(
    GUEST_ES_SELECTOR,
    GUEST_CS_SELECTOR,
    GUEST_SS_SELECTOR,
    GUEST_DS_SELECTOR,
    GUEST_FS_SELECTOR,
    GUEST_GS_SELECTOR,
    GUEST_LDTR_SELECTOR,
    GUEST_TR_SELECTOR,
    GUEST_ES_LIMIT,
    GUEST_CS_LIMIT,
    GUEST_SS_LIMIT,
    GUEST_DS_LIMIT,
    GUEST_FS_LIMIT,
    GUEST_GS_LIMIT,
    GUEST_LDTR_LIMIT,
    GUEST_TR_LIMIT,
    GUEST_GDTR_LIMIT,
    GUEST_IDTR_LIMIT,
    GUEST_ES_ACCESS_RIGHTS,
    GUEST_DS_ACCESS_RIGHTS,
    GUEST_FS_ACCESS_RIGHTS,
    GUEST_GS_ACCESS_RIGHTS,
    GUEST_LDTR_ACCESS_RIGHTS,
    GUEST_TR_ACCESS_RIGHTS,
    GUEST_ES_BASE,
    GUEST_CS_BASE,
    GUEST_SS_BASE,
    GUEST_DS_BASE,
    GUEST_FS_BASE,
    GUEST_GS_BASE,
    GUEST_LDTR_BASE,
    GUEST_TR_BASE,
    GUEST_GDTR_BASE,
    GUEST_IDTR_BASE,
    GUEST_SYSENTER_CS,
    GUEST_SYSENTER_ESP,
    GUEST_SYSENTER_EIP,
);

/// Guest state that is read back at every nested exit.
pub(super) const OFTEN: FieldSet = field_set!(
    GUEST_CS_ACCESS_RIGHTS,
    GUEST_SS_ACCESS_RIGHTS,
    GUEST_INTERRUPTIBILITY,
    GUEST_PENDING_DEBUG_EXCEPTIONS,
    GUEST_CR3,
    GUEST_RSP,
    GUEST_RIP,
    GUEST_RFLAGS,
);

/// Fields that vmcs02 takes from vmcs12 as they are.
const DIRECT: FieldSet = RARE.union(OFTEN).union(field_set!(
    GUEST_PDPTE0,
    GUEST_PDPTE1,
    GUEST_PDPTE2,
    GUEST_PDPTE3,
    GUEST_INTERRUPT_STATUS,
    EXCEPTION_BITMAP,
    PAGE_FAULT_ERROR_CODE_MASK,
    PAGE_FAULT_ERROR_CODE_MATCH,
    CR3_TARGET_COUNT,
    CR3_TARGET_0,
    CR3_TARGET_1,
    CR3_TARGET_2,
    CR3_TARGET_3,
    TPR_THRESHOLD,
    EOI_EXIT_BITMAP_0,
    EOI_EXIT_BITMAP_1,
    EOI_EXIT_BITMAP_2,
    EOI_EXIT_BITMAP_3,
    TSC_MULTIPLIER,
    PLE_GAP,
    PLE_WINDOW,
    XSS_EXITING_BITMAP,
    ENCLS_EXITING_BITMAP,
));

/// CR0 bits that L0 keeps to itself, whichever guest runs.
pub(super) const CR0_MASK: u64 = Cr0::PE.bits() | Cr0::NE.bits() | Cr0::PG.bits() | Cr0::CD.bits() | Cr0::NW.bits();
/// CR4 bits that guests may change without L0 knowing; it keeps the others.
pub(super) const CR4_MASK: u64 = !(Cr4::TSD.bits()
    | Cr4::DE.bits()
    | Cr4::PGE.bits()
    | Cr4::PCE.bits()
    | Cr4::OSFXSR.bits()
    | Cr4::OSXMMEXCPT.bits()
    | Cr4::FSGSBASE.bits());

/// What L0 wants of the primary controls, whichever guest runs.
pub(super) const PRIMARY: PrimaryControls = PrimaryControls::HLT_EXITING
    .union(PrimaryControls::MWAIT_EXITING)
    .union(PrimaryControls::MONITOR_EXITING)
    .union(PrimaryControls::UNCONDITIONAL_IO_EXITING)
    .union(PrimaryControls::MSR_BITMAPS)
    .union(PrimaryControls::TSC_OFFSETTING)
    .union(PrimaryControls::ACTIVATE_SECONDARY);
/// What L0 wants of the pin-based controls.
pub(super) const PIN: PinBased = PinBased::EXTERNAL_INTERRUPT_EXITING.union(PinBased::NMI_EXITING);
/// That with virtual NMIs, by which a guest that L0 gives NMIs itself unblocks them as it would without NMI exiting.
pub(super) const PIN_WITH_NMIS: PinBased = PIN.union(PinBased::VIRTUAL_NMIS);
/// What L0 wants of the exit controls.
pub(super) const EXIT: ExitControls = ExitControls::HOST_ADDRESS_SPACE_SIZE
    .union(ExitControls::SAVE_DEBUG_CONTROLS)
    .union(ExitControls::SAVE_PAT)
    .union(ExitControls::LOAD_PAT)
    .union(ExitControls::SAVE_EFER)
    .union(ExitControls::LOAD_EFER);
/// What L0 wants of the entry controls.
pub(super) const ENTRY: EntryControls =
    EntryControls::LOAD_DEBUG_CONTROLS.union(EntryControls::LOAD_PAT).union(EntryControls::LOAD_EFER);

/// What L2 has of L1's where vmcs12 does not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inherited {
    dr7: u64,
    debugctl: u64,
    pat: u64,
    efer: u64,
}

/// PAUSEs this close to one another, in TSC ticks, are a loop's; and this long a loop spins. Shorter than KVM's window of
/// 4096, since here it is always another's turn that is spun away.
pub(super) const PLE_GAP: u32 = 128;
pub(super) const PLE_WINDOW: u32 = 1024;

pub(super) struct Tally {
    all: bool,
    written: u16,
    skipped: u16,
}

impl<S: Silicon> Cx<'_, S> {
    /// Reads from vmcs01, while it is still current, what vmcs12 leaves as it is.
    pub(super) fn inherited(&mut self) -> Inherited {
        let entry = self.vcpu.vmcs12.get(vmcs::ENTRY_CONTROLS);
        let debug = !entry.contains(EntryControls::LOAD_DEBUG_CONTROLS);
        Inherited {
            dr7: if debug { self.get(vmcs::GUEST_DR7) } else { 0 },
            debugctl: if debug { self.get(vmcs::GUEST_DEBUGCTL) } else { 0 },
            pat: if entry.contains(EntryControls::LOAD_PAT) { 0 } else { self.get(vmcs::GUEST_PAT) },
            efer: if entry.contains(EntryControls::LOAD_EFER) { 0 } else { self.get(vmcs::GUEST_EFER) },
        }
    }

    pub(super) fn put<T: FieldValue>(&mut self, tally: &mut Tally, field: Field<T>, value: T) {
        let wrote = if tally.all {
            self.set(field, value);
            true
        } else {
            self.update(field, value)
        };
        if wrote {
            tally.written += 1;
        } else {
            tally.skipped += 1;
        }
    }

    /// Writes the current VMCS, a vmcs02, from vmcs12. Returns how many fields were written and how many held their
    /// value already.
    pub(super) fn build_vmcs02(&mut self, inherited: &Inherited, tag: Tag, eptp02: Eptp, slot: usize) -> (u16, u16) {
        let all = self.shared.policy.vmcs02_writes == Vmcs02Writes::All;
        let mut tally = Tally { all, written: 0, skipped: 0 };
        let rows = if all { DIRECT } else { DIRECT.common(self.vcpu.vmcs12.dirty) };
        tally.skipped += DIRECT.len() - rows.len();
        for row in rows.rows() {
            let value = self.vcpu.vmcs12.row(row);
            if all {
                self.set_row(row, value);
                tally.written += 1;
            } else if self.update_row(row, value) {
                tally.written += 1;
            } else {
                tally.skipped += 1;
            }
        }
        self.vcpu.vmcs12.dirty = FieldSet::EMPTY;
        let shadowed = self.shadowed(slot);
        self.put_controls(&mut tally, tag, shadowed);
        self.put_guest(&mut tally, inherited, shadowed);
        self.put(&mut tally, vmcs::EPT_POINTER, eptp02);
        self.put(&mut tally, vmcs::VPID, tag.vpid);
        self.put_bitmap(&mut tally, slot);
        self.put_host(&mut tally);
        (tally.written, tally.skipped)
    }

    fn put_controls(&mut self, tally: &mut Tally, tag: Tag, shadowed: Option<Shadowed>) {
        let limits = self.shared.limits;
        let vmcs12 = &self.vcpu.vmcs12;
        let pin12 = vmcs12.get(vmcs::PIN_BASED_CONTROLS);
        let primary12 = vmcs12.get(vmcs::PRIMARY_CONTROLS);
        let entry12 = vmcs12.get(vmcs::ENTRY_CONTROLS);
        let secondary12 = self.secondary12();

        // L0 takes posted interrupts in by itself.
        let own = if pin12.contains(PinBased::NMI_EXITING) { PIN } else { PIN_WITH_NMIS };
        let pin = pin12.difference(PinBased::POSTED_INTERRUPTS) | own;
        let mut primary = PRIMARY | primary12;
        primary.remove(PrimaryControls::IO_BITMAPS);
        let mut secondary =
            (secondary12 | SecondaryControls::EPT) - SecondaryControls::VMCS_SHADOWING - SecondaryControls::PML;
        secondary.set(SecondaryControls::VPID, self.shared.policy.tags != Tags::Off && tag.vpid != 0);
        self.put_apic_pages(tally, &mut primary, &mut secondary);
        if self.shared.spins && !primary12.contains(PrimaryControls::PAUSE_EXITING) {
            secondary |= SecondaryControls::PAUSE_LOOP_EXITING;
            if !secondary12.contains(SecondaryControls::PAUSE_LOOP_EXITING) {
                self.put(tally, vmcs::PLE_GAP, PLE_GAP);
                self.put(tally, vmcs::PLE_WINDOW, PLE_WINDOW);
            }
        }
        if let Some(shadowed) = shadowed {
            secondary |= SecondaryControls::VMCS_SHADOWING;
            self.put(tally, vmcs::VMREAD_BITMAP, shadowed.read);
            self.put(tally, vmcs::VMWRITE_BITMAP, shadowed.write);
        }
        // L0 serves the functions by itself: with none enabled, each VMFUNC exits.
        self.put(tally, vmcs::VM_FUNCTION_CONTROLS, 0);
        let mut exit = EXIT;
        exit.set(ExitControls::SAVE_PREEMPTION_TIMER, pin12.contains(PinBased::PREEMPTION_TIMER));
        let entry = ENTRY | entry12 & EntryControls::IA32E_MODE_GUEST;
        let offset = self.l2_tsc(self.vcpu.msrs.tsc_offset);

        self.put(tally, vmcs::PIN_BASED_CONTROLS, PinBased::from_bits_retain(limits.pin.adjust(pin.bits())));
        let primary = PrimaryControls::from_bits_retain(limits.primary.adjust(primary.bits()));
        self.put(tally, vmcs::PRIMARY_CONTROLS, primary);
        self.put(tally, vmcs::SECONDARY_CONTROLS, secondary);
        self.put(tally, vmcs::EXIT_CONTROLS, ExitControls::from_bits_retain(limits.exit.adjust(exit.bits())));
        self.put(tally, vmcs::ENTRY_CONTROLS, EntryControls::from_bits_retain(limits.entry.adjust(entry.bits())));
        self.put(tally, vmcs::TSC_OFFSET, offset);

        let vmcs12 = &self.vcpu.vmcs12;
        let injected = vmcs12.get(vmcs::ENTRY_INTERRUPTION_INFO);
        let error_code = vmcs12.get(vmcs::ENTRY_EXCEPTION_ERROR_CODE);
        let length = vmcs12.get(vmcs::ENTRY_INSTRUCTION_LENGTH);
        let halted = vmcs12.get(vmcs::GUEST_ACTIVITY_STATE) == ActivityState::Hlt as u32
            && !injected.valid()
            && !self.is_woken();
        let timer = pin12.contains(PinBased::PREEMPTION_TIMER).then(|| vmcs12.get(vmcs::PREEMPTION_TIMER_VALUE));
        self.vcpu.waits = halted.then_some(Wait::Halt);
        self.vcpu.line = None;
        if injected.valid() {
            self.emit_injection(injected, error_code);
        }
        self.put(tally, vmcs::ENTRY_INTERRUPTION_INFO, injected);
        self.put(tally, vmcs::ENTRY_EXCEPTION_ERROR_CODE, error_code);
        self.put(tally, vmcs::ENTRY_INSTRUCTION_LENGTH, length);
        if let Some(timer) = timer {
            self.put(tally, vmcs::PREEMPTION_TIMER_VALUE, timer);
        }
    }

    /// Whether something comes with the entry that ends L2's HLT at once: a debug exception, or a window that is open.
    fn is_woken(&self) -> bool {
        let vmcs12 = &self.vcpu.vmcs12;
        let primary = vmcs12.get(vmcs::PRIMARY_CONTROLS);
        let interrupts = vmcs12.get(vmcs::GUEST_RFLAGS) & Rflags::IF.bits() != 0;
        let nmis = vmcs12.get(vmcs::GUEST_INTERRUPTIBILITY) & Interruptibility::NMI.bits() == 0;
        vmcs12.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS) != 0
            || primary.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING) && interrupts
            || primary.contains(PrimaryControls::NMI_WINDOW_EXITING) && nmis
    }

    /// L2's time-stamp counter when L1's is `tsc`; of L1's offset it makes the one to add behind the scaling that vmcs02
    /// shares with vmcs12. The product is signed, since offsets are.
    pub(super) fn l2_tsc(&self, tsc: u64) -> u64 {
        let vmcs12 = &self.vcpu.vmcs12;
        if !vmcs12.get(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::TSC_OFFSETTING) {
            return tsc;
        }
        let scaled = if self.secondary12().contains(SecondaryControls::TSC_SCALING) {
            (i128::from(tsc as i64).wrapping_mul(i128::from(vmcs12.get(vmcs::TSC_MULTIPLIER))) >> 48) as u64
        } else {
            tsc
        };
        scaled.wrapping_add(vmcs12.get(vmcs::TSC_OFFSET))
    }

    fn put_guest(&mut self, tally: &mut Tally, inherited: &Inherited, shadowed: Option<Shadowed>) {
        let vmcs12 = &self.vcpu.vmcs12;
        let entry12 = vmcs12.get(vmcs::ENTRY_CONTROLS);
        let (cr0, cr4) = (vmcs12.get(vmcs::GUEST_CR0), vmcs12.get(vmcs::GUEST_CR4));
        let (mask0, mask4) = (vmcs12.get(vmcs::CR0_GUEST_HOST_MASK), vmcs12.get(vmcs::CR4_GUEST_HOST_MASK));
        let (shadow0, shadow4) = (vmcs12.get(vmcs::CR0_READ_SHADOW), vmcs12.get(vmcs::CR4_READ_SHADOW));
        let debug = entry12.contains(EntryControls::LOAD_DEBUG_CONTROLS);
        let dr7 = if debug { vmcs12.get(vmcs::GUEST_DR7) } else { inherited.dr7 };
        let debugctl = if debug { vmcs12.get(vmcs::GUEST_DEBUGCTL) } else { inherited.debugctl };
        let pat = if entry12.contains(EntryControls::LOAD_PAT) { vmcs12.get(vmcs::GUEST_PAT) } else { inherited.pat };
        let efer = if entry12.contains(EntryControls::LOAD_EFER) {
            vmcs12.get(vmcs::GUEST_EFER)
        } else {
            let mut efer = Efer::from_bits_retain(inherited.efer);
            let long = entry12.contains(EntryControls::IA32E_MODE_GUEST);
            efer.set(Efer::LMA, long);
            if cr0 & Cr0::PG.bits() != 0 {
                efer.set(Efer::LME, long);
            }
            efer.bits()
        };
        self.put(tally, vmcs::GUEST_CR0, cr0 | CR0_FIXED0 & Cr0::NE.bits());
        self.put(tally, vmcs::GUEST_CR4, cr4 | Cr4::VMXE.bits());
        self.put(tally, vmcs::CR0_GUEST_HOST_MASK, mask0 | CR0_MASK);
        self.put(tally, vmcs::CR4_GUEST_HOST_MASK, mask4 | CR4_MASK);
        self.put(tally, vmcs::CR0_READ_SHADOW, cr0 & !mask0 | shadow0 & mask0);
        self.put(tally, vmcs::CR4_READ_SHADOW, cr4 & !mask4 | shadow4 & mask4);
        self.put(tally, vmcs::GUEST_DR7, dr7);
        self.put(tally, vmcs::GUEST_DEBUGCTL, debugctl);
        self.put(tally, vmcs::GUEST_PAT, pat);
        self.put(tally, vmcs::GUEST_EFER, efer);
        self.put(tally, vmcs::GUEST_ACTIVITY_STATE, ActivityState::Active as u32);
        self.put(tally, vmcs::VMCS_LINK_POINTER, shadowed.map_or(u64::MAX, |shadowed| shadowed.link));
    }

    /// Fields that never change once a VMCS is in use: L0's host state, and areas that it does not use.
    fn put_host(&mut self, tally: &mut Tally) {
        let there = self.vcpu.saved[self.vcpu.current].known(vmcs::HOST_CR0.index()).is_some();
        if there && !tally.all {
            tally.skipped += super::setup::HOST.len() as u16;
            return;
        }
        for (field, value) in super::setup::HOST {
            if tally.all {
                self.set_row(field.index().unwrap_or(0), value);
                tally.written += 1;
            } else if self.update_row(field.index().unwrap_or(0), value) {
                tally.written += 1;
            } else {
                tally.skipped += 1;
            }
        }
    }

    fn put_bitmap(&mut self, tally: &mut Tally, slot: usize) {
        let merged = self.merge_msr_bitmap(slot);
        self.put(tally, vmcs::MSR_BITMAP, merged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_do_not_overlap() {
        assert!(!RARE.intersects(&OFTEN));
        assert!(DIRECT.without(super::super::vmcs12::PRESENT).is_empty());
        assert!(!DIRECT.intersects(&field_set!(GUEST_CR0, GUEST_CR4, PRIMARY_CONTROLS, EPT_POINTER, VPID)));
    }
}

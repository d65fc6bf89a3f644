//! Nested VM exits: from L2 to L1.

use super::super::capabilities::CR0_FIXED0;
use super::super::cx::Cx;
use super::super::exit::{Exit, has_instruction_info};
use super::super::fields::FieldSet;
use super::super::monitor::Wait;
use super::super::next::{Next, unsupported};
use super::super::vcpu::VMCS01;
use super::super::vmcs02::{CR0_MASK, CR4_MASK, OFTEN, RARE};
use super::super::vpid::{self, Tag};
use super::enter::{MSR_AREA, is_barred};
use crate::silicon::Silicon;
use hv_defs::addr::Gpa;
use hv_defs::controls::{ActivityState, EntryControls, ExitControls, Interruptibility, PinBased, SecondaryControls};
use hv_defs::ept::InvvpidType;
use hv_defs::exit::{EventType, ExitReason, InterruptionInfo, Reason};
use hv_defs::policy::Vmcs02Writes;
use hv_defs::vmcs::{self, Field};
use hv_defs::x86::{Cr0, Cr4, Efer};

/// What vmcs12's exit-information fields are to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::l0) struct Report {
    pub(in crate::l0) reason: ExitReason,
    pub(in crate::l0) qualification: u64,
    pub(in crate::l0) length: u32,
    pub(in crate::l0) info: u32,
    pub(in crate::l0) intr: InterruptionInfo,
    pub(in crate::l0) intr_error: u32,
    pub(in crate::l0) idt: InterruptionInfo,
    pub(in crate::l0) idt_error: u32,
    pub(in crate::l0) gpa: u64,
    pub(in crate::l0) gla: u64,
}

/// MSRs that an exit to L1 neither loads nor resets: as L2 left them. `None` for those that it loads, or that L2 has not had.
#[derive(Clone, Copy, Default)]
struct Left {
    pat: Option<u64>,
    efer: Option<u64>,
}

/// A segment register's fields, and what an exit to L1 makes of them.
struct SegmentFields {
    selector: Field<u16>,
    base: Field<u64>,
    limit: Field<u32>,
    rights: Field<u32>,
}

macro_rules! segments {
    ($($selector:ident $base:ident $limit:ident $rights:ident;)*) => {
        [$(SegmentFields {
            selector: vmcs::$selector,
            base: vmcs::$base,
            limit: vmcs::$limit,
            rights: vmcs::$rights,
        }),*]
    };
}

const ES: usize = 0;
const CS: usize = 1;
const FS: usize = 4;
const GS: usize = 5;
const TR: usize = 6;
const LDTR: usize = 7;

static SEGMENTS: [SegmentFields; 8] = segments! {
    GUEST_ES_SELECTOR GUEST_ES_BASE GUEST_ES_LIMIT GUEST_ES_ACCESS_RIGHTS;
    GUEST_CS_SELECTOR GUEST_CS_BASE GUEST_CS_LIMIT GUEST_CS_ACCESS_RIGHTS;
    GUEST_SS_SELECTOR GUEST_SS_BASE GUEST_SS_LIMIT GUEST_SS_ACCESS_RIGHTS;
    GUEST_DS_SELECTOR GUEST_DS_BASE GUEST_DS_LIMIT GUEST_DS_ACCESS_RIGHTS;
    GUEST_FS_SELECTOR GUEST_FS_BASE GUEST_FS_LIMIT GUEST_FS_ACCESS_RIGHTS;
    GUEST_GS_SELECTOR GUEST_GS_BASE GUEST_GS_LIMIT GUEST_GS_ACCESS_RIGHTS;
    GUEST_TR_SELECTOR GUEST_TR_BASE GUEST_TR_LIMIT GUEST_TR_ACCESS_RIGHTS;
    GUEST_LDTR_SELECTOR GUEST_LDTR_BASE GUEST_LDTR_LIMIT GUEST_LDTR_ACCESS_RIGHTS;
};

const UNUSABLE: u32 = 1 << 16;

impl<S: Silicon> Cx<'_, S> {
    /// What L1 is told of an exit of L2's as silicon reported it.
    pub(in crate::l0) fn report(&mut self, exit: &Exit) -> Report {
        let info = if has_instruction_info(exit.basic()) { self.get(vmcs::EXIT_INSTRUCTION_INFO) } else { 0 };
        Report {
            reason: exit.reason,
            qualification: exit.qualification,
            length: exit.length,
            info,
            intr: exit.intr,
            intr_error: exit.intr_error,
            idt: exit.idt,
            idt_error: exit.idt_error,
            gpa: exit.gpa,
            gla: exit.gla,
        }
    }

    /// Takes the vCPU from L2, whose vmcs02 is current, to L1.
    pub(in crate::l0) fn leave(&mut self, report: Report) -> Next {
        self.note_left(report.reason.reason());
        self.sync_guest();
        if report.reason.reason() == Reason::IO_INSTRUCTION {
            for field in [vmcs::IO_RCX, vmcs::IO_RSI, vmcs::IO_RDI, vmcs::IO_RIP] {
                let value = self.get(field);
                self.vcpu.vmcs12.report(field, value);
            }
        }
        let vmcs12 = &mut self.vcpu.vmcs12;
        vmcs12.launched = true;
        vmcs12.report(vmcs::EXIT_REASON, report.reason);
        vmcs12.report(vmcs::EXIT_QUALIFICATION, report.qualification);
        vmcs12.report(vmcs::EXIT_INTERRUPTION_INFO, report.intr);
        vmcs12.report(vmcs::EXIT_INTERRUPTION_ERROR_CODE, report.intr_error);
        vmcs12.report(vmcs::IDT_VECTORING_INFO, report.idt);
        vmcs12.report(vmcs::IDT_VECTORING_ERROR_CODE, report.idt_error);
        vmcs12.report(vmcs::EXIT_INSTRUCTION_LENGTH, report.length);
        vmcs12.report(vmcs::EXIT_INSTRUCTION_INFO, report.info);
        vmcs12.report(vmcs::GUEST_PHYSICAL_ADDRESS, report.gpa);
        vmcs12.report(vmcs::GUEST_LINEAR_ADDRESS, report.gla);
        let injected = vmcs12.get(vmcs::ENTRY_INTERRUPTION_INFO).with_valid(false);
        vmcs12.report(vmcs::ENTRY_INTERRUPTION_INFO, injected);
        if !self.store_msr_area() {
            return self.vmx_abort(1, "an MSR of L2's could not be stored into L1's area");
        }
        let left = self.left_by_l2();
        self.leave_shadow();
        let by_nmi = report.reason.reason() == Reason::EXCEPTION_NMI && report.intr.kind() == EventType::Nmi;
        // With virtual NMIs what L2's field says is of those; without, it is the CPU's own, which stays.
        let own = self.vcpu.vmcs12.get(vmcs::PIN_BASED_CONTROLS).contains(PinBased::VIRTUAL_NMIS);
        let blocked = self.vcpu.vmcs12.get(vmcs::GUEST_INTERRUPTIBILITY) & Interruptibility::NMI.bits() != 0;
        self.arrive(Some(by_nmi || blocked && !own), left)
    }

    /// As [`Cx::leave`], for an entry that failed: guest state is not touched, and the launch state stays.
    pub(in crate::l0) fn leave_failed(&mut self, report: Report) -> Next {
        let vmcs12 = &mut self.vcpu.vmcs12;
        vmcs12.report(vmcs::EXIT_REASON, report.reason);
        vmcs12.report(vmcs::EXIT_QUALIFICATION, report.qualification);
        // What vmcs02 was given has not run: the next entry must not take it for L2's own.
        // What only the vmcs02 holds it still does.
        vmcs12.dirty = FieldSet::ALL.without(vmcs12.lazy);
        self.vcpu.waits = None;
        self.arrive(None, Left::default())
    }

    /// L1's CPU shuts down, and its VMCS says why. See: SDM "VMX Aborts".
    fn vmx_abort(&mut self, indicator: u32, why: &str) -> Next {
        let region = self.vcpu.vmcs12.gpa;
        self.write_gpa(region.offset(4), &indicator.to_le_bytes());
        unsupported(format!("a VMX abort: {why}"))
    }

    /// What L1 finds as L2, whose vmcs02 is current, has left it.
    fn left_by_l2(&mut self) -> Left {
        let exit12 = self.vcpu.vmcs12.get(vmcs::EXIT_CONTROLS);
        Left {
            pat: (!exit12.contains(ExitControls::LOAD_PAT)).then(|| self.get(vmcs::GUEST_PAT)),
            efer: (!exit12.contains(ExitControls::LOAD_EFER)).then(|| self.get(vmcs::GUEST_EFER)),
        }
    }

    /// L1 goes on at vmcs12's host state, with NMIs blocked or not; `None` leaves that as it was before the entry.
    fn arrive(&mut self, nmis_blocked: Option<bool>, left: Left) -> Next {
        let was_in_l2 = self.vcpu.current != VMCS01;
        let tag02 = core::mem::take(&mut self.vcpu.tag);
        self.load_vmcs01();
        self.vcpu.waits = None;
        self.vcpu.line = None;
        self.vcpu.entry_pending = false;
        let before = Interruptibility::from_bits_retain(self.get(vmcs::GUEST_INTERRUPTIBILITY));
        let blocking = match nmis_blocked {
            Some(true) => Interruptibility::NMI,
            Some(false) => Interruptibility::empty(),
            None => before & Interruptibility::NMI,
        };
        if !self.load_host_state(blocking, left) {
            return self.vmx_abort(2, "the page-directory pointers of L1's host state are wrong");
        }
        if self.load_msr_area(vmcs::VM_EXIT_MSR_LOAD_ADDRESS, vmcs::VM_EXIT_MSR_LOAD_COUNT).is_err() {
            return self.vmx_abort(4, "an MSR of L1's area could not be loaded at an exit");
        }
        if was_in_l2 {
            let secondary = self.secondary12();
            let vpid12 = secondary.contains(SecondaryControls::VPID).then_some(1);
            let own_ept = secondary.contains(SecondaryControls::EPT);
            let vpid01 = self.vcpu.tagging.vpid01;
            let tag = Tag { vpid: vpid01, own: tag02.own, changed: false };
            let own_root = own_ept || self.shared.ept01.for_l2.is_some();
            let rules = (&self.shared.policy, self.shared.slips);
            if let Some(cause) = vpid::transition(rules, false, tag, vpid12, own_root) {
                self.invvpid(InvvpidType::Single, vpid01, 0, cause);
            }
            let eptp01 = self.shared.ept01.pointer;
            let root = self.vcpu.root.and_then(|root| self.ept02.roots[root].as_ref());
            let left = root.filter(|_| own_ept).map_or(eptp01, |root| root.eptp02);
            self.flush_for_root(eptp01, left, own_ept);
        }
        Next::Resume
    }

    /// Reads L2's state back from vmcs02, which is current, into vmcs12.
    fn sync_guest(&mut self) {
        let rows = match self.shared.policy.vmcs02_writes {
            Vmcs02Writes::All => OFTEN.union(RARE),
            Vmcs02Writes::Dirty => {
                self.vcpu.vmcs12.lazy = RARE;
                OFTEN
            }
        };
        for row in rows.rows() {
            let value = self.get_row(row);
            self.vcpu.vmcs12.sync(row, value);
        }
        let (mask0, mask4) =
            (self.vcpu.vmcs12.get(vmcs::CR0_GUEST_HOST_MASK), self.vcpu.vmcs12.get(vmcs::CR4_GUEST_HOST_MASK));
        // Bits that L1 keeps are its own; bits that only L0 keeps are as L2 sees them; the rest are L2's.
        let merge = |own: u64, seen: u64, real: u64, mask: u64, kept: u64| {
            own & mask | seen & kept & !mask | real & !(mask | kept)
        };
        let (own, seen, real) =
            (self.vcpu.vmcs12.get(vmcs::GUEST_CR0), self.get(vmcs::CR0_READ_SHADOW), self.get(vmcs::GUEST_CR0));
        self.vcpu.vmcs12.report(vmcs::GUEST_CR0, merge(own, seen, real, mask0, CR0_MASK));
        let (own, seen, real) =
            (self.vcpu.vmcs12.get(vmcs::GUEST_CR4), self.get(vmcs::CR4_READ_SHADOW), self.get(vmcs::GUEST_CR4));
        self.vcpu.vmcs12.report(vmcs::GUEST_CR4, merge(own, seen, real, mask4, CR4_MASK));

        let exit12 = self.vcpu.vmcs12.get(vmcs::EXIT_CONTROLS);
        let keep = |cx: &mut Self, field: Field<u64>| {
            let value = cx.get(field);
            cx.vcpu.vmcs12.report(field, value);
        };
        if exit12.contains(ExitControls::SAVE_DEBUG_CONTROLS) {
            keep(self, vmcs::GUEST_DR7);
            keep(self, vmcs::GUEST_DEBUGCTL);
        }
        if exit12.contains(ExitControls::SAVE_PAT) {
            keep(self, vmcs::GUEST_PAT);
        }
        let efer = self.get(vmcs::GUEST_EFER);
        if exit12.contains(ExitControls::SAVE_EFER) {
            self.vcpu.vmcs12.report(vmcs::GUEST_EFER, efer);
        }
        let long = efer & Efer::LMA.bits() != 0;
        let mut entry12 = self.vcpu.vmcs12.get(vmcs::ENTRY_CONTROLS);
        entry12.set(EntryControls::IA32E_MODE_GUEST, long);
        self.vcpu.vmcs12.report(vmcs::ENTRY_CONTROLS, entry12);
        let pae = self.vcpu.vmcs12.get(vmcs::GUEST_CR4) & Cr4::PAE.bits() != 0;
        if pae && !long && self.secondary12().contains(SecondaryControls::EPT) {
            for field in [vmcs::GUEST_PDPTE0, vmcs::GUEST_PDPTE1, vmcs::GUEST_PDPTE2, vmcs::GUEST_PDPTE3] {
                keep(self, field);
            }
        }
        let timer = self.vcpu.vmcs12.get(vmcs::PIN_BASED_CONTROLS).contains(PinBased::PREEMPTION_TIMER);
        if timer && exit12.contains(ExitControls::SAVE_PREEMPTION_TIMER) {
            let value = self.get(vmcs::PREEMPTION_TIMER_VALUE);
            self.vcpu.vmcs12.report(vmcs::PREEMPTION_TIMER_VALUE, value);
        }
        self.sync_interrupt_status();
        // What MWAIT waits in is no activity state.
        let activity = if self.vcpu.waits == Some(Wait::Halt) { ActivityState::Hlt } else { ActivityState::Active };
        self.vcpu.vmcs12.report(vmcs::GUEST_ACTIVITY_STATE, activity as u32);
    }

    /// Reads what [`Cx::sync_guest`] left in the vmcs02. L1 runs: vmcs01 is current, before and after.
    pub(super) fn sync_lazy(&mut self) {
        let lazy = self.vcpu.vmcs12.lazy;
        if lazy.is_empty() {
            return;
        }
        if let Some(slot) = self.vcpu.pool.find(self.vcpu.vmcs12.gpa) {
            self.load_vmcs(self.vcpu.pool.slots[slot].saved);
            for row in lazy.rows() {
                let value = self.get_row(row);
                self.vcpu.vmcs12.sync(row, value);
            }
            self.load_vmcs(VMCS01);
        }
        self.vcpu.vmcs12.lazy = FieldSet::EMPTY;
    }

    /// Stores L2's MSRs into L1's area; `false` is a VMX abort.
    fn store_msr_area(&mut self) -> bool {
        let count = self.vcpu.vmcs12.get(vmcs::VM_EXIT_MSR_STORE_COUNT);
        let address = self.vcpu.vmcs12.get(vmcs::VM_EXIT_MSR_STORE_ADDRESS);
        for number in 0..count {
            let at = Gpa(address.wrapping_add(u64::from(number) * 16));
            let head = self.read_gpa_u64(at);
            if number == MSR_AREA || head >> 32 != 0 || is_barred(head as u32) {
                return false;
            }
            let Some(value) = self.read_msr(head as u32) else { return false };
            self.write_gpa(at.offset(8), &value.to_le_bytes());
        }
        true
    }

    /// Writes vmcs12's host state into vmcs01, which is current, as L1's state. See: SDM "Loading Host State".
    /// `false` is a VMX abort.
    fn load_host_state(&mut self, blocking: Interruptibility, left: Left) -> bool {
        let exit12 = self.vcpu.vmcs12.get(vmcs::EXIT_CONTROLS);
        let long = exit12.contains(ExitControls::HOST_ADDRESS_SPACE_SIZE);
        let host = |cx: &Self, field: Field<u64>| cx.vcpu.vmcs12.get(field);

        // Reserved bits are not loaded, nor are CD and NW, which stay as L1 had them.
        let caching = Cr0::CD | Cr0::NW;
        let kept = self.get(vmcs::CR0_READ_SHADOW) & caching.bits();
        let cr0 = ((Cr0::from_bits_truncate(host(self, vmcs::HOST_CR0)) - caching) | Cr0::ET).bits() | CR0_FIXED0;
        let mut cr4 = Cr4::from_bits_retain(host(self, vmcs::HOST_CR4)) | Cr4::VMXE;
        if long {
            cr4 |= Cr4::PAE;
        } else {
            cr4 -= Cr4::PCIDE;
        }
        let [cr3, rip, rsp] = [vmcs::HOST_CR3, vmcs::HOST_RIP, vmcs::HOST_RSP].map(|field| host(self, field));
        let efer = if exit12.contains(ExitControls::LOAD_EFER) {
            host(self, vmcs::HOST_EFER)
        } else {
            let mut efer = Efer::from_bits_retain(left.efer.unwrap_or_else(|| self.get(vmcs::GUEST_EFER)));
            efer.set(Efer::LMA | Efer::LME, long);
            efer.bits()
        };
        let entry =
            super::super::vmcs02::ENTRY | if long { EntryControls::IA32E_MODE_GUEST } else { EntryControls::empty() };
        let entry = self.shared.limits.entry.adjust(entry.bits());
        let pat = if exit12.contains(ExitControls::LOAD_PAT) { Some(host(self, vmcs::HOST_PAT)) } else { left.pat };
        if let Some(pat) = pat {
            self.update(vmcs::GUEST_PAT, pat);
        }
        if !long && cr4.contains(Cr4::PAE) && !self.load_pdptes(cr3) {
            return false;
        }
        let sysenter_cs = self.vcpu.vmcs12.get(vmcs::HOST_SYSENTER_CS);
        let registers = [
            (vmcs::ENTRY_CONTROLS.index(), entry.into()),
            (vmcs::GUEST_CR0.index(), cr0),
            (vmcs::CR0_READ_SHADOW.index(), cr0 | kept),
            (vmcs::GUEST_CR3.index(), cr3),
            (vmcs::GUEST_CR4.index(), cr4.bits()),
            (vmcs::CR4_READ_SHADOW.index(), cr4.bits()),
            (vmcs::GUEST_EFER.index(), efer),
            (vmcs::GUEST_RIP.index(), rip),
            (vmcs::GUEST_RSP.index(), rsp),
            (vmcs::GUEST_RFLAGS.index(), 2),
            (vmcs::GUEST_DR7.index(), 0x400),
            (vmcs::GUEST_DEBUGCTL.index(), 0),
            (vmcs::GUEST_SYSENTER_CS.index(), sysenter_cs.into()),
            (vmcs::GUEST_SYSENTER_ESP.index(), host(self, vmcs::HOST_SYSENTER_ESP)),
            (vmcs::GUEST_SYSENTER_EIP.index(), host(self, vmcs::HOST_SYSENTER_EIP)),
            (vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.index(), 0),
            (vmcs::GUEST_INTERRUPTIBILITY.index(), blocking.bits().into()),
            (vmcs::GUEST_ACTIVITY_STATE.index(), ActivityState::Active as u64),
            (vmcs::GUEST_GDTR_BASE.index(), host(self, vmcs::HOST_GDTR_BASE)),
            (vmcs::GUEST_GDTR_LIMIT.index(), 0xffff),
            (vmcs::GUEST_IDTR_BASE.index(), host(self, vmcs::HOST_IDTR_BASE)),
            (vmcs::GUEST_IDTR_LIMIT.index(), 0xffff),
        ];
        self.update_rows(&registers);
        self.load_host_segments(long);
        true
    }

    fn load_host_segments(&mut self, long: bool) {
        let code = if long { 0xa09b } else { 0xc09b };
        let data = 0xc093;
        let vmcs12 = &self.vcpu.vmcs12;
        let selectors = [
            vmcs12.get(vmcs::HOST_ES_SELECTOR),
            vmcs12.get(vmcs::HOST_CS_SELECTOR),
            vmcs12.get(vmcs::HOST_SS_SELECTOR),
            vmcs12.get(vmcs::HOST_DS_SELECTOR),
            vmcs12.get(vmcs::HOST_FS_SELECTOR),
            vmcs12.get(vmcs::HOST_GS_SELECTOR),
            vmcs12.get(vmcs::HOST_TR_SELECTOR),
            0,
        ];
        let bases = [vmcs12.get(vmcs::HOST_FS_BASE), vmcs12.get(vmcs::HOST_GS_BASE), vmcs12.get(vmcs::HOST_TR_BASE)];
        let mut writes = [(0, 0); SEGMENTS.len() * 4];
        for (number, (fields, writes)) in SEGMENTS.iter().zip(writes.chunks_exact_mut(4)).enumerate() {
            let selector = selectors[number];
            let base = if matches!(number, FS..=TR) { bases[number - FS] } else { 0 };
            let (limit, rights) = match number {
                CS => (u32::MAX, code),
                TR => (0x67, 0x8b),
                LDTR => (0, UNUSABLE),
                ES..=GS if selector == 0 => (u32::MAX, UNUSABLE | data),
                _ => (u32::MAX, data),
            };
            writes.copy_from_slice(&[
                (fields.selector.index(), selector.into()),
                (fields.base.index(), base),
                (fields.limit.index(), limit.into()),
                (fields.rights.index(), rights.into()),
            ]);
        }
        self.update_rows(&writes);
    }

    /// Loads the PDPTE fields from the running guest's memory. Returns whether they are all valid.
    pub(in crate::l0) fn load_pdptes(&mut self, cr3: u64) -> bool {
        let table = cr3 & 0xffff_ffe0;
        let Ok(gpa) = self.guest_physical(table, super::super::ept12::READ) else { return false };
        let mut entries = [0; 4];
        for (number, entry) in entries.iter_mut().enumerate() {
            *entry = self.read_gpa_u64(gpa.offset(number as u64 * 8));
            let reserved = 0xffff_0000_0000_01e6 | self.shared.reserved_address_bits;
            if *entry & 1 != 0 && *entry & reserved & !(1 << 63) | *entry & 1 << 63 != 0 {
                return false;
            }
        }
        let fields = [vmcs::GUEST_PDPTE0, vmcs::GUEST_PDPTE1, vmcs::GUEST_PDPTE2, vmcs::GUEST_PDPTE3];
        for (field, entry) in fields.into_iter().zip(entries) {
            self.update(field, entry);
        }
        true
    }
}

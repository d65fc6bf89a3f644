//! VMLAUNCH and VMRESUME: from L1 to L2.

use super::super::cx::Cx;
use super::super::exit::Exit;
use super::super::fields::FieldSet;
use super::super::next::{Next, unsupported};
use super::super::vcpu::VMCS01;
use super::super::vpid;
use super::check::Failed;
use super::leave::Report;
use super::{Done, Ended};
use crate::l0::Ran;
use crate::silicon::Silicon;
use crate::vmcs::SHADOW;
use hv_defs::addr::Gpa;
use hv_defs::controls::{EntryControls, Interruptibility, PrimaryControls, SecondaryControls};
use hv_defs::ept::{Eptp, InvvpidType};
use hv_defs::event::{Cause, Check, Entry, NO_ADDRESS, Pool, PoolOp, What, Which};
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};
use hv_defs::instruction_error::InstructionError;
use hv_defs::policy::RootLoad;
use hv_defs::slip::Slip;
use hv_defs::vmcs;
use hv_defs::x86::{Cr0, Cr4, msr};

/// Entries that an MSR area may have: what IA32_VMX_MISC says.
pub(super) const MSR_AREA: u32 = 512;

/// The exit qualification of an entry that failed to load the PDPTEs.
const QUALIFICATION_PDPTE: u64 = 2;

/// Whether an MSR may be in no area: those of the local APIC in x2APIC mode, and those of microcode updates.
pub(super) const fn is_barred(index: u32) -> bool {
    matches!(index, msr::X2APIC_FIRST..=msr::X2APIC_LAST | UPDATE_TRIGGER | msr::BIOS_SIGN_ID)
}

/// IA32_BIOS_UPDT_TRIG.
const UPDATE_TRIGGER: u32 = 0x79;

impl<S: Silicon> Cx<'_, S> {
    /// vmcs12's secondary controls, which count only if the primary ones activate them.
    pub(in crate::l0) fn secondary12(&self) -> SecondaryControls {
        let vmcs12 = &self.vcpu.vmcs12;
        if vmcs12.get(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::ACTIVATE_SECONDARY) {
            vmcs12.get(vmcs::SECONDARY_CONTROLS)
        } else {
            SecondaryControls::empty()
        }
    }

    pub(super) fn vm_entry(&mut self, _: &Exit, launch: bool) -> Done {
        if !self.vcpu.vmx.current || self.vcpu.vmcs12.fields.revision & SHADOW != 0 {
            return Ok(Ended::FailInvalid);
        }
        let blocking = Interruptibility::from_bits_retain(self.get(vmcs::GUEST_INTERRUPTIBILITY));
        if blocking.contains(Interruptibility::MOV_SS) {
            return Ok(Ended::Fail(InstructionError::ENTRY_MOV_SS_BLOCKING));
        }
        match (launch, self.vcpu.vmcs12.launched) {
            (true, true) => return Ok(Ended::Fail(InstructionError::VMLAUNCH_NONCLEAR_VMCS)),
            (false, false) => return Ok(Ended::Fail(InstructionError::VMRESUME_NONLAUNCHED_VMCS)),
            (false, true) if self.vcpu.vmcs12.outlived => {
                return Ok(Ended::Fail(InstructionError::VMRESUME_AFTER_VMXOFF));
            }
            _ => {}
        }
        match self.check_entry() {
            Ok(()) => {}
            Err(Failed::Instruction(error, check)) => {
                self.emit_refused(launch, check);
                return Ok(Ended::Fail(error));
            }
            Err(Failed::Guest(check, qualification)) => {
                self.emit_refused(launch, check);
                return Ok(Ended::Other(self.fail_entry(Reason::INVALID_GUEST_STATE, qualification)));
            }
        }
        if self.switch_to_l2().is_none() {
            return Err(Ended::Other(self.out_of_memory()));
        }
        if self.needs_pdptes() {
            let cr3 = self.get(vmcs::GUEST_CR3);
            if !self.load_pdptes(cr3) {
                self.emit_refused(launch, Check::new("guest-pdptes"));
                return Ok(Ended::Other(self.fail_entry(Reason::INVALID_GUEST_STATE, QUALIFICATION_PDPTE)));
            }
        }
        if let Err(entry) = self.load_msr_area(vmcs::VM_ENTRY_MSR_LOAD_ADDRESS, vmcs::VM_ENTRY_MSR_LOAD_COUNT) {
            self.emit_refused(launch, Check::new("guest-msr-load"));
            return Ok(Ended::Other(self.fail_entry(Reason::MSR_LOAD_FAIL, entry)));
        }
        Ok(Ended::Entered)
    }

    /// L0's memory does not hold what this L1 wants at once.
    pub(in crate::l0) fn out_of_memory(&self) -> Next {
        unsupported("L0's own memory is used up by vmcs02s and EPT02s".to_owned())
    }

    /// Whether L2 uses PAE paging that L1 does not have silicon walk EPT for: an entry loads the PDPTEs from memory then,
    /// but silicon, which has EPT, takes them from the fields.
    fn needs_pdptes(&self) -> bool {
        let vmcs12 = &self.vcpu.vmcs12;
        let paging = vmcs12.get(vmcs::GUEST_CR0) & Cr0::PG.bits() != 0;
        let pae = vmcs12.get(vmcs::GUEST_CR4) & Cr4::PAE.bits() != 0;
        let long = vmcs12.get(vmcs::ENTRY_CONTROLS).contains(EntryControls::IA32E_MODE_GUEST);
        paging && pae && !long && !self.secondary12().contains(SecondaryControls::EPT)
    }

    fn emit_refused(&mut self, launch: bool, check: Check) {
        self.emit(What::Entry(Entry {
            level: self.level_entered(),
            launch,
            vmcs12: self.vcpu.vmcs12.gpa.0,
            vmcs02: NO_ADDRESS,
            vpid: 0,
            eptp: 0,
            injected: InterruptionInfo::new(),
            failed: Some(check),
            fields_written: 0,
        }));
    }

    /// The vmcs02 for the current vmcs12, made current. Returns what the pool did.
    fn take_vmcs02(&mut self) -> Option<(PoolOp, usize)> {
        let vmcs12 = self.vcpu.vmcs12.gpa;
        let size = usize::from(self.shared.policy.pool);
        let new = match self.vcpu.pool.wants_new(vmcs12, size) {
            false => None,
            true => {
                let frame = self.shared.frames.take()?;
                let bitmap = self.shared.frames.take()?;
                self.silicon.write(bitmap, &[0xff; 4096]);
                self.vcpu.saved.push(super::super::saved::SavedVmcs::new(frame, Which::Vmcs02));
                self.clear_vmcs(self.vcpu.saved.len() - 1);
                Some((self.vcpu.saved.len() - 1, bitmap))
            }
        };
        let (op, slot) = self.vcpu.pool.take(vmcs12, new, self.shared.policy.pool_recycle)?;
        let saved = self.vcpu.pool.slots[slot].saved;
        if op != PoolOp::Hit {
            self.vcpu.saved[saved].forget();
            self.vcpu.vmcs12.dirty = FieldSet::ALL;
        }
        Some((op, slot))
    }

    fn switch_to_l2(&mut self) -> Option<()> {
        let inherited = self.inherited();
        let (op, slot) = self.take_vmcs02()?;
        self.vcpu.vmx.slot = slot;
        self.enter_shadow(slot)?;
        self.load_vmcs(self.vcpu.pool.slots[slot].saved);
        self.vcpu.level = 2;
        self.note_entered();
        self.vcpu.entry_pending = true;

        let secondary = self.secondary12();
        let vpid12 = secondary.contains(SecondaryControls::VPID).then(|| self.vcpu.vmcs12.get(vmcs::VPID));
        let tag = self.tag_for(vpid12);
        self.vcpu.tag = tag;
        let own_ept = secondary.contains(SecondaryControls::EPT);
        let eptp02 = if own_ept {
            let root = self.load_root(self.vcpu.vmcs12.get(vmcs::EPT_POINTER))?;
            if vpid::syncs_as_guest(&self.shared.policy, self.shared.slips, tag, vpid12) {
                for root in self.ept02.roots_of(self.vcpu.id) {
                    self.sync_root(root);
                }
            }
            self.audit_roots(root, tag, vpid12);
            self.ept02.roots[root].as_ref()?.eptp02
        } else {
            self.load_root_without_ept()
        };
        let own_root = own_ept || self.shared.ept01.for_l2.is_some();
        self.shared.roots_in_use[usize::from(self.vcpu.id)] = if own_ept { self.vcpu.root } else { None };

        let (written, skipped) = self.build_vmcs02(&inherited, tag, eptp02, slot);
        let vmcs12 = self.vcpu.vmcs12.gpa.0;
        self.emit(What::Pool(Pool { op, vmcs12, slot: slot as u16, written, skipped }));

        let rules = (&self.shared.policy, self.shared.slips);
        if let Some(cause) = vpid::transition(rules, true, tag, vpid12, own_root)
            && (!self.flushes_as_needed() || self.shared.vpids.is_held(tag.vpid, self.cpu))
        {
            self.invvpid(InvvpidType::Single, tag.vpid, 0, cause);
        }
        self.flush_for_root(eptp02, self.shared.ept01.pointer, own_ept);
        Some(())
    }

    /// What the policy flushes of EPT when `entered` is loaded instead of `left`.
    pub(super) fn flush_for_root(&mut self, entered: Eptp, left: Eptp, own_ept: bool) {
        let entered = if self.shared.slips.has(Slip::FlushLeftEptp) { left } else { entered };
        if self.shared.policy.root_load == RootLoad::Flush {
            self.invept(entered, Cause::RootLoad);
        }
        if self.shared.policy.apic_access_flush
            && !own_ept
            && !self.shared.slips.has(Slip::ApicAccessUnflushed)
            && self.secondary12().contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES)
        {
            self.invept(entered, Cause::ApicAccessPage);
        }
    }

    /// An entry that failed behind the checks of controls and host state: an exit that loads no guest state.
    pub(super) fn fail_entry(&mut self, reason: Reason, qualification: u64) -> Next {
        let reason = ExitReason::of(reason).with_entry_failure(true);
        self.leave_failed(Report { reason, qualification, ..Report::default() })
    }

    /// VMfail for an entry of L1's that had got as far as silicon: L2's vmcs02 is current, and nothing has run.
    pub(in crate::l0) fn refuse_entry(&mut self, error: InstructionError) -> Ran {
        self.vcpu.vmcs12.dirty = FieldSet::ALL.without(self.vcpu.vmcs12.lazy);
        self.vcpu.waits = None;
        self.vcpu.entry_pending = false;
        self.vcpu.tag = Default::default();
        self.load_vmcs01();
        if self.vmx_end(Ended::Fail(error)) == Next::Skip {
            let exit = Exit {
                rip: self.get(vmcs::GUEST_RIP),
                length: self.get(vmcs::EXIT_INSTRUCTION_LENGTH),
                ..Exit::default()
            };
            self.skip(&exit);
        }
        Ran::Ready
    }

    /// Loads MSRs from an area of L1's. An error names the entry that failed, from 1.
    pub(super) fn load_msr_area(&mut self, address: vmcs::Field<u64>, count: vmcs::Field<u32>) -> Result<(), u64> {
        let count = self.vcpu.vmcs12.get(count);
        let address = self.vcpu.vmcs12.get(address);
        for number in 0..count.min(MSR_AREA + 1) {
            let mut entry = [0; 16];
            self.read_gpa(Gpa(address.wrapping_add(u64::from(number) * 16)), &mut entry);
            let index = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let reserved = entry[4..8].iter().any(|byte| *byte != 0);
            let value = u64::from_le_bytes(core::array::from_fn(|byte| entry[8 + byte]));
            let barred = matches!(index, msr::FS_BASE | msr::GS_BASE) || is_barred(index);
            if number == MSR_AREA || reserved || barred || !self.write_msr(index, value) {
                return Err(u64::from(number) + 1);
            }
        }
        Ok(())
    }

    /// Loads vmcs01, L1's own.
    pub(in crate::l0) fn load_vmcs01(&mut self) {
        self.vcpu.level = 1;
        self.shared.roots_in_use[usize::from(self.vcpu.id)] = None;
        if self.vcpu.current != VMCS01 {
            self.load_vmcs(VMCS01);
        }
    }
}

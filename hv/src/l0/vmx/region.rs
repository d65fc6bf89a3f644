//! VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST: VMX operation and the regions that L1 gives it.

use super::super::capabilities::{CR0_FIXED0, CR0_FIXED1, CR4_FIXED0};
use super::super::cx::Cx;
use super::super::exit::Exit;
use super::super::fields::FieldSet;
use super::super::vmcs12::REVISION;
use super::{Done, Ended};
use crate::l0::next::Fault;
use crate::silicon::Silicon;
use crate::vmcs::SHADOW;
use hv_defs::addr::{Gpa, PAGE_SIZE};
use hv_defs::event::{NO_ADDRESS, Pool, PoolOp, VmcsOp, What};
use hv_defs::instruction_error::InstructionError;
use hv_defs::policy::Shadowing;
use hv_defs::slip::Slip;
use hv_defs::vmcs::{self, VmcsField};

impl<S: Silicon> Cx<'_, S> {
    /// Whether `address` can be a region's: aligned, within the physical-address width.
    fn is_region(&self, address: u64) -> bool {
        address.is_multiple_of(PAGE_SIZE) && address >> self.shared.address_bits == 0
    }

    fn revision_at(&mut self, region: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read_gpa(Gpa(region), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(super) fn vmxon(&mut self, exit: &Exit) -> Done {
        if self.vcpu.vmx.vmxon.is_some() {
            return Ok(Ended::Fail(InstructionError::VMXON_IN_ROOT));
        }
        let (cr0, cr4) = (self.l1_cr0(), self.l1_cr4());
        let fixed = |value: u64, zero: u64, one: u64| value & zero == zero && value & !one == 0;
        if !fixed(cr0, CR0_FIXED0, CR0_FIXED1)
            || !fixed(cr4, CR4_FIXED0, self.shared.capabilities.cr4_fixed1)
            || self.vcpu.msrs.feature_control & 5 != 5
        {
            return Err(Fault::GP.into());
        }
        let region = self.pointer_operand(exit)?;
        if !self.is_region(region) || self.revision_at(region) != REVISION {
            return Ok(Ended::FailInvalid);
        }
        self.vcpu.vmx.vmxon = Some(Gpa(region));
        self.vcpu.vmx.current = false;
        self.vcpu.vmx.operation = self.vcpu.vmx.operation.wrapping_add(1).max(1);
        self.note_vmxon();
        self.take_vpids();
        Ok(Ended::Succeed)
    }

    pub(super) fn vmxoff(&mut self) -> Done {
        self.leave_vmx_operation();
        Ok(Ended::Succeed)
    }

    /// Gives up all that VMX operation took: the cached vmcs12, the vmcs02s, the VPIDs, the EPT02s. Each once.
    pub(crate) fn leave_vmx_operation(&mut self) {
        self.release_vmcs12();
        for number in 0..self.vcpu.pool.slots.len() {
            if let Some(vmcs12) = self.vcpu.pool.slots[number].vmcs12 {
                self.free_slot(vmcs12);
            }
        }
        self.free_vpids();
        for root in self.ept02.roots_of(self.vcpu.id) {
            self.free_root(root);
        }
        self.vcpu.vmx.vmxon = None;
        self.note_vmxoff();
    }

    /// Writes the current vmcs12 back, which is current no more.
    fn release_vmcs12(&mut self) {
        if !core::mem::take(&mut self.vcpu.vmx.current) {
            return;
        }
        self.sync_lazy();
        let vmcs12 = &self.vcpu.vmcs12;
        self.vcpu.pool.remember(vmcs12.gpa, &vmcs12.fields, vmcs12.dirty);
        self.write_vmcs12();
    }

    /// Gives up the vmcs02 of a vmcs12, if it has one: VMCLEAR where it is active.
    fn free_slot(&mut self, vmcs12: Gpa) {
        if let Some(slot) = self.vcpu.pool.free(vmcs12) {
            let saved = self.vcpu.pool.slots[slot].saved;
            self.clear_vmcs(saved);
            self.vcpu.saved[saved].forget();
            let slot = slot as u16;
            self.emit(What::Pool(Pool { op: PoolOp::Free, vmcs12: vmcs12.0, slot, written: 0, skipped: 0 }));
        }
    }

    pub(super) fn vmclear(&mut self, exit: &Exit) -> Done {
        let region = self.pointer_operand(exit)?;
        if !self.is_region(region) {
            return Ok(Ended::Fail(InstructionError::VMCLEAR_INVALID_ADDRESS));
        }
        if self.vcpu.vmx.vmxon == Some(Gpa(region)) {
            return Ok(Ended::Fail(InstructionError::VMCLEAR_VMXON_POINTER));
        }
        self.emit_vmcs12(VmcsOp::Clear, region, VmcsField(0), 0, 0);
        if self.vcpu.vmx.current && self.vcpu.vmcs12.gpa == Gpa(region) {
            self.release_vmcs12();
        }
        self.clear_vmcs12(Gpa(region));
        self.free_slot(Gpa(region));
        Ok(Ended::Succeed)
    }

    pub(super) fn vmptrld(&mut self, exit: &Exit) -> Done {
        let region = self.pointer_operand(exit)?;
        if !self.is_region(region) {
            return Ok(Ended::Fail(InstructionError::VMPTRLD_INVALID_ADDRESS));
        }
        if self.vcpu.vmx.vmxon == Some(Gpa(region)) {
            return Ok(Ended::Fail(InstructionError::VMPTRLD_VMXON_POINTER));
        }
        if self.vcpu.vmx.current && self.vcpu.vmcs12.gpa == Gpa(region) {
            self.emit_vmcs12(VmcsOp::Load, region, VmcsField(0), 0, 0);
            return Ok(Ended::Succeed);
        }
        let revision = self.revision_at(region);
        let shadowing = self.shared.policy.shadowing != Shadowing::Off;
        if revision & !SHADOW != REVISION || revision & SHADOW != 0 && !shadowing {
            return Ok(Ended::Fail(InstructionError::VMPTRLD_INCORRECT_REVISION));
        }
        self.emit_vmcs12(VmcsOp::Load, region, VmcsField(0), 0, 0);
        self.release_vmcs12();
        self.read_vmcs12(Gpa(region));
        let held = self.vcpu.pool.find(Gpa(region)).is_some();
        let vmcs12 = &mut self.vcpu.vmcs12;
        vmcs12.dirty = match self.shared.slips.has(Slip::PoolStaleHit) && held {
            true => FieldSet::EMPTY,
            false => self.vcpu.pool.differing(Gpa(region), &vmcs12.fields),
        };
        vmcs12.lazy = FieldSet::EMPTY;
        self.vcpu.vmx.current = true;
        self.note_loaded();
        Ok(Ended::Succeed)
    }

    pub(super) fn vmptrst(&mut self, exit: &Exit) -> Done {
        let address = if self.vcpu.vmx.current { self.vcpu.vmcs12.gpa.0 } else { NO_ADDRESS };
        let info = self.instruction_info();
        self.write_operand(exit, info, &address.to_le_bytes())?;
        self.emit_vmcs12(VmcsOp::Store, address, VmcsField(0), 0, 0);
        Ok(Ended::Succeed)
    }

    /// L1's CR4.VMXE.
    pub(super) fn l1_vmxe(&mut self) -> bool {
        self.get(vmcs::CR4_READ_SHADOW) & CR4_FIXED0 != 0
    }
}

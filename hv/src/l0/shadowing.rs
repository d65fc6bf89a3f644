//! VMCS shadowing, emulated: L1 has a shadow VMCS for its L2, which is a hypervisor too. A VMREAD or VMWRITE of L2's that
//! exits, all of them unless silicon serves some, L0 holds against vmcs12's bitmaps, and serves from the shadow vmcs12 in
//! L1's memory what L1 does not want to see.
//! See: SDM "VMCS Shadowing", "VMREAD—Read Field from Virtual-Machine Control Structure".

use super::cx::Cx;
use super::exit::Exit;
use super::handle::Handled;
use super::next::{Fault, Next};
use super::paging::Failure;
use super::vmcs12;
use crate::silicon::Silicon;
use crate::vmcs::Vmcs;
use hv_defs::addr::{Gpa, PAGE_SIZE};
use hv_defs::controls::SecondaryControls;
use hv_defs::event::{Actor, NO_ADDRESS, VmcsAccess, VmcsOp, Which};
use hv_defs::exit::{EptViolation, ExitReason, InstructionInfo, Reason};
use hv_defs::instruction_error::InstructionError;
use hv_defs::slip::Slip;
use hv_defs::vmcs::{self, VmcsField, Width};
use hv_defs::x86::Rflags;

/// Defined bits of an access-rights field: CPUs keep no others in a shadow VMCS.
const ACCESS_RIGHTS: u64 = 0x1_f0ff;

/// How an access of L2's ended.
enum Served {
    Done,
    FailInvalid,
    Fail(Gpa, InstructionError),
}

impl<S: Silicon> Cx<'_, S> {
    /// VMREAD or VMWRITE by L2: L0 serves it if L1 has the bitmaps say so; else it is L1's.
    pub(super) fn handle_l2_access(&mut self, exit: &mut Exit) -> Handled {
        let write = exit.basic() == Reason::VMWRITE;
        let info = InstructionInfo::from_bits(self.get(vmcs::EXIT_INSTRUCTION_INFO));
        let width = if self.is_long() { u64::MAX } else { u64::from(u32::MAX) };
        let encoding = self.gpr(info.reg2()) & width;
        if self.l1_wants_access(encoding, write) {
            return (Actor::L1, Next::Reflect);
        }
        if self.cpl() != 0 {
            return (Actor::L0, Next::Raise(Fault::GP));
        }
        match self.serve(exit, info, VmcsField(encoding as u32), write) {
            Ok(served) => {
                self.end_access(&served);
                (Actor::L0, Next::Skip)
            }
            Err(Failure::Fault(fault)) => (Actor::L0, Next::Raise(fault)),
            Err(Failure::Ept12(at)) => {
                // The operand is where EPT12 has nothing: what L2 would have met on hardware.
                exit.reason = ExitReason::of(Reason::EPT_VIOLATION);
                exit.qualification = EptViolation::new().with_read(write).with_write(!write).into_bits();
                exit.gpa = at.0;
                (Actor::L1, Next::Reflect)
            }
        }
    }

    fn l1_wants_access(&mut self, encoding: u64, write: bool) -> bool {
        if !self.secondary12().contains(SecondaryControls::VMCS_SHADOWING) || encoding >> 15 != 0 {
            return true;
        }
        let field = if write { vmcs::VMWRITE_BITMAP } else { vmcs::VMREAD_BITMAP };
        let bitmap = self.vcpu.vmcs12.get(field);
        let mut byte = [0xff];
        self.read_gpa(Gpa(bitmap.wrapping_add(encoding / 8)), &mut byte);
        byte[0] >> (encoding % 8) & 1 != 0
    }

    fn serve(&mut self, exit: &Exit, info: InstructionInfo, field: VmcsField, write: bool) -> Result<Served, Failure> {
        let link = self.vcpu.vmcs12.get(vmcs::VMCS_LINK_POINTER);
        if link == NO_ADDRESS || self.ram(Gpa(link), PAGE_SIZE).is_none() {
            return Ok(Served::FailInvalid);
        }
        let Some(row) = vmcs12::row(field) else {
            return Ok(Served::Fail(Gpa(link), InstructionError::UNSUPPORTED_VMCS_COMPONENT));
        };
        let long = self.is_long();
        let bytes = if long { 8 } else { 4 };
        let width = if long { u64::MAX } else { u64::from(u32::MAX) };
        let at = Gpa(link + Vmcs::offset(row) as u64);
        let old = self.read_gpa_u64(at);
        let shown = if field.is_high() { old >> 32 } else { old };
        let value = if write {
            let mut operand = [0; 8];
            if info.is_register() {
                operand = self.gpr(info.reg1()).to_le_bytes();
            } else {
                self.read_operand(exit, info, &mut operand[..bytes])?;
            }
            let given = u64::from_le_bytes(operand) & width;
            let new = if field.is_high() {
                old & u64::from(u32::MAX) | given << 32
            } else if field.width() == Width::W64 && !long {
                old & !width | given
            } else {
                given & field.mask()
            };
            let masked = is_access_rights(field) && !self.shared.slips.has(Slip::RightsUnmasked);
            let new = if masked { new & ACCESS_RIGHTS } else { new };
            self.write_gpa(at, &new.to_le_bytes());
            if field.is_high() { new >> 32 } else { new }
        } else if info.is_register() {
            self.set_gpr(info.reg1(), shown & width);
            shown & width
        } else {
            self.write_operand(exit, info, &shown.to_le_bytes()[..bytes])?;
            shown & width
        };
        self.emit_vmcs(VmcsAccess {
            actor: self.actor(),
            which: Which::Shadow12,
            address: link,
            op: if write { VmcsOp::Write } else { VmcsOp::Read },
            field,
            old: if write { shown } else { value },
            value,
        });
        Ok(Served::Done)
    }

    fn end_access(&mut self, served: &Served) {
        let flag = match served {
            Served::Done => Rflags::empty(),
            Served::FailInvalid => Rflags::CF,
            Served::Fail(shadow, error) => {
                let at = shadow.offset(Vmcs::offset(vmcs::VM_INSTRUCTION_ERROR.index()) as u64);
                self.write_gpa(at, &u64::from(error.0).to_le_bytes());
                self.note_shadow_error(*error);
                Rflags::ZF
            }
        };
        let old = Rflags::from_bits_retain(self.get(vmcs::GUEST_RFLAGS));
        self.update(vmcs::GUEST_RFLAGS, (old.difference(super::vmx::STATUS) | flag).bits());
    }
}

fn is_access_rights(field: VmcsField) -> bool {
    let (first, last) = (vmcs::GUEST_ES_ACCESS_RIGHTS.field(), vmcs::GUEST_TR_ACCESS_RIGHTS.field());
    (first..=last).contains(&field)
}

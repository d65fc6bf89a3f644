//! VMREAD and VMWRITE.

use super::super::capabilities::MISC_VMWRITE_ANY;
use super::super::cx::Cx;
use super::super::exit::Exit;
use super::super::vmcs12;
use super::{Done, Ended};
use crate::silicon::Silicon;
use hv_defs::event::VmcsOp;
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs::{Class, VmcsField};

impl<S: Silicon> Cx<'_, S> {
    /// The field that the second operand names, and its row; an error when there is none.
    fn named_field(&mut self, encoding: u64) -> Result<(VmcsField, usize), Ended> {
        let unsupported = Ended::Fail(InstructionError::UNSUPPORTED_VMCS_COMPONENT);
        let field = VmcsField(u32::try_from(encoding).map_err(|_| unsupported.clone())?);
        Ok((field, vmcs12::row(field).ok_or(unsupported)?))
    }

    pub(super) fn vmread(&mut self, exit: &Exit) -> Done {
        if !self.vcpu.vmx.current {
            return Ok(Ended::FailInvalid);
        }
        let info = self.instruction_info();
        let long = self.is_long();
        let width = if long { u64::MAX } else { u64::from(u32::MAX) };
        let encoding = self.gpr(info.reg2()) & width;
        let (field, row) = self.named_field(encoding)?;
        if self.vcpu.vmcs12.lazy.has_row(row) {
            self.sync_lazy();
        }
        let whole = self.vcpu.vmcs12.row(row);
        let value = if field.is_high() { whole >> 32 } else { whole & width };
        if info.is_register() {
            self.set_gpr(info.reg1(), value);
        } else {
            let bytes = value.to_le_bytes();
            self.write_operand(exit, info, &bytes[..if long { 8 } else { 4 }])?;
        }
        let gpa = self.vcpu.vmcs12.gpa.0;
        self.emit_vmcs12(VmcsOp::Read, gpa, field, value, value);
        Ok(Ended::Succeed)
    }

    pub(super) fn vmwrite(&mut self, exit: &Exit) -> Done {
        if !self.vcpu.vmx.current {
            return Ok(Ended::FailInvalid);
        }
        let info = self.instruction_info();
        let long = self.is_long();
        let width = if long { u64::MAX } else { u64::from(u32::MAX) };
        let value = if info.is_register() {
            self.gpr(info.reg1()) & width
        } else {
            let mut bytes = [0; 8];
            self.read_operand(exit, info, &mut bytes[..if long { 8 } else { 4 }])?;
            u64::from_le_bytes(bytes)
        };
        let encoding = self.gpr(info.reg2()) & width;
        let (field, row) = self.named_field(encoding)?;
        if field.class() == Class::ExitInformation && self.shared.capabilities.misc & MISC_VMWRITE_ANY == 0 {
            return Ok(Ended::Fail(InstructionError::VMWRITE_READ_ONLY_COMPONENT));
        }
        if self.vcpu.vmcs12.lazy.has_row(row) && field.is_high() {
            self.sync_lazy();
        }
        let whole = self.vcpu.vmcs12.row(row);
        let new = match (field.is_high(), long) {
            (true, _) => whole & u64::from(u32::MAX) | value << 32,
            // Outside 64-bit mode the high half of a 64-bit field is left alone, of a natural one cleared.
            (false, false) if field.width() == hv_defs::vmcs::Width::W64 => whole & !u64::from(u32::MAX) | value,
            (false, _) => value & field.mask(),
        };
        let old = self.vcpu.vmcs12.write(row, new);
        let gpa = self.vcpu.vmcs12.gpa.0;
        self.emit_vmcs12(VmcsOp::Write, gpa, field.full(), old, new);
        Ok(Ended::Succeed)
    }
}

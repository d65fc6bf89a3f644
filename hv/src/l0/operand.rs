//! Operands of the instructions that exit, from the VM-exit instruction information and the exit qualification.

use super::cx::Cx;
use super::exit::Exit;
use super::next::Fault;
use super::paging::{Failure, Use};
use crate::silicon::Silicon;
use hv_defs::addr::is_canonical;
use hv_defs::exit::InstructionInfo;
use hv_defs::vmcs::{self, Field};
use hv_defs::x86::{AccessRights, Cr4, Efer};

const BASES: [Field<u64>; 6] = [
    vmcs::GUEST_ES_BASE,
    vmcs::GUEST_CS_BASE,
    vmcs::GUEST_SS_BASE,
    vmcs::GUEST_DS_BASE,
    vmcs::GUEST_FS_BASE,
    vmcs::GUEST_GS_BASE,
];
const RIGHTS: [Field<u32>; 6] = [
    vmcs::GUEST_ES_ACCESS_RIGHTS,
    vmcs::GUEST_CS_ACCESS_RIGHTS,
    vmcs::GUEST_SS_ACCESS_RIGHTS,
    vmcs::GUEST_DS_ACCESS_RIGHTS,
    vmcs::GUEST_FS_ACCESS_RIGHTS,
    vmcs::GUEST_GS_ACCESS_RIGHTS,
];
const LIMITS: [Field<u32>; 6] = [
    vmcs::GUEST_ES_LIMIT,
    vmcs::GUEST_CS_LIMIT,
    vmcs::GUEST_SS_LIMIT,
    vmcs::GUEST_DS_LIMIT,
    vmcs::GUEST_FS_LIMIT,
    vmcs::GUEST_GS_LIMIT,
];

impl<S: Silicon> Cx<'_, S> {
    /// Whether what only holds a linear address may hold this one: it is canonical, of as many bits as L1's CPU can have,
    /// whatever paging is on. See: SDM "Canonical Addressing".
    pub(super) fn holds_canonical(&self, address: u64) -> bool {
        is_canonical(address, self.shared.capabilities.cr4_fixed1 & Cr4::LA57.bits() != 0)
    }

    /// Whether the guest is in 64-bit mode.
    pub(super) fn is_long(&mut self) -> bool {
        Efer::from_bits_retain(self.get(vmcs::GUEST_EFER)).contains(Efer::LMA)
            && AccessRights::from_bits(self.get(vmcs::GUEST_CS_ACCESS_RIGHTS)).long()
    }

    /// The guest's current privilege level.
    pub(super) fn cpl(&mut self) -> u8 {
        AccessRights::from_bits(self.get(vmcs::GUEST_SS_ACCESS_RIGHTS)).dpl()
    }

    /// The linear address of the memory operand, `bytes` long.
    pub(super) fn operand_address(
        &mut self,
        exit: &Exit,
        info: InstructionInfo,
        bytes: u64,
        write: bool,
    ) -> Result<u64, Fault> {
        let mut offset = exit.qualification;
        if !info.no_base() {
            offset = offset.wrapping_add(self.gpr(info.base()));
        }
        if !info.no_index() {
            offset = offset.wrapping_add(self.gpr(info.index()) << info.scale());
        }
        match info.address_size() {
            0 => offset &= 0xffff,
            1 => offset &= 0xffff_ffff,
            _ => {}
        }
        let segment = usize::from(info.segment()).min(5);
        let fault = if segment == 2 { Fault::SS } else { Fault::GP };
        if self.is_long() {
            let base = if segment >= 4 { self.get(BASES[segment]) } else { 0 };
            let linear = base.wrapping_add(offset);
            let last = linear.wrapping_add(bytes - 1);
            let wide = self.get(vmcs::GUEST_CR4) & Cr4::LA57.bits() != 0;
            return if is_canonical(linear, wide) && is_canonical(last, wide) { Ok(linear) } else { Err(fault) };
        }
        let rights = AccessRights::from_bits(self.get(RIGHTS[segment]));
        let limit = u64::from(self.get(LIMITS[segment]));
        let code = rights.kind() & 8 != 0;
        let readable = !code || rights.kind() & 2 != 0;
        let writable = !code && rights.kind() & 2 != 0;
        let expand_down = !code && rights.kind() & 4 != 0;
        let last = offset.wrapping_add(bytes - 1);
        let inside = if expand_down {
            let top = if rights.big() { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            last <= limit && offset <= last
        };
        if rights.unusable() || !(if write { writable } else { readable }) || !inside {
            return Err(fault);
        }
        Ok(self.get(BASES[segment]).wrapping_add(offset) & 0xffff_ffff)
    }

    /// Reads the memory operand.
    pub(super) fn read_operand(&mut self, exit: &Exit, info: InstructionInfo, into: &mut [u8]) -> Result<(), Failure> {
        let address = self.operand_address(exit, info, into.len() as u64, false).map_err(Failure::Fault)?;
        self.read_linear(address, into, Use::READ)
    }

    /// Writes the memory operand.
    pub(super) fn write_operand(&mut self, exit: &Exit, info: InstructionInfo, bytes: &[u8]) -> Result<(), Failure> {
        let address = self.operand_address(exit, info, bytes.len() as u64, true).map_err(Failure::Fault)?;
        self.write_linear(address, bytes, Use::WRITE)
    }
}

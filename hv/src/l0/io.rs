//! I/O instructions: L0 asks the board, whichever guest executed them.

use super::bus::BusEvent;
use super::cx::Cx;
use super::exit::Exit;
use super::next::{Fault, Next, unsupported};
use super::paging::{Failure, Use};
use crate::silicon::Silicon;
use hv_defs::event::{StopKind, What};
use hv_defs::exit::{InstructionInfo, IoAccess};
use hv_defs::vmcs;
use hv_defs::x86::Rflags;

/// RCX, RSI, RDI by number.
const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;

impl<S: Silicon> Cx<'_, S> {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.bus.io_in(port, size, self.at.instruction)
    }

    /// Returns how the run ends, if it does.
    fn port_out(&mut self, port: u16, size: u8, value: u32) -> Option<Next> {
        match self.bus.io_out(port, size, value, self.at.instruction)? {
            BusEvent::Mark(mark) => {
                self.emit(What::Mark(mark));
                None
            }
            BusEvent::Dma(at) => {
                self.dma(at);
                None
            }
            BusEvent::Stop(mut stop) => {
                if stop.text.is_empty() && stop.kind == StopKind::DebugExit {
                    let rip = self.get(vmcs::GUEST_RIP);
                    stop.text = format!("status {} written at {rip:#x}", stop.code);
                }
                Some(Next::Stop(stop))
            }
        }
    }

    /// IN, OUT, INS, OUTS. Of a repeated one, one element: the guest executes the rest again.
    pub(super) fn handle_io(&mut self, exit: &Exit) -> Next {
        let access = IoAccess::from_bits(exit.qualification);
        let size = access.size_less_one() + 1;
        let port = access.port();
        if !matches!(size, 1 | 2 | 4) {
            return unsupported(format!("an I/O instruction of {size} bytes at {:#x}", exit.rip));
        }
        if access.string() {
            return self.handle_string_io(exit, access).unwrap_or_else(|failure| match failure {
                Failure::Fault(fault) => Next::Raise(fault),
                Failure::Ept12(at) => unsupported(format!("string I/O of L2's at {:#x} that EPT12 does not map", at.0)),
            });
        }
        let rax = self.gpr(0);
        let mask = u64::MAX >> (64 - u32::from(size) * 8);
        if access.input() {
            let value = u64::from(self.port_in(port, size)) & mask;
            let kept = if size == 4 { 0 } else { rax & !mask };
            self.set_gpr(0, kept | value);
        } else if let Some(end) = self.port_out(port, size, (rax & mask) as u32) {
            return end;
        }
        Next::Skip
    }

    fn handle_string_io(&mut self, exit: &Exit, access: IoAccess) -> Result<Next, Failure> {
        let size = access.size_less_one() + 1;
        let info = InstructionInfo::from_bits(self.get(vmcs::EXIT_INSTRUCTION_INFO));
        let width: u64 = match info.address_size() {
            0 => 0xffff,
            1 => 0xffff_ffff,
            _ => u64::MAX,
        };
        let count = self.gpr(RCX) & width;
        if access.rep() && count == 0 {
            return Ok(Next::Skip);
        }
        let user = self.cpl() == 3;
        let mut bytes = [0; 4];
        let bytes = &mut bytes[..usize::from(size)];
        let wanted = Use { user, ..Use::READ };
        if access.input() {
            // Where the bytes go must be writable before the device is asked, for asking may change it.
            self.translate(exit.gla, Use { write: true, ..wanted })?;
            let value = self.port_in(access.port(), size);
            bytes.copy_from_slice(&value.to_le_bytes()[..usize::from(size)]);
            self.write_linear(exit.gla, bytes, wanted)?;
        } else {
            self.read_linear(exit.gla, bytes, wanted)?;
            let mut value = [0; 4];
            value[..usize::from(size)].copy_from_slice(bytes);
            if let Some(end) = self.port_out(access.port(), size, u32::from_le_bytes(value)) {
                return Ok(end);
            }
        }
        let step = |from: u64, by: u64| {
            let to = from.wrapping_add(by);
            if width == 0xffff { from & !width | to & width } else { to & width }
        };
        let down = self.get(vmcs::GUEST_RFLAGS) & Rflags::DF.bits() != 0;
        let by = if down { u64::from(size).wrapping_neg() } else { u64::from(size) };
        let index = if access.input() { RDI } else { RSI };
        let moved = step(self.gpr(index), by);
        self.set_gpr(index, moved);
        if access.rep() {
            let left = step(self.gpr(RCX), u64::MAX);
            self.set_gpr(RCX, left);
            if left & width != 0 {
                return Ok(Next::Resume);
            }
        }
        Ok(Next::Skip)
    }

    /// RDMSR and WRMSR that are L0's to carry out.
    pub(super) fn handle_msr(&mut self, write: bool) -> Next {
        let index = self.gpr(1) as u32;
        if write {
            let value = self.gpr(2) << 32 | self.gpr(0) & 0xffff_ffff;
            if !self.write_msr(index, value) {
                return Next::Raise(Fault::GP);
            }
        } else {
            let Some(value) = self.read_msr(index) else { return Next::Raise(Fault::GP) };
            self.set_gpr(0, value & 0xffff_ffff);
            self.set_gpr(2, value >> 32);
        }
        Next::Skip
    }
}

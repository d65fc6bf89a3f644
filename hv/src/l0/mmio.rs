//! Memory-mapped devices: the instruction that touched one is decoded and carried out by L0.

use super::cx::Cx;
use super::exit::Exit;
use super::next::{Next, unsupported};
use super::paging::{Failure, Use};
use super::vmx::STATUS;
use crate::silicon::Silicon;
use hv_defs::addr::{Gpa, PAGE_SIZE};
use hv_defs::vmcs;
use hv_defs::x86::{AccessRights, Rflags};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

impl<S: Silicon> Cx<'_, S> {
    /// Carries out the instruction at the guest's RIP, whose memory operand is the device register at `at`.
    pub(super) fn handle_mmio(&mut self, exit: &Exit, at: Gpa) -> Next {
        if exit.idt.valid() {
            return unsupported(format!("delivery of an event through {:#x}, which is no RAM", at.0));
        }
        match self.carry_out_mmio(at) {
            Ok(Some(length)) => {
                let rip = self.get(vmcs::GUEST_RIP).wrapping_add(length as u64);
                self.set(vmcs::GUEST_RIP, rip);
                self.retire();
                Next::Resume
            }
            Ok(None) => unsupported(format!("an access to {:#x}, which is no RAM, that L0 cannot carry out", at.0)),
            Err(Failure::Fault(fault)) => Next::Raise(fault),
            Err(Failure::Ept12(at)) => unsupported(format!("code of L2's at {:#x} that EPT12 does not map", at.0)),
        }
    }

    /// The bytes at RIP, as many as there are up to 15.
    pub(super) fn fetch(&mut self) -> Result<([u8; 15], usize), Failure> {
        let rip = self.get(vmcs::GUEST_RIP);
        let base = if self.is_long() { 0 } else { self.get(vmcs::GUEST_CS_BASE) };
        let at = base.wrapping_add(rip);
        let wanted = Use { fetch: true, user: self.cpl() == 3, write: false };
        let mut bytes = [0; 15];
        let first = 15.min((PAGE_SIZE - at % PAGE_SIZE) as usize);
        self.read_linear(at, &mut bytes[..first], wanted)?;
        // The next page need not be there if the instruction ends before it.
        let count = match self.read_linear(at.wrapping_add(first as u64), &mut bytes[first..], wanted) {
            Ok(()) => 15,
            Err(_) => first,
        };
        Ok((bytes, count))
    }

    /// The instruction at RIP.
    pub(super) fn decode(&mut self) -> Result<Instruction, Failure> {
        let (bytes, count) = self.fetch()?;
        let code = AccessRights::from_bits(self.get(vmcs::GUEST_CS_ACCESS_RIGHTS));
        let bitness = if self.is_long() {
            64
        } else if code.big() {
            32
        } else {
            16
        };
        Ok(Decoder::new(bitness, &bytes[..count], DecoderOptions::NONE).decode())
    }

    /// Returns the instruction's length; `None` when it is not one that L0 knows.
    fn carry_out_mmio(&mut self, at: Gpa) -> Result<Option<usize>, Failure> {
        let instruction = self.decode()?;
        let size = instruction.memory_size().size() as u8;
        if instruction.is_invalid() || !matches!(size, 1 | 2 | 4 | 8) {
            return Ok(None);
        }
        let done = match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Memory => {
                let Some(value) = self.mmio_source(&instruction) else { return Ok(None) };
                self.mmio_store(at, size, value)
            }
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => {
                let value = self.mmio_load(at, size);
                let to = instruction.op0_register();
                let signed = matches!(instruction.mnemonic(), Mnemonic::Movsx | Mnemonic::Movsxd);
                let value = if signed { sign_extend(value, size) } else { value };
                self.set_register(to, value)
            }
            Mnemonic::Xchg => {
                let register = if instruction.op0_kind() == OpKind::Memory { 1 } else { 0 };
                let register = instruction.op_register(register);
                let Some(value) = self.register(register) else { return Ok(None) };
                let old = self.mmio_load(at, size);
                self.mmio_store(at, size, value) && self.set_register(register, old)
            }
            mnemonic => match Alu::of(mnemonic) {
                Some(alu) => self.mmio_alu(alu, &instruction, at, size),
                None => false,
            },
        };
        Ok(done.then_some(instruction.len()))
    }

    /// An arithmetic instruction with the device register for one operand. Returns whether it is one that L0 knows.
    fn mmio_alu(&mut self, alu: Alu, instruction: &Instruction, at: Gpa, size: u8) -> bool {
        let to_memory = instruction.op0_kind() == OpKind::Memory;
        let other = match to_memory {
            true => self.mmio_source(instruction),
            false => self.register(instruction.op0_register()),
        };
        let Some(other) = other else { return false };
        let value = self.mmio_load(at, size);
        let (first, second) = if to_memory { (value, other) } else { (other, value) };
        let (result, flags) = alu.compute(first, second, size);
        let kept = match (alu.writes(), to_memory) {
            (false, _) => true,
            (true, true) => self.mmio_store(at, size, result),
            (true, false) => self.set_register(instruction.op0_register(), result),
        };
        let old = Rflags::from_bits_retain(self.get(vmcs::GUEST_RFLAGS));
        self.set(vmcs::GUEST_RFLAGS, (old.difference(STATUS) | flags).bits());
        kept
    }

    fn mmio_load(&mut self, at: Gpa, size: u8) -> u64 {
        // Nothing there answers with all ones, as a bus does.
        self.tell_cr8();
        let value = self.bus.mmio_read(self.vcpu.id, at, size, self.at.instruction).unwrap_or(u64::MAX);
        value & u64::MAX >> (64 - u32::from(size) * 8)
    }

    fn mmio_store(&mut self, at: Gpa, size: u8, value: u64) -> bool {
        let value = value & u64::MAX >> (64 - u32::from(size) * 8);
        // A write to nothing is lost, as on a bus.
        self.tell_cr8();
        let _ = self.bus.mmio_write(self.vcpu.id, at, size, value, self.at.instruction);
        self.ask_cr8();
        true
    }

    fn mmio_source(&mut self, instruction: &Instruction) -> Option<u64> {
        match instruction.op1_kind() {
            OpKind::Register => self.register(instruction.op1_register()),
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Some(instruction.immediate(1)),
            _ => None,
        }
    }

    fn register(&mut self, register: Register) -> Option<u64> {
        if !register.is_gpr() {
            return None;
        }
        let value = self.gpr(register.full_register().number() as u8);
        let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
        Some(if high { value >> 8 } else { value })
    }

    fn set_register(&mut self, register: Register, value: u64) -> bool {
        if !register.is_gpr() || matches!(register, Register::AH | Register::CH | Register::DH | Register::BH) {
            return false;
        }
        let number = register.full_register().number() as u8;
        let old = self.gpr(number);
        let new = match register.size() {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => old & !0xffff | value & 0xffff,
            _ => old & !0xff | value & 0xff,
        };
        self.set_gpr(number, new);
        true
    }
}

/// What software does to device registers in one instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alu {
    Add,
    Or,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
}

impl Alu {
    fn of(mnemonic: Mnemonic) -> Option<Self> {
        Some(match mnemonic {
            Mnemonic::Add => Self::Add,
            Mnemonic::Or => Self::Or,
            Mnemonic::And => Self::And,
            Mnemonic::Sub => Self::Sub,
            Mnemonic::Xor => Self::Xor,
            Mnemonic::Cmp => Self::Cmp,
            Mnemonic::Test => Self::Test,
            _ => return None,
        })
    }

    /// Whether the result goes to the first operand.
    fn writes(self) -> bool {
        !matches!(self, Self::Cmp | Self::Test)
    }

    /// The result, and the status flags.
    fn compute(self, first: u64, second: u64, size: u8) -> (u64, Rflags) {
        let mask = u64::MAX >> (64 - u32::from(size) * 8);
        let sign = mask ^ mask >> 1;
        let (first, second) = (first & mask, second & mask);
        let (result, carry, overflow, half) = match self {
            Self::Add => {
                let sum = first.wrapping_add(second) & mask;
                (sum, sum < first, (first ^ sum) & (second ^ sum) & sign != 0, first ^ second ^ sum)
            }
            Self::Sub | Self::Cmp => {
                let rest = first.wrapping_sub(second) & mask;
                (rest, first < second, (first ^ second) & (first ^ rest) & sign != 0, first ^ second ^ rest)
            }
            Self::Or => (first | second, false, false, 0),
            Self::Xor => (first ^ second, false, false, 0),
            Self::And | Self::Test => (first & second, false, false, 0),
        };
        let mut flags = Rflags::empty();
        flags.set(Rflags::CF, carry);
        flags.set(Rflags::OF, overflow);
        flags.set(Rflags::AF, half & 0x10 != 0);
        flags.set(Rflags::ZF, result == 0);
        flags.set(Rflags::SF, result & sign != 0);
        flags.set(Rflags::PF, (result as u8).count_ones().is_multiple_of(2));
        (result, flags)
    }
}

fn sign_extend(value: u64, size: u8) -> u64 {
    let shift = 64 - u32::from(size) * 8;
    ((value << shift) as i64 >> shift) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_and_its_flags() {
        let check = |alu: Alu, size, first, second, result, flags: Rflags| {
            assert_eq!(alu.compute(first, second, size), (result, flags), "{alu:?} {first:#x} {second:#x}");
        };
        use Rflags as F;
        check(Alu::Add, 1, 0xff, 1, 0, F::CF | F::ZF | F::AF | F::PF);
        check(Alu::Add, 4, 0x7fff_ffff, 1, 0x8000_0000, F::OF | F::SF | F::AF | F::PF);
        check(Alu::Sub, 4, 0, 1, 0xffff_ffff, F::CF | F::SF | F::AF | F::PF);
        check(Alu::Cmp, 2, 0x8000, 1, 0x7fff, F::OF | F::AF | F::PF);
        check(Alu::Or, 8, 1 << 63, 1, 1 << 63 | 1, F::SF);
        check(Alu::And, 4, 0xf_0100, 0xff, 0, F::ZF | F::PF);
        check(Alu::Test, 4, 0xf_0100, 0x100, 0x100, F::PF);
        check(Alu::Xor, 4, 0xff, 0xfe, 1, F::empty());
    }

    #[test]
    fn signs_extend_from_their_size() {
        assert_eq!(sign_extend(0x80, 1), 0xffff_ffff_ffff_ff80);
        assert_eq!(sign_extend(0x7fff, 2), 0x7fff);
        assert_eq!(sign_extend(u64::MAX, 8), u64::MAX);
    }
}

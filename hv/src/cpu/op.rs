//! A decoded instruction: a function chosen at decode, and its operands resolved as far as they can be.

pub(super) use super::chain::Run;
use super::state::{Cpu, Halt, Stop};
use crate::memory::Memory;
use hv_defs::addr::Hpa;
use hv_defs::x86::Seg;

/// What comes after an op that completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// The next op of the block.
    Next,
    /// The block's end; RIP is set to its direct target.
    Taken,
    /// The block's end; RIP is set to what follows the block.
    Fall,
    /// The block's end; RIP is set to anywhere.
    Branch,
    /// As [`Flow::Branch`], and events or the mode may have changed.
    Check,
}

/// One instruction, or what stands before one.
///
/// Its function is made by [`Run::new`] of one that takes the CPU, memory and the op. Memory first, registers next, flags
/// last: one that answers [`Halt`] has changed nothing, and RIP is at its block's first instruction until the block ends.
#[derive(Clone, Copy)]
pub(super) struct Op {
    /// What it does.
    pub(super) run: Run,
    /// The immediate operand, sign-extended as the instruction has it; for direct branches the target, relative to the
    /// block's first instruction.
    pub(super) imm: u64,
    /// The displacement; with [`Op::RIP`], relative to the block's first instruction.
    pub(super) disp: u64,
    /// A number for whom `run` is: a width, a condition, flags.
    pub(super) extra: u32,
    /// Its first byte's distance from the block's first.
    pub(super) offset: u16,
    /// Instructions before it in the block.
    pub(super) before: u8,
    /// Length in bytes.
    pub(super) len: u8,
    /// The register operand that ModRM.reg names, or the first register.
    pub(super) reg: u8,
    /// The register operand that ModRM.rm names, or the second register.
    pub(super) rm: u8,
    /// Base and index registers of the memory operand.
    pub(super) base: u8,
    pub(super) index: u8,
    /// log2 of the index's scale.
    pub(super) scale: u8,
    /// The memory operand's segment.
    pub(super) seg: u8,
    /// Which parts the memory operand has.
    pub(super) parts: u8,
    /// Bits of the address.
    pub(super) address_bits: u8,
}

const _: () = assert!(size_of::<Op>() == 40, "ops are read from beginning to end of a block: bytes count");

impl Op {
    /// The memory operand has a base register.
    pub(super) const BASE: u8 = 1;
    /// It has an index register.
    pub(super) const INDEX: u8 = 2;
    /// It is relative to RIP.
    pub(super) const RIP: u8 = 4;
    /// In 64-bit code, its segment has a base.
    pub(super) const SEG: u8 = 8;
    /// There is none: its place, the displacement's, is the blocks' that follow a direct branch. See [`super::chain`].
    pub(super) const DIRECT: u8 = 16;

    /// No operands, and nothing to do that is there.
    pub(super) const BLANK: Self = Self {
        run: Run::END,
        imm: 0,
        disp: 0,
        extra: 0,
        offset: 0,
        before: 0,
        len: 0,
        reg: 0,
        rm: 0,
        base: 0,
        index: 0,
        scale: 0,
        seg: 3,
        parts: 0,
        address_bits: 64,
    };

    /// What ends a row of `count` instructions and `bytes` bytes. It counts for none.
    pub(super) const fn end(bytes: u16, count: u8) -> Self {
        Self { offset: bytes, before: count, parts: Self::DIRECT, ..Self::BLANK }
    }

    /// Whether the memory operand has a part.
    #[inline(always)]
    pub(super) fn has(&self, part: u8) -> bool {
        self.parts & part != 0
    }

    /// RIP of the instruction after it.
    #[inline(always)]
    pub(super) fn next(&self, cpu: &Cpu) -> u64 {
        cpu.rip.wrapping_add(u64::from(self.offset) + u64::from(self.len))
    }

    /// Its own RIP.
    #[inline(always)]
    pub(super) fn rip(&self, cpu: &Cpu) -> u64 {
        cpu.rip.wrapping_add(u64::from(self.offset))
    }

    /// Instructions retired before it.
    #[inline(always)]
    pub(super) fn now(&self, cpu: &Cpu) -> u64 {
        cpu.exec.now + u64::from(self.before)
    }

    /// The segment of its memory operand.
    #[inline(always)]
    pub(super) fn seg(&self) -> Seg {
        seg(self.seg)
    }
}

/// The segment register of that number.
#[inline(always)]
pub(super) fn seg(number: u8) -> Seg {
    match number {
        0 => Seg::Es,
        1 => Seg::Cs,
        2 => Seg::Ss,
        3 => Seg::Ds,
        4 => Seg::Fs,
        _ => Seg::Gs,
    }
}

/// An operand's width. Values are `u64`s whose bits above the width are zero.
pub(super) trait Width: 'static {
    /// Bits.
    const BITS: u32;
    /// Bytes.
    const BYTES: u64 = Self::BITS as u64 / 8;
    /// All ones.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);
    /// See [`Fast`].
    const FAST: bool = false;

    /// A register's value.
    fn get(cpu: &Cpu, reg: u8) -> u64;
    /// Sets a register, as the width has it: 32 bits clear the upper half, 8 and 16 leave the rest.
    fn set(cpu: &mut Cpu, reg: u8, value: u64);

    /// Reads from memory.
    fn read(memory: &Memory, at: Hpa) -> u64;
    /// Writes to memory where that needs no more than it.
    fn store(memory: &mut Memory, at: Hpa, value: u64);

    /// Extends the sign.
    #[inline(always)]
    fn sext(value: u64) -> u64 {
        ((value << (64 - Self::BITS)) as i64 >> (64 - Self::BITS)) as u64
    }

    /// The top bit.
    #[inline(always)]
    fn sign(value: u64) -> bool {
        value >> (Self::BITS - 1) & 1 != 0
    }
}

/// 8 bits. Registers 16 to 19 are AH, CH, DH, BH.
pub(super) enum W8 {}
/// 16 bits.
pub(super) enum W16 {}
/// 32 bits.
pub(super) enum W32 {}
/// 64 bits.
pub(super) enum W64 {}

/// A width for the first try of an op: an access that the front cache does not answer, or a check that fails, answers
/// [`Halt`] at once and leaves no word why, so that the function has no call in it. The second try is without.
pub(super) struct Fast<W>(core::marker::PhantomData<W>);

impl<W: Width> Width for Fast<W> {
    const BITS: u32 = W::BITS;
    const FAST: bool = true;

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        W::get(cpu, reg)
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        W::set(cpu, reg, value);
    }

    #[inline(always)]
    fn read(memory: &Memory, at: Hpa) -> u64 {
        W::read(memory, at)
    }

    #[inline(always)]
    fn store(memory: &mut Memory, at: Hpa, value: u64) {
        W::store(memory, at, value);
    }
}

impl Width for W8 {
    const BITS: u32 = 8;

    #[inline(always)]
    fn read(memory: &Memory, at: Hpa) -> u64 {
        u64::from(memory.read::<u8>(at))
    }

    #[inline(always)]
    fn store(memory: &mut Memory, at: Hpa, value: u64) {
        memory.store(at, value as u8);
    }

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        cpu.regs.gpr[usize::from(reg & 15)] >> ((reg & 16) >> 1) & 0xff
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        let shift = (reg & 16) >> 1;
        let gpr = &mut cpu.regs.gpr[usize::from(reg & 15)];
        *gpr = *gpr & !(0xff << shift) | (value & 0xff) << shift;
    }
}

impl Width for W16 {
    const BITS: u32 = 16;

    #[inline(always)]
    fn read(memory: &Memory, at: Hpa) -> u64 {
        u64::from(memory.read::<u16>(at))
    }

    #[inline(always)]
    fn store(memory: &mut Memory, at: Hpa, value: u64) {
        memory.store(at, value as u16);
    }

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        cpu.regs.gpr[usize::from(reg & 15)] & 0xffff
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        let gpr = &mut cpu.regs.gpr[usize::from(reg & 15)];
        *gpr = *gpr & !0xffff | value & 0xffff;
    }
}

impl Width for W32 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn read(memory: &Memory, at: Hpa) -> u64 {
        u64::from(memory.read::<u32>(at))
    }

    #[inline(always)]
    fn store(memory: &mut Memory, at: Hpa, value: u64) {
        memory.store(at, value as u32);
    }

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        u64::from(cpu.regs.gpr[usize::from(reg & 15)] as u32)
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        cpu.regs.gpr[usize::from(reg & 15)] = u64::from(value as u32);
    }
}

impl Width for W64 {
    const BITS: u32 = 64;

    #[inline(always)]
    fn read(memory: &Memory, at: Hpa) -> u64 {
        memory.read::<u64>(at)
    }

    #[inline(always)]
    fn store(memory: &mut Memory, at: Hpa, value: u64) {
        memory.store(at, value);
    }

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        cpu.regs.gpr[usize::from(reg & 15)]
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        cpu.regs.gpr[usize::from(reg & 15)] = value;
    }
}

/// Where a memory operand lies, as its parts allow to compute it.
pub(super) trait Ea: 'static {
    /// Whether it is known that the segment needs no check, so that only translation can fault.
    const FLAT: bool;

    /// The linear address, before any check where [`Ea::FLAT`], else the offset in the segment.
    fn address(cpu: &Cpu, op: &Op) -> u64;
}

/// 64-bit: base + displacement.
pub(super) enum Base {}
/// 64-bit: base + scaled index + displacement.
pub(super) enum Sib {}
/// 64-bit: RIP + displacement.
pub(super) enum Rip {}
/// 64-bit: anything, segment base and address size included.
pub(super) enum Any64 {}
/// 16- and 32-bit code: the offset in a segment.
pub(super) enum Offset {}

impl Ea for Base {
    const FLAT: bool = true;

    #[inline(always)]
    fn address(cpu: &Cpu, op: &Op) -> u64 {
        cpu.regs.gpr[usize::from(op.base & 15)].wrapping_add(op.disp)
    }
}

impl Ea for Sib {
    const FLAT: bool = true;

    #[inline(always)]
    fn address(cpu: &Cpu, op: &Op) -> u64 {
        let index = cpu.regs.gpr[usize::from(op.index & 15)] << (op.scale & 3);
        cpu.regs.gpr[usize::from(op.base & 15)].wrapping_add(index).wrapping_add(op.disp)
    }
}

impl Ea for Rip {
    const FLAT: bool = true;

    #[inline(always)]
    fn address(cpu: &Cpu, op: &Op) -> u64 {
        cpu.rip.wrapping_add(op.disp)
    }
}

/// The value, if the op's memory operand has that part.
#[inline(always)]
fn part(op: &Op, part: u8, value: u64) -> u64 {
    if op.has(part) { value } else { 0 }
}

/// The offset in the segment, for any parts.
#[inline(always)]
pub(super) fn offset(cpu: &Cpu, op: &Op) -> u64 {
    let base = part(op, Op::BASE, cpu.regs.gpr[usize::from(op.base & 15)]);
    let index = part(op, Op::INDEX, cpu.regs.gpr[usize::from(op.index & 15)]) << (op.scale & 3);
    let rip = part(op, Op::RIP, cpu.rip);
    let unused = 64 - u32::from(op.address_bits);
    base.wrapping_add(index).wrapping_add(rip).wrapping_add(op.disp) << (unused & 63) >> (unused & 63)
}

impl Ea for Any64 {
    const FLAT: bool = true;

    #[inline(always)]
    fn address(cpu: &Cpu, op: &Op) -> u64 {
        let base = part(op, Op::SEG, cpu.seg[usize::from(op.seg).min(5)].base);
        offset(cpu, op).wrapping_add(base)
    }
}

impl Ea for Offset {
    const FLAT: bool = false;

    #[inline(always)]
    fn address(cpu: &Cpu, op: &Op) -> u64 {
        offset(cpu, op)
    }
}

/// An op that is not there: it ends the run with a report.
pub(super) fn unsupported(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    cpu.exec.stop = Stop::Unsupported(String::new());
    Err(Halt)
}

/// An encoding that is none: #UD.
pub(super) fn undefined(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    cpu.ud()
}

//! MMX, SSE to SSE4.2, AES, PCLMULQDQ, SHA, AVX, AVX2 and FMA.
//!
//! Every form with a destination and two sources is brought to one shape by [`three`]: the destination in `op.reg`, the
//! first source in `op.rm`, the second in `op.index` or in memory. A legacy form's first source is its destination.
//! What the functions compute is [`crate::cpu::lanes`]' and [`crate::cpu::float`]'s.

mod avx;
mod convert;
mod float;
mod gather;
mod moves;
mod packed;
mod scalar;
mod shifts;
mod state;

use crate::cpu::decode::Form;
use crate::cpu::guard::{Guard, Intercept, Legal};
use crate::cpu::op::{Flow, Op, Run, W32, W64};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::{Cr0, Cr4, Rflags, Vector};
use iced_x86::{EncodingKind, Instruction, OpKind};

/// The row of a vector instruction, if it is there.
pub(in crate::cpu) fn row(i: &Instruction) -> Option<Row> {
    moves::row(i)
        .or_else(|| packed::row(i))
        .or_else(|| shifts::row(i))
        .or_else(|| float::row(i))
        .or_else(|| convert::row(i))
        .or_else(|| scalar::row(i))
        .or_else(|| avx::row(i))
        .or_else(|| gather::row(i))
        .or_else(|| state::row(i))
}

/// A row of an instruction that anyone may run and that never exits.
fn plain(build: fn(&mut Form) -> Option<Run>) -> Option<Row> {
    Some(Row { guard: Guard { legal: Legal::Any, intercept: Intercept::Never }, build, ends: false })
}

/// Where in the XSAVE image things lie.
const X87: usize = 32;
const XMM: usize = 160;
const YMM_HIGH: usize = 576;
const MXCSR: usize = 24;

impl Cpu {
    #[inline(always)]
    fn image16(&self, at: usize) -> u128 {
        let bytes: &[u8; 16] = self.regs.extended.0[at..at + 16].try_into().unwrap_or(&[0; 16]);
        u128::from_le_bytes(*bytes)
    }

    #[inline(always)]
    fn set_image16(&mut self, at: usize, value: u128) {
        self.regs.extended.0[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }

    /// An XMM register.
    #[inline(always)]
    pub(in crate::cpu) fn xmm(&self, number: u8) -> u128 {
        self.image16(XMM + 16 * usize::from(number & 15))
    }

    /// Sets an XMM register and leaves the rest of its YMM register.
    #[inline(always)]
    pub(in crate::cpu) fn set_xmm(&mut self, number: u8, value: u128) {
        self.set_image16(XMM + 16 * usize::from(number & 15), value);
    }

    /// The upper half of a YMM register.
    #[inline(always)]
    fn ymm_high(&self, number: u8) -> u128 {
        self.image16(YMM_HIGH + 16 * usize::from(number & 15))
    }

    /// Sets the upper half of a YMM register.
    #[inline(always)]
    fn set_ymm_high(&mut self, number: u8, value: u128) {
        self.set_image16(YMM_HIGH + 16 * usize::from(number & 15), value);
    }

    /// An MMX register.
    fn mm(&self, number: u8) -> u64 {
        self.image16(X87 + 16 * usize::from(number & 7)) as u64
    }

    /// Sets an MMX register: as an x87 register it becomes a NaN or an infinity.
    fn set_mm(&mut self, number: u8, value: u64) {
        self.set_image16(X87 + 16 * usize::from(number & 7), u128::from(value) | 0xffff << 64);
    }

    /// MXCSR.
    #[inline(always)]
    fn mxcsr(&self) -> u32 {
        let bytes: &[u8; 4] = self.regs.extended.0[MXCSR..MXCSR + 4].try_into().unwrap_or(&[0; 4]);
        u32::from_le_bytes(*bytes)
    }

    /// Sets MXCSR.
    #[inline(always)]
    fn set_mxcsr(&mut self, value: u32) {
        self.regs.extended.0[MXCSR..MXCSR + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Whether SSE instructions may run: #UD and #NM.
    #[inline(always)]
    fn sse(&mut self) -> Result<(), Halt> {
        let off = self.cr0 & (Cr0::EM | Cr0::TS).bits() | !self.cr4 & Cr4::OSFXSR.bits();
        if off == 0 { Ok(()) } else { self.sse_off() }
    }

    #[cold]
    fn sse_off(&mut self) -> Result<(), Halt> {
        if self.cr0 & Cr0::EM.bits() != 0 || !self.has_cr4(Cr4::OSFXSR) {
            return self.ud();
        }
        self.fault(Vector::NM, None)
    }

    /// Whether AVX instructions may run.
    #[inline(always)]
    fn avx(&mut self) -> Result<(), Halt> {
        if !self.has_cr4(Cr4::OSXSAVE) || self.regs.xcr0 & 6 != 6 || !self.protected() || self.v86() {
            return self.ud();
        }
        if self.cr0 & Cr0::TS.bits() != 0 { self.fault(Vector::NM, None) } else { Ok(()) }
    }

    /// Whether MMX instructions may run: #UD, #NM, and #MF for a pending x87 exception.
    fn mmx(&mut self) -> Result<(), Halt> {
        if self.cr0 & Cr0::EM.bits() != 0 {
            return self.ud();
        }
        if self.cr0 & Cr0::TS.bits() != 0 {
            return self.fault(Vector::NM, None);
        }
        self.x87_pending()
    }

    /// What an MMX instruction does to the x87 state: the stack's top is 0 and every register is in use.
    fn enter_mmx(&mut self) {
        self.regs.extended.0[3] &= !0x38;
        self.regs.extended.0[4] = 0xff;
    }

    /// Makes accesses whose alignment is not checked, whatever RFLAGS.AC says.
    fn unaligned<T>(&mut self, access: impl FnOnce(&mut Self) -> Result<T, Halt>) -> Result<T, Halt> {
        let checked = self.user() && self.flags.has(Rflags::AC);
        if !checked {
            return access(self);
        }
        self.flags.put(Rflags::AC, false);
        let done = access(self);
        self.flags.put(Rflags::AC, true);
        done
    }

    /// The linear address of a 16-byte operand. That it is not aligned comes before a limit that it is beyond.
    #[inline(always)]
    fn operand16(&mut self, op: &Op, aligned: bool, write: bool) -> Result<u64, Halt> {
        match self.operand(op, 16, write) {
            Ok(at) if !aligned || at & 15 == 0 => Ok(at),
            Err(halt) if !aligned || self.is_aligned16(op) => Err(halt),
            _ => self.gp(),
        }
    }

    #[cold]
    fn is_aligned16(&self, op: &Op) -> bool {
        let base = self.seg[op.seg() as usize].base;
        crate::cpu::op::offset(self, op).wrapping_add(if self.code64() { 0 } else { base }) & 15 == 0
    }

    /// Reads a 16-byte memory operand, which a legacy instruction wants aligned.
    #[inline(always)]
    fn read128(&mut self, memory: &mut Memory, op: &Op, aligned: bool) -> Result<u128, Halt> {
        let at = self.operand16(op, aligned, false)?;
        self.load128(memory, op.seg(), at)
    }

    /// Reads a 32-byte memory operand.
    fn read256(&mut self, memory: &mut Memory, op: &Op) -> Result<(u128, u128), Halt> {
        let at = self.operand(op, 32, false)?;
        Ok((self.load128(memory, op.seg(), at)?, self.load128(memory, op.seg(), at.wrapping_add(16))?))
    }

    /// Reads a memory operand of 8 bytes or fewer.
    fn read_small(&mut self, memory: &mut Memory, op: &Op, bytes: u64) -> Result<u64, Halt> {
        use crate::cpu::op::{W8, W16};
        let offset = crate::cpu::op::offset(self, op);
        match bytes {
            1 => self.read_seg::<W8>(memory, op.seg(), offset),
            2 => self.read_seg::<W16>(memory, op.seg(), offset),
            4 => self.read_seg::<W32>(memory, op.seg(), offset),
            _ => self.read_seg::<W64>(memory, op.seg(), offset),
        }
    }

    /// Writes a memory operand of 8 bytes or fewer.
    fn write_small(&mut self, memory: &mut Memory, op: &Op, bytes: u64, value: u64) -> Result<(), Halt> {
        use crate::cpu::op::{W8, W16};
        let offset = crate::cpu::op::offset(self, op);
        match bytes {
            1 => self.write_seg::<W8>(memory, op.seg(), offset, value),
            2 => self.write_seg::<W16>(memory, op.seg(), offset, value),
            4 => self.write_seg::<W32>(memory, op.seg(), offset, value),
            _ => self.write_seg::<W64>(memory, op.seg(), offset, value),
        }
    }

    /// Writes a 16-byte memory operand, which a legacy instruction may want aligned.
    fn write128(&mut self, memory: &mut Memory, op: &Op, aligned: bool, value: u128) -> Result<(), Halt> {
        let at = self.operand16(op, aligned, true)?;
        self.store128(memory, op.seg(), at, value)
    }

    /// Sets the destination of an instruction in VEX encoding: what it does not write is zero.
    #[inline(always)]
    fn set_vex(&mut self, number: u8, low: u128, high: u128) {
        self.set_xmm(number, low);
        self.set_ymm_high(number, high);
    }
}

/// How a vector instruction is encoded, and how wide it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Mmx,
    Legacy,
    Vex128,
    Vex256,
}

fn encoding(form: &Form) -> Encoding {
    let i = form.instruction;
    let registers = (0..i.op_count()).filter(|&operand| i.op_kind(operand) == OpKind::Register);
    let any = |test: fn(iced_x86::Register) -> bool| registers.clone().any(|operand| test(i.op_register(operand)));
    match i.encoding() {
        EncodingKind::VEX if any(iced_x86::Register::is_ymm) => Encoding::Vex256,
        EncodingKind::VEX => Encoding::Vex128,
        _ if any(iced_x86::Register::is_mm) => Encoding::Mmx,
        _ => Encoding::Legacy,
    }
}

/// Whether a form is in VEX encoding.
fn vex(form: &Form) -> bool {
    matches!(encoding(form), Encoding::Vex128 | Encoding::Vex256)
}

/// Whether the last operand that is no immediate lies in memory.
fn memory_source(form: &Form) -> bool {
    let i = form.instruction;
    (0..i.op_count()).any(|operand| i.op_kind(operand) == OpKind::Memory)
}

/// Brings a form to the shape "destination, first source, second source" (see the module's words), and tells its
/// encoding and whether the second source lies in memory.
fn three(form: &mut Form) -> (Encoding, bool) {
    let encoding = encoding(form);
    let in_memory = memory_source(form);
    form.op.extra = form.instruction.memory_size().size() as u32;
    let registers: Vec<u8> = (0..form.instruction.op_count())
        .filter(|&operand| form.kind(operand) == OpKind::Register)
        .map(|operand| form.register(operand))
        .collect();
    let at = |index: usize| registers.get(index).copied().unwrap_or(0);
    form.op.reg = at(0);
    let vex = matches!(encoding, Encoding::Vex128 | Encoding::Vex256);
    // A VEX form with one source has it where the others have their second.
    let one_source = vex && registers.len() + usize::from(in_memory) == 2;
    if one_source || !vex {
        form.op.rm = at(0);
        if !in_memory {
            form.op.index = at(1);
        }
    } else {
        form.op.rm = at(1);
        if !in_memory {
            form.op.index = at(2);
        }
    }
    (encoding, in_memory)
}

/// A function of two 128-bit lanes of an instruction.
trait Binary: 'static {
    fn eval(a: u128, b: u128) -> u128;

    /// On MMX registers.
    fn mmx(a: u64, b: u64) -> u64 {
        Self::eval(a.into(), b.into()) as u64
    }
}

/// A function of two 128-bit lanes and the immediate.
trait Immediate: 'static {
    fn eval(a: u128, b: u128, immediate: u8) -> u128;

    /// On MMX registers.
    fn mmx(a: u64, b: u64, immediate: u8) -> u64 {
        Self::eval(a.into(), b.into(), immediate) as u64
    }
}

/// A [`Binary`] is an [`Immediate`] that does not look at it.
impl<B: Binary> Immediate for B {
    #[inline(always)]
    fn eval(a: u128, b: u128, _: u8) -> u128 {
        B::eval(a, b)
    }

    #[inline(always)]
    fn mmx(a: u64, b: u64, _: u8) -> u64 {
        B::mmx(a, b)
    }
}

fn run_legacy<F: Immediate, const MEM: bool>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.sse()?;
    let b = if MEM { cpu.read128(memory, op, true)? } else { cpu.xmm(op.index) };
    let value = F::eval(cpu.xmm(op.rm), b, op.imm as u8);
    cpu.set_xmm(op.reg, value);
    Ok(Flow::Next)
}

/// The second source of a VEX instruction: its low and its high lane.
#[inline(always)]
fn vex_source<const MEM: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<(u128, u128), Halt> {
    Ok(match (MEM, WIDE) {
        (true, true) => cpu.read256(memory, op)?,
        (true, false) => (cpu.read128(memory, op, false)?, 0),
        (false, _) => (cpu.xmm(op.index), cpu.ymm_high(op.index)),
    })
}

fn run_vex<F: Immediate, const MEM: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    cpu.avx()?;
    let (low, high) = vex_source::<MEM, WIDE>(cpu, memory, op)?;
    let upper = if WIDE { F::eval(cpu.ymm_high(op.rm), high, op.imm as u8) } else { 0 };
    let lower = F::eval(cpu.xmm(op.rm), low, op.imm as u8);
    cpu.set_vex(op.reg, lower, upper);
    Ok(Flow::Next)
}

fn run_mmx<F: Immediate, const MEM: bool>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.mmx()?;
    let b = if MEM { cpu.read_small(memory, op, u64::from(op.extra))? } else { cpu.mm(op.index) };
    let value = F::mmx(cpu.mm(op.rm), b, op.imm as u8);
    cpu.enter_mmx();
    cpu.set_mm(op.reg, value);
    Ok(Flow::Next)
}

/// The builder for instructions that are an [`Immediate`] or a [`Binary`].
fn packed<F: Immediate>(form: &mut Form) -> Option<Run> {
    let (encoding, in_memory) = three(form);
    Some(match (encoding, in_memory) {
        (Encoding::Mmx, false) => Run::new(run_mmx::<F, false>),
        (Encoding::Mmx, true) => Run::new(run_mmx::<F, true>),
        (Encoding::Legacy, false) => Run::new(run_legacy::<F, false>),
        (Encoding::Legacy, true) => Run::new(run_legacy::<F, true>),
        (Encoding::Vex128, false) => Run::new(run_vex::<F, false, false>),
        (Encoding::Vex128, true) => Run::new(run_vex::<F, true, false>),
        (Encoding::Vex256, false) => Run::new(run_vex::<F, false, true>),
        (Encoding::Vex256, true) => Run::new(run_vex::<F, true, true>),
    })
}

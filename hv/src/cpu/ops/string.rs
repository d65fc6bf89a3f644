//! String instructions: MOVS, CMPS, STOS, LODS, SCAS, with and without a repeat prefix.
//!
//! An iteration is no instruction: a repeated one counts once, when it is complete, and once more for each 65536
//! iterations, so that no guest keeps the clock from moving. A fault in an iteration leaves the
//! ones before it done, the counter and the pointers at it, and RIP at the instruction.

use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run, W8, W16, W32, W64, Width};
use crate::cpu::ops::alu;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::{Rflags, Seg};

/// Iterations after which a repeated instruction counts and begins anew where it is.
const CHUNK: u32 = 1 << 16;

/// No prefix, REP or REPE, REPNE.
const ONCE: u32 = 0;
const REPEAT: u32 = 1;
const REPEAT_NE: u32 = 2;

/// What one iteration does, whose source is at `si` in the op's segment and whose destination at `di` in ES.
pub(in crate::cpu) trait Iteration: 'static {
    /// Whether it moves rSI and rDI.
    const SOURCE: bool;
    const DESTINATION: bool;
    /// Whether a repeat looks at ZF.
    const COMPARES: bool = false;

    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op, si: u64, di: u64) -> Result<(), Halt>;
}

pub(in crate::cpu) enum Movs {}
pub(in crate::cpu) enum Cmps {}
pub(in crate::cpu) enum Stos {}
pub(in crate::cpu) enum Lods {}
pub(in crate::cpu) enum Scas {}

impl Iteration for Movs {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op, si: u64, di: u64) -> Result<(), Halt> {
        let value = cpu.read_seg::<W>(memory, op.seg(), si)?;
        cpu.write_seg::<W>(memory, Seg::Es, di, value)
    }
}

impl Iteration for Cmps {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op, si: u64, di: u64) -> Result<(), Halt> {
        // The destination's fault comes first.
        let b = cpu.read_seg::<W>(memory, Seg::Es, di)?;
        let a = cpu.read_seg::<W>(memory, op.seg(), si)?;
        alu::sub::<W>(&mut cpu.flags, a, b, 0);
        Ok(())
    }
}

impl Iteration for Stos {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, _: &Op, _: u64, di: u64) -> Result<(), Halt> {
        let value = W::get(cpu, 0);
        cpu.write_seg::<W>(memory, Seg::Es, di, value)
    }
}

impl Iteration for Lods {
    const SOURCE: bool = true;
    const DESTINATION: bool = false;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op, si: u64, _: u64) -> Result<(), Halt> {
        let value = cpu.read_seg::<W>(memory, op.seg(), si)?;
        W::set(cpu, 0, value);
        Ok(())
    }
}

impl Iteration for Scas {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, _: &Op, _: u64, di: u64) -> Result<(), Halt> {
        let a = W::get(cpu, 0);
        let b = cpu.read_seg::<W>(memory, Seg::Es, di)?;
        alu::sub::<W>(&mut cpu.flags, a, b, 0);
        Ok(())
    }
}

fn run<I: Iteration, W: Width, A: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let step = if cpu.flags.has(Rflags::DF) { W::BYTES.wrapping_neg() } else { W::BYTES };
    let advance = |cpu: &mut Cpu| {
        if I::SOURCE {
            let to = A::get(cpu, 6).wrapping_add(step);
            A::set(cpu, 6, to & A::MASK);
        }
        if I::DESTINATION {
            let to = A::get(cpu, 7).wrapping_add(step);
            A::set(cpu, 7, to & A::MASK);
        }
    };
    if op.extra == ONCE {
        let (si, di) = (A::get(cpu, 6), A::get(cpu, 7));
        I::step::<W>(cpu, memory, op, si, di)?;
        advance(cpu);
        return Ok(Flow::Next);
    }
    // A fault of a comparison leaves the flags as before the first iteration.
    let flags = cpu.flags;
    for _ in 0..CHUNK {
        let count = A::get(cpu, 1);
        if count == 0 {
            // A 32-bit counter clears its upper half, done or not.
            return Ok(Flow::Next);
        }
        let (si, di) = (A::get(cpu, 6), A::get(cpu, 7));
        if let Err(halt) = I::step::<W>(cpu, memory, op, si, di) {
            cpu.flags = flags;
            return Err(halt);
        }
        advance(cpu);
        A::set(cpu, 1, count - 1);
        if I::COMPARES && cpu.flags.zf() != (op.extra == REPEAT) {
            return Ok(Flow::Next);
        }
    }
    cpu.rip = op.rip(cpu);
    Ok(Flow::Branch)
}

fn build<I: Iteration>(form: &mut Form) -> Option<Run> {
    let i = form.instruction;
    form.op.extra = match (i.has_repne_prefix(), i.has_rep_prefix()) {
        (true, _) if I::COMPARES => REPEAT_NE,
        (false, false) => ONCE,
        _ => REPEAT,
    };
    let width = form.size(0).max(form.size(1));
    Some(match (form.address_size(), width) {
        (2, 1) => Run::new(run::<I, W8, W16>),
        (2, 2) => Run::new(run::<I, W16, W16>),
        (2, _) => Run::new(run::<I, W32, W16>),
        (4, 1) => Run::new(run::<I, W8, W32>),
        (4, 2) => Run::new(run::<I, W16, W32>),
        (4, 4) => Run::new(run::<I, W32, W32>),
        (4, _) => Run::new(run::<I, W64, W32>),
        (_, 1) => Run::new(run::<I, W8, W64>),
        (_, 2) => Run::new(run::<I, W16, W64>),
        (_, 4) => Run::new(run::<I, W32, W64>),
        _ => Run::new(run::<I, W64, W64>),
    })
}

pub(in crate::cpu) fn movs(form: &mut Form) -> Option<Run> {
    build::<Movs>(form)
}

pub(in crate::cpu) fn cmps(form: &mut Form) -> Option<Run> {
    build::<Cmps>(form)
}

pub(in crate::cpu) fn stos(form: &mut Form) -> Option<Run> {
    build::<Stos>(form)
}

pub(in crate::cpu) fn lods(form: &mut Form) -> Option<Run> {
    build::<Lods>(form)
}

pub(in crate::cpu) fn scas(form: &mut Form) -> Option<Run> {
    build::<Scas>(form)
}

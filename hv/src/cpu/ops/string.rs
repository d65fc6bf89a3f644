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
use crate::mmu::Access;
use hv_defs::addr::PAGE_SIZE;
use hv_defs::x86::{Rflags, Seg};

/// Iterations after which a repeated instruction counts and begins anew where it is.
const CHUNK: u64 = 1 << 16;

/// No prefix, REP or REPE, REPNE.
const ONCE: u32 = 0;
const REPEAT: u32 = 1;
const REPEAT_NE: u32 = 2;

/// Where the two segments lie.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Bases {
    /// In 64-bit code, where the source's segment begins; the destination's begins at 0.
    flat: Option<u64>,
    /// The source's segment.
    seg: Seg,
}

impl Bases {
    fn new(cpu: &Cpu, op: &Op) -> Self {
        let seg = op.seg();
        let base = if matches!(seg, Seg::Fs | Seg::Gs) { cpu.seg[seg as usize].base } else { 0 };
        Self { flat: cpu.code64().then_some(base), seg }
    }

    /// Reads from the source.
    #[inline(always)]
    fn source<W: Width>(self, cpu: &mut Cpu, memory: &mut Memory, si: u64) -> Result<u64, Halt> {
        match self.flat {
            Some(base) => cpu.load::<W>(memory, self.seg, base.wrapping_add(si)),
            None => cpu.read_seg::<W>(memory, self.seg, si),
        }
    }

    /// Reads from the destination.
    #[inline(always)]
    fn destination<W: Width>(self, cpu: &mut Cpu, memory: &mut Memory, di: u64) -> Result<u64, Halt> {
        match self.flat {
            Some(_) => cpu.load::<W>(memory, Seg::Es, di),
            None => cpu.read_seg::<W>(memory, Seg::Es, di),
        }
    }

    /// Writes to the destination.
    #[inline(always)]
    fn store<W: Width>(self, cpu: &mut Cpu, memory: &mut Memory, di: u64, value: u64) -> Result<(), Halt> {
        match self.flat {
            Some(_) => cpu.store::<W>(memory, Seg::Es, di, value),
            None => cpu.write_seg::<W>(memory, Seg::Es, di, value),
        }
    }
}

/// What one iteration does, whose source is at `si` and whose destination at `di`.
pub(in crate::cpu) trait Iteration: 'static {
    /// Whether it moves rSI and rDI.
    const SOURCE: bool;
    const DESTINATION: bool;
    /// Whether a repeat looks at ZF.
    const COMPARES: bool = false;

    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, bases: Bases, si: u64, di: u64) -> Result<(), Halt>;

    /// Does up to `most` iterations at once, upwards in 64-bit code, where each of them would be answered by the front
    /// cache; tells how many it did. `base` is the source's segment's.
    fn many<W: Width>(_cpu: &mut Cpu, _memory: &mut Memory, _base: u64, _si: u64, _di: u64, _most: u64) -> u64 {
        0
    }
}

/// How many elements there are from an address to its page's end, `most` at most.
fn room<W: Width>(at: u64, most: u64) -> u64 {
    most.min((PAGE_SIZE - at % PAGE_SIZE) / W::BYTES)
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
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, bases: Bases, si: u64, di: u64) -> Result<(), Halt> {
        let value = bases.source::<W>(cpu, memory, si)?;
        bases.store::<W>(cpu, memory, di, value)
    }

    #[inline]
    fn many<W: Width>(cpu: &mut Cpu, memory: &mut Memory, base: u64, si: u64, di: u64, most: u64) -> u64 {
        let from = base.wrapping_add(si);
        let count = room::<W>(di, room::<W>(from, most));
        let bytes = count * W::BYTES;
        if count < 2 {
            return 0;
        }
        let Some(source) = cpu.mmu.fast(Access::Read, from, bytes) else { return 0 };
        let Some(target) = cpu.mmu.fast(Access::Write, di, bytes) else { return 0 };
        // A destination within the source is read again by later iterations.
        if source < target && target < source.offset(bytes) || !memory.copy(source, target, bytes) {
            return 0;
        }
        count
    }
}

impl Iteration for Cmps {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, bases: Bases, si: u64, di: u64) -> Result<(), Halt> {
        // The destination's fault comes first.
        let b = bases.destination::<W>(cpu, memory, di)?;
        let a = bases.source::<W>(cpu, memory, si)?;
        alu::sub::<W>(&mut cpu.flags, a, b, 0);
        Ok(())
    }
}

impl Iteration for Stos {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, bases: Bases, _: u64, di: u64) -> Result<(), Halt> {
        let value = W::get(cpu, 0);
        bases.store::<W>(cpu, memory, di, value)
    }

    #[inline]
    fn many<W: Width>(cpu: &mut Cpu, memory: &mut Memory, _: u64, _: u64, di: u64, most: u64) -> u64 {
        let count = room::<W>(di, most);
        if count < 2 {
            return 0;
        }
        let Some(target) = cpu.mmu.fast(Access::Write, di, count * W::BYTES) else { return 0 };
        let value = W::get(cpu, 0);
        for at in 0..count {
            W::store(memory, target.offset(at * W::BYTES), value);
        }
        count
    }
}

impl Iteration for Lods {
    const SOURCE: bool = true;
    const DESTINATION: bool = false;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, bases: Bases, si: u64, _: u64) -> Result<(), Halt> {
        let value = bases.source::<W>(cpu, memory, si)?;
        W::set(cpu, 0, value);
        Ok(())
    }
}

impl Iteration for Scas {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<W: Width>(cpu: &mut Cpu, memory: &mut Memory, bases: Bases, _: u64, di: u64) -> Result<(), Halt> {
        let a = W::get(cpu, 0);
        let b = bases.destination::<W>(cpu, memory, di)?;
        alu::sub::<W>(&mut cpu.flags, a, b, 0);
        Ok(())
    }
}

fn run<I: Iteration, W: Width, A: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let up = !cpu.flags.has(Rflags::DF);
    let bases = Bases::new(cpu, op);
    let advance = |cpu: &mut Cpu, elements: u64| {
        let bytes = elements * W::BYTES;
        let step = if up { bytes } else { bytes.wrapping_neg() };
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
        I::step::<W>(cpu, memory, bases, si, di)?;
        advance(cpu, 1);
        return Ok(Flow::Next);
    }
    // A fault of a comparison leaves the flags as before the first iteration.
    let flags = cpu.flags;
    let mut left = CHUNK;
    while left > 0 {
        let count = A::get(cpu, 1);
        if count == 0 {
            // A 32-bit counter clears its upper half, done or not.
            return Ok(Flow::Next);
        }
        let (si, di) = (A::get(cpu, 6), A::get(cpu, 7));
        let done = match bases.flat {
            Some(base) if up && A::BITS == 64 => I::many::<W>(cpu, memory, base, si, di, count.min(left)),
            _ => 0,
        };
        if done == 0
            && let Err(halt) = I::step::<W>(cpu, memory, bases, si, di)
        {
            cpu.flags = flags;
            return Err(halt);
        }
        let done = done.max(1);
        advance(cpu, done);
        A::set(cpu, 1, count - done);
        left -= done;
        if I::COMPARES && cpu.flags.zf() != (op.extra == REPEAT) {
            return Ok(Flow::Next);
        }
        if cpu.exec.apic_write.is_some() && count != done {
            // An iteration is an operation, and what comes of its write to the local APIC comes before the next.
            break;
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

//! Near branches: Jcc, JMP, CALL, RET, LOOP, JCXZ. Far ones are in `far`.

use crate::cpu::decode::{Form, Shape};
use crate::cpu::op::{Ea, Fast, Flow, Op, Run, W16, W32, W64, Width};
use crate::cpu::ops::fused::Part;
use crate::cpu::ops::{by_condition, by_ea, by_ea_fast, by_width, data::holds};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::{Cr4, Seg};

/// Whether an address is canonical under 4-level paging, and so under 5-level paging too.
#[inline(always)]
pub(in crate::cpu) fn is_narrow(address: u64) -> bool {
    hv_defs::addr::is_canonical(address, false)
}

impl Cpu {
    /// Whether an address is canonical under the paging that is on: the check of what is branched to or accessed.
    ///
    /// See: SDM "Canonical Addressing".
    #[inline(always)]
    pub(in crate::cpu) fn canonical(&self, address: u64) -> bool {
        is_narrow(address) || self.canonical_beyond(address, self.has_cr4(Cr4::LA57))
    }

    /// Whether an address is canonical for what only holds one: bases, MSRs, and operands of invalidations. That goes by
    /// the widest linear address that the CPU can have, whatever paging is on.
    #[inline(always)]
    pub(in crate::cpu) fn holds_canonical(&self, address: u64) -> bool {
        is_narrow(address) || self.canonical_beyond(address, self.la57)
    }

    #[cold]
    fn canonical_beyond(&self, address: u64, wide: bool) -> bool {
        hv_defs::addr::is_canonical(address, wide)
    }

    /// The target of a direct branch. In 64-bit code (`LONG`) it is the sum, else `extra` masks it and CS limits it.
    #[inline(always)]
    fn target<const LONG: bool>(&mut self, op: &Op) -> Result<u64, Halt> {
        let target = self.rip.wrapping_add(op.imm);
        if LONG {
            return if self.canonical(target) { Ok(target) } else { self.gp() };
        }
        let target = target & u64::from(op.extra);
        if target > u64::from(self.seg[Seg::Cs as usize].limit) { self.gp() } else { Ok(target) }
    }

    /// The target of an indirect branch, checked.
    #[inline(always)]
    pub(in crate::cpu) fn indirect<const LONG: bool>(&mut self, target: u64) -> Result<u64, Halt> {
        let fits = if LONG { self.canonical(target) } else { target <= u64::from(self.seg[Seg::Cs as usize].limit) };
        if fits { Ok(target) } else { self.gp() }
    }

    /// What follows the op, as the operand size has it.
    #[inline(always)]
    pub(in crate::cpu) fn fall_through<const LONG: bool>(&self, op: &Op) -> u64 {
        let next = op.next(self);
        if LONG { next } else { u64::from(next as u32) }
    }
}

fn jcc_run<const C: u8, const LONG: bool>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if holds::<C>(&cpu.flags) {
        cpu.rip = cpu.target::<LONG>(op)?;
        Ok(Flow::Taken)
    } else {
        cpu.rip = cpu.fall_through::<LONG>(op);
        Ok(Flow::Fall)
    }
}

pub(in crate::cpu) fn jcc(form: &mut Form) -> Option<Run> {
    form.branch()?;
    let c = form.condition();
    if form.mode.long() {
        form.part = Part::Branch(c);
    }
    Some(if form.mode.long() {
        by_condition!(c, just!(), jcc_run::<true>)
    } else {
        by_condition!(c, just!(), jcc_run::<false>)
    })
}

fn jmp_direct<const LONG: bool>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.rip = cpu.target::<LONG>(op)?;
    Ok(Flow::Taken)
}

fn jmp_r<const LONG: bool, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let target = W::get(cpu, op.reg);
    cpu.rip = cpu.indirect::<LONG>(target)?;
    Ok(Flow::Branch)
}

fn jmp_m<const LONG: bool, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let target = cpu.read::<W, E>(memory, op)?;
    cpu.rip = cpu.indirect::<LONG>(target)?;
    Ok(Flow::Branch)
}

pub(in crate::cpu) fn jmp(form: &mut Form) -> Option<Run> {
    Some(match (form.shape(), form.mode.long()) {
        (Shape::Near, true) => {
            form.branch()?;
            Run::new(jmp_direct::<true>)
        }
        (Shape::Near, false) => {
            form.branch()?;
            Run::new(jmp_direct::<false>)
        }
        (Shape::Reg, true) => by_width!(form.width, jmp_r::<true>),
        (Shape::Reg, false) => by_width!(form.width, jmp_r::<false>),
        (Shape::Mem, true) => by_ea_fast!(form.ea, form.width, jmp_m::<true>),
        (Shape::Mem, false) => by_ea!(form.ea, form.width, jmp_m::<false>),
        _ => return None,
    })
}

fn call_direct<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let target = cpu.target::<LONG>(op)?;
    let back = cpu.fall_through::<LONG>(op);
    cpu.push::<LONG, W>(memory, back)?;
    cpu.rip = target;
    Ok(Flow::Taken)
}

fn call_r<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let target = W::get(cpu, op.reg);
    let target = cpu.indirect::<LONG>(target)?;
    let back = cpu.fall_through::<LONG>(op);
    cpu.push::<LONG, W>(memory, back)?;
    cpu.rip = target;
    Ok(Flow::Branch)
}

fn call_m<const LONG: bool, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let target = cpu.read::<W, E>(memory, op)?;
    let target = cpu.indirect::<LONG>(target)?;
    let back = cpu.fall_through::<LONG>(op);
    cpu.push::<LONG, W>(memory, back)?;
    cpu.rip = target;
    Ok(Flow::Branch)
}

pub(in crate::cpu) fn call(form: &mut Form) -> Option<Run> {
    Some(match (form.shape(), form.mode.long()) {
        (Shape::Near, true) => {
            form.branch()?;
            Run::tried(call_direct::<true, Fast<W64>>, call_direct::<true, W64>)
        }
        (Shape::Near, false) => match form.branch()? {
            2 => Run::new(call_direct::<false, W16>),
            _ => Run::new(call_direct::<false, W32>),
        },
        (Shape::Reg, true) if form.width == 8 => Run::tried(call_r::<true, Fast<W64>>, call_r::<true, W64>),
        (Shape::Reg, true) => by_width!(form.width, call_r::<true>),
        (Shape::Reg, false) => by_width!(form.width, call_r::<false>),
        (Shape::Mem, true) => by_ea_fast!(form.ea, form.width, call_m::<true>),
        (Shape::Mem, false) => by_ea!(form.ea, form.width, call_m::<false>),
        _ => return None,
    })
}

/// RET, with `imm` more bytes popped.
fn ret_near<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let target = cpu.peek::<LONG, W>(memory, 0)?;
    cpu.rip = cpu.indirect::<LONG>(target)?;
    cpu.drop_stack::<LONG>(W::BYTES.wrapping_add(op.imm));
    Ok(Flow::Branch)
}

pub(in crate::cpu) fn ret(form: &mut Form) -> Option<Run> {
    form.op.imm &= 0xffff;
    Some(match (form.mode.long(), form.operand_size()) {
        // 64-bit mode ignores the operand-size prefix here.
        (true, _) => Run::tried(ret_near::<true, Fast<W64>>, ret_near::<true, W64>),
        (false, 2) => Run::new(ret_near::<false, W16>),
        (false, _) => Run::new(ret_near::<false, W32>),
    })
}

/// LOOP (`KIND` 0), LOOPE (1), LOOPNE (2), JrCXZ (3), by a counter as wide as addresses are.
fn counted<const KIND: u8, const LONG: bool, A: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let count = A::get(cpu, 1).wrapping_sub(u64::from(KIND != 3)) & A::MASK;
    let taken = match KIND {
        0 => count != 0,
        1 => count != 0 && cpu.flags.zf(),
        2 => count != 0 && !cpu.flags.zf(),
        _ => count == 0,
    };
    let (rip, flow) =
        if taken { (cpu.target::<LONG>(op)?, Flow::Taken) } else { (cpu.fall_through::<LONG>(op), Flow::Fall) };
    if KIND != 3 {
        A::set(cpu, 1, count);
    }
    cpu.rip = rip;
    Ok(flow)
}

pub(in crate::cpu) fn count<const KIND: u8>(form: &mut Form) -> Option<Run> {
    form.branch()?;
    Some(match (form.mode.long(), form.counter_size()) {
        (true, 4) => Run::new(counted::<KIND, true, W32>),
        (true, _) => Run::new(counted::<KIND, true, W64>),
        (false, 2) => Run::new(counted::<KIND, false, W16>),
        (false, _) => Run::new(counted::<KIND, false, W32>),
    })
}

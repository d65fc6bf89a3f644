//! PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE.

use crate::cpu::decode::{Form, Shape};
use crate::cpu::op::{Ea, Fast, Flow, Op, Run, W16, W32, W64, Width};
use crate::cpu::ops::{by_ea, by_ea_fast};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::{Cr4, Rflags, Seg};

/// Picks the instance of a function that is generic over 64-bit code and a width, after its other parameters.
macro_rules! by_stack {
    ($form:expr, $width:expr, $f:ident $(::<$($g:tt),*>)?) => {
        match ($form.mode.long(), $width) {
            (true, 2) => Run::new($f::<true, $($($g,)*)? W16>),
            (true, _) => Run::tried($f::<true, $($($g,)*)? Fast<W64>>, $f::<true, $($($g,)*)? W64>),
            (false, 2) => Run::new($f::<false, $($($g,)*)? W16>),
            (false, _) => Run::new($f::<false, $($($g,)*)? W32>),
        }
    };
}

/// The mask of the stack pointer outside 64-bit code: SS's B bit.
#[inline(always)]
fn stack_mask(cpu: &Cpu) -> u64 {
    if cpu.seg[Seg::Ss as usize].rights.big() { 0xffff_ffff } else { 0xffff }
}

impl Cpu {
    /// Sets the stack pointer, as wide as it is.
    #[inline(always)]
    pub(in crate::cpu) fn set_stack<const LONG: bool>(&mut self, value: u64) {
        if LONG {
            self.regs.gpr[4] = value;
        } else {
            let mask = stack_mask(self);
            // A 32-bit stack pointer clears the upper half, a 16-bit one leaves all above it.
            let keep = if mask == 0xffff { self.regs.gpr[4] & !mask } else { 0 };
            self.regs.gpr[4] = keep | value & mask;
        }
    }

    /// Writes below the stack's top and moves it there.
    #[inline(always)]
    pub(in crate::cpu) fn push<const LONG: bool, W: Width>(
        &mut self,
        memory: &mut Memory,
        value: u64,
    ) -> Result<(), Halt> {
        let top = self.regs.gpr[4].wrapping_sub(W::BYTES);
        if LONG {
            self.store::<W>(memory, Seg::Ss, top, value & W::MASK)?;
        } else {
            let top = top & stack_mask(self);
            self.write_seg::<W>(memory, Seg::Ss, top, value & W::MASK)?;
        }
        self.set_stack::<LONG>(top);
        Ok(())
    }

    /// Reads `above` bytes above the stack's top.
    #[inline(always)]
    pub(in crate::cpu) fn peek<const LONG: bool, W: Width>(
        &mut self,
        memory: &mut Memory,
        above: u64,
    ) -> Result<u64, Halt> {
        let at = self.regs.gpr[4].wrapping_add(above);
        if LONG {
            self.load::<W>(memory, Seg::Ss, at)
        } else {
            let at = at & stack_mask(self);
            self.read_seg::<W>(memory, Seg::Ss, at)
        }
    }

    /// Moves the stack's top up.
    #[inline(always)]
    pub(in crate::cpu) fn drop_stack<const LONG: bool>(&mut self, bytes: u64) {
        let top = self.regs.gpr[4].wrapping_add(bytes);
        self.set_stack::<LONG>(top);
    }
}

fn push_r<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = W::get(cpu, op.reg);
    cpu.push::<LONG, W>(memory, value)?;
    Ok(Flow::Next)
}

fn push_i<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.push::<LONG, W>(memory, op.imm)?;
    Ok(Flow::Next)
}

fn push_s<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = u64::from(cpu.seg[usize::from(op.reg).min(5)].selector);
    // With a 32-bit operand, processors write the selector alone and leave the upper half of the slot.
    if !LONG && W::BITS == 32 {
        let top = cpu.regs.gpr[4].wrapping_sub(4) & stack_mask(cpu);
        cpu.write_seg::<W16>(memory, Seg::Ss, top, value)?;
        cpu.set_stack::<LONG>(top);
    } else {
        cpu.push::<LONG, W>(memory, value)?;
    }
    Ok(Flow::Next)
}

fn push_m<const LONG: bool, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.read::<W, E>(memory, op)?;
    cpu.push::<LONG, W>(memory, value)?;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn push(form: &mut Form) -> Option<Run> {
    let size = form.operand_size();
    Some(match (form.shape(), form.mode.long()) {
        (Shape::Reg, _) => by_stack!(form, size, push_r),
        (Shape::Imm, _) => by_stack!(form, size, push_i),
        (Shape::Seg, _) => by_stack!(form, size, push_s),
        (Shape::Mem, true) => by_ea_fast!(form.ea, size, push_m::<true>),
        (Shape::Mem, false) => by_ea!(form.ea, size, push_m::<false>),
        _ => return None,
    })
}

fn pop_r<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.peek::<LONG, W>(memory, 0)?;
    cpu.drop_stack::<LONG>(W::BYTES);
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

fn pop_m<const LONG: bool, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.peek::<LONG, W>(memory, 0)?;
    // An address relative to the stack pointer is relative to where it is after the pop.
    let before = cpu.regs.gpr[4];
    cpu.drop_stack::<LONG>(W::BYTES);
    if let Err(halt) = cpu.write::<W, E>(memory, op, value) {
        cpu.regs.gpr[4] = before;
        return Err(halt);
    }
    Ok(Flow::Next)
}

fn pop_s<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.peek::<LONG, W>(memory, 0)?;
    let before = cpu.regs.gpr[4];
    // SS may change how wide the stack pointer is: the old width counts.
    cpu.drop_stack::<LONG>(W::BYTES);
    let to = cpu.regs.gpr[4];
    cpu.regs.gpr[4] = before;
    cpu.load_segment(memory, op.reg, value as u16)?;
    cpu.regs.gpr[4] = to;
    cpu.after_segment_load(op)
}

pub(in crate::cpu) fn pop(form: &mut Form) -> Option<Run> {
    let size = form.operand_size();
    Some(match (form.shape(), form.mode.long()) {
        (Shape::Reg, _) => by_stack!(form, size, pop_r),
        (Shape::Seg, _) => by_stack!(form, size, pop_s),
        (Shape::Mem, true) => by_ea_fast!(form.ea, size, pop_m::<true>),
        (Shape::Mem, false) => by_ea!(form.ea, size, pop_m::<false>),
        _ => return None,
    })
}

/// PUSHA. All slots are written before the stack pointer moves.
fn push_all<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let before = cpu.regs.gpr[4];
    for reg in 0..8 {
        let value = if reg == 4 { before & W::MASK } else { W::get(cpu, reg) };
        if let Err(halt) = cpu.push::<LONG, W>(memory, value) {
            cpu.regs.gpr[4] = before;
            return Err(halt);
        }
    }
    Ok(Flow::Next)
}

fn pop_all<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let mut values = [0; 8];
    for (slot, value) in values.iter_mut().enumerate() {
        *value = cpu.peek::<LONG, W>(memory, slot as u64 * W::BYTES)?;
    }
    for (slot, value) in values.iter().enumerate().filter(|(slot, _)| *slot != 3) {
        W::set(cpu, 7 - slot as u8, *value);
    }
    cpu.drop_stack::<LONG>(8 * W::BYTES);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn pusha(form: &mut Form) -> Option<Run> {
    Some(by_stack!(form, form.operand_size(), push_all))
}

pub(in crate::cpu) fn popa(form: &mut Form) -> Option<Run> {
    Some(by_stack!(form, form.operand_size(), pop_all))
}

fn push_flags<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let mut value = cpu.rflags() & !(Rflags::RF | Rflags::VM).bits();
    if cpu.v86() && cpu.iopl() < 3 {
        if W::BITS != 16 || !cpu.has_cr4(Cr4::VME) {
            return cpu.gp();
        }
        value = cpu.shown_flags();
    }
    cpu.push::<LONG, W>(memory, value)?;
    Ok(Flow::Next)
}

fn pop_flags<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let virtual_if = cpu.v86() && cpu.iopl() < 3;
    if virtual_if && (W::BITS != 16 || !cpu.has_cr4(Cr4::VME)) {
        return cpu.gp();
    }
    let value = cpu.peek::<LONG, W>(memory, 0)?;
    let before = cpu.rflags();
    if virtual_if {
        let flags = cpu.virtual_if(value)?;
        cpu.drop_stack::<LONG>(W::BYTES);
        cpu.set_rflags(flags);
        return Ok(Flow::Next);
    }
    let mut may = Rflags::all() & !(Rflags::RF | Rflags::VM | Rflags::VIF | Rflags::VIP);
    if cpu.protected() {
        if cpu.cpl() != 0 {
            may.remove(Rflags::IOPL);
        }
        if cpu.cpl() > cpu.iopl() {
            may.remove(Rflags::IF);
        }
    }
    let may = may.bits() & W::MASK;
    cpu.drop_stack::<LONG>(W::BYTES);
    // VIP and VIF are cleared by a POPF of 32 bits or more; RF always is.
    let clear = Rflags::RF.bits() | if W::BITS > 16 && !cpu.v86() { (Rflags::VIF | Rflags::VIP).bits() } else { 0 };
    cpu.set_rflags(before & !may & !clear | value & may);
    let changed = before ^ cpu.rflags();
    if changed & (Rflags::IF | Rflags::TF | Rflags::AC).bits() == 0 && before & Rflags::TF.bits() == 0 {
        return Ok(Flow::Next);
    }
    cpu.refresh();
    cpu.checked(op)
}

impl Cpu {
    /// The I/O privilege level.
    #[inline]
    pub(in crate::cpu) fn iopl(&self) -> u8 {
        (self.flags.system >> 12 & 3) as u8
    }

    /// The flags as virtual-8086 mode with its extensions shows them to software that may not change IF: IOPL 3, and
    /// VIF for IF. See: SDM "Virtual-8086 Mode Extensions".
    pub(in crate::cpu) fn shown_flags(&self) -> u64 {
        let shown = self.rflags() & !(Rflags::IF | Rflags::RF | Rflags::VM).bits() | Rflags::IOPL.bits();
        if self.flags.has(Rflags::VIF) { shown | Rflags::IF.bits() } else { shown }
    }

    /// What such software's POPF and IRET of 16 bits make of RFLAGS: their IF is VIF. #GP where that would let a pending
    /// virtual interrupt in, or set TF.
    pub(in crate::cpu) fn virtual_if(&mut self, value: u64) -> Result<u64, Halt> {
        let wanted = Rflags::from_bits_retain(value);
        if wanted.contains(Rflags::TF) || wanted.contains(Rflags::IF) && self.flags.has(Rflags::VIP) {
            return self.gp();
        }
        let may = 0xffff & !(Rflags::IF | Rflags::IOPL).bits();
        let flags = self.rflags() & !(may | (Rflags::VIF | Rflags::RF).bits()) | value & may;
        Ok(if wanted.contains(Rflags::IF) { flags | Rflags::VIF.bits() } else { flags })
    }
}

pub(in crate::cpu) fn pushf(form: &mut Form) -> Option<Run> {
    Some(by_stack!(form, form.operand_size(), push_flags))
}

pub(in crate::cpu) fn popf(form: &mut Form) -> Option<Run> {
    Some(by_stack!(form, form.operand_size(), pop_flags))
}

fn leave_frame<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let before = cpu.regs.gpr[4];
    let frame = cpu.regs.gpr[5];
    cpu.set_stack::<LONG>(frame);
    match cpu.peek::<LONG, W>(memory, 0) {
        Ok(value) => {
            cpu.drop_stack::<LONG>(W::BYTES);
            W::set(cpu, 5, value);
            Ok(Flow::Next)
        }
        Err(halt) => {
            cpu.regs.gpr[4] = before;
            Err(halt)
        }
    }
}

pub(in crate::cpu) fn leave(form: &mut Form) -> Option<Run> {
    Some(by_stack!(form, form.operand_size(), leave_frame))
}

/// ENTER: `imm` bytes of frame, `extra` levels of nesting.
fn enter_frame<const LONG: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (before, frame) = (cpu.regs.gpr[4], cpu.regs.gpr[5]);
    let body = |cpu: &mut Cpu, memory: &mut Memory| -> Result<u64, Halt> {
        cpu.push::<LONG, W>(memory, frame)?;
        let top = cpu.regs.gpr[4];
        let levels = u64::from(op.extra % 32);
        for level in 1..levels {
            let at = frame.wrapping_sub(level * W::BYTES);
            let value = if LONG {
                cpu.load::<W>(memory, Seg::Ss, at)?
            } else {
                let at = at & stack_mask(cpu);
                cpu.read_seg::<W>(memory, Seg::Ss, at)?
            };
            cpu.push::<LONG, W>(memory, value)?;
        }
        if levels > 0 {
            cpu.push::<LONG, W>(memory, top)?;
        }
        cpu.drop_stack::<LONG>((op.imm & 0xffff).wrapping_neg());
        // The byte at the new top must be writable.
        let end = cpu.regs.gpr[4];
        cpu.probe_stack::<LONG, W>(memory, end)?;
        Ok(top)
    };
    match body(cpu, memory) {
        Ok(top) => {
            W::set(cpu, 5, top);
            Ok(Flow::Next)
        }
        Err(halt) => {
            cpu.regs.gpr[4] = before;
            Err(halt)
        }
    }
}

impl Cpu {
    /// Faults where a write at `at` would.
    fn probe_stack<const LONG: bool, W: Width>(&mut self, memory: &mut Memory, at: u64) -> Result<(), Halt> {
        let linear = if LONG {
            at
        } else {
            let at = at & stack_mask(self);
            self.linear(Seg::Ss, at, W::BYTES, true)?
        };
        self.probe(memory, Seg::Ss, linear, W::BYTES)
    }
}

pub(in crate::cpu) fn enter(form: &mut Form) -> Option<Run> {
    form.op.imm = form.immediate(0);
    form.op.extra = form.immediate(1) as u32;
    Some(by_stack!(form, form.operand_size(), enter_frame))
}

//! Far branches: JMP, CALL and RET to other segments, software interrupts, IRET, and UD. SYSCALL and its kin are in
//! `fast`.

use crate::cpu::decode::Form;
use crate::cpu::deliver::{task_stack, task_stack64};
use crate::cpu::event::Event;
use crate::cpu::op::{Flow, Op, Run, W16, W32, W64};
use crate::cpu::segment::{Descriptor, error_code, null_stack};
use crate::cpu::state::{Cpu, Halt, Segment, Stop};
use crate::memory::Memory;
use crate::vmx::exit::ExitInfo;
use hv_defs::controls::Interruptibility;
use hv_defs::exit::{EptViolation, EventType, Reason, TaskSwitch};
use hv_defs::x86::{Cr4, Rflags, Seg, Vector};
use iced_x86::OpKind;

/// Where a task switch comes from, as its exit qualification has it.
const CALL: u8 = 0;
const IRET: u8 = 1;
const JMP: u8 = 2;

/// A task switch, which in non-root operation always exits, once the new task's segment has been checked.
pub(in crate::cpu) fn task_switch(
    cpu: &mut Cpu,
    memory: &mut Memory,
    selector: u16,
    source: u8,
    length: u32,
    ext: u32,
) -> Result<(), Halt> {
    let code = Some(error_code(selector) | ext);
    // An IRET goes back to a task that is busy.
    let (wrong, kinds) = if source == IRET { (Vector::TS, [3, 11]) } else { (Vector::GP, [1, 9]) };
    let at = match cpu.descriptor_at(selector, 8) {
        Some(at) if selector & 4 == 0 => at,
        _ => return cpu.fault(wrong, code),
    };
    let descriptor = Descriptor(cpu.load_system(memory, at, 8)?);
    if descriptor.is_segment() || !kinds.contains(&descriptor.kind()) {
        return cpu.fault(wrong, code);
    }
    if !descriptor.present() {
        return cpu.fault(Vector::NP, code);
    }
    if descriptor.limit() < if descriptor.kind() & 8 != 0 { 103 } else { 43 } {
        return cpu.fault(Vector::TS, code);
    }
    let access = TaskSwitch::new().with_selector(selector).with_source(source);
    cpu.exit(ExitInfo { qualification: access.into(), ..ExitInfo::instruction(Reason::TASK_SWITCH, length) })
}

impl Cpu {
    /// The instruction pointer in a code segment, of 32 bits where that is not 64-bit code; #GP if it does not fit.
    fn fits(&mut self, code: Descriptor, rip: u64) -> Result<u64, Halt> {
        let wide = self.long_mode() && code.long();
        let rip = if wide { rip } else { rip & 0xffff_ffff };
        let fits = if wide { self.canonical(rip) } else { rip <= u64::from(code.limit()) };
        if fits { Ok(rip) } else { self.gp() }
    }

    /// Enters a code segment of the current privilege level, for JMP and CALL.
    fn enter(&mut self, memory: &mut Memory, selector: u16, code: Descriptor, rip: u64) -> Result<(), Halt> {
        let cpl = self.cpl();
        let code = self.set_accessed(memory, selector, code)?;
        self.set_cs(code, selector, cpl);
        self.rip = rip;
        Ok(())
    }

    /// Pushes as many bytes as `size` says, on the current stack.
    fn push_sized(&mut self, memory: &mut Memory, size: u32, value: u64) -> Result<(), Halt> {
        match (self.code64(), size) {
            (true, 2) => self.push::<true, W16>(memory, value),
            (true, 4) => self.push::<true, W32>(memory, value),
            (true, _) => self.push::<true, W64>(memory, value),
            (false, 2) => self.push::<false, W16>(memory, value),
            (false, 4) => self.push::<false, W32>(memory, value),
            (false, _) => self.push::<false, W64>(memory, value),
        }
    }

    /// Reads the stack's slot of that number.
    fn slot(&mut self, memory: &mut Memory, size: u32, slot: u64) -> Result<u64, Halt> {
        let above = slot * u64::from(size);
        match (self.code64(), size) {
            (true, 2) => self.peek::<true, W16>(memory, above),
            (true, 4) => self.peek::<true, W32>(memory, above),
            (true, _) => self.peek::<true, W64>(memory, above),
            (false, 2) => self.peek::<false, W16>(memory, above),
            (false, _) => self.peek::<false, W32>(memory, above),
        }
    }

    /// Moves the stack pointer of whatever width up.
    fn drop_slots(&mut self, bytes: u64) {
        if self.code64() { self.drop_stack::<true>(bytes) } else { self.drop_stack::<false>(bytes) }
    }
}

/// The far pointer that an instruction names: selector and offset. `imm` is an immediate's, with the selector in
/// `extra`'s upper half; in memory the offset comes first. The low half of `extra` is the operand size.
fn pointer(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<(u16, u64, u32), Halt> {
    let size = op.extra & 0xff;
    if op.extra & 0x100 != 0 {
        return Ok(((op.extra >> 16) as u16, op.imm, size));
    }
    let at = cpu.operand(op, u64::from(size) + 2, false)?;
    let offset = match size {
        2 => cpu.load::<W16>(memory, op.seg(), at)?,
        4 => cpu.load::<W32>(memory, op.seg(), at)?,
        _ => cpu.load::<W64>(memory, op.seg(), at)?,
    };
    let selector = cpu.load::<W16>(memory, op.seg(), at.wrapping_add(u64::from(size)))?;
    Ok((selector as u16, offset, size))
}

fn transfer<const IS_CALL: bool>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (selector, offset, size) = pointer(cpu, memory, op)?;
    let next = if cpu.code64() { op.next(cpu) } else { u64::from(op.next(cpu) as u32) };
    let before = cpu.regs.gpr[4];
    match far_branch::<IS_CALL>(cpu, memory, op, selector, offset, size, next) {
        Ok(()) => Ok(Flow::Check),
        Err(Halt) => {
            cpu.regs.gpr[4] = before;
            Err(Halt)
        }
    }
}

fn push_return(cpu: &mut Cpu, memory: &mut Memory, size: u32, next: u64) -> Result<(), Halt> {
    let cs = u64::from(cpu.seg[Seg::Cs as usize].selector);
    cpu.push_sized(memory, size, cs)?;
    cpu.push_sized(memory, size, next)
}

fn far_branch<const IS_CALL: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
    selector: u16,
    offset: u64,
    size: u32,
    next: u64,
) -> Result<(), Halt> {
    if !cpu.protected() || cpu.v86() {
        if offset > u64::from(cpu.seg[Seg::Cs as usize].limit) {
            return cpu.gp();
        }
        if IS_CALL {
            push_return(cpu, memory, size, next)?;
        }
        let cs = &mut cpu.seg[Seg::Cs as usize];
        cs.selector = selector;
        cs.base = u64::from(selector) << 4;
        cpu.rip = offset;
        return Ok(());
    }
    if selector & !3 == 0 {
        return cpu.gp();
    }
    let descriptor = cpu.descriptor(memory, selector, Vector::GP, 0)?;
    let bad = Some(error_code(selector));
    if !descriptor.is_segment() {
        return far_system::<IS_CALL>(cpu, memory, op, selector, descriptor, size, next);
    }
    let rpl = (selector & 3) as u8;
    let level = if descriptor.is_conforming() {
        descriptor.dpl() <= cpu.cpl()
    } else {
        descriptor.dpl() == cpu.cpl() && rpl <= cpu.cpl()
    };
    if !descriptor.is_code() || !level || cpu.long_mode() && descriptor.long() && descriptor.big() {
        return cpu.fault(Vector::GP, bad);
    }
    if !descriptor.present() {
        return cpu.fault(Vector::NP, bad);
    }
    // What is pushed stays in memory, even if the target then does not fit.
    if IS_CALL {
        // The stack is already as the called code has it.
        let old = cpu.seg[Seg::Cs as usize];
        cpu.seg[Seg::Cs as usize].rights = descriptor.rights();
        let pushed = push_return(cpu, memory, size, next);
        cpu.seg[Seg::Cs as usize] = old;
        pushed?;
    }
    let offset = cpu.fits(descriptor, offset)?;
    cpu.enter(memory, selector, descriptor, offset)
}

/// A far branch through a gate or to a task.
fn far_system<const IS_CALL: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
    selector: u16,
    descriptor: Descriptor,
    _size: u32,
    next: u64,
) -> Result<(), Halt> {
    let bad = Some(error_code(selector));
    let rpl = (selector & 3) as u8;
    let kind = descriptor.kind();
    let known = if cpu.long_mode() { kind == 12 } else { matches!(kind, 1 | 4 | 5 | 9 | 12) };
    if !known || descriptor.dpl() < cpu.cpl() || descriptor.dpl() < rpl {
        return cpu.fault(Vector::GP, bad);
    }
    if !descriptor.present() {
        return cpu.fault(Vector::NP, bad);
    }
    let source = if IS_CALL { CALL } else { JMP };
    match kind {
        1 | 9 => task_switch(cpu, memory, selector, source, u32::from(op.len), 0),
        5 => task_switch(cpu, memory, (descriptor.0 >> 16) as u16, source, u32::from(op.len), 0),
        _ if cpu.long_mode() => call_gate64::<IS_CALL>(cpu, memory, selector, descriptor, next),
        _ => call_gate::<IS_CALL>(cpu, memory, descriptor, next),
    }
}

/// The code segment behind a call gate, and whether it is of an inner privilege level.
fn gate_target<const IS_CALL: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    target: u16,
) -> Result<(Descriptor, bool), Halt> {
    if target & !3 == 0 {
        return cpu.gp();
    }
    let code = cpu.descriptor(memory, target, Vector::GP, 0)?;
    let bad = Some(error_code(target));
    let level = if IS_CALL || code.is_conforming() { code.dpl() <= cpu.cpl() } else { code.dpl() == cpu.cpl() };
    if !code.is_code() || !level || cpu.long_mode() && (!code.long() || code.big()) {
        return cpu.fault(Vector::GP, bad);
    }
    if !code.present() {
        return cpu.fault(Vector::NP, bad);
    }
    let inner = IS_CALL && !code.is_conforming() && code.dpl() < cpu.cpl();
    Ok((code, inner))
}

fn call_gate64<const IS_CALL: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    selector: u16,
    gate: Descriptor,
    next: u64,
) -> Result<(), Halt> {
    let bad = Some(error_code(selector));
    let Some(at) = cpu.descriptor_at(selector, 16) else { return cpu.fault(Vector::GP, bad) };
    let high = cpu.load_system(memory, at.wrapping_add(8), 8)?;
    if high >> 40 & 0x1f != 0 {
        return cpu.fault(Vector::GP, bad);
    }
    let rip = gate.0 & 0xffff | gate.0 >> 32 & 0xffff_0000 | high << 32;
    let target = (gate.0 >> 16) as u16;
    let (code, inner) = gate_target::<IS_CALL>(cpu, memory, target)?;
    if !cpu.canonical(rip) {
        return cpu.gp();
    }
    let cpl = if inner { code.dpl() } else { cpu.cpl() };
    if IS_CALL {
        let (ss, rsp) = (cpu.seg[Seg::Ss as usize].selector, cpu.regs.gpr[4]);
        let cs = cpu.seg[Seg::Cs as usize].selector;
        let mut top = if inner { task_stack64(cpu, memory, 4 + 8 * u64::from(cpl), 0)? } else { rsp };
        let both = [u64::from(ss), rsp, u64::from(cs), next];
        for &value in if inner { &both[..] } else { &both[2..] } {
            top = top.wrapping_sub(8);
            cpu.store_stack(memory, top, 8, value, cpl == 3)?;
        }
        let code = cpu.set_accessed(memory, target, code)?;
        cpu.set_cs(code, target, cpl);
        if inner {
            cpu.seg[Seg::Ss as usize] = null_stack(u16::from(cpl), cpl);
        }
        cpu.regs.gpr[4] = top;
        cpu.rip = rip;
        cpu.refresh();
        return Ok(());
    }
    cpu.enter(memory, target, code, rip)
}

fn call_gate<const IS_CALL: bool>(cpu: &mut Cpu, memory: &mut Memory, gate: Descriptor, next: u64) -> Result<(), Halt> {
    let wide = gate.kind() == 12;
    let (size, rip) = if wide { (4, gate.0 & 0xffff | gate.0 >> 32 & 0xffff_0000) } else { (2, gate.0 & 0xffff) };
    let target = (gate.0 >> 16) as u16;
    let (code, inner) = gate_target::<IS_CALL>(cpu, memory, target)?;
    let rip = cpu.fits(code, rip)?;
    if !inner {
        if IS_CALL {
            push_return(cpu, memory, size, next)?;
        }
        return cpu.enter(memory, target, code, rip);
    }
    let cpl = code.dpl();
    let (selector, top) = task_stack(cpu, memory, cpl, 0)?;
    let ss = cpu.stack_segment(memory, selector, cpl, Vector::TS, Vector::SS, 0)?;
    let old = (cpu.seg[Seg::Ss as usize].selector, cpu.regs.gpr[4]);
    // Parameters are copied from the outer stack, the last first.
    let count = gate.0 >> 32 & 0x1f;
    let mut values = vec![u64::from(old.0), old.1];
    for parameter in (0..count).rev() {
        values.push(cpu.slot(memory, size, parameter)?);
    }
    values.extend([u64::from(cpu.seg[Seg::Cs as usize].selector), next]);
    let mask = if ss.rights.big() { 0xffff_ffff } else { 0xffff };
    let mut top = top;
    for value in values {
        top = top.wrapping_sub(u64::from(size)) & mask;
        let expand_down = ss.rights.kind() & 0b1100 == 0b0100;
        let last = top.wrapping_add(u64::from(size) - 1);
        if if expand_down { top <= u64::from(ss.limit) } else { last > u64::from(ss.limit) } {
            return cpu.fault(Vector::SS, Some(error_code(selector)));
        }
        let at = u64::from((ss.base as u32).wrapping_add(top as u32));
        cpu.store_stack(memory, at, u64::from(size), value, cpl == 3)?;
    }
    let code = cpu.set_accessed(memory, target, code)?;
    cpu.set_cs(code, target, cpl);
    cpu.seg[Seg::Ss as usize] = ss;
    let keep = if mask == 0xffff { cpu.regs.gpr[4] & !0xffff } else { 0 };
    cpu.regs.gpr[4] = keep | top;
    cpu.rip = rip;
    cpu.refresh();
    Ok(())
}

fn far_form(form: &mut Form) {
    let i = form.instruction;
    form.op.extra = match form.kind(0) {
        OpKind::FarBranch16 => {
            form.op.imm = u64::from(i.far_branch16());
            2 | 0x100 | u32::from(i.far_branch_selector()) << 16
        }
        OpKind::FarBranch32 => {
            form.op.imm = u64::from(i.far_branch32());
            4 | 0x100 | u32::from(i.far_branch_selector()) << 16
        }
        // In memory the selector takes two bytes more.
        _ => form.size(0).saturating_sub(2),
    };
}

pub(in crate::cpu) fn jmp(form: &mut Form) -> Option<Run> {
    far_form(form);
    Some(Run::new(transfer::<false>))
}

pub(in crate::cpu) fn call(form: &mut Form) -> Option<Run> {
    far_form(form);
    Some(Run::new(transfer::<true>))
}

/// What RETF and IRET pop: where to, and the stack there if that is of an outer level.
struct Return {
    rip: u64,
    cs: u16,
    /// How many slots of the stack are behind it.
    slots: u64,
}

/// The code segment to return to, checked; whether the instruction pointer fits is looked at after the stack.
fn return_code(cpu: &mut Cpu, memory: &mut Memory, to: &Return) -> Result<Descriptor, Halt> {
    let rpl = (to.cs & 3) as u8;
    if to.cs & !3 == 0 {
        return cpu.gp();
    }
    let bad = Some(error_code(to.cs));
    let code = cpu.descriptor(memory, to.cs, Vector::GP, 0)?;
    let level = if code.is_conforming() { code.dpl() <= rpl } else { code.dpl() == rpl };
    if !code.is_code() || rpl < cpu.cpl() || !level || cpu.long_mode() && code.long() && code.big() {
        return cpu.fault(Vector::GP, bad);
    }
    if !code.present() {
        return cpu.fault(Vector::NP, bad);
    }
    Ok(code)
}

/// The stack segment to return to. 64-bit code above level 3 may have none.
fn return_stack(cpu: &mut Cpu, memory: &mut Memory, selector: u16, cpl: u8, code: Descriptor) -> Result<Segment, Halt> {
    if selector & !3 == 0 {
        return if cpu.long_mode() && code.long() && cpl != 3 && (selector & 3) as u8 == cpl {
            Ok(null_stack(selector, cpl))
        } else {
            cpu.gp()
        };
    }
    cpu.stack_segment(memory, selector, cpl, Vector::GP, Vector::SS, 0)
}

/// Sets a stack pointer as wide as its new segment has it.
fn set_returned_stack(cpu: &mut Cpu, rsp: u64) {
    if cpu.code64() { cpu.regs.gpr[4] = rsp } else { cpu.set_stack::<false>(rsp) }
}

/// RETF. `extra` is the operand size, `imm` the bytes to drop besides.
fn ret_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let size = op.extra;
    let more = op.imm & 0xffff;
    let to = Return { rip: cpu.slot(memory, size, 0)?, cs: cpu.slot(memory, size, 1)? as u16, slots: 2 };
    let popped = to.slots * u64::from(size) + more;
    if !cpu.protected() || cpu.v86() {
        if to.rip > u64::from(cpu.seg[Seg::Cs as usize].limit) {
            return cpu.gp();
        }
        let cs = &mut cpu.seg[Seg::Cs as usize];
        cs.selector = to.cs;
        cs.base = u64::from(to.cs) << 4;
        cpu.rip = to.rip;
        cpu.drop_stack::<false>(popped);
        return Ok(Flow::Check);
    }
    let code = return_code(cpu, memory, &to)?;
    let cpl = (to.cs & 3) as u8;
    if cpl == cpu.cpl() {
        let rip = cpu.fits(code, to.rip)?;
        let code = cpu.set_accessed(memory, to.cs, code)?;
        cpu.drop_slots(popped);
        cpu.set_cs(code, to.cs, cpl);
        cpu.rip = rip;
        return Ok(Flow::Check);
    }
    let at = |slot: u64| slot * u64::from(size) + more;
    let (rsp, ss) = (read_above(cpu, memory, size, at(2))?, read_above(cpu, memory, size, at(3))? as u16);
    let stack = return_stack(cpu, memory, ss, cpl, code)?;
    let rip = cpu.fits(code, to.rip)?;
    let code = cpu.set_accessed(memory, to.cs, code)?;
    cpu.set_cs(code, to.cs, cpl);
    cpu.seg[Seg::Ss as usize] = stack;
    set_returned_stack(cpu, rsp);
    cpu.drop_slots(more);
    cpu.rip = rip;
    cpu.refresh();
    cpu.drop_privileged_segments();
    Ok(Flow::Check)
}

/// Reads a slot at that many bytes above the stack's top.
fn read_above(cpu: &mut Cpu, memory: &mut Memory, size: u32, above: u64) -> Result<u64, Halt> {
    match (cpu.code64(), size) {
        (true, 2) => cpu.peek::<true, W16>(memory, above),
        (true, 4) => cpu.peek::<true, W32>(memory, above),
        (true, _) => cpu.peek::<true, W64>(memory, above),
        (false, 2) => cpu.peek::<false, W16>(memory, above),
        (false, _) => cpu.peek::<false, W32>(memory, above),
    }
}

pub(in crate::cpu) fn ret(form: &mut Form) -> Option<Run> {
    form.op.imm = form.immediate(0) & 0xffff;
    form.op.extra = form.data_size();
    Some(Run::new(ret_run))
}

/// Flags that IRET loads, by the privilege level it is executed at.
fn returned_flags(cpu: &Cpu, size: u32, value: u64) -> u64 {
    let mut may = Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF | Rflags::SF | Rflags::TF | Rflags::DF | Rflags::OF;
    may |= Rflags::NT;
    if size > 2 {
        may |= Rflags::RF | Rflags::AC | Rflags::ID;
    }
    if !cpu.protected() || cpu.cpl() <= cpu.iopl() {
        may |= Rflags::IF;
    }
    if !cpu.protected() || cpu.cpl() == 0 {
        may |= Rflags::IOPL;
        if cpu.protected() && size > 2 {
            may |= Rflags::VIF | Rflags::VIP;
        }
    }
    cpu.rflags() & !may.bits() | value & may.bits()
}

fn iret_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let blocked = cpu.interruptibility.contains(Interruptibility::NMI);
    match iret_inner(cpu, memory, op) {
        Ok(()) => {
            cpu.interruptibility.remove(Interruptibility::NMI);
            Ok(Flow::Check)
        }
        Err(Halt) => {
            // It unblocks NMIs even so, and an exit for the fault tells of it.
            match &mut cpu.exec.stop {
                Stop::Fault(..) | Stop::PageFault(..) => cpu.exec.iret_unblocked_nmi = blocked,
                Stop::Exit(info) if matches!(info.reason.reason(), Reason::EPT_VIOLATION | Reason::PML_FULL) => {
                    info.qualification |= EptViolation::new().with_nmi_unblocking(blocked).into_bits();
                }
                _ => return Err(Halt),
            }
            cpu.interruptibility.remove(Interruptibility::NMI);
            Err(Halt)
        }
    }
}

fn iret_inner(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<(), Halt> {
    let size = op.extra;
    if cpu.protected() && !cpu.v86() && cpu.flags.has(Rflags::NT) {
        if cpu.long_mode() {
            return cpu.gp();
        }
        let link = cpu.load_system(memory, cpu.tr.base, 2)?;
        return task_switch(cpu, memory, link as u16, IRET, u32::from(op.len), 0);
    }
    let virtual_if = cpu.v86() && cpu.iopl() < 3;
    if virtual_if && !(size == 2 && cpu.has_cr4(Cr4::VME)) {
        return cpu.gp();
    }
    let to = Return { rip: cpu.slot(memory, size, 0)?, cs: cpu.slot(memory, size, 1)? as u16, slots: 3 };
    let flags = cpu.slot(memory, size, 2)?;
    if !cpu.protected() || cpu.v86() {
        if to.rip > u64::from(cpu.seg[Seg::Cs as usize].limit) {
            return cpu.gp();
        }
        let flags = if virtual_if { cpu.virtual_if(flags)? } else { returned_flags(cpu, size, flags) };
        let flags = if cpu.v86() { flags & !Rflags::IOPL.bits() | cpu.rflags() & Rflags::IOPL.bits() } else { flags };
        if cpu.v86() {
            cpu.set_v86_segment(Seg::Cs as usize, to.cs);
        } else {
            let cs = &mut cpu.seg[Seg::Cs as usize];
            cs.selector = to.cs;
            cs.base = u64::from(to.cs) << 4;
        }
        cpu.rip = to.rip;
        cpu.drop_stack::<false>(to.slots * u64::from(size));
        cpu.set_rflags(flags);
        cpu.refresh();
        return Ok(());
    }
    if flags & Rflags::VM.bits() != 0 && size == 4 && cpu.cpl() == 0 && !cpu.long_mode() {
        return iret_to_v86(cpu, memory, &to, flags);
    }
    let code = return_code(cpu, memory, &to)?;
    let cpl = (to.cs & 3) as u8;
    let outer = cpl != cpu.cpl();
    let restored = returned_flags(cpu, size, flags);
    // 64-bit code always pops the stack too.
    let rip = if outer || cpu.code64() {
        let (rsp, ss) = (cpu.slot(memory, size, 3)?, cpu.slot(memory, size, 4)? as u16);
        let stack = return_stack(cpu, memory, ss, cpl, code)?;
        let rip = cpu.fits(code, to.rip)?;
        let code = cpu.set_accessed(memory, to.cs, code)?;
        cpu.set_cs(code, to.cs, cpl);
        cpu.seg[Seg::Ss as usize] = stack;
        set_returned_stack(cpu, rsp);
        rip
    } else {
        let rip = cpu.fits(code, to.rip)?;
        let code = cpu.set_accessed(memory, to.cs, code)?;
        cpu.drop_slots(to.slots * u64::from(size));
        cpu.set_cs(code, to.cs, cpl);
        rip
    };
    cpu.rip = rip;
    cpu.set_rflags(restored);
    cpu.refresh();
    if outer {
        cpu.drop_privileged_segments();
    }
    Ok(())
}

fn iret_to_v86(cpu: &mut Cpu, memory: &mut Memory, to: &Return, flags: u64) -> Result<(), Halt> {
    if to.rip > 0xffff {
        return cpu.gp();
    }
    let rsp = cpu.slot(memory, 4, 3)?;
    let mut selectors = [0; 5];
    for (slot, selector) in selectors.iter_mut().enumerate() {
        *selector = cpu.slot(memory, 4, slot as u64 + 4)? as u16;
    }
    cpu.set_rflags(flags);
    cpu.set_v86_segment(Seg::Cs as usize, to.cs);
    for (seg, selector) in [Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs].into_iter().zip(selectors) {
        cpu.set_v86_segment(seg as usize, selector);
    }
    cpu.rip = to.rip;
    cpu.regs.gpr[4] = rsp & 0xffff_ffff;
    cpu.refresh();
    Ok(())
}

pub(in crate::cpu) fn iret(form: &mut Form) -> Option<Run> {
    form.op.extra = form.data_size();
    Some(Run::new(iret_run))
}

fn software(cpu: &mut Cpu, op: &Op, vector: u8, kind: EventType) -> Result<Flow, Halt> {
    let event = Event { length: u32::from(op.len), kind, ..Event::fault(Vector(vector), None) };
    cpu.exec.stop = Stop::Software(event);
    Err(Halt)
}

pub(in crate::cpu) fn int(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        software(cpu, op, op.imm as u8, EventType::SoftwareInterrupt)
    }
    Some(Run::new(run))
}

pub(in crate::cpu) fn int3(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        software(cpu, op, 3, EventType::SoftwareException)
    }
    Some(Run::new(run))
}

pub(in crate::cpu) fn int1(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        software(cpu, op, 1, EventType::PrivilegedSoftwareException)
    }
    Some(Run::new(run))
}

pub(in crate::cpu) fn into(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        if cpu.flags.of() { software(cpu, op, 4, EventType::SoftwareException) } else { Ok(Flow::Next) }
    }
    Some(Run::new(run))
}

pub(in crate::cpu) fn ud(_: &mut Form) -> Option<Run> {
    Some(Run::new(crate::cpu::op::undefined))
}

//! Delivery through the interrupt-vector table of real mode, and through the gates of the IDT.
//! See: SDM "Interrupt and Exception Handling".

use super::event::Event;
use super::op::{W16, W32};
use super::segment::{Descriptor, error_code, null_stack};
use super::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::exit::EventType;
use hv_defs::x86::{Cr4, Rflags, Seg, Vector};

/// Delivers `event`. On a fault nothing is changed but what was pushed.
pub(super) fn deliver(cpu: &mut Cpu, memory: &mut Memory, event: &Event) -> Result<(), Halt> {
    if !cpu.protected() {
        real(cpu, memory, event)
    } else if cpu.long_mode() {
        long(cpu, memory, event)
    } else {
        protected(cpu, memory, event)
    }
}

/// Where the event's handler returns to.
fn return_rip(cpu: &Cpu, event: &Event) -> u64 {
    let next = cpu.rip.wrapping_add(u64::from(event.length));
    if cpu.code64() { next } else { u64::from(next as u32) }
}

/// The flags that are pushed: faults set RF there, so that a breakpoint on the instruction does not hit again.
fn pushed_flags(cpu: &Cpu, event: &Event) -> u64 {
    let fault = event.kind == EventType::HardwareException && !matches!(event.vector, Vector::DB | Vector::DF);
    cpu.rflags() | if fault { Rflags::RF.bits() } else { 0 }
}

/// The error code of a fault met on the way to the handler.
fn gate_error(event: &Event) -> u32 {
    u32::from(event.vector.0) << 3 | 2 | ext(event)
}

/// The EXT bit: the event is not of the instruction's own asking.
fn ext(event: &Event) -> u32 {
    u32::from(!matches!(event.kind, EventType::SoftwareInterrupt | EventType::SoftwareException))
}

fn real(cpu: &mut Cpu, memory: &mut Memory, event: &Event) -> Result<(), Halt> {
    let offset = u64::from(event.vector.0) * 4;
    if offset + 3 > u64::from(cpu.idtr.limit) {
        return cpu.gp();
    }
    let vector = cpu.load_system(memory, cpu.idtr.base.wrapping_add(offset), 4)?;
    let values = [cpu.rflags(), u64::from(cpu.seg[Seg::Cs as usize].selector), return_rip(cpu, event)];
    for value in values {
        cpu.push::<false, W16>(memory, value)?;
    }
    cpu.rip = vector & 0xffff;
    let cs = &mut cpu.seg[Seg::Cs as usize];
    cs.selector = (vector >> 16) as u16;
    cs.base = u64::from(cs.selector) << 4;
    for flag in [Rflags::IF, Rflags::TF, Rflags::AC, Rflags::RF] {
        cpu.flags.put(flag, false);
    }
    Ok(())
}

/// The code segment that a gate leads to, and the privilege level it gives.
fn gate_code(cpu: &mut Cpu, memory: &mut Memory, selector: u16, ext: u32) -> Result<(Descriptor, u8), Halt> {
    if selector & !3 == 0 {
        return cpu.fault(Vector::GP, Some(ext));
    }
    let code = cpu.descriptor(memory, selector, Vector::GP, ext)?;
    if !code.is_code() || code.dpl() > cpu.cpl() || cpu.long_mode() && (!code.long() || code.big()) {
        return cpu.fault(Vector::GP, Some(error_code(selector) | ext));
    }
    if !code.present() {
        return cpu.fault(Vector::NP, Some(error_code(selector) | ext));
    }
    let cpl = if code.is_conforming() { cpu.cpl() } else { code.dpl() };
    Ok((code, cpl))
}

fn long(cpu: &mut Cpu, memory: &mut Memory, event: &Event) -> Result<(), Halt> {
    let error = gate_error(event);
    let offset = u64::from(event.vector.0) * 16;
    if offset + 15 > u64::from(cpu.idtr.limit) {
        return cpu.fault(Vector::GP, Some(error));
    }
    let at = cpu.idtr.base.wrapping_add(offset);
    let low = cpu.load_system(memory, at, 8)?;
    let high = cpu.load_system(memory, at.wrapping_add(8), 8)?;
    let gate = Descriptor(low);
    if gate.is_segment() || !matches!(gate.kind(), 14 | 15) || event.checks_gate() && cpu.cpl() > gate.dpl() {
        return cpu.fault(Vector::GP, Some(error));
    }
    if !gate.present() {
        return cpu.fault(Vector::NP, Some(error));
    }
    let selector = (low >> 16) as u16;
    let rip = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
    let ist = low >> 32 & 7;
    let (code, cpl) = gate_code(cpu, memory, selector, ext(event))?;
    let inner = cpl != cpu.cpl();
    let mut rsp = if ist != 0 || inner {
        let offset = if ist != 0 { 0x1c + 8 * ist } else { 4 + 8 * u64::from(cpl) };
        task_stack64(cpu, memory, offset, ext(event))?
    } else {
        cpu.regs.gpr[4]
    };
    if !cpu.canonical(rsp) {
        return cpu.fault(Vector::SS, Some(ext(event)));
    }
    if !cpu.canonical(rip) {
        return cpu.fault(Vector::GP, Some(ext(event)));
    }
    rsp &= !15;
    let flags = pushed_flags(cpu, event);
    let values = [
        u64::from(cpu.seg[Seg::Ss as usize].selector),
        cpu.regs.gpr[4],
        flags,
        u64::from(cpu.seg[Seg::Cs as usize].selector),
        return_rip(cpu, event),
    ];
    for value in values.into_iter().chain(event.error.map(u64::from)) {
        rsp = rsp.wrapping_sub(8);
        store_new_stack(cpu, memory, rsp, value, cpl == 3)?;
    }
    let code = cpu.set_accessed(memory, selector, code)?;
    cpu.set_cs(code, selector, cpl);
    if inner {
        cpu.seg[Seg::Ss as usize] = null_stack(u16::from(cpl), cpl);
    }
    cpu.regs.gpr[4] = rsp;
    cpu.rip = rip;
    enter_handler(cpu, gate.kind() == 14);
    Ok(())
}

/// A push to the handler's stack, whose address is canonical or faults as a stack.
fn store_new_stack(cpu: &mut Cpu, memory: &mut Memory, at: u64, value: u64, user: bool) -> Result<(), Halt> {
    if !cpu.canonical(at) {
        return cpu.fault(Vector::SS, Some(0));
    }
    cpu.store_stack(memory, at, 8, value, user)
}

/// The flags of a handler, and what follows a change of privilege.
fn enter_handler(cpu: &mut Cpu, interrupt_gate: bool) {
    for flag in [Rflags::TF, Rflags::NT, Rflags::RF, Rflags::VM] {
        cpu.flags.put(flag, false);
    }
    if interrupt_gate {
        cpu.flags.put(Rflags::IF, false);
    }
    cpu.refresh();
}

/// A stack pointer of the 64-bit task-state segment.
pub(super) fn task_stack64(cpu: &mut Cpu, memory: &mut Memory, offset: u64, ext: u32) -> Result<u64, Halt> {
    if offset + 7 > u64::from(cpu.tr.limit) {
        let selector = cpu.tr.selector;
        return cpu.fault(Vector::TS, Some(error_code(selector) | ext));
    }
    cpu.load_system(memory, cpu.tr.base.wrapping_add(offset), 8)
}

/// The stack of a privilege level in a 16- or 32-bit task-state segment: selector and pointer.
pub(super) fn task_stack(cpu: &mut Cpu, memory: &mut Memory, cpl: u8, ext: u32) -> Result<(u16, u64), Halt> {
    let wide = cpu.tr.rights.kind() & 8 != 0;
    let (offset, size) = if wide { (4 + 8 * u64::from(cpl), 4) } else { (2 + 4 * u64::from(cpl), 2) };
    if offset + size + 1 > u64::from(cpu.tr.limit) {
        let selector = cpu.tr.selector;
        return cpu.fault(Vector::TS, Some(error_code(selector) | ext));
    }
    let at = cpu.tr.base.wrapping_add(offset);
    let pointer = cpu.load_system(memory, at, size)?;
    let selector = cpu.load_system(memory, at.wrapping_add(size), 2)?;
    Ok((selector as u16, pointer))
}

/// Whether the task's bitmap sends a software interrupt of virtual-8086 mode to the 8086 program's own handler. It lies
/// in the 32 bytes before the I/O permission bitmap.
fn redirected(cpu: &mut Cpu, memory: &mut Memory, vector: Vector) -> Result<bool, Halt> {
    let limit = u64::from(cpu.tr.limit);
    if cpu.tr.rights.kind() & 8 == 0 || limit < 103 {
        return cpu.gp();
    }
    let base = cpu.tr.base;
    let ports = cpu.load_system(memory, base.wrapping_add(102), 2)?;
    let at = ports.wrapping_sub(32).wrapping_add(u64::from(vector.0) / 8);
    if ports < 32 || at > limit {
        return cpu.gp();
    }
    let bits = cpu.load_system(memory, base.wrapping_add(at), 1)?;
    Ok(bits >> (vector.0 % 8) & 1 == 0)
}

/// Delivers a software interrupt of virtual-8086 mode through the 8086 program's interrupt table at address 0.
fn redirect(cpu: &mut Cpu, memory: &mut Memory, event: &Event) -> Result<(), Halt> {
    let virtual_if = cpu.iopl() < 3;
    let target = cpu.load::<W32>(memory, Seg::Ds, 4 * u64::from(event.vector.0))?;
    let flags = if virtual_if { cpu.shown_flags() } else { cpu.rflags() };
    for value in [flags, u64::from(cpu.seg[Seg::Cs as usize].selector), return_rip(cpu, event)] {
        cpu.push::<false, W16>(memory, value)?;
    }
    cpu.set_v86_segment(Seg::Cs as usize, (target >> 16) as u16);
    cpu.rip = target & 0xffff;
    for flag in [if virtual_if { Rflags::VIF } else { Rflags::IF }, Rflags::TF, Rflags::RF] {
        cpu.flags.put(flag, false);
    }
    Ok(())
}

fn protected(cpu: &mut Cpu, memory: &mut Memory, event: &Event) -> Result<(), Halt> {
    let error = gate_error(event);
    if cpu.v86() && event.kind == EventType::SoftwareInterrupt {
        if cpu.has_cr4(Cr4::VME) && redirected(cpu, memory, event.vector)? {
            return redirect(cpu, memory, event);
        }
        if cpu.iopl() < 3 {
            return cpu.gp();
        }
    }
    let offset = u64::from(event.vector.0) * 8;
    if offset + 7 > u64::from(cpu.idtr.limit) {
        return cpu.fault(Vector::GP, Some(error));
    }
    let gate = Descriptor(cpu.load_system(memory, cpu.idtr.base.wrapping_add(offset), 8)?);
    if gate.is_segment() || !matches!(gate.kind(), 5 | 6 | 7 | 14 | 15) || event.checks_gate() && cpu.cpl() > gate.dpl()
    {
        return cpu.fault(Vector::GP, Some(error));
    }
    if !gate.present() {
        return cpu.fault(Vector::NP, Some(error));
    }
    let selector = (gate.0 >> 16) as u16;
    if gate.kind() == 5 {
        return super::ops::far::task_switch(cpu, memory, selector, 3, event.length, ext(event));
    }
    let wide = gate.kind() & 8 != 0;
    let size = if wide { 4 } else { 2 };
    let rip = gate.0 & 0xffff | if wide { gate.0 >> 32 & 0xffff_0000 } else { 0 };
    let (code, cpl) = gate_code(cpu, memory, selector, ext(event))?;
    if cpu.v86() && cpl != 0 {
        return cpu.fault(Vector::GP, Some(error_code(selector) | ext(event)));
    }
    let inner = cpl != cpu.cpl();
    let old = (cpu.seg[Seg::Ss as usize], cpu.regs.gpr[4]);
    let mut values = Vec::with_capacity(10);
    let (ss, mut top) = if inner {
        let (ss_selector, top) = task_stack(cpu, memory, cpl, ext(event))?;
        let ss = cpu.stack_segment(memory, ss_selector, cpl, Vector::TS, Vector::SS, ext(event))?;
        if cpu.v86() {
            values.extend([Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es].map(|seg| u64::from(cpu.seg[seg as usize].selector)));
        }
        values.extend([u64::from(old.0.selector), old.1]);
        (ss, top)
    } else {
        (old.0, old.1)
    };
    values.extend([pushed_flags(cpu, event), u64::from(cpu.seg[Seg::Cs as usize].selector), return_rip(cpu, event)]);
    values.extend(event.error.map(u64::from));
    let mask = if ss.rights.big() { 0xffff_ffff } else { 0xffff };
    if rip > u64::from(code.limit()) {
        return cpu.fault(Vector::GP, Some(ext(event)));
    }
    for value in values {
        top = top.wrapping_sub(size) & mask;
        let last = top.wrapping_add(size - 1);
        let expand_down = ss.rights.kind() & 0b1100 == 0b0100;
        let inside = if expand_down { top > u64::from(ss.limit) } else { last <= u64::from(ss.limit) };
        if !inside {
            let code = if inner { error_code(ss.selector) } else { 0 };
            return cpu.fault(Vector::SS, Some(code | ext(event)));
        }
        let at = u64::from((ss.base as u32).wrapping_add(top as u32));
        cpu.store_stack(memory, at, size, value, cpl == 3)?;
    }
    let code = cpu.set_accessed(memory, selector, code)?;
    let from_v86 = cpu.v86();
    cpu.set_cs(code, selector, cpl);
    if inner {
        cpu.seg[Seg::Ss as usize] = ss;
        if from_v86 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                let empty = super::segment::null(0, &cpu.seg[seg as usize]);
                cpu.seg[seg as usize] = empty;
            }
        }
    }
    let keep = if mask == 0xffff { cpu.regs.gpr[4] & !0xffff } else { 0 };
    cpu.regs.gpr[4] = keep | top & mask;
    cpu.rip = rip;
    enter_handler(cpu, gate.kind() & 7 == 6);
    Ok(())
}

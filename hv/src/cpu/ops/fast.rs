//! The calls between privilege levels that take no descriptors: SYSCALL, SYSRET, SYSENTER, SYSEXIT.

use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run};
use crate::cpu::state::{Cpu, Halt, Segment};
use crate::memory::Memory;
use hv_defs::x86::{AccessRights, Efer, Rflags, Seg};

/// A flat segment, as SYSCALL and its kin make them, with the type, level and size bits of `rights`.
fn flat(selector: u16, rights: u32) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, rights: AccessRights::from(rights) }
}

/// Rights of flat code of 64 and 32 bits, and of flat data, at level 0.
const CODE64: u32 = 0xa09b;
const CODE32: u32 = 0xc09b;
const DATA: u32 = 0xc093;
/// Level 3 in rights.
const LEVEL3: u32 = 0x60;

fn syscall_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if !cpu.code64() || cpu.efer & Efer::SCE.bits() == 0 {
        return cpu.ud();
    }
    let flags = cpu.rflags();
    cpu.regs.gpr[1] = op.next(cpu);
    cpu.regs.gpr[11] = flags & !Rflags::RF.bits();
    let selector = (cpu.regs.star >> 32) as u16 & !3;
    cpu.seg[Seg::Cs as usize] = flat(selector, CODE64);
    cpu.seg[Seg::Ss as usize] = flat(selector.wrapping_add(8), DATA);
    cpu.set_rflags(flags & !cpu.regs.fmask & !Rflags::RF.bits());
    cpu.rip = cpu.regs.lstar;
    cpu.refresh();
    Ok(Flow::Check)
}

pub(in crate::cpu) fn syscall(_: &mut Form) -> Option<Run> {
    Some(Run::new(syscall_run))
}

/// SYSRET to 64-bit (`extra` 8) or compatibility mode.
fn sysret_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if cpu.efer & Efer::SCE.bits() == 0 {
        return cpu.ud();
    }
    let long = op.extra == 8;
    let rip = if long { cpu.regs.gpr[1] } else { cpu.regs.gpr[1] & 0xffff_ffff };
    if !cpu.canonical(rip) {
        return cpu.gp();
    }
    let star = (cpu.regs.star >> 48) as u16;
    let (code, rights) = if long { (star.wrapping_add(16), CODE64) } else { (star, CODE32) };
    cpu.seg[Seg::Cs as usize] = flat(code | 3, rights | LEVEL3);
    cpu.seg[Seg::Ss as usize] = flat(star.wrapping_add(8) | 3, DATA | LEVEL3);
    cpu.set_rflags(cpu.regs.gpr[11] & 0x3c_7fd7);
    cpu.rip = rip;
    cpu.refresh();
    Ok(Flow::Check)
}

pub(in crate::cpu) fn sysret(form: &mut Form) -> Option<Run> {
    form.op.extra = form.data_size();
    Some(Run::new(sysret_run))
}

fn sysenter_run(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    if !cpu.protected() || cpu.sysenter_cs & 0xfffc == 0 {
        return cpu.gp();
    }
    let selector = cpu.sysenter_cs as u16 & !3;
    let long = cpu.long_mode();
    cpu.seg[Seg::Cs as usize] = flat(selector, if long { CODE64 } else { CODE32 });
    cpu.seg[Seg::Ss as usize] = flat(selector.wrapping_add(8), DATA);
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.regs.gpr[4] = cpu.sysenter_esp & mask;
    cpu.rip = cpu.sysenter_eip & mask;
    for flag in [Rflags::VM, Rflags::IF, Rflags::RF] {
        cpu.flags.put(flag, false);
    }
    cpu.refresh();
    Ok(Flow::Check)
}

pub(in crate::cpu) fn sysenter(_: &mut Form) -> Option<Run> {
    Some(Run::new(sysenter_run))
}

/// SYSEXIT to 64-bit code (`extra` 8) or to 32-bit code.
fn sysexit_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if cpu.sysenter_cs & 0xfffc == 0 {
        return cpu.gp();
    }
    let long = op.extra == 8;
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    let (rip, rsp) = (cpu.regs.gpr[2] & mask, cpu.regs.gpr[1] & mask);
    if !cpu.canonical(rip) || !cpu.canonical(rsp) {
        return cpu.gp();
    }
    let base = cpu.sysenter_cs as u16 & !3;
    let (code, rights) = if long { (base.wrapping_add(32), CODE64) } else { (base.wrapping_add(16), CODE32) };
    cpu.seg[Seg::Cs as usize] = flat(code | 3, rights | LEVEL3);
    cpu.seg[Seg::Ss as usize] = flat(code.wrapping_add(8) | 3, DATA | LEVEL3);
    cpu.rip = rip;
    cpu.regs.gpr[4] = rsp;
    cpu.refresh();
    Ok(Flow::Check)
}

pub(in crate::cpu) fn sysexit(form: &mut Form) -> Option<Run> {
    form.op.extra = form.data_size();
    Some(Run::new(sysexit_run))
}

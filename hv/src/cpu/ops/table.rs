//! Descriptor-table registers, and what protected mode says of selectors: LGDT to STR, LAR, LSL, VERR, VERW, ARPL, and
//! the loads of far pointers.

use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run, W16, W32, W64, Width};
use crate::cpu::ops::vmx::{displacement, operand_info};
use crate::cpu::ops::{by_width, data::set_zf};
use crate::cpu::segment::{Descriptor, error_code, null};
use crate::cpu::state::{Cpu, Halt, Table};
use crate::memory::Memory;
use hv_defs::controls::SecondaryControls;
use hv_defs::exit::{InstructionInfo, Reason};
use hv_defs::x86::Vector;

/// The instruction's number in the instruction information.
const SGDT: u32 = 0;
const SIDT: u32 = 1;
const LGDT: u32 = 2;
const LIDT: u32 = 3;

fn tables_exit(cpu: &mut Cpu, op: &Op, reason: Reason) -> Result<(), Halt> {
    if !cpu.controls.secondary(SecondaryControls::DESCRIPTOR_TABLE_EXITING) {
        return Ok(());
    }
    let in_register = InstructionInfo::from(op.extra).is_register();
    let at = if in_register { 0 } else { displacement(cpu, op) };
    cpu.exit_with(op, reason, at, op.extra)
}

/// The instruction information, whose bit 11 is the operand size, and so what `KIND` and the size are when it runs.
fn table_info(form: &Form, kind: u32) -> u32 {
    let wide = form.operand_size() != 2;
    u32::from(operand_info(form)) | u32::from(wide) << 11 | kind << 28
}

/// LGDT and LIDT: a limit and a base, of 24 bits with a 16-bit operand.
fn load_table<const KIND: u32>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    tables_exit(cpu, op, Reason::GDTR_IDTR_ACCESS)?;
    let long = cpu.code64();
    let at = cpu.operand(op, if long { 10 } else { 6 }, false)?;
    let limit = cpu.load::<W16>(memory, op.seg(), at)? as u16;
    let base = if long {
        cpu.load::<W64>(memory, op.seg(), at.wrapping_add(2))?
    } else {
        let base = cpu.load::<W32>(memory, op.seg(), at.wrapping_add(2))?;
        if op.extra >> 11 & 1 != 0 { base } else { base & 0xff_ffff }
    };
    if long && !cpu.holds_canonical(base) {
        return cpu.gp();
    }
    let table = Table { base, limit };
    if KIND == LGDT {
        cpu.gdtr = table
    } else {
        cpu.idtr = table
    }
    cpu.checked(op)
}

/// SGDT and SIDT.
fn store_table<const KIND: u32>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    tables_exit(cpu, op, Reason::GDTR_IDTR_ACCESS)?;
    let long = cpu.code64();
    let at = cpu.operand(op, if long { 10 } else { 6 }, true)?;
    let table = if KIND == SGDT { cpu.gdtr } else { cpu.idtr };
    cpu.probe(memory, op.seg(), at, if long { 10 } else { 6 })?;
    cpu.store::<W16>(memory, op.seg(), at, u64::from(table.limit))?;
    let at = at.wrapping_add(2);
    if long {
        cpu.store::<W64>(memory, op.seg(), at, table.base)?;
    } else {
        cpu.store::<W32>(memory, op.seg(), at, table.base & 0xffff_ffff)?;
    }
    cpu.checked(op)
}

pub(in crate::cpu) fn lgdt(form: &mut Form) -> Option<Run> {
    form.op.extra = table_info(form, LGDT);
    Some(Run::new(load_table::<LGDT>))
}

pub(in crate::cpu) fn lidt(form: &mut Form) -> Option<Run> {
    form.op.extra = table_info(form, LIDT);
    Some(Run::new(load_table::<LIDT>))
}

pub(in crate::cpu) fn sgdt(form: &mut Form) -> Option<Run> {
    form.op.extra = table_info(form, SGDT);
    Some(Run::new(store_table::<SGDT>))
}

pub(in crate::cpu) fn sidt(form: &mut Form) -> Option<Run> {
    form.op.extra = table_info(form, SIDT);
    Some(Run::new(store_table::<SIDT>))
}

const SLDT: u32 = 0;
const STR: u32 = 1;
const LLDT: u32 = 2;
const LTR: u32 = 3;

fn selector_info(form: &Form, kind: u32) -> u32 {
    let info = if form.kind(0) == iced_x86::OpKind::Register {
        InstructionInfo::new().with_is_register(true).with_reg1(form.op.reg)
    } else {
        operand_info(form)
    };
    u32::from(info) | kind << 28
}

/// A 16-bit operand, in a register or in memory.
fn selector_operand(cpu: &mut Cpu, memory: &mut Memory, op: &Op, register: u8) -> Result<u16, Halt> {
    if InstructionInfo::from(op.extra).is_register() {
        return Ok(W16::get(cpu, register) as u16);
    }
    let at = cpu.operand(op, 2, false)?;
    Ok(cpu.load::<W16>(memory, op.seg(), at)? as u16)
}

fn load_system_segment<const KIND: u32>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    tables_exit(cpu, op, Reason::LDTR_TR_ACCESS)?;
    let selector = selector_operand(cpu, memory, op, op.reg)?;
    if selector & !3 == 0 {
        if KIND == LTR {
            return cpu.gp();
        }
        cpu.ldtr = null(selector, &cpu.ldtr);
        return cpu.checked(op);
    }
    let bad = Some(error_code(selector));
    let size = if cpu.long_mode() { 16 } else { 8 };
    let at = match cpu.descriptor_at(selector, size) {
        Some(at) if selector & 4 == 0 => at,
        _ => return cpu.fault(Vector::GP, bad),
    };
    let descriptor = Descriptor(cpu.load_system(memory, at, 8)?);
    let fits = match KIND {
        LLDT => descriptor.kind() == 2,
        _ if cpu.long_mode() => descriptor.kind() == 9,
        _ => matches!(descriptor.kind(), 1 | 9),
    };
    if descriptor.is_segment() || !fits {
        return cpu.fault(Vector::GP, bad);
    }
    if !descriptor.present() {
        return cpu.fault(Vector::NP, bad);
    }
    let mut segment = descriptor.segment(selector);
    if cpu.long_mode() {
        let high = cpu.load_system(memory, at.wrapping_add(8), 8)?;
        segment.base |= high << 32;
        if high >> 40 & 0x1f != 0 || !cpu.holds_canonical(segment.base) {
            return cpu.fault(Vector::GP, bad);
        }
    }
    if KIND == LTR {
        // The task is busy from now on.
        cpu.store_system(memory, at.wrapping_add(5), 1, descriptor.0 >> 40 & 0xff | 2)?;
        segment.rights = segment.rights.with_kind(segment.rights.kind() | 2);
        cpu.tr = segment;
    } else {
        cpu.ldtr = segment;
    }
    cpu.checked(op)
}

fn store_selector<const KIND: u32, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    tables_exit(cpu, op, Reason::LDTR_TR_ACCESS)?;
    let selector = u64::from(if KIND == STR { cpu.tr.selector } else { cpu.ldtr.selector });
    if InstructionInfo::from(op.extra).is_register() {
        W::set(cpu, op.reg, selector);
    } else {
        let at = cpu.operand(op, 2, true)?;
        cpu.store::<W16>(memory, op.seg(), at, selector)?;
    }
    cpu.checked(op)
}

pub(in crate::cpu) fn lldt(form: &mut Form) -> Option<Run> {
    form.op.extra = selector_info(form, LLDT);
    Some(Run::new(load_system_segment::<LLDT>))
}

pub(in crate::cpu) fn ltr(form: &mut Form) -> Option<Run> {
    form.op.extra = selector_info(form, LTR);
    Some(Run::new(load_system_segment::<LTR>))
}

pub(in crate::cpu) fn sldt(form: &mut Form) -> Option<Run> {
    form.op.extra = selector_info(form, SLDT);
    Some(by_width!(form.width, store_selector::<SLDT>))
}

pub(in crate::cpu) fn str(form: &mut Form) -> Option<Run> {
    form.op.extra = selector_info(form, STR);
    Some(by_width!(form.width, store_selector::<STR>))
}

impl Cpu {
    /// A selector's descriptor for the instructions that only ask: `None` where a load would fault for its table.
    fn asked(&mut self, memory: &mut Memory, selector: u16) -> Result<Option<Descriptor>, Halt> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        match self.descriptor_at(selector, 8) {
            Some(at) => Ok(Some(Descriptor(self.load_system(memory, at, 8)?))),
            None => Ok(None),
        }
    }

    /// Whether a descriptor may be seen from the privilege levels of the CPU and of the selector.
    fn visible(&self, selector: u16, descriptor: Descriptor) -> bool {
        descriptor.is_code() && descriptor.is_conforming() || self.cpl().max((selector & 3) as u8) <= descriptor.dpl()
    }
}

/// LAR (`LIMIT` false) and LSL.
fn ask<const LIMIT: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let selector = selector_operand(cpu, memory, op, op.rm)?;
    let found = cpu.asked(memory, selector)?.filter(|descriptor| {
        let kind = descriptor.kind();
        let system = if cpu.long_mode() {
            matches!(kind, 2 | 9 | 11) || !LIMIT && kind == 12
        } else {
            matches!(kind, 1 | 2 | 3 | 9 | 11) || !LIMIT && matches!(kind, 4 | 5 | 12)
        };
        (descriptor.is_segment() || system) && cpu.visible(selector, *descriptor)
    });
    if let Some(descriptor) = found {
        let value = if LIMIT { u64::from(descriptor.limit()) } else { descriptor.0 >> 32 & 0x00ff_ff00 };
        W::set(cpu, op.reg, value & W::MASK);
    }
    set_zf(cpu, found.is_some());
    Ok(Flow::Next)
}

fn second_info(form: &mut Form) {
    form.op.extra = InstructionInfo::new().with_is_register(form.second_is_register()).into();
}

pub(in crate::cpu) fn lar(form: &mut Form) -> Option<Run> {
    second_info(form);
    Some(by_width!(form.width, ask::<false>))
}

pub(in crate::cpu) fn lsl(form: &mut Form) -> Option<Run> {
    second_info(form);
    Some(by_width!(form.width, ask::<true>))
}

/// VERR (`WRITE` false) and VERW.
fn verify<const WRITE: bool>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let selector = selector_operand(cpu, memory, op, op.reg)?;
    let allowed = cpu.asked(memory, selector)?.is_some_and(|descriptor| {
        let kind = if WRITE {
            !descriptor.is_code() && descriptor.is_read_write()
        } else {
            !descriptor.is_code() || descriptor.is_read_write()
        };
        descriptor.is_segment() && kind && cpu.visible(selector, descriptor)
    });
    set_zf(cpu, allowed);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn verr(form: &mut Form) -> Option<Run> {
    form.op.extra = selector_info(form, 0);
    Some(Run::new(verify::<false>))
}

pub(in crate::cpu) fn verw(form: &mut Form) -> Option<Run> {
    form.op.extra = selector_info(form, 0);
    Some(Run::new(verify::<true>))
}

/// ARPL: raises the RPL of the first operand to that of the second.
fn arpl_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let in_register = InstructionInfo::from(op.extra).is_register();
    let (selector, at) = if in_register {
        (W16::get(cpu, op.reg), 0)
    } else {
        let at = cpu.operand(op, 2, false)?;
        (cpu.load::<W16>(memory, op.seg(), at)?, at)
    };
    let rpl = W16::get(cpu, if in_register { op.rm } else { op.reg }) & 3;
    let raise = selector & 3 < rpl;
    if raise {
        let value = selector & !3 | rpl;
        if in_register {
            W16::set(cpu, op.reg, value);
        } else {
            cpu.operand(op, 2, true)?;
            cpu.store::<W16>(memory, op.seg(), at, value)?;
        }
    }
    set_zf(cpu, raise);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn arpl(form: &mut Form) -> Option<Run> {
    let in_register = form.kind(0) == iced_x86::OpKind::Register;
    form.op.extra = InstructionInfo::new().with_is_register(in_register).into();
    Some(Run::new(arpl_run))
}

/// LDS, LES, LFS, LGS, LSS: an offset and a selector from memory.
fn load_far_run<const SEG: u8, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let at = cpu.operand(op, W::BYTES + 2, false)?;
    let offset = cpu.load::<W>(memory, op.seg(), at)?;
    let selector = cpu.load::<W16>(memory, op.seg(), at.wrapping_add(W::BYTES))? as u16;
    cpu.load_segment(memory, SEG, selector)?;
    W::set(cpu, op.reg, offset);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn load_far<const SEG: u8>(form: &mut Form) -> Option<Run> {
    Some(match form.size(0) {
        2 => Run::new(load_far_run::<SEG, W16>),
        4 => Run::new(load_far_run::<SEG, W32>),
        _ => Run::new(load_far_run::<SEG, W64>),
    })
}

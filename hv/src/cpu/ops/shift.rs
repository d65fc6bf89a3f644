//! Shifts and rotates, SHLD and SHRD, and the flagless ones of BMI2.
//!
//! A count of 0 leaves the flags alone. OF after a count above 1 is undefined: the value here is what processors give
//! in practice, the formula of a one-bit shift applied to the result.

use crate::cpu::decode::{Form, Shape};
use crate::cpu::op::{Ea, Flow, Op, Run, W8, W32, W64, Width};
use crate::cpu::ops::{alu::logic, by_ea, by_width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;

/// A shift or rotate of `a` by `count`, which is masked already and not 0.
pub(in crate::cpu) trait Shift: 'static {
    fn eval<W: Width>(cpu: &mut Cpu, a: u64, count: u32) -> u64;
}

pub(in crate::cpu) enum Shl {}
pub(in crate::cpu) enum Shr {}
pub(in crate::cpu) enum Sar {}
pub(in crate::cpu) enum Rol {}
pub(in crate::cpu) enum Ror {}
pub(in crate::cpu) enum Rcl {}
pub(in crate::cpu) enum Rcr {}

impl Shift for Shl {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, a: u64, count: u32) -> u64 {
        let wide = u128::from(a) << count;
        let result = wide as u64 & W::MASK;
        let cf = wide >> W::BITS & 1 != 0;
        logic::<W>(&mut cpu.flags, result);
        cpu.flags.set_cf_of(cf, W::sign(result) != cf);
        result
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, a: u64, count: u32) -> u64 {
        let before = a.checked_shr(count - 1).unwrap_or(0);
        let result = before >> 1;
        logic::<W>(&mut cpu.flags, result);
        cpu.flags.set_cf_of(before & 1 != 0, W::sign(result << 1 & W::MASK) != W::sign(result));
        result
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, a: u64, count: u32) -> u64 {
        let before = W::sext(a) as i64 >> (count - 1).min(63);
        let result = (before >> 1) as u64 & W::MASK;
        logic::<W>(&mut cpu.flags, result);
        cpu.flags.set_cf_of(before & 1 != 0, false);
        result
    }
}

impl Shift for Rol {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, a: u64, count: u32) -> u64 {
        let count = count & (W::BITS - 1);
        let result = if count == 0 { a } else { (a << count | a >> (W::BITS - count)) & W::MASK };
        let cf = result & 1 != 0;
        cpu.flags.set_cf_of(cf, W::sign(result) != cf);
        result
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, a: u64, count: u32) -> u64 {
        let count = count & (W::BITS - 1);
        let result = if count == 0 { a } else { (a >> count | a << (W::BITS - count)) & W::MASK };
        let cf = W::sign(result);
        cpu.flags.set_cf_of(cf, cf != W::sign(result << 1));
        result
    }
}

impl Shift for Rcl {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, a: u64, count: u32) -> u64 {
        let count = count % (W::BITS + 1);
        if count == 0 {
            return a;
        }
        // The operand with CF above it, rotated within BITS + 1 bits.
        let all = u128::from(a) | u128::from(cpu.flags.cf()) << W::BITS;
        let turned = all << count | all >> (W::BITS + 1 - count);
        let result = turned as u64 & W::MASK;
        let cf = turned >> W::BITS & 1 != 0;
        cpu.flags.set_cf_of(cf, W::sign(result) != cf);
        result
    }
}

impl Shift for Rcr {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, a: u64, count: u32) -> u64 {
        let count = count % (W::BITS + 1);
        if count == 0 {
            return a;
        }
        let all = u128::from(a) | u128::from(cpu.flags.cf()) << W::BITS;
        let turned = all >> count | all << (W::BITS + 1 - count);
        let result = turned as u64 & W::MASK;
        let cf = turned >> W::BITS & 1 != 0;
        cpu.flags.set_cf_of(cf, W::sign(result) != W::sign(result << 1));
        result
    }
}

#[inline(always)]
fn count_mask<W: Width>() -> u64 {
    if W::BITS == 64 { 63 } else { 31 }
}

/// By an immediate, which the builder has masked and found not to be 0.
fn r_imm<O: Shift, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = W::get(cpu, op.reg);
    let result = O::eval::<W>(cpu, a, op.imm as u32);
    W::set(cpu, op.reg, result);
    Ok(Flow::Next)
}

fn r_cl<O: Shift, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let count = W8::get(cpu, 1) & count_mask::<W>();
    let a = W::get(cpu, op.reg);
    // 32 bits clear the upper half even when nothing is shifted.
    let result = if count == 0 { a } else { O::eval::<W>(cpu, a, count as u32) };
    W::set(cpu, op.reg, result);
    Ok(Flow::Next)
}

/// In memory, by the immediate or (`extra` not 0) by CL.
fn m<O: Shift, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let count = if op.extra != 0 { W8::get(cpu, 1) & count_mask::<W>() } else { op.imm };
    cpu.modify::<W, E>(memory, op, |cpu, a| if count == 0 { a } else { O::eval::<W>(cpu, a, count as u32) })?;
    Ok(Flow::Next)
}

fn r_zero<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = W::get(cpu, op.reg);
    W::set(cpu, op.reg, a);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn shift<O: Shift>(form: &mut Form) -> Option<Run> {
    form.op.imm &= if form.width == 8 { 63 } else { 31 };
    let by_cl = form.second_is_register();
    form.op.extra = u32::from(by_cl);
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, r_cl::<O>),
        Shape::RegImm if form.op.imm == 0 => by_width!(form.width, r_zero),
        Shape::RegImm => by_width!(form.width, r_imm::<O>),
        Shape::MemReg | Shape::MemImm => by_ea!(form.ea, form.width, m::<O>),
        _ => return None,
    })
}

/// SHLD (`LEFT`) and SHRD. A count above the width, which 16 bits can have, is undefined: here the source follows the
/// destination and the destination follows again, as processors do it.
#[inline(always)]
fn double<const LEFT: bool, W: Width>(cpu: &mut Cpu, a: u64, b: u64, count: u32) -> u64 {
    let (a, b, bits) = (u128::from(a), u128::from(b), W::BITS);
    let (result, cf);
    if LEFT {
        // From the top: a, b, a.
        let low = if bits == 64 { 0 } else { a };
        let all = if bits == 64 { a << 64 | b } else { a << (2 * bits) | b << bits | low };
        let span = if bits == 64 { 2 * bits } else { 3 * bits };
        let turned = all << count;
        result = (turned >> (span - bits)) as u64 & W::MASK;
        cf = all >> (span - count) & 1 != 0;
    } else {
        // From the bottom: a, b, a.
        let all = if bits == 64 { b << 64 | a } else { a << (2 * bits) | b << bits | a };
        result = (all >> count) as u64 & W::MASK;
        cf = all >> (count - 1) & 1 != 0;
    }
    logic::<W>(&mut cpu.flags, result);
    // OF tells whether the last of the one-bit shifts changed the sign; of a one-bit shift that is all there is to it.
    let of = if LEFT { W::sign(result) != cf } else { W::sign(result) != W::sign(result << 1 & W::MASK) };
    cpu.flags.set_cf_of(cf, of);
    result
}

#[inline(always)]
fn double_count<W: Width>(cpu: &Cpu, op: &Op) -> u32 {
    (if op.extra != 0 { W8::get(cpu, 1) } else { op.imm } & count_mask::<W>()) as u32
}

fn double_r<const LEFT: bool, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (a, b) = (W::get(cpu, op.reg), W::get(cpu, op.rm));
    let count = double_count::<W>(cpu, op);
    let result = if count == 0 { a } else { double::<LEFT, W>(cpu, a, b, count) };
    W::set(cpu, op.reg, result);
    Ok(Flow::Next)
}

fn double_m<const LEFT: bool, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = W::get(cpu, op.reg);
    let count = double_count::<W>(cpu, op);
    cpu.modify::<W, E>(memory, op, |cpu, a| if count == 0 { a } else { double::<LEFT, W>(cpu, a, b, count) })?;
    Ok(Flow::Next)
}

/// SHLD and SHRD: three operands, of which the last is an immediate or CL.
pub(in crate::cpu) fn shift_double<const LEFT: bool>(form: &mut Form) -> Option<Run> {
    form.op.extra = u32::from(form.kind(2) == iced_x86::OpKind::Register);
    Some(if form.kind(0) == iced_x86::OpKind::Register {
        by_width!(form.width, double_r::<LEFT>)
    } else {
        by_ea!(form.ea, form.width, double_m::<LEFT>)
    })
}

/// SHLX, SHRX, SARX and RORX: no flags. The count is the third operand.
pub(in crate::cpu) trait Flagless: 'static {
    fn eval<W: Width>(a: u64, count: u32) -> u64;
}

pub(in crate::cpu) enum Shlx {}
pub(in crate::cpu) enum Shrx {}
pub(in crate::cpu) enum Sarx {}
pub(in crate::cpu) enum Rorx {}

impl Flagless for Shlx {
    #[inline(always)]
    fn eval<W: Width>(a: u64, count: u32) -> u64 {
        a << count & W::MASK
    }
}

impl Flagless for Shrx {
    #[inline(always)]
    fn eval<W: Width>(a: u64, count: u32) -> u64 {
        a >> count
    }
}

impl Flagless for Sarx {
    #[inline(always)]
    fn eval<W: Width>(a: u64, count: u32) -> u64 {
        (W::sext(a) as i64 >> count) as u64 & W::MASK
    }
}

impl Flagless for Rorx {
    #[inline(always)]
    fn eval<W: Width>(a: u64, count: u32) -> u64 {
        if count == 0 { a } else { (a >> count | a << (W::BITS - count)) & W::MASK }
    }
}

/// The count: the register `extra`, or with `extra` 255 the immediate.
#[inline(always)]
fn flagless_count<W: Width>(cpu: &Cpu, op: &Op) -> u32 {
    let count = if op.extra == 255 { op.imm } else { cpu.regs.gpr[op.extra as usize & 15] };
    (count & count_mask::<W>()) as u32
}

fn flagless_r<O: Flagless, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let result = O::eval::<W>(W::get(cpu, op.rm), flagless_count::<W>(cpu, op));
    W::set(cpu, op.reg, result);
    Ok(Flow::Next)
}

fn flagless_m<O: Flagless, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = cpu.read::<W, E>(memory, op)?;
    let result = O::eval::<W>(a, flagless_count::<W>(cpu, op));
    W::set(cpu, op.reg, result);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn flagless<O: Flagless>(form: &mut Form) -> Option<Run> {
    form.op.extra = if form.kind(2) == iced_x86::OpKind::Register { u32::from(form.register(2)) } else { 255 };
    Some(match (form.kind(1) == iced_x86::OpKind::Register, form.width) {
        (true, 4) => Run::new(flagless_r::<O, W32>),
        (true, _) => Run::new(flagless_r::<O, W64>),
        (false, _) => by_ea!(form.ea, form.width, flagless_m::<O>),
    })
}

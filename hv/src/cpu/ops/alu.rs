//! Two-operand and one-operand arithmetic: ADD to CMP, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG, ADCX and ADOX.

use crate::cpu::decode::{Form, Shape};
use crate::cpu::flags::Flags;
use crate::cpu::op::{Ea, Flow, Op, Run, W32, W64, Width};
use crate::cpu::ops::fused::Part;
use crate::cpu::ops::{by_ea, by_ea_fast, by_width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;

/// Leaves in `flags` what a vector of carries (or borrows) out of each bit tells beside the result.
#[inline(always)]
fn carries<W: Width>(flags: &mut Flags, result: u64, carries: u64) {
    flags.result = W::sext(result);
    flags.word =
        if W::BITS == 64 { carries & (3 << 62 | 8) } else { (carries << (64 - W::BITS)) & (3 << 62) | carries & 8 };
}

/// Flags of a bitwise operation: CF, OF and AF clear.
#[inline(always)]
pub(in crate::cpu) fn logic<W: Width>(flags: &mut Flags, result: u64) -> u64 {
    flags.result = W::sext(result);
    flags.word = 0;
    result
}

#[inline(always)]
pub(in crate::cpu) fn add<W: Width>(flags: &mut Flags, a: u64, b: u64, carry: u64) -> u64 {
    let result = a.wrapping_add(b).wrapping_add(carry);
    carries::<W>(flags, result, a & b | (a | b) & !result);
    result & W::MASK
}

#[inline(always)]
pub(in crate::cpu) fn sub<W: Width>(flags: &mut Flags, a: u64, b: u64, borrow: u64) -> u64 {
    let result = a.wrapping_sub(b).wrapping_sub(borrow);
    carries::<W>(flags, result, !a & b | (!a | b) & result);
    result & W::MASK
}

/// A two-operand operation.
pub(in crate::cpu) trait Alu: 'static {
    /// Whether the result goes to the first operand.
    const STORES: bool = true;
    /// The result, within the width; flags are set.
    fn eval<W: Width>(flags: &mut Flags, a: u64, b: u64) -> u64;
}

macro_rules! operations {
    ($($name:ident $stores:literal |$flags:ident, $a:ident, $b:ident, $w:ident| $eval:expr;)*) => {$(
        pub(in crate::cpu) enum $name {}
        impl Alu for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn eval<$w: Width>($flags: &mut Flags, $a: u64, $b: u64) -> u64 {
                $eval
            }
        }
    )*};
}

operations! {
    Add true |f, a, b, W| add::<W>(f, a, b, 0);
    Or true |f, a, b, W| logic::<W>(f, a | b);
    Adc true |f, a, b, W| add::<W>(f, a, b, u64::from(f.cf()));
    Sbb true |f, a, b, W| sub::<W>(f, a, b, u64::from(f.cf()));
    And true |f, a, b, W| logic::<W>(f, a & b);
    Sub true |f, a, b, W| sub::<W>(f, a, b, 0);
    Xor true |f, a, b, W| logic::<W>(f, a ^ b);
    Cmp false |f, a, b, W| sub::<W>(f, a, b, 0);
    Test false |f, a, b, W| logic::<W>(f, a & b);
}

/// A one-operand operation.
pub(in crate::cpu) trait Unary: 'static {
    /// The result, within the width; flags are set.
    fn eval<W: Width>(flags: &mut Flags, a: u64) -> u64;
}

pub(in crate::cpu) enum Inc {}
pub(in crate::cpu) enum Dec {}
pub(in crate::cpu) enum Neg {}

impl Unary for Inc {
    #[inline(always)]
    fn eval<W: Width>(flags: &mut Flags, a: u64) -> u64 {
        let cf = flags.cf();
        let result = add::<W>(flags, a, 1, 0);
        flags.set_cf(cf);
        result
    }
}

impl Unary for Dec {
    #[inline(always)]
    fn eval<W: Width>(flags: &mut Flags, a: u64) -> u64 {
        let cf = flags.cf();
        let result = sub::<W>(flags, a, 1, 0);
        flags.set_cf(cf);
        result
    }
}

impl Unary for Neg {
    #[inline(always)]
    fn eval<W: Width>(flags: &mut Flags, a: u64) -> u64 {
        sub::<W>(flags, 0, a, 0)
    }
}

fn rr<O: Alu, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (a, b) = (W::get(cpu, op.reg), W::get(cpu, op.rm));
    let result = O::eval::<W>(&mut cpu.flags, a, b);
    if O::STORES {
        W::set(cpu, op.reg, result);
    }
    Ok(Flow::Next)
}

fn ri<O: Alu, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = W::get(cpu, op.reg);
    let result = O::eval::<W>(&mut cpu.flags, a, op.imm & W::MASK);
    if O::STORES {
        W::set(cpu, op.reg, result);
    }
    Ok(Flow::Next)
}

fn rm<O: Alu, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = cpu.read::<W, E>(memory, op)?;
    let a = W::get(cpu, op.reg);
    let result = O::eval::<W>(&mut cpu.flags, a, b);
    if O::STORES {
        W::set(cpu, op.reg, result);
    }
    Ok(Flow::Next)
}

fn mr<O: Alu, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = W::get(cpu, op.reg);
    if O::STORES {
        cpu.modify::<W, E>(memory, op, |cpu, a| O::eval::<W>(&mut cpu.flags, a, b))?;
    } else {
        let a = cpu.read::<W, E>(memory, op)?;
        O::eval::<W>(&mut cpu.flags, a, b);
    }
    Ok(Flow::Next)
}

fn mi<O: Alu, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = op.imm & W::MASK;
    if O::STORES {
        cpu.modify::<W, E>(memory, op, |cpu, a| O::eval::<W>(&mut cpu.flags, a, b))?;
    } else {
        let a = cpu.read::<W, E>(memory, op)?;
        O::eval::<W>(&mut cpu.flags, a, b);
    }
    Ok(Flow::Next)
}

/// A two-operand operation, in any shape.
pub(in crate::cpu) fn alu<O: Alu>(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, rr::<O>),
        Shape::RegImm => by_width!(form.width, ri::<O>),
        Shape::RegMem => by_ea_fast!(form.ea, form.width, rm::<O>),
        Shape::MemReg => by_ea_fast!(form.ea, form.width, mr::<O>),
        Shape::MemImm => by_ea_fast!(form.ea, form.width, mi::<O>),
        _ => return None,
    })
}

/// CMP (`IS_TEST` false) and TEST, of which those of registers and immediates go together with a branch behind them.
pub(in crate::cpu) fn compare<O: Alu, const IS_TEST: bool>(form: &mut Form) -> Option<Run> {
    if let shape @ (Shape::RegReg | Shape::RegImm) = form.shape() {
        let (immediate, width) = (shape == Shape::RegImm, form.width as u8);
        form.part = Part::Compare { test: IS_TEST, immediate, width };
    }
    alu::<O>(form)
}

fn r<O: Unary, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = W::get(cpu, op.reg);
    let result = O::eval::<W>(&mut cpu.flags, a);
    W::set(cpu, op.reg, result);
    Ok(Flow::Next)
}

fn m<O: Unary, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.modify::<W, E>(memory, op, |cpu, a| O::eval::<W>(&mut cpu.flags, a))?;
    Ok(Flow::Next)
}

/// A one-operand operation, in either shape.
pub(in crate::cpu) fn unary<O: Unary>(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::Reg => by_width!(form.width, r::<O>),
        Shape::Mem => by_ea_fast!(form.ea, form.width, m::<O>),
        _ => return None,
    })
}

fn xadd_r<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (a, b) = (W::get(cpu, op.reg), W::get(cpu, op.rm));
    let sum = add::<W>(&mut cpu.flags, a, b, 0);
    W::set(cpu, op.rm, a);
    W::set(cpu, op.reg, sum);
    Ok(Flow::Next)
}

fn xadd_m<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = W::get(cpu, op.reg);
    cpu.modify::<W, E>(memory, op, |cpu, a| {
        let sum = add::<W>(&mut cpu.flags, a, b, 0);
        W::set(cpu, op.reg, a);
        sum
    })?;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn xadd(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, xadd_r),
        Shape::MemReg => by_ea_fast!(form.ea, form.width, xadd_m),
        _ => return None,
    })
}

fn cmpxchg_r<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (old, accumulator) = (W::get(cpu, op.reg), W::get(cpu, 0));
    sub::<W>(&mut cpu.flags, accumulator, old, 0);
    if old == accumulator {
        let new = W::get(cpu, op.rm);
        W::set(cpu, op.reg, new);
    } else {
        W::set(cpu, 0, old);
    }
    Ok(Flow::Next)
}

fn cmpxchg_m<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (new, accumulator) = (W::get(cpu, op.reg), W::get(cpu, 0));
    // Memory is written either way, with its own value when the comparison fails.
    cpu.modify::<W, E>(memory, op, |cpu, old| {
        sub::<W>(&mut cpu.flags, accumulator, old, 0);
        if old == accumulator {
            new
        } else {
            W::set(cpu, 0, old);
            old
        }
    })?;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn cmpxchg(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, cmpxchg_r),
        Shape::MemReg => by_ea_fast!(form.ea, form.width, cmpxchg_m),
        _ => return None,
    })
}

/// ADCX (`OVERFLOW` false) and ADOX: one carry each, the other flags untouched.
fn adx<const OVERFLOW: bool, W: Width>(cpu: &mut Cpu, op: &Op, b: u64) -> Result<Flow, Halt> {
    let (cf, of) = (cpu.flags.cf(), cpu.flags.of());
    let carry = if OVERFLOW { of } else { cf };
    let sum = u128::from(W::get(cpu, op.reg)) + u128::from(b) + u128::from(carry);
    W::set(cpu, op.reg, sum as u64 & W::MASK);
    let out = sum >> W::BITS != 0;
    if OVERFLOW {
        cpu.flags.set_cf_of(cf, out)
    } else {
        cpu.flags.set_cf_of(out, of)
    }
    Ok(Flow::Next)
}

fn adx_r<const OVERFLOW: bool, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = W::get(cpu, op.rm);
    adx::<OVERFLOW, W>(cpu, op, b)
}

fn adx_m<const OVERFLOW: bool, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = cpu.read::<W, E>(memory, op)?;
    adx::<OVERFLOW, W>(cpu, op, b)
}

pub(in crate::cpu) fn add_with<const OVERFLOW: bool>(form: &mut Form) -> Option<Run> {
    Some(match (form.shape(), form.width) {
        (Shape::RegReg, 4) => Run::new(adx_r::<OVERFLOW, W32>),
        (Shape::RegReg, _) => Run::new(adx_r::<OVERFLOW, W64>),
        (Shape::RegMem, _) => by_ea!(form.ea, form.width, adx_m::<OVERFLOW>),
        _ => return None,
    })
}

fn not_r<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = W::get(cpu, op.reg);
    W::set(cpu, op.reg, !a & W::MASK);
    Ok(Flow::Next)
}

fn not_m<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.modify::<W, E>(memory, op, |_, a| !a & W::MASK)?;
    Ok(Flow::Next)
}

/// NOT, which leaves the flags alone.
pub(in crate::cpu) fn not(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::Reg => by_width!(form.width, not_r),
        Shape::Mem => by_ea!(form.ea, form.width, not_m),
        _ => return None,
    })
}

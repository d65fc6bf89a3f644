//! MUL, IMUL, DIV, IDIV and MULX.

use crate::cpu::decode::{Form, Shape};
use crate::cpu::op::{Ea, Flow, Op, Run, Width};
use crate::cpu::ops::{alu::logic, by_ea, by_ea_fast, by_width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::Vector;

/// The double-width accumulator: AX for bytes, else rDX:rAX.
#[inline(always)]
fn set_double<W: Width>(cpu: &mut Cpu, low: u64, high: u64) {
    if W::BITS == 8 {
        crate::cpu::op::W16::set(cpu, 0, low & 0xff | (high & 0xff) << 8);
    } else {
        W::set(cpu, 0, low & W::MASK);
        W::set(cpu, 2, high & W::MASK);
    }
}

/// A one-operand operation on the accumulator and `b`.
trait Accumulate: 'static {
    fn eval<W: Width>(cpu: &mut Cpu, b: u64) -> Result<(), Halt>;
}

enum Mul {}
enum Imul {}
enum Div {}
enum Idiv {}

/// Flags after a multiplication: CF and OF tell whether the upper half matters, the others follow the lower half.
#[inline(always)]
fn multiplied<W: Width>(cpu: &mut Cpu, low: u64, overflow: bool) {
    logic::<W>(&mut cpu.flags, low & W::MASK);
    cpu.flags.set_cf_of(overflow, overflow);
}

impl Accumulate for Mul {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, b: u64) -> Result<(), Halt> {
        let product = u128::from(W::get(cpu, 0)) * u128::from(b);
        let (low, high) = (product as u64, (product >> W::BITS) as u64);
        set_double::<W>(cpu, low, high);
        multiplied::<W>(cpu, low, high != 0);
        Ok(())
    }
}

#[inline(always)]
fn signed<W: Width>(value: u64) -> i128 {
    i128::from(W::sext(value) as i64)
}

impl Accumulate for Imul {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, b: u64) -> Result<(), Halt> {
        let product = signed::<W>(W::get(cpu, 0)) * signed::<W>(b);
        let low = product as u64;
        set_double::<W>(cpu, low, (product >> W::BITS) as u64);
        multiplied::<W>(cpu, low, product != signed::<W>(low));
        Ok(())
    }
}

#[inline(always)]
fn double<W: Width>(cpu: &Cpu) -> u128 {
    if W::BITS == 8 {
        u128::from(cpu.regs.gpr[0] & 0xffff)
    } else {
        u128::from(W::get(cpu, 2)) << W::BITS | u128::from(W::get(cpu, 0))
    }
}

impl Accumulate for Div {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, b: u64) -> Result<(), Halt> {
        let dividend = double::<W>(cpu);
        if b == 0 || dividend >> W::BITS >= u128::from(b) {
            return cpu.fault(Vector::DE, None);
        }
        // Most dividends fit 64 bits, whose division is several times cheaper.
        let (quotient, rest) = match u64::try_from(dividend) {
            Ok(dividend) => (dividend / b, dividend % b),
            Err(_) => ((dividend / u128::from(b)) as u64, (dividend % u128::from(b)) as u64),
        };
        set_double::<W>(cpu, quotient, rest);
        Ok(())
    }
}

impl Accumulate for Idiv {
    #[inline(always)]
    fn eval<W: Width>(cpu: &mut Cpu, b: u64) -> Result<(), Halt> {
        let bits = if W::BITS == 8 { 16 } else { 2 * W::BITS };
        let dividend = (double::<W>(cpu) << (128 - bits)) as i128 >> (128 - bits);
        let divisor = signed::<W>(b);
        if divisor == 0 || divisor == -1 && dividend == i128::MIN {
            return cpu.fault(Vector::DE, None);
        }
        let (quotient, rest) = match (i64::try_from(dividend), divisor as i64) {
            (Ok(dividend), divisor) if !(dividend == i64::MIN && divisor == -1) => {
                (i128::from(dividend / divisor), i128::from(dividend % divisor))
            }
            _ => (dividend / divisor, dividend % divisor),
        };
        if quotient != signed::<W>(quotient as u64) {
            return cpu.fault(Vector::DE, None);
        }
        set_double::<W>(cpu, quotient as u64, rest as u64);
        Ok(())
    }
}

fn accumulate_r<O: Accumulate, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = W::get(cpu, op.reg);
    O::eval::<W>(cpu, b)?;
    Ok(Flow::Next)
}

fn accumulate_m<O: Accumulate, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = cpu.read::<W, E>(memory, op)?;
    O::eval::<W>(cpu, b)?;
    Ok(Flow::Next)
}

fn accumulate<O: Accumulate>(form: &Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::Reg => by_width!(form.width, accumulate_r::<O>),
        Shape::Mem => by_ea!(form.ea, form.width, accumulate_m::<O>),
        _ => return None,
    })
}

pub(in crate::cpu) fn mul(form: &mut Form) -> Option<Run> {
    accumulate::<Mul>(form)
}

pub(in crate::cpu) fn div(form: &mut Form) -> Option<Run> {
    accumulate::<Div>(form)
}

pub(in crate::cpu) fn idiv(form: &mut Form) -> Option<Run> {
    accumulate::<Idiv>(form)
}

#[inline(always)]
fn multiply<W: Width>(cpu: &mut Cpu, op: &Op, a: u64, b: u64) {
    let (low, overflow) = if W::BITS == 64 {
        let (low, overflow) = (a as i64).overflowing_mul(b as i64);
        (low as u64, overflow)
    } else {
        let product = (W::sext(a) as i64).wrapping_mul(W::sext(b) as i64) as u64;
        (product, W::sext(product) != product)
    };
    W::set(cpu, op.reg, low & W::MASK);
    multiplied::<W>(cpu, low, overflow);
}

fn imul_rr<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (a, b) = (W::get(cpu, op.reg), W::get(cpu, op.rm));
    multiply::<W>(cpu, op, a, b);
    Ok(Flow::Next)
}

fn imul_rm<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = cpu.read::<W, E>(memory, op)?;
    let a = W::get(cpu, op.reg);
    multiply::<W>(cpu, op, a, b);
    Ok(Flow::Next)
}

fn imul_rri<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = W::get(cpu, op.rm);
    multiply::<W>(cpu, op, a, op.imm);
    Ok(Flow::Next)
}

fn imul_rmi<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = cpu.read::<W, E>(memory, op)?;
    multiply::<W>(cpu, op, a, op.imm);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn imul(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, imul_rr),
        Shape::RegMem => by_ea_fast!(form.ea, form.width, imul_rm),
        Shape::RegRegImm => by_width!(form.width, imul_rri),
        Shape::RegMemImm => by_ea_fast!(form.ea, form.width, imul_rmi),
        _ => return accumulate::<Imul>(form),
    })
}

//! Floating-point arithmetic, comparisons and rounding of SSE, AVX and FMA.
//!
//! The result is [`crate::cpu::float`]'s. Where the outcome can raise nothing that is not raised already (round to
//! nearest, the precision flag set, normal operands and a normal result), IEEE 754 leaves no choice and the compiler's
//! own arithmetic is used.

use super::moves::store;
use super::{Encoding, memory_source, plain, three, vex, vex_source};
use crate::cpu::decode::Form;
use crate::cpu::float::{self, Env, Format, NanRule, Num, Raw, Rounding, flag};
use crate::cpu::op::{Flow, Op, Run};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use core::cmp::Ordering;
use hv_defs::x86::{Cr4, Vector};
use iced_x86::{Instruction, Mnemonic};

/// The environment that MXCSR gives, and whether an inexact result raises nothing new and rounds to nearest.
#[derive(Clone, Copy)]
pub(super) struct Sse {
    pub(super) env: Env,
    pub(super) quick: bool,
}

impl Cpu {
    #[inline(always)]
    pub(super) fn sse_env(&self) -> Sse {
        let mxcsr = self.mxcsr();
        Sse {
            env: Env {
                rounding: Rounding::from_bits((mxcsr >> 13) as u8),
                denormals_are_zero: mxcsr & 1 << 6 != 0,
                flush_to_zero: mxcsr & 1 << 15 != 0,
                masked: (mxcsr >> 7) as u8 & 0x3f,
                ..Env::new(NanRule::First)
            },
            // PE set, PM set, RC nearest.
            quick: mxcsr & 0x7020 == 0x0020 && mxcsr & 1 << 12 != 0,
        }
    }

    /// Raises what an operation raised: #XM (or #UD where the system does not expect it) if that is unmasked.
    #[inline(always)]
    pub(super) fn sse_raise(&mut self, env: &Env) -> Result<(), Halt> {
        if env.flags == 0 { Ok(()) } else { self.sse_raise_some(env) }
    }

    #[cold]
    fn sse_raise_some(&mut self, env: &Env) -> Result<(), Halt> {
        // An exception found in the operands hides what the result would have raised.
        let early = flag::INVALID | flag::DENORMAL | flag::ZERO_DIVIDE;
        let unmasked = env.flags & !env.masked & 0x3f;
        let flags = if unmasked & early != 0 { env.flags & early } else { env.flags };
        self.set_mxcsr(self.mxcsr() | u32::from(flags));
        if unmasked == 0 {
            return Ok(());
        }
        let vector = if self.has_cr4(Cr4::OSXMMEXCPT) { Vector::XM } else { Vector::UD };
        self.fault(vector, None)
    }
}

/// A lane's type: single or double precision.
pub(super) trait Real: 'static {
    const FORMAT: Format;
    const BITS: u32;

    fn add(a: u64, b: u64) -> u64;
    fn sub(a: u64, b: u64) -> u64;
    fn mul(a: u64, b: u64) -> u64;
    fn div(a: u64, b: u64) -> u64;
    fn sqrt(a: u64) -> u64;

    /// Zero, or a normal number: what no flag but the precision flag can come of, if the result is one too.
    #[inline(always)]
    fn tame(bits: u64) -> bool {
        let exponent = bits >> (Self::FORMAT.precision - 1) & Self::all_ones();
        exponent.wrapping_sub(1) < Self::all_ones() - 1 || bits << (65 - Self::BITS) == 0
    }

    /// A normal number that no smaller one was rounded to.
    #[inline(always)]
    fn safe(bits: u64) -> bool {
        let exponent = bits >> (Self::FORMAT.precision - 1) & Self::all_ones();
        exponent.wrapping_sub(2) < Self::all_ones() - 2
    }

    #[inline(always)]
    fn all_ones() -> u64 {
        (1 << Self::FORMAT.exponent_bits) - 1
    }
}

pub(super) enum Single {}
pub(super) enum Double {}

macro_rules! real {
    ($name:ident, $format:expr, $bits:literal, $float:ty, $uint:ty) => {
        impl Real for $name {
            const FORMAT: Format = $format;
            const BITS: u32 = $bits;

            #[inline(always)]
            fn add(a: u64, b: u64) -> u64 {
                (<$float>::from_bits(a as $uint) + <$float>::from_bits(b as $uint)).to_bits().into()
            }
            #[inline(always)]
            fn sub(a: u64, b: u64) -> u64 {
                (<$float>::from_bits(a as $uint) - <$float>::from_bits(b as $uint)).to_bits().into()
            }
            #[inline(always)]
            fn mul(a: u64, b: u64) -> u64 {
                (<$float>::from_bits(a as $uint) * <$float>::from_bits(b as $uint)).to_bits().into()
            }
            #[inline(always)]
            fn div(a: u64, b: u64) -> u64 {
                (<$float>::from_bits(a as $uint) / <$float>::from_bits(b as $uint)).to_bits().into()
            }
            #[inline(always)]
            fn sqrt(a: u64) -> u64 {
                <$float>::from_bits(a as $uint).sqrt().to_bits().into()
            }
        }
    };
}

real!(Single, Format::F32, 32, f32, u32);
real!(Double, Format::F64, 64, f64, u64);

/// Rounds and packs a result.
pub(super) fn pack<R: Real>(raw: Raw, env: &mut Env) -> u64 {
    float::pack(raw.round(R::FORMAT.precision, R::FORMAT, env), R::FORMAT)
}

pub(super) fn unpack<R: Real>(bits: u64, env: &mut Env) -> Num {
    float::unpack(bits, R::FORMAT, env)
}

/// An operation on one lane of each source.
pub(super) trait Lane<R: Real>: 'static {
    fn eval(a: u64, b: u64, sse: &mut Sse, immediate: u8) -> u64;
}

enum Add {}
enum Sub {}
enum Mul {}
enum Div {}
enum Sqrt {}
enum Min {}
enum Max {}
enum Compare {}
enum Round {}
enum Reciprocal {}
enum ReciprocalSqrt {}

fn minus(b: Num) -> Num {
    if matches!(b, Num::Nan(_)) { b } else { b.with_sign(!b.sign()) }
}

macro_rules! arithmetic {
    ($($name:ident: $host:ident, |$a:ident, $b:ident, $env:ident| $soft:expr;)*) => {
        $(impl<R: Real> Lane<R> for $name {
            #[inline(always)]
            fn eval(a: u64, b: u64, sse: &mut Sse, _: u8) -> u64 {
                if sse.quick && R::tame(a) && R::tame(b) {
                    let result = R::$host(a, b);
                    if R::safe(result) {
                        return result;
                    }
                }
                #[cold]
                fn slow<R: Real>(a: u64, b: u64, sse: &mut Sse) -> u64 {
                    let $env = &mut sse.env;
                    let before = core::mem::take(&mut $env.flags);
                    let ($a, $b) = (unpack::<R>(a, $env), unpack::<R>(b, $env));
                    let raw = $soft;
                    let bits = pack::<R>(raw, $env);
                    $env.flags |= before;
                    bits
                }
                slow::<R>(a, b, sse)
            }
        })*
    };
}

arithmetic! {
    Add: add, |a, b, env| float::add(a, b, env);
    Sub: sub, |a, b, env| float::add(a, minus(b), env);
    Mul: mul, |a, b, env| float::mul(a, b, env);
    Div: div, |a, b, env| float::div(a, b, env);
}

impl<R: Real> Lane<R> for Sqrt {
    #[inline(always)]
    fn eval(_: u64, b: u64, sse: &mut Sse, _: u8) -> u64 {
        if sse.quick && R::tame(b) {
            let result = R::sqrt(b);
            if R::safe(result) {
                return result;
            }
        }
        let env = &mut sse.env;
        let before = core::mem::take(&mut env.flags);
        let num = unpack::<R>(b, env);
        let raw = float::sqrt(num, env);
        let bits = pack::<R>(raw, env);
        env.flags |= before;
        bits
    }
}

/// How two lanes compare; raises for any NaN where `signal`.
fn order<R: Real>(a: u64, b: u64, signal: bool, env: &mut Env) -> Option<Ordering> {
    let before = core::mem::take(&mut env.flags);
    let (x, y) = (unpack::<R>(a, env), unpack::<R>(b, env));
    let order = float::compare(x, y, signal, env);
    env.flags |= before;
    order
}

/// What a denormal counts as under DAZ.
fn flushed<R: Real>(bits: u64, env: &Env) -> u64 {
    let sign = 1 << (R::BITS - 1);
    let denormal = bits >> (R::FORMAT.precision - 1) & R::all_ones() == 0;
    if env.denormals_are_zero && denormal { bits & sign } else { bits }
}

impl<R: Real> Lane<R> for Min {
    fn eval(a: u64, b: u64, sse: &mut Sse, _: u8) -> u64 {
        let less = order::<R>(a, b, true, &mut sse.env) == Some(Ordering::Less);
        flushed::<R>(if less { a } else { b }, &sse.env)
    }
}

impl<R: Real> Lane<R> for Max {
    fn eval(a: u64, b: u64, sse: &mut Sse, _: u8) -> u64 {
        let greater = order::<R>(a, b, true, &mut sse.env) == Some(Ordering::Greater);
        flushed::<R>(if greater { a } else { b }, &sse.env)
    }
}

impl<R: Real> Lane<R> for Compare {
    fn eval(a: u64, b: u64, sse: &mut Sse, predicate: u8) -> u64 {
        // For each predicate, the outcomes that make it true: bit 0 less, 1 equal, 2 greater, 3 unordered.
        const TRUE: [u8; 16] = [
            0b0010, 0b0001, 0b0011, 0b1000, 0b1101, 0b1110, 0b1100, 0b0111, 0b1010, 0b1001, 0b1011, 0, 0b0101, 0b0110,
            0b0100, 0b1111,
        ];
        const SIGNALS: u16 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13 | 1 << 14;
        let low = predicate & 15;
        let signal = (SIGNALS >> low & 1 != 0) != (predicate & 16 != 0);
        let outcome = match order::<R>(a, b, signal, &mut sse.env) {
            Some(Ordering::Less) => 0,
            Some(Ordering::Equal) => 1,
            Some(Ordering::Greater) => 2,
            None => 3,
        };
        if TRUE[usize::from(low)] >> outcome & 1 != 0 { u64::MAX >> (64 - R::BITS) } else { 0 }
    }
}

impl<R: Real> Lane<R> for Round {
    fn eval(_: u64, b: u64, sse: &mut Sse, immediate: u8) -> u64 {
        let rounding = if immediate & 4 != 0 { sse.env.rounding } else { Rounding::from_bits(immediate) };
        let env = &mut sse.env;
        let before = core::mem::take(&mut env.flags);
        let num = unpack::<R>(b, env);
        env.flags &= !flag::DENORMAL;
        let raw = float::to_integral(num, rounding, env);
        let bits = pack::<R>(raw, env);
        if immediate & 8 != 0 {
            env.flags &= !flag::PRECISION;
        }
        env.flags |= before;
        bits
    }
}

/// The 12-bit approximations round the true value to 13 significant bits, which is within the error that the SDM allows
/// (1.5 * 2^-12); which bits hardware gives differs from model to model. No flag is raised.
fn approximate<R: Real>(b: u64, invert: fn(Num, &mut Env) -> Raw) -> u64 {
    let mut env = Env { denormals_are_zero: true, flush_to_zero: true, ..Env::new(NanRule::First) };
    let num = unpack::<R>(b, &mut env);
    let raw = invert(num, &mut env);
    let narrow = raw.round(13, R::FORMAT, &mut env);
    float::pack(narrow, R::FORMAT)
}

const ONE: Num = Num::Finite { sign: false, exponent: 0, significand: 1 << 63 };

impl<R: Real> Lane<R> for Reciprocal {
    fn eval(_: u64, b: u64, _: &mut Sse, _: u8) -> u64 {
        approximate::<R>(b, |num, env| float::div(ONE, num, env))
    }
}

impl<R: Real> Lane<R> for ReciprocalSqrt {
    fn eval(_: u64, b: u64, _: &mut Sse, _: u8) -> u64 {
        approximate::<R>(b, |num, env| {
            // The root to 64 bits is far finer than what is kept of its inverse.
            let root = float::sqrt(num, env);
            match root {
                Raw::Special(num) => float::div(ONE, num, env),
                Raw::Finite(wide) => {
                    let significand = (wide.significand >> 64) as u64;
                    let root = Num::Finite { sign: wide.sign, exponent: wide.exponent, significand };
                    float::div(ONE, root, env)
                }
            }
        })
    }
}

/// Applies an operation to every lane of a 128-bit value.
#[inline(always)]
fn lanes<R: Real, L: Lane<R>>(a: u128, b: u128, sse: &mut Sse, immediate: u8) -> u128 {
    let mut out = 0;
    let mut at = 0;
    let mask = u64::MAX >> (64 - R::BITS);
    while at < 128 {
        let (x, y) = ((a >> at) as u64 & mask, (b >> at) as u64 & mask);
        out |= u128::from(L::eval(x, y, sse, immediate)) << at;
        at += R::BITS;
    }
    out
}

fn run_packed<R: Real, L: Lane<R>, const MEM: bool>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.sse()?;
    let b = if MEM { cpu.read128(memory, op, true)? } else { cpu.xmm(op.index) };
    let mut sse = cpu.sse_env();
    let value = lanes::<R, L>(cpu.xmm(op.rm), b, &mut sse, op.imm as u8);
    cpu.sse_raise(&sse.env)?;
    cpu.set_xmm(op.reg, value);
    Ok(Flow::Next)
}

fn run_packed_vex<R: Real, L: Lane<R>, const MEM: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    cpu.avx()?;
    let (low, high) = vex_source::<MEM, WIDE>(cpu, memory, op)?;
    let mut sse = cpu.sse_env();
    let lower = lanes::<R, L>(cpu.xmm(op.rm), low, &mut sse, op.imm as u8);
    let upper = if WIDE { lanes::<R, L>(cpu.ymm_high(op.rm), high, &mut sse, op.imm as u8) } else { 0 };
    cpu.sse_raise(&sse.env)?;
    cpu.set_vex(op.reg, lower, upper);
    Ok(Flow::Next)
}

fn run_scalar<R: Real, L: Lane<R>, const MEM: bool, const VEX: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    if VEX {
        cpu.avx()?
    } else {
        cpu.sse()?
    }
    let mask = u64::MAX >> (64 - R::BITS);
    let b = if MEM { cpu.read_small(memory, op, u64::from(R::BITS / 8))? } else { cpu.xmm(op.index) as u64 & mask };
    let a = cpu.xmm(op.rm);
    let mut sse = cpu.sse_env();
    let value = L::eval(a as u64 & mask, b, &mut sse, op.imm as u8);
    cpu.sse_raise(&sse.env)?;
    let value = a & !u128::from(mask) | u128::from(value);
    if VEX {
        cpu.set_vex(op.reg, value, 0);
    } else {
        cpu.set_xmm(op.reg, value);
    }
    Ok(Flow::Next)
}

fn full<R: Real, L: Lane<R>>(form: &mut Form) -> Option<Run> {
    Some(match three(form) {
        (Encoding::Legacy, false) => Run::new(run_packed::<R, L, false>),
        (Encoding::Legacy, true) => Run::new(run_packed::<R, L, true>),
        (Encoding::Vex128, false) => Run::new(run_packed_vex::<R, L, false, false>),
        (Encoding::Vex128, true) => Run::new(run_packed_vex::<R, L, true, false>),
        (Encoding::Vex256, false) => Run::new(run_packed_vex::<R, L, false, true>),
        (Encoding::Vex256, true) => Run::new(run_packed_vex::<R, L, true, true>),
        (Encoding::Mmx, _) => return None,
    })
}

fn one<R: Real, L: Lane<R>>(form: &mut Form) -> Option<Run> {
    Some(match three(form) {
        (Encoding::Legacy, false) => Run::new(run_scalar::<R, L, false, false>),
        (Encoding::Legacy, true) => Run::new(run_scalar::<R, L, true, false>),
        (Encoding::Vex128 | Encoding::Vex256, false) => Run::new(run_scalar::<R, L, false, true>),
        (Encoding::Vex128 | Encoding::Vex256, true) => Run::new(run_scalar::<R, L, true, true>),
        (Encoding::Mmx, _) => return None,
    })
}

/// An operation on whole 128-bit values that raises flags: ADDSUB, HADD, HSUB, DPPS, DPPD.
trait Whole: 'static {
    fn eval(a: u128, b: u128, sse: &mut Sse, immediate: u8) -> u128;
}

/// ADDSUBPS and ADDSUBPD.
struct AddSub<R>(core::marker::PhantomData<R>);
/// HADDPS and HADDPD, or with `MINUS` HSUBPS and HSUBPD.
struct Horizontal<R, const MINUS: bool>(core::marker::PhantomData<R>);
/// DPPS and DPPD.
struct Dot<R>(core::marker::PhantomData<R>);

fn split<R: Real>(value: u128) -> impl Fn(u32) -> u64 {
    let mask = u64::MAX >> (64 - R::BITS);
    move |lane| (value >> (lane * R::BITS)) as u64 & mask
}

fn join<R: Real>(mut lane: impl FnMut(u32) -> u64) -> u128 {
    (0..128 / R::BITS).fold(0, |value, at| value | u128::from(lane(at)) << (at * R::BITS))
}

impl<R: Real> Whole for AddSub<R> {
    fn eval(a: u128, b: u128, sse: &mut Sse, _: u8) -> u128 {
        let (a, b) = (split::<R>(a), split::<R>(b));
        join::<R>(|at| {
            if at % 2 == 0 {
                <Sub as Lane<R>>::eval(a(at), b(at), sse, 0)
            } else {
                <Add as Lane<R>>::eval(a(at), b(at), sse, 0)
            }
        })
    }
}

impl<R: Real, const MINUS: bool> Whole for Horizontal<R, MINUS> {
    fn eval(a: u128, b: u128, sse: &mut Sse, _: u8) -> u128 {
        let (a, b) = (split::<R>(a), split::<R>(b));
        let half = 64 / R::BITS;
        join::<R>(|at| {
            let (x, y) =
                if at < half { (a(2 * at), a(2 * at + 1)) } else { (b(2 * (at - half)), b(2 * (at - half) + 1)) };
            if MINUS { <Sub as Lane<R>>::eval(x, y, sse, 0) } else { <Add as Lane<R>>::eval(x, y, sse, 0) }
        })
    }
}

impl<R: Real> Whole for Dot<R> {
    fn eval(a: u128, b: u128, sse: &mut Sse, immediate: u8) -> u128 {
        let (a, b) = (split::<R>(a), split::<R>(b));
        let mut product = |at: u32| {
            if immediate >> (4 + at) & 1 != 0 { <Mul as Lane<R>>::eval(a(at), b(at), sse, 0) } else { 0 }
        };
        let sum = if R::BITS == 64 {
            let (x, y) = (product(0), product(1));
            <Add as Lane<R>>::eval(x, y, sse, 0)
        } else {
            let [p0, p1, p2, p3] = [product(0), product(1), product(2), product(3)];
            let low = <Add as Lane<R>>::eval(p0, p1, sse, 0);
            let high = <Add as Lane<R>>::eval(p2, p3, sse, 0);
            <Add as Lane<R>>::eval(low, high, sse, 0)
        };
        join::<R>(|at| if immediate >> at & 1 != 0 { sum } else { 0 })
    }
}

fn run_whole<W: Whole, const MEM: bool, const VEX: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    if VEX {
        cpu.avx()?
    } else {
        cpu.sse()?
    }
    let (low, high) = match (MEM, WIDE) {
        (true, true) => cpu.read256(memory, op)?,
        (true, false) => (cpu.read128(memory, op, !VEX)?, 0),
        (false, _) => (cpu.xmm(op.index), cpu.ymm_high(op.index)),
    };
    let mut sse = cpu.sse_env();
    let lower = W::eval(cpu.xmm(op.rm), low, &mut sse, op.imm as u8);
    let upper = if WIDE { W::eval(cpu.ymm_high(op.rm), high, &mut sse, op.imm as u8) } else { 0 };
    cpu.sse_raise(&sse.env)?;
    if VEX {
        cpu.set_vex(op.reg, lower, upper);
    } else {
        cpu.set_xmm(op.reg, lower);
    }
    Ok(Flow::Next)
}

fn whole<W: Whole>(form: &mut Form) -> Option<Run> {
    Some(match three(form) {
        (Encoding::Legacy, false) => Run::new(run_whole::<W, false, false, false>),
        (Encoding::Legacy, true) => Run::new(run_whole::<W, true, false, false>),
        (Encoding::Vex128, false) => Run::new(run_whole::<W, false, true, false>),
        (Encoding::Vex128, true) => Run::new(run_whole::<W, true, true, false>),
        (Encoding::Vex256, false) => Run::new(run_whole::<W, false, true, true>),
        (Encoding::Vex256, true) => Run::new(run_whole::<W, true, true, true>),
        (Encoding::Mmx, _) => return None,
    })
}

/// COMISS and its like: `SIGNAL` for COMI, which raises for quiet NaNs too.
fn comi<R: Real, const SIGNAL: bool>(form: &mut Form) -> Option<Run> {
    fn finish<R: Real, const SIGNAL: bool>(cpu: &mut Cpu, op: &Op, b: u64) -> Result<(), Halt> {
        let mask = u64::MAX >> (64 - R::BITS);
        let mut sse = cpu.sse_env();
        let order = order::<R>(cpu.xmm(op.reg) as u64 & mask, b & mask, SIGNAL, &mut sse.env);
        cpu.sse_raise(&sse.env)?;
        cpu.set_comparison(order);
        Ok(())
    }
    Some(if memory_source(form) {
        store!(form, |cpu, memory, op| {
            let b = cpu.read_small(memory, op, u64::from(R::BITS / 8))?;
            finish::<R, SIGNAL>(cpu, op, b)?;
        })
    } else {
        store!(form, |cpu, _memory, op| {
            let b = cpu.xmm(op.rm) as u64;
            finish::<R, SIGNAL>(cpu, op, b)?;
        })
    })
}

/// A legacy comparison has eight predicates, a VEX one thirty-two.
fn predicate<'a, 'i>(form: &'a mut Form<'i>) -> &'a mut Form<'i> {
    form.op.imm &= if vex(form) { 31 } else { 7 };
    form
}

impl Cpu {
    /// ZF, PF and CF by a comparison; the other arithmetic flags become zero.
    pub(in crate::cpu) fn set_comparison(&mut self, order: Option<Ordering>) {
        let bits = match order {
            None => 0x45,
            Some(Ordering::Less) => 0x01,
            Some(Ordering::Equal) => 0x40,
            Some(Ordering::Greater) => 0,
        };
        self.set_rflags(self.rflags() & !0x8d5 | bits);
    }
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Addps | M::Vaddps => full::<Single, Add>,
        M::Addpd | M::Vaddpd => full::<Double, Add>,
        M::Addss | M::Vaddss => one::<Single, Add>,
        M::Addsd | M::Vaddsd => one::<Double, Add>,
        M::Subps | M::Vsubps => full::<Single, Sub>,
        M::Subpd | M::Vsubpd => full::<Double, Sub>,
        M::Subss | M::Vsubss => one::<Single, Sub>,
        M::Subsd | M::Vsubsd => one::<Double, Sub>,
        M::Mulps | M::Vmulps => full::<Single, Mul>,
        M::Mulpd | M::Vmulpd => full::<Double, Mul>,
        M::Mulss | M::Vmulss => one::<Single, Mul>,
        M::Mulsd | M::Vmulsd => one::<Double, Mul>,
        M::Divps | M::Vdivps => full::<Single, Div>,
        M::Divpd | M::Vdivpd => full::<Double, Div>,
        M::Divss | M::Vdivss => one::<Single, Div>,
        M::Divsd | M::Vdivsd => one::<Double, Div>,
        M::Sqrtps | M::Vsqrtps => full::<Single, Sqrt>,
        M::Sqrtpd | M::Vsqrtpd => full::<Double, Sqrt>,
        M::Sqrtss | M::Vsqrtss => one::<Single, Sqrt>,
        M::Sqrtsd | M::Vsqrtsd => one::<Double, Sqrt>,
        M::Minps | M::Vminps => full::<Single, Min>,
        M::Minpd | M::Vminpd => full::<Double, Min>,
        M::Minss | M::Vminss => one::<Single, Min>,
        M::Minsd | M::Vminsd => one::<Double, Min>,
        M::Maxps | M::Vmaxps => full::<Single, Max>,
        M::Maxpd | M::Vmaxpd => full::<Double, Max>,
        M::Maxss | M::Vmaxss => one::<Single, Max>,
        M::Maxsd | M::Vmaxsd => one::<Double, Max>,
        M::Cmpps | M::Vcmpps => |form| full::<Single, Compare>(predicate(form)),
        M::Cmppd | M::Vcmppd => |form| full::<Double, Compare>(predicate(form)),
        M::Cmpss | M::Vcmpss => |form| one::<Single, Compare>(predicate(form)),
        M::Cmpsd if !i.is_string_instruction() => |form| one::<Double, Compare>(predicate(form)),
        M::Vcmpsd => |form| one::<Double, Compare>(predicate(form)),
        M::Roundps | M::Vroundps => full::<Single, Round>,
        M::Roundpd | M::Vroundpd => full::<Double, Round>,
        M::Roundss | M::Vroundss => one::<Single, Round>,
        M::Roundsd | M::Vroundsd => one::<Double, Round>,
        M::Rcpps | M::Vrcpps => full::<Single, Reciprocal>,
        M::Rcpss | M::Vrcpss => one::<Single, Reciprocal>,
        M::Rsqrtps | M::Vrsqrtps => full::<Single, ReciprocalSqrt>,
        M::Rsqrtss | M::Vrsqrtss => one::<Single, ReciprocalSqrt>,
        M::Addsubps | M::Vaddsubps => whole::<AddSub<Single>>,
        M::Addsubpd | M::Vaddsubpd => whole::<AddSub<Double>>,
        M::Haddps | M::Vhaddps => whole::<Horizontal<Single, false>>,
        M::Haddpd | M::Vhaddpd => whole::<Horizontal<Double, false>>,
        M::Hsubps | M::Vhsubps => whole::<Horizontal<Single, true>>,
        M::Hsubpd | M::Vhsubpd => whole::<Horizontal<Double, true>>,
        M::Dpps | M::Vdpps => whole::<Dot<Single>>,
        M::Dppd | M::Vdppd => whole::<Dot<Double>>,
        M::Comiss | M::Vcomiss => comi::<Single, true>,
        M::Comisd | M::Vcomisd => comi::<Double, true>,
        M::Ucomiss | M::Vucomiss => comi::<Single, false>,
        M::Ucomisd | M::Vucomisd => comi::<Double, false>,
        _ => return None,
    };
    plain(build)
}

//! Arithmetic, comparisons and functions.

use super::{plain, register, status};
use crate::cpu::decode::Form;
use crate::cpu::float::{self, Env, F80, Format, Num, Raw, flag};
use crate::cpu::op::{Flow, Op, Run};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use core::cmp::Ordering;
use hv_defs::x86::Rflags;
use iced_x86::{Instruction, Mnemonic};

/// The memory operands of the FPU.
pub(super) const F32: u32 = 0;
pub(super) const F64: u32 = 1;
pub(super) const I16: u32 = 2;
pub(super) const I32: u32 = 3;
/// None: a register.
pub(super) const ST: u32 = 5;

/// Reads a memory operand of one of the kinds above. A denormal is noted in `env`.
pub(super) fn read(cpu: &mut Cpu, memory: &mut Memory, op: &Op, env: &mut Env) -> Result<Num, Halt> {
    Ok(match op.extra {
        F32 => {
            let bits = cpu.x87_load(memory, op, 4)?;
            float::unpack(bits, Format::F32, env)
        }
        F64 => {
            let bits = cpu.x87_load(memory, op, 8)?;
            float::unpack(bits, Format::F64, env)
        }
        I16 => float::from_int(i64::from(cpu.x87_load(memory, op, 2)? as i16)),
        I32 => float::from_int(i64::from(cpu.x87_load(memory, op, 4)? as i32)),
        _ => float::from_int(cpu.x87_load(memory, op, 8)? as i64),
    })
}

fn minus(num: Num) -> Num {
    if matches!(num, Num::Nan(_)) { num } else { num.with_sign(!num.sign()) }
}

trait Binary: 'static {
    fn eval(a: Num, b: Num, env: &mut Env) -> Raw;
}

macro_rules! binaries {
    ($($name:ident = |$a:ident, $b:ident, $env:ident| $body:expr;)*) => {
        $(
            enum $name {}
            impl Binary for $name {
                fn eval($a: Num, $b: Num, $env: &mut Env) -> Raw {
                    $body
                }
            }
        )*
    };
}

binaries! {
    Add = |a, b, env| float::add(a, b, env);
    Sub = |a, b, env| float::add(a, minus(b), env);
    SubR = |a, b, env| float::add(b, minus(a), env);
    Mul = |a, b, env| float::mul(a, b, env);
    Div = |a, b, env| float::div(a, b, env);
    DivR = |a, b, env| float::div(b, a, env);
}

/// Stores what an operation on ST(`to`) gave, if its exceptions let it.
fn finish(cpu: &mut Cpu, to: usize, value: F80, env: &Env) -> bool {
    let stored = cpu.x87_raise(env);
    if stored {
        cpu.set_st(to, value);
    }
    stored
}

/// The response to an empty operand: the default NaN into ST(`to`) where the exception is masked.
fn empty(cpu: &mut Cpu, to: usize) -> bool {
    let masked = cpu.x87_stack_fault(false);
    if masked {
        cpu.set_st(to, F80::INDEFINITE);
    }
    masked
}

fn with_memory<B: Binary>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.x87_begin(op)?;
    let mut env = cpu.x87_env();
    let b = read(cpu, memory, op, &mut env)?;
    let Some(a) = cpu.st(0) else {
        empty(cpu, 0);
        return Ok(Flow::Next);
    };
    let a = a.unpack(&mut env);
    let raw = B::eval(a, b, &mut env);
    let value = register(raw, cpu.x87_precision(), &mut env);
    finish(cpu, 0, value, &env);
    Ok(Flow::Next)
}

/// The destination is ST(`reg`), the source ST(`rm`).
fn with_register<B: Binary, const POP: bool>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.x87_begin(op)?;
    let (to, from) = (usize::from(op.reg & 7), usize::from(op.rm & 7));
    let done = match (cpu.st(to), cpu.st(from)) {
        (Some(a), Some(b)) => {
            let mut env = cpu.x87_env();
            let (a, b) = (a.unpack(&mut env), b.unpack(&mut env));
            let raw = B::eval(a, b, &mut env);
            let value = register(raw, cpu.x87_precision(), &mut env);
            finish(cpu, to, value, &env)
        }
        _ => empty(cpu, to),
    };
    if POP && done {
        cpu.x87_pop();
    }
    Ok(Flow::Next)
}

/// What kind of memory operand a form has.
pub(super) fn operand_kind(form: &Form) -> u32 {
    use iced_x86::MemorySize as S;
    match form.instruction.memory_size() {
        S::Float32 => F32,
        S::Float64 => F64,
        S::Int16 => I16,
        S::Int32 => I32,
        S::Int64 => 4,
        _ => ST,
    }
}

fn arithmetic<B: Binary>(form: &mut Form) -> Option<Run> {
    form.op.extra = operand_kind(form);
    Some(if form.op.extra == ST { Run::new(with_register::<B, false>) } else { Run::new(with_memory::<B>) })
}

fn arithmetic_pop<B: Binary>(_: &mut Form) -> Option<Run> {
    Some(Run::new(with_register::<B, true>))
}

/// Comparisons set C3, C2 and C0.
fn conditions(order: Option<Ordering>) -> u16 {
    match order {
        None => status::C3 | status::C2 | status::C0,
        Some(Ordering::Less) => status::C0,
        Some(Ordering::Equal) => status::C3,
        Some(Ordering::Greater) => 0,
    }
}

/// Compares ST(0) with `b`; `QUIET` for the unordered forms. The outcome, which is told even with an exception that is
/// not masked, and whether there is none.
fn compare<const QUIET: bool>(cpu: &mut Cpu, b: Option<Num>, mut env: Env) -> (Option<Ordering>, bool) {
    let (Some(a), Some(b)) = (cpu.st(0), b) else {
        return (None, cpu.x87_stack_fault(false));
    };
    let a = a.unpack(&mut env);
    let order = float::compare(a, b, !QUIET, &mut env);
    (order, cpu.x87_raise(&env))
}

/// Sets the conditions, and pops unless an exception is to be dealt with.
fn compared<const POPS: u8>(cpu: &mut Cpu, (order, done): (Option<Ordering>, bool)) {
    cpu.set_x87_status(cpu.x87_status() & !(status::C0 | status::C2 | status::C3) | conditions(order));
    if done {
        for _ in 0..POPS {
            cpu.x87_pop();
        }
    }
}

fn compare_memory<const POPS: u8>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.x87_begin(op)?;
    let mut env = cpu.x87_env();
    let b = read(cpu, memory, op, &mut env)?;
    let outcome = compare::<false>(cpu, Some(b), env);
    compared::<POPS>(cpu, outcome);
    Ok(Flow::Next)
}

fn compare_register<const QUIET: bool, const POPS: u8>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.x87_begin(op)?;
    let mut env = cpu.x87_env();
    let b = cpu.st(usize::from(op.rm & 7)).map(|b| b.unpack(&mut env));
    let outcome = compare::<QUIET>(cpu, b, env);
    compared::<POPS>(cpu, outcome);
    Ok(Flow::Next)
}

/// FCOMI and its like: the outcome goes to RFLAGS.
fn compare_flags<const QUIET: bool, const POP: bool>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.x87_begin(op)?;
    let mut env = cpu.x87_env();
    let b = cpu.st(usize::from(op.rm & 7)).map(|b| b.unpack(&mut env));
    // C1 stays as it was, unless the stack faults.
    let c1 = cpu.x87_status() & status::C1;
    let faults = b.is_none() || cpu.st(0).is_none();
    let (order, done) = compare::<QUIET>(cpu, b, env);
    if !faults {
        cpu.set_c1(c1 != 0);
    }
    cpu.set_comparison(order);
    if POP && done {
        cpu.x87_pop();
    }
    Ok(Flow::Next)
}

fn comparison<const QUIET: bool, const POPS: u8>(form: &mut Form) -> Option<Run> {
    form.op.extra = operand_kind(form);
    if form.op.extra != ST {
        return Some(Run::new(compare_memory::<POPS>));
    }
    // With two operands the second is compared with; FCOMPP and FUCOMPP name none and mean ST(1).
    form.op.rm = match form.instruction.op_count() {
        0 => 1,
        1 => form.register(0),
        _ => form.register(1),
    };
    Some(Run::new(compare_register::<QUIET, POPS>))
}

fn comparison_flags<const QUIET: bool, const POP: bool>(form: &mut Form) -> Option<Run> {
    form.op.rm = form.register(1);
    Some(Run::new(compare_flags::<QUIET, POP>))
}

/// A function of ST(0) that rounds to the precision of the control word where `PRECISE`.
fn unary(cpu: &mut Cpu, precision: u32, f: impl FnOnce(Num, &mut Env) -> Raw) {
    let Some(a) = cpu.st(0) else {
        empty(cpu, 0);
        return;
    };
    let mut env = cpu.x87_env();
    let a = a.unpack(&mut env);
    let raw = f(a, &mut env);
    let value = register(raw, precision, &mut env);
    finish(cpu, 0, value, &env);
}

/// A function of ST(0) and ST(1) that leaves its result in ST(1) and pops.
fn binary_pop(cpu: &mut Cpu, f: impl FnOnce(Num, Num, &mut Env) -> Raw) {
    let done = match (cpu.st(0), cpu.st(1)) {
        (Some(a), Some(b)) => {
            let mut env = cpu.x87_env();
            let (a, b) = (a.unpack(&mut env), b.unpack(&mut env));
            let raw = f(a, b, &mut env);
            let value = register(raw, 64, &mut env);
            finish(cpu, 1, value, &env)
        }
        _ => empty(cpu, 1),
    };
    if done {
        cpu.x87_pop();
    }
}

macro_rules! functions {
    ($($name:ident = |$cpu:ident| $body:expr;)*) => {
        $(fn $name(_: &mut Form) -> Option<Run> {
            Some(Run::new(|$cpu, _, op| {
                $cpu.x87_begin(op)?;
                $body;
                Ok(Flow::Next)
            }))
        })*
    };
}

functions! {
    fsqrt = |cpu| {
        let precision = cpu.x87_precision();
        unary(cpu, precision, float::sqrt);
    };
    frndint = |cpu| unary(cpu, 64, |a, env| {
        // A denormal becomes zero or one without being one's operand any more.
        let rounding = env.rounding;
        float::to_integral(a, rounding, env)
    });
    fchs = |cpu| sign(cpu, |sign| !sign);
    fabs = |cpu| sign(cpu, |_| false);
    f2xm1 = |cpu| unary(cpu, 64, float::exp2m1);
    fyl2x = |cpu| binary_pop(cpu, |a, b, env| float::ln_times(b, a, env));
    fyl2xp1 = |cpu| binary_pop(cpu, |a, b, env| float::ln1p_times(b, a, env));
    fpatan = |cpu| binary_pop(cpu, |a, b, env| float::atan2(b, a, env));
    fsin = |cpu| trigonometric(cpu, float::sin, None);
    fcos = |cpu| trigonometric(cpu, float::cos, None);
    fsincos = |cpu| trigonometric(cpu, float::sin, Some(float::cos));
    fptan = |cpu| trigonometric(cpu, float::tan, Some(|_, _| Some(Raw::from(float::from_int(1)))));
    fscale = |cpu| scale(cpu);
    fprem = |cpu| remainder(cpu, false);
    fprem1 = |cpu| remainder(cpu, true);
    fxtract = |cpu| extract(cpu);
    ftst = |cpu| {
        let env = cpu.x87_env();
        let outcome = compare::<false>(cpu, Some(Num::Zero(false)), env);
        compared::<0>(cpu, outcome);
    };
    fxam = |cpu| examine(cpu);
}

fn sign(cpu: &mut Cpu, f: fn(bool) -> bool) {
    let Some(a) = cpu.st(0) else {
        empty(cpu, 0);
        return;
    };
    let sign = f(a.sign_exponent >> 15 != 0);
    cpu.set_c1(false);
    cpu.set_st(0, F80 { sign_exponent: a.sign_exponent & 0x7fff | u16::from(sign) << 15, ..a });
}

/// The second result of an operand that is not there: the stack's fault has been told.
fn push_indefinite(cpu: &mut Cpu) {
    let below = (cpu.x87_top() + 7) & 7;
    cpu.set_x87_top(below);
    cpu.set_st(0, F80::INDEFINITE);
}

/// Both results where there is no room for the second.
fn both_indefinite(cpu: &mut Cpu) {
    if cpu.x87_stack_fault(true) {
        cpu.set_st(0, F80::INDEFINITE);
        push_indefinite(cpu);
    }
}

type Trigonometric = fn(Num, &mut Env) -> Option<Raw>;

/// FSIN and its like; with `also`, a second result is pushed.
fn trigonometric(cpu: &mut Cpu, f: Trigonometric, also: Option<Trigonometric>) {
    let Some(a) = cpu.st(0) else {
        cpu.set_x87_status(cpu.x87_status() & !status::C2);
        if empty(cpu, 0) && also.is_some() {
            push_indefinite(cpu);
        }
        return;
    };
    if also.is_some() && cpu.x87_full() {
        cpu.set_x87_status(cpu.x87_status() & !status::C2);
        both_indefinite(cpu);
        return;
    }
    let mut env = cpu.x87_env();
    let num = a.unpack(&mut env);
    let second = also.map(|also| {
        let mut env = env;
        let raw = also(num, &mut env);
        (raw.map(|raw| register(raw, 64, &mut env)), env.flags)
    });
    let Some(raw) = f(num, &mut env) else {
        cpu.set_c1(false);
        cpu.set_x87_status(cpu.x87_status() | status::C2);
        return;
    };
    let value = register(raw, 64, &mut env);
    if let Some((_, flags)) = second {
        env.raise(flags);
    }
    cpu.set_x87_status(cpu.x87_status() & !status::C2);
    if !finish(cpu, 0, value, &env) {
        return;
    }
    if let Some((Some(second), _)) = second {
        // FPTAN pushes 1 even for a NaN's tangent, which the NaN itself is then.
        let second = if matches!(num, Num::Nan(_)) || env.flags & flag::INVALID != 0 { value } else { second };
        cpu.x87_push(second);
    }
}

fn scale(cpu: &mut Cpu) {
    let (Some(a), Some(b)) = (cpu.st(0), cpu.st(1)) else {
        empty(cpu, 0);
        return;
    };
    let mut env = cpu.x87_env();
    let (a, b) = (a.unpack(&mut env), b.unpack(&mut env));
    let raw = float::scale(a, b, &mut env);
    let value = register(raw, 64, &mut env);
    finish(cpu, 0, value, &env);
}

fn remainder(cpu: &mut Cpu, nearest: bool) {
    let (Some(a), Some(b)) = (cpu.st(0), cpu.st(1)) else {
        cpu.set_x87_status(cpu.x87_status() & !status::C2);
        empty(cpu, 0);
        return;
    };
    let mut env = cpu.x87_env();
    let (a, b) = (a.unpack(&mut env), b.unpack(&mut env));
    let result = float::remainder(a, b, nearest, &mut env);
    let value = register(result.value, 64, &mut env);
    let stored = finish(cpu, 0, value, &env);
    let nan = matches!(result.value, Raw::Special(Num::Nan(_)));
    if !stored || nan {
        cpu.set_x87_status(cpu.x87_status() & !status::C2);
        return;
    }
    let bit = |quotient: u8, bit: u8, condition: u16| if quotient >> bit & 1 != 0 { condition } else { 0 };
    let conditions = match result.quotient {
        None => status::C2,
        Some(q) => bit(q, 2, status::C0) | bit(q, 1, status::C3) | bit(q, 0, status::C1),
    };
    cpu.x87_conditions(conditions);
}

/// FXTRACT: the exponent into ST(0), then the significand pushed.
fn extract(cpu: &mut Cpu) {
    let Some(a) = cpu.st(0) else {
        if empty(cpu, 0) {
            push_indefinite(cpu);
        }
        return;
    };
    if cpu.x87_full() {
        both_indefinite(cpu);
        return;
    }
    let mut env = cpu.x87_env();
    let num = a.unpack(&mut env);
    let (exponent, significand) = match num {
        Num::Zero(sign) => {
            env.raise(flag::ZERO_DIVIDE);
            (Raw::Special(Num::Infinity(true)), Raw::Special(Num::Zero(sign)))
        }
        Num::Finite { sign, exponent, significand } => {
            (Raw::from(float::from_int(exponent.into())), Raw::from(Num::Finite { sign, exponent: 0, significand }))
        }
        Num::Infinity(sign) => (Raw::Special(Num::Infinity(false)), Raw::Special(Num::Infinity(sign))),
        Num::Nan(_) | Num::Unsupported => {
            let raw = float::add(num, num, &mut env);
            (raw, raw)
        }
    };
    let exponent = register(exponent, 64, &mut env);
    let significand = register(significand, 64, &mut env);
    if finish(cpu, 0, exponent, &env) {
        cpu.x87_push(significand);
    }
}

fn examine(cpu: &mut Cpu) {
    let bits = cpu.st_bits(0);
    let class = match cpu.st(0) {
        None => status::C3 | status::C0,
        Some(value) => {
            let mut env = cpu.x87_env();
            let denormal = value.sign_exponent & 0x7fff == 0;
            match value.unpack(&mut env) {
                Num::Unsupported => 0,
                Num::Nan(_) => status::C0,
                Num::Infinity(_) => status::C2 | status::C0,
                Num::Zero(_) => status::C3,
                Num::Finite { .. } if denormal => status::C3 | status::C2,
                Num::Finite { .. } => status::C2,
            }
        }
    };
    let sign = if bits.sign_exponent >> 15 != 0 { status::C1 } else { 0 };
    cpu.x87_conditions(class | sign);
}

/// FCMOVcc: ST(0) becomes ST(i) when the condition holds.
fn conditional(form: &mut Form) -> Option<Run> {
    use Mnemonic as M;
    let (flags, wanted) = match form.instruction.mnemonic() {
        M::Fcmovb => (Rflags::CF, true),
        M::Fcmove => (Rflags::ZF, true),
        M::Fcmovbe => (Rflags::CF.union(Rflags::ZF), true),
        M::Fcmovu => (Rflags::PF, true),
        M::Fcmovnb => (Rflags::CF, false),
        M::Fcmovne => (Rflags::ZF, false),
        M::Fcmovnbe => (Rflags::CF.union(Rflags::ZF), false),
        _ => (Rflags::PF, false),
    };
    form.op.extra = flags.bits() as u32;
    form.op.imm = u64::from(wanted);
    form.op.rm = form.register(1);
    Some(Run::new(|cpu, _, op| {
        cpu.x87_begin(op)?;
        let (Some(_), Some(value)) = (cpu.st(0), cpu.st(usize::from(op.rm & 7))) else {
            empty(cpu, 0);
            return Ok(Flow::Next);
        };
        if (cpu.rflags() & u64::from(op.extra) != 0) == (op.imm != 0) {
            cpu.set_st(0, value);
        }
        Ok(Flow::Next)
    }))
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Fadd | M::Fiadd => arithmetic::<Add>,
        M::Fsub | M::Fisub => arithmetic::<Sub>,
        M::Fsubr | M::Fisubr => arithmetic::<SubR>,
        M::Fmul | M::Fimul => arithmetic::<Mul>,
        M::Fdiv | M::Fidiv => arithmetic::<Div>,
        M::Fdivr | M::Fidivr => arithmetic::<DivR>,
        M::Faddp => arithmetic_pop::<Add>,
        M::Fsubp => arithmetic_pop::<Sub>,
        M::Fsubrp => arithmetic_pop::<SubR>,
        M::Fmulp => arithmetic_pop::<Mul>,
        M::Fdivp => arithmetic_pop::<Div>,
        M::Fdivrp => arithmetic_pop::<DivR>,
        M::Fcom | M::Ficom => comparison::<false, 0>,
        M::Fcomp | M::Ficomp => comparison::<false, 1>,
        M::Fcompp => comparison::<false, 2>,
        M::Fucom => comparison::<true, 0>,
        M::Fucomp => comparison::<true, 1>,
        M::Fucompp => comparison::<true, 2>,
        M::Fcomi => comparison_flags::<false, false>,
        M::Fcomip => comparison_flags::<false, true>,
        M::Fucomi => comparison_flags::<true, false>,
        M::Fucomip => comparison_flags::<true, true>,
        M::Fcmovb | M::Fcmove | M::Fcmovbe | M::Fcmovu | M::Fcmovnb | M::Fcmovne | M::Fcmovnbe | M::Fcmovnu => {
            conditional
        }
        M::Fsqrt => fsqrt,
        M::Frndint => frndint,
        M::Fchs => fchs,
        M::Fabs => fabs,
        M::F2xm1 => f2xm1,
        M::Fyl2x => fyl2x,
        M::Fyl2xp1 => fyl2xp1,
        M::Fpatan => fpatan,
        M::Fsin => fsin,
        M::Fcos => fcos,
        M::Fsincos => fsincos,
        M::Fptan => fptan,
        M::Fscale => fscale,
        M::Fprem => fprem,
        M::Fprem1 => fprem1,
        M::Fxtract => fxtract,
        M::Ftst => ftst,
        M::Fxam => fxam,
        _ => return None,
    };
    plain(build)
}

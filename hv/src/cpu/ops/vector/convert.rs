//! Conversions between integers, single, double and half precision.

use super::float::{Double, Real, Single, Sse, pack, unpack};
use super::moves::{by_vex, store};
use super::{Encoding, encoding, memory_source, plain, vex};
use crate::cpu::decode::Form;
use crate::cpu::float::{self, Env, Format, Num, Raw, Rounding, flag};
use crate::cpu::op::{Flow, Op, Run};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Runs `f` with no flags, then puts those back that were there.
fn each<T>(env: &mut Env, f: impl FnOnce(&mut Env) -> T) -> T {
    let before = core::mem::take(&mut env.flags);
    let value = f(env);
    env.flags |= before;
    value
}

/// A real lane to a signed integer of `bits`, truncated or by the rounding mode; the integer indefinite where it does
/// not fit. A denormal is no exception here.
fn to_int<R: Real>(value: u64, bits: u32, truncate: bool, env: &mut Env) -> u64 {
    each(env, |env| {
        let num = unpack::<R>(value, env);
        env.flags = 0;
        let rounding = if truncate { Rounding::Zero } else { env.rounding };
        match float::to_int(num, bits, rounding, env) {
            Some(value) => value as u64 & (u64::MAX >> (64 - bits)),
            None => 1 << (bits - 1),
        }
    })
}

fn from_int<R: Real>(value: i64, env: &mut Env) -> u64 {
    each(env, |env| pack::<R>(Raw::from(float::from_int(value)), env))
}

/// A value of one format in another, its NaNs quieted.
fn resize<From: Real, To: Real>(value: u64, env: &mut Env) -> u64 {
    each(env, |env| {
        let num = unpack::<From>(value, env);
        let raw = match num {
            Num::Nan(nan) => {
                if nan.is_signaling() {
                    env.raise(flag::INVALID);
                }
                Raw::Special(Num::Nan(nan.quieted()))
            }
            _ => Raw::from(num),
        };
        pack::<To>(raw, env)
    })
}

/// CVTSI2SS and CVTSI2SD.
fn from_general<R: Real>(form: &mut Form) -> Option<Run> {
    let last = form.instruction.op_count() - 1;
    form.op.extra = form.size(last);
    let in_memory = memory_source(form);
    if vex(form) {
        form.op.rm = form.register(1);
    } else {
        form.op.rm = form.op.reg;
    }
    if !in_memory {
        form.op.index = form.register(last);
    }
    fn finish<R: Real>(cpu: &mut Cpu, op: &Op, value: u64) -> Result<u128, Halt> {
        let value = if op.extra == 8 { value as i64 } else { i64::from(value as i32) };
        let mut sse = cpu.sse_env();
        let bits = from_int::<R>(value, &mut sse.env);
        cpu.sse_raise(&sse.env)?;
        Ok(cpu.xmm(op.rm) & !u128::from(u64::MAX >> (64 - R::BITS)) | u128::from(bits))
    }
    Some(if in_memory {
        by_vex!(form, |cpu, memory, op| {
            let value = cpu.read_small(memory, op, op.extra.into())?;
            (finish::<R>(cpu, op, value)?, 0)
        })
    } else {
        by_vex!(form, |cpu, _memory, op| {
            let value = cpu.regs.gpr[usize::from(op.index & 15)];
            (finish::<R>(cpu, op, value)?, 0)
        })
    })
}

/// CVTSS2SI, CVTSD2SI and, with `TRUNCATE`, CVTTSS2SI and CVTTSD2SI.
fn to_general<R: Real, const TRUNCATE: bool>(form: &mut Form) -> Option<Run> {
    form.op.extra = 8 * form.size(0);
    fn finish<R: Real, const TRUNCATE: bool>(cpu: &mut Cpu, op: &Op, value: u64) -> Result<(), Halt> {
        let mut sse = cpu.sse_env();
        let value = to_int::<R>(value & (u64::MAX >> (64 - R::BITS)), op.extra, TRUNCATE, &mut sse.env);
        cpu.sse_raise(&sse.env)?;
        cpu.regs.gpr[usize::from(op.reg & 15)] = value;
        Ok(())
    }
    Some(if memory_source(form) {
        store!(form, |cpu, memory, op| {
            let value = cpu.read_small(memory, op, u64::from(R::BITS / 8))?;
            finish::<R, TRUNCATE>(cpu, op, value)?;
        })
    } else {
        store!(form, |cpu, _memory, op| {
            let value = cpu.xmm(op.rm) as u64;
            finish::<R, TRUNCATE>(cpu, op, value)?;
        })
    })
}

/// CVTSS2SD and CVTSD2SS.
fn scalar<From: Real, To: Real>(form: &mut Form) -> Option<Run> {
    let in_memory = memory_source(form);
    if vex(form) {
        form.op.rm = form.register(1);
        if !in_memory {
            form.op.index = form.register(2);
        }
    } else {
        if !in_memory {
            form.op.index = form.op.rm;
        }
        form.op.rm = form.op.reg;
    }
    fn finish<From: Real, To: Real>(cpu: &mut Cpu, op: &Op, value: u64) -> Result<u128, Halt> {
        let mut sse = cpu.sse_env();
        let bits = resize::<From, To>(value & (u64::MAX >> (64 - From::BITS)), &mut sse.env);
        cpu.sse_raise(&sse.env)?;
        Ok(cpu.xmm(op.rm) & !u128::from(u64::MAX >> (64 - To::BITS)) | u128::from(bits))
    }
    Some(if in_memory {
        by_vex!(form, |cpu, memory, op| {
            let value = cpu.read_small(memory, op, u64::from(From::BITS / 8))?;
            (finish::<From, To>(cpu, op, value)?, 0)
        })
    } else {
        by_vex!(form, |cpu, _memory, op| {
            let value = cpu.xmm(op.index) as u64;
            (finish::<From, To>(cpu, op, value)?, 0)
        })
    })
}

/// A conversion of up to eight lanes: sources of `FROM` bits to results of `TO` bits.
trait Lanewise: 'static {
    const FROM: u32;
    const TO: u32;
    /// Whether its memory operand's alignment is never checked.
    const ANY_ALIGNMENT: bool = false;
    fn eval(value: u64, sse: &mut Sse, immediate: u8) -> u64;
}

macro_rules! lanewise {
    ($($name:ident: $from:literal => $to:literal, |$value:ident, $env:ident| $body:expr;)*) => {
        $(
            enum $name {}
            impl Lanewise for $name {
                const FROM: u32 = $from;
                const TO: u32 = $to;
                fn eval($value: u64, sse: &mut Sse, _: u8) -> u64 {
                    let $env = &mut sse.env;
                    $body
                }
            }
        )*
    };
}

lanewise! {
    Dq2ps: 32 => 32, |value, env| from_int::<Single>(i64::from(value as i32), env);
    Ps2dq: 32 => 32, |value, env| to_int::<Single>(value, 32, false, env);
    Tps2dq: 32 => 32, |value, env| to_int::<Single>(value, 32, true, env);
    Dq2pd: 32 => 64, |value, env| from_int::<Double>(i64::from(value as i32), env);
    Pd2dq: 64 => 32, |value, env| to_int::<Double>(value, 32, false, env);
    Tpd2dq: 64 => 32, |value, env| to_int::<Double>(value, 32, true, env);
    Ps2pd: 32 => 64, |value, env| resize::<Single, Double>(value, env);
    Pd2ps: 64 => 32, |value, env| resize::<Double, Single>(value, env);
}

/// VCVTPH2PS: a denormal half is no exception, and DAZ does not touch it.
enum Ph2ps {}
/// VCVTPS2PH, with a rounding mode of its own; results are never flushed to zero.
enum Ps2ph {}

const F16: Format = Format { precision: 11, exponent_bits: 5 };

impl Lanewise for Ph2ps {
    const FROM: u32 = 16;
    const TO: u32 = 32;
    const ANY_ALIGNMENT: bool = true;
    fn eval(value: u64, sse: &mut Sse, _: u8) -> u64 {
        let daz = core::mem::replace(&mut sse.env.denormals_are_zero, false);
        let bits = each(&mut sse.env, |env| {
            let num = float::unpack(value, F16, env);
            env.flags = 0;
            match num {
                Num::Nan(nan) => {
                    if nan.is_signaling() {
                        env.raise(flag::INVALID);
                    }
                    pack::<Single>(Raw::Special(Num::Nan(nan.quieted())), env)
                }
                _ => pack::<Single>(Raw::from(num), env),
            }
        });
        sse.env.denormals_are_zero = daz;
        bits
    }
}

impl Lanewise for Ps2ph {
    const FROM: u32 = 32;
    const TO: u32 = 16;
    fn eval(value: u64, sse: &mut Sse, immediate: u8) -> u64 {
        let saved = sse.env;
        let env = &mut sse.env;
        if immediate & 4 == 0 {
            env.rounding = Rounding::from_bits(immediate);
        }
        env.flush_to_zero = false;
        let bits = each(env, |env| {
            let num = unpack::<Single>(value, env);
            let raw = match num {
                Num::Nan(nan) => {
                    if nan.is_signaling() {
                        env.raise(flag::INVALID);
                    }
                    Raw::Special(Num::Nan(nan.quieted()))
                }
                _ => Raw::from(num),
            };
            float::pack(raw.round(F16.precision, F16, env), F16)
        });
        sse.env = Env { flags: sse.env.flags, ..saved };
        bits
    }
}

/// The lanes of a source of `lanes` lanes, converted; 256 bits.
fn convert<L: Lanewise>(low: u128, high: u128, lanes: u32, sse: &mut Sse, immediate: u8) -> (u128, u128) {
    let (mut out_low, mut out_high) = (0u128, 0u128);
    for lane in 0..lanes {
        let at = lane * L::FROM;
        let value = if at < 128 { low >> at } else { high >> (at - 128) };
        let value = L::eval(value as u64 & (u64::MAX >> (64 - L::FROM)), sse, immediate);
        let to = lane * L::TO;
        if to < 128 {
            out_low |= u128::from(value) << to;
        } else {
            out_high |= u128::from(value) << (to - 128);
        }
    }
    (out_low, out_high)
}

/// Lanes, from the wider of source and destination being 128 or 256 bits.
fn lane_count<L: Lanewise>(wide: bool) -> u32 {
    let widest = if L::FROM > L::TO { L::FROM } else { L::TO };
    if wide { 256 / widest } else { 128 / widest }
}

fn read_lanes(cpu: &mut Cpu, memory: &mut Memory, op: &Op, bytes: u32, aligned: bool) -> Result<(u128, u128), Halt> {
    Ok(match bytes {
        32 => cpu.read256(memory, op)?,
        16 => (cpu.read128(memory, op, aligned)?, 0),
        bytes => (cpu.read_small(memory, op, bytes.into())?.into(), 0),
    })
}

fn run<L: Lanewise, const MEM: bool, const VEX: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    if VEX {
        cpu.avx()?
    } else {
        cpu.sse()?
    }
    let lanes = lane_count::<L>(WIDE);
    let (low, high) = if MEM {
        let bytes = lanes * L::FROM / 8;
        if L::ANY_ALIGNMENT {
            cpu.unaligned(|cpu| read_lanes(cpu, memory, op, bytes, false))?
        } else {
            read_lanes(cpu, memory, op, bytes, !VEX)?
        }
    } else {
        (cpu.xmm(op.rm), cpu.ymm_high(op.rm))
    };
    let mut sse = cpu.sse_env();
    let (low, high) = convert::<L>(low, high, lanes, &mut sse, op.imm as u8);
    cpu.sse_raise(&sse.env)?;
    if VEX {
        cpu.set_vex(op.reg, low, high);
    } else {
        cpu.set_xmm(op.reg, low);
    }
    Ok(Flow::Next)
}

fn packed<L: Lanewise>(form: &mut Form) -> Option<Run> {
    let in_memory = memory_source(form);
    // A narrowing conversion from 32 bytes in memory names no YMM register.
    let wide = encoding(form) == Encoding::Vex256 || form.instruction.memory_size().size() == 32;
    Some(match (in_memory, vex(form), wide) {
        (false, false, _) => Run::new(run::<L, false, false, false>),
        (true, false, _) => Run::new(run::<L, true, false, false>),
        (false, true, false) => Run::new(run::<L, false, true, false>),
        (true, true, false) => Run::new(run::<L, true, true, false>),
        (false, true, true) => Run::new(run::<L, false, true, true>),
        (true, true, true) => Run::new(run::<L, true, true, true>),
    })
}

/// VCVTPS2PH, whose destination may be memory.
fn half(form: &mut Form) -> Option<Run> {
    fn values<const WIDE: bool>(cpu: &mut Cpu, from: u8, op: &Op) -> Result<u128, Halt> {
        cpu.avx()?;
        let mut sse = cpu.sse_env();
        let (low, high) = (cpu.xmm(from), cpu.ymm_high(from));
        let (low, _) = convert::<Ps2ph>(low, high, if WIDE { 8 } else { 4 }, &mut sse, op.imm as u8);
        cpu.sse_raise(&sse.env)?;
        Ok(low)
    }
    let wide = encoding(form) == Encoding::Vex256;
    Some(match (form.kind(0) == OpKind::Memory, wide) {
        (true, false) => Run::new(|cpu, memory, op| {
            let value = values::<false>(cpu, op.reg, op)?;
            cpu.write_small(memory, op, 8, value as u64)?;
            Ok(Flow::Next)
        }),
        (true, true) => Run::new(|cpu, memory, op| {
            let value = values::<true>(cpu, op.reg, op)?;
            cpu.write128(memory, op, false, value)?;
            Ok(Flow::Next)
        }),
        (false, false) => Run::new(|cpu, _, op| {
            let value = values::<false>(cpu, op.rm, op)?;
            cpu.set_vex(op.reg, value, 0);
            Ok(Flow::Next)
        }),
        (false, true) => Run::new(|cpu, _, op| {
            let value = values::<true>(cpu, op.rm, op)?;
            cpu.set_vex(op.reg, value, 0);
            Ok(Flow::Next)
        }),
    })
}

/// CVTPI2PS and CVTPI2PD: two doublewords of an MMX register or of memory.
fn from_mmx<R: Real>(form: &mut Form) -> Option<Run> {
    fn finish<R: Real>(cpu: &mut Cpu, op: &Op, value: u64) -> Result<(), Halt> {
        let mut sse = cpu.sse_env();
        let low = from_int::<R>(i64::from(value as i32), &mut sse.env);
        let high = from_int::<R>(i64::from((value >> 32) as i32), &mut sse.env);
        cpu.sse_raise(&sse.env)?;
        let both = u128::from(low) | u128::from(high) << R::BITS;
        let kept = if R::BITS == 32 { cpu.xmm(op.reg) >> 64 << 64 } else { 0 };
        cpu.set_xmm(op.reg, kept | both);
        Ok(())
    }
    Some(if memory_source(form) {
        Run::new(|cpu, memory, op| {
            // From memory they leave the x87 state alone.
            cpu.sse()?;
            let value = cpu.read_small(memory, op, 8)?;
            finish::<R>(cpu, op, value)?;
            Ok(Flow::Next)
        })
    } else {
        Run::new(|cpu, _, op| {
            cpu.sse()?;
            cpu.mmx()?;
            let value = cpu.mm(op.rm);
            finish::<R>(cpu, op, value)?;
            cpu.enter_mmx();
            Ok(Flow::Next)
        })
    })
}

/// CVTPS2PI, CVTPD2PI and their truncating forms.
fn to_mmx<R: Real, const TRUNCATE: bool>(form: &mut Form) -> Option<Run> {
    fn finish<R: Real, const TRUNCATE: bool>(cpu: &mut Cpu, op: &Op, value: u128) -> Result<(), Halt> {
        let mask = u64::MAX >> (64 - R::BITS);
        let mut sse = cpu.sse_env();
        let low = to_int::<R>(value as u64 & mask, 32, TRUNCATE, &mut sse.env);
        let high = to_int::<R>((value >> R::BITS) as u64 & mask, 32, TRUNCATE, &mut sse.env);
        cpu.sse_raise(&sse.env)?;
        cpu.enter_mmx();
        cpu.set_mm(op.reg, low | high << 32);
        Ok(())
    }
    Some(if memory_source(form) {
        Run::new(|cpu, memory, op| {
            cpu.sse()?;
            cpu.mmx()?;
            let value =
                if R::BITS == 32 { cpu.read_small(memory, op, 8)?.into() } else { cpu.read128(memory, op, true)? };
            finish::<R, TRUNCATE>(cpu, op, value)?;
            Ok(Flow::Next)
        })
    } else {
        Run::new(|cpu, _, op| {
            cpu.sse()?;
            cpu.mmx()?;
            let value = cpu.xmm(op.rm);
            finish::<R, TRUNCATE>(cpu, op, value)?;
            Ok(Flow::Next)
        })
    })
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Cvtsi2ss | M::Vcvtsi2ss => from_general::<Single>,
        M::Cvtsi2sd | M::Vcvtsi2sd => from_general::<Double>,
        M::Cvtss2si | M::Vcvtss2si => to_general::<Single, false>,
        M::Cvtsd2si | M::Vcvtsd2si => to_general::<Double, false>,
        M::Cvttss2si | M::Vcvttss2si => to_general::<Single, true>,
        M::Cvttsd2si | M::Vcvttsd2si => to_general::<Double, true>,
        M::Cvtss2sd | M::Vcvtss2sd => scalar::<Single, Double>,
        M::Cvtsd2ss | M::Vcvtsd2ss => scalar::<Double, Single>,
        M::Cvtdq2ps | M::Vcvtdq2ps => packed::<Dq2ps>,
        M::Cvtps2dq | M::Vcvtps2dq => packed::<Ps2dq>,
        M::Cvttps2dq | M::Vcvttps2dq => packed::<Tps2dq>,
        M::Cvtdq2pd | M::Vcvtdq2pd => packed::<Dq2pd>,
        M::Cvtpd2dq | M::Vcvtpd2dq => packed::<Pd2dq>,
        M::Cvttpd2dq | M::Vcvttpd2dq => packed::<Tpd2dq>,
        M::Cvtps2pd | M::Vcvtps2pd => packed::<Ps2pd>,
        M::Cvtpd2ps | M::Vcvtpd2ps => packed::<Pd2ps>,
        M::Vcvtph2ps => packed::<Ph2ps>,
        M::Vcvtps2ph => half,
        M::Cvtpi2ps => from_mmx::<Single>,
        M::Cvtpi2pd => from_mmx::<Double>,
        M::Cvtps2pi => to_mmx::<Single, false>,
        M::Cvtpd2pi => to_mmx::<Double, false>,
        M::Cvttps2pi => to_mmx::<Single, true>,
        M::Cvttpd2pi => to_mmx::<Double, true>,
        _ => return None,
    };
    plain(build)
}

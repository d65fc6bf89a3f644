//! What AVX, AVX2 and FMA have and SSE has not.

use super::float::{Double, Real, Single, pack, unpack};
use super::{Encoding, encoding, memory_source, plain, three};
use crate::cpu::decode::Form;
use crate::cpu::float;
use crate::cpu::lanes;
use crate::cpu::op::{Flow, Op, Run};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use iced_x86::{Instruction, Mnemonic, OpKind};

pub(super) type Pair = (u128, u128);

impl Cpu {
    pub(super) fn ymm(&self, number: u8) -> Pair {
        (self.xmm(number), self.ymm_high(number))
    }
}

/// An instruction on 256-bit values: the first source, the second, the immediate.
trait Ymm: 'static {
    fn eval(a: Pair, b: Pair, immediate: u8) -> Pair;
}

macro_rules! ymm {
    ($($name:ident = |$a:pat_param, $b:pat_param, $i:ident| $body:expr;)*) => {
        $(
            enum $name {}
            impl Ymm for $name {
                fn eval($a: Pair, $b: Pair, $i: u8) -> Pair {
                    $body
                }
            }
        )*
    };
}

fn words(value: Pair) -> [u32; 8] {
    core::array::from_fn(|at| (if at < 4 { value.0 >> (32 * at) } else { value.1 >> (32 * (at - 4)) }) as u32)
}

fn from_words(words: [u32; 8]) -> Pair {
    let half = |from: &[u32]| from.iter().rev().fold(0, |value, &word| value << 32 | u128::from(word));
    (half(&words[..4]), half(&words[4..]))
}

fn quads(value: Pair) -> [u64; 4] {
    [value.0 as u64, (value.0 >> 64) as u64, value.1 as u64, (value.1 >> 64) as u64]
}

fn from_quads([a, b, c, d]: [u64; 4]) -> Pair {
    (u128::from(a) | u128::from(b) << 64, u128::from(c) | u128::from(d) << 64)
}

ymm! {
    Vblendps = |a, b, i| (lanes::blendps(a.0, b.0, i & 15), lanes::blendps(a.1, b.1, i >> 4));
    Vblendpd = |a, b, i| (lanes::blendpd(a.0, b.0, i & 3), lanes::blendpd(a.1, b.1, i >> 2));
    Vshufpd = |a, b, i| (lanes::shufpd(a.0, b.0, i), lanes::shufpd(a.1, b.1, i >> 2));
    Vmpsadbw = |a, b, i| (lanes::mpsadbw(a.0, b.0, i), lanes::mpsadbw(a.1, b.1, i >> 3));
    Vperm2 = |a, b, i| {
        let pick = |choice: u8| match choice & 15 {
            0 => a.0,
            1 => a.1,
            2 => b.0,
            3 => b.1,
            4..8 => [a.0, a.1, b.0, b.1][usize::from(choice & 3)],
            _ => 0,
        };
        (pick(i), pick(i >> 4))
    };
    Vinsert = |a, b, i| if i & 1 == 0 { (b.0, a.1) } else { (a.0, b.0) };
    VpermilpsBy = |a, b, _i| {
        let pick = |from: u128, by: u128| {
            (0..4).fold(0, |value, at| {
                let lane = (by >> (32 * at)) as u32 & 3;
                value | (from >> (32 * lane) & 0xffff_ffff) << (32 * at)
            })
        };
        (pick(a.0, b.0), pick(a.1, b.1))
    };
    VpermilpdBy = |a, b, _i| {
        let pick = |from: u128, by: u128| {
            let lane = |at: u32| from >> (64 * ((by >> (64 * at + 1)) as u32 & 1)) & u128::from(u64::MAX);
            lane(0) | lane(1) << 64
        };
        (pick(a.0, b.0), pick(a.1, b.1))
    };
    Vpermilps = |_, b, i| (lanes::pshufd(b.0, i), lanes::pshufd(b.1, i));
    Vpermilpd = |_, b, i| (lanes::shufpd(b.0, b.0, i), lanes::shufpd(b.1, b.1, i >> 2));
    Vpermd = |a, b, _i| {
        let (by, from) = (words(a), words(b));
        from_words(by.map(|at| from[at as usize & 7]))
    };
    Vpermq = |_, b, i| {
        let from = quads(b);
        from_quads(core::array::from_fn(|at| from[usize::from(i >> (2 * at) & 3)]))
    };
}

/// A 128-bit operand in memory, as VINSERTF128 has it, else the form's own width.
fn run_ymm<Y: Ymm, const MEM: u32, const WIDE: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    cpu.avx()?;
    let b = match MEM {
        32 => cpu.read256(memory, op)?,
        16 => (cpu.read128(memory, op, false)?, 0),
        _ => cpu.ymm(op.index),
    };
    let (low, high) = Y::eval(cpu.ymm(op.rm), b, op.imm as u8);
    cpu.set_vex(op.reg, low, if WIDE { high } else { 0 });
    Ok(Flow::Next)
}

fn wide<Y: Ymm>(form: &mut Form) -> Option<Run> {
    let (encoding, in_memory) = three(form);
    let bytes = if in_memory { form.instruction.memory_size().size() } else { 0 };
    Some(match (bytes, encoding == Encoding::Vex256) {
        (32, _) => Run::new(run_ymm::<Y, 32, true>),
        (16, true) => Run::new(run_ymm::<Y, 16, true>),
        (16, false) => Run::new(run_ymm::<Y, 16, false>),
        (_, true) => Run::new(run_ymm::<Y, 0, true>),
        (_, false) => Run::new(run_ymm::<Y, 0, false>),
    })
}

/// VEXTRACTF128 and VEXTRACTI128.
fn extract(form: &mut Form) -> Option<Run> {
    fn half(cpu: &Cpu, from: u8, op: &Op) -> u128 {
        if op.imm & 1 == 0 { cpu.xmm(from) } else { cpu.ymm_high(from) }
    }
    Some(if memory_source(form) {
        Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let value = half(cpu, op.reg, op);
            cpu.write128(memory, op, false, value)?;
            Ok(Flow::Next)
        })
    } else {
        Run::new(|cpu, _, op| {
            cpu.avx()?;
            cpu.set_vex(op.reg, half(cpu, op.rm, op), 0);
            Ok(Flow::Next)
        })
    })
}

/// VBROADCASTxx and VPBROADCASTx of `BITS`.
fn broadcast<const BITS: u32>(form: &mut Form) -> Option<Run> {
    fn all<const BITS: u32>(value: u128) -> u128 {
        let mut value = value & (u128::MAX >> (128 - BITS));
        let mut bits = BITS;
        while bits < 128 {
            value |= value << bits;
            bits *= 2;
        }
        value
    }
    fn load<const BITS: u32>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<u128, Halt> {
        Ok(if BITS == 128 {
            cpu.read128(memory, op, false)?
        } else {
            cpu.read_small(memory, op, u64::from(BITS / 8))?.into()
        })
    }
    Some(match (memory_source(form), encoding(form) == Encoding::Vex256) {
        (true, true) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let value = all::<BITS>(load::<BITS>(cpu, memory, op)?);
            cpu.set_vex(op.reg, value, value);
            Ok(Flow::Next)
        }),
        (true, false) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let value = all::<BITS>(load::<BITS>(cpu, memory, op)?);
            cpu.set_vex(op.reg, value, 0);
            Ok(Flow::Next)
        }),
        (false, true) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let value = all::<BITS>(cpu.xmm(op.rm));
            cpu.set_vex(op.reg, value, value);
            Ok(Flow::Next)
        }),
        (false, false) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let value = all::<BITS>(cpu.xmm(op.rm));
            cpu.set_vex(op.reg, value, 0);
            Ok(Flow::Next)
        }),
    })
}

/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD and VPMASKMOVQ, by elements of `BYTES`. Elements that the mask leaves out are
/// not accessed.
fn mask_move<const BYTES: u64>(form: &mut Form) -> Option<Run> {
    fn element(value: Pair, at: u64, bytes: u64) -> u64 {
        let bit = at * bytes * 8;
        let part = if bit < 128 { value.0 >> bit } else { value.1 >> (bit - 128) };
        part as u64 & (u64::MAX >> (64 - 8 * bytes))
    }
    fn chosen(mask: Pair, at: u64, bytes: u64) -> bool {
        element(mask, at, bytes) >> (8 * bytes - 1) != 0
    }
    fn at(op: &Op, index: u64, bytes: u64) -> Op {
        Op { disp: op.disp.wrapping_add(index * bytes), ..*op }
    }
    let store = form.kind(0) == OpKind::Memory;
    form.op.extra = if encoding(form) == Encoding::Vex256 { 32 } else { 16 };
    Some(if store {
        // [memory], mask, value
        Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let (mask, value) = (cpu.ymm(op.reg), cpu.ymm(op.rm));
            let count = u64::from(op.extra) / BYTES;
            cpu.unaligned(|cpu| {
                for index in (0..count).filter(|&index| chosen(mask, index, BYTES)) {
                    let linear = cpu.operand(&at(op, index, BYTES), BYTES, true)?;
                    cpu.probe(memory, op.seg(), linear, BYTES)?;
                }
                for index in (0..count).filter(|&index| chosen(mask, index, BYTES)) {
                    cpu.write_small(memory, &at(op, index, BYTES), BYTES, element(value, index, BYTES))?;
                }
                Ok(Flow::Next)
            })
        })
    } else {
        // value, mask, [memory]
        Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let mask = cpu.ymm(op.rm);
            let mut value = (0u128, 0u128);
            for index in (0..u64::from(op.extra) / BYTES).filter(|&index| chosen(mask, index, BYTES)) {
                let part = cpu.unaligned(|cpu| cpu.read_small(memory, &at(op, index, BYTES), BYTES))?;
                let part = u128::from(part);
                let bit = index * BYTES * 8;
                if bit < 128 {
                    value.0 |= part << bit;
                } else {
                    value.1 |= part << (bit - 128);
                }
            }
            cpu.set_vex(op.reg, value.0, value.1);
            Ok(Flow::Next)
        })
    })
}

/// VZEROUPPER, and with `ALL` VZEROALL.
fn zero<const ALL: bool>(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, _| {
        cpu.avx()?;
        let count = if cpu.code64() { 16 } else { 8 };
        for number in 0..count {
            if ALL {
                cpu.set_xmm(number, 0);
            }
            cpu.set_ymm_high(number, 0);
        }
        Ok(Flow::Next)
    }))
}

/// The FMA family. `ORDER` is 132, 213 or 231: which operands are multiplied and which is added. `KIND` is 0 for
/// a*b+c, 1 for a*b-c, 2 for -(a*b)+c, 3 for -(a*b)-c, 4 for ADDSUB (odd lanes add) and 5 for SUBADD.
fn fma_lane<R: Real, const ORDER: u16, const KIND: u8>(x: [u64; 3], odd: bool, env: &mut float::Env) -> u64 {
    let (a, b, c) = match ORDER {
        132 => (x[0], x[2], x[1]),
        213 => (x[1], x[0], x[2]),
        _ => (x[1], x[2], x[0]),
    };
    let before = core::mem::take(&mut env.flags);
    let turn = |num: float::Num| match num {
        float::Num::Nan(_) => num,
        _ => num.with_sign(!num.sign()),
    };
    let (a, b, c) = (unpack::<R>(a, env), unpack::<R>(b, env), unpack::<R>(c, env));
    let negate_product = matches!(KIND, 2 | 3);
    let negate_addend = match KIND {
        1 | 3 => true,
        4 => !odd,
        5 => odd,
        _ => false,
    };
    let a = if negate_product { turn(a) } else { a };
    let c = if negate_addend { turn(c) } else { c };
    let raw = float::fma(a, b, c, env);
    let bits = pack::<R>(raw, env);
    env.flags |= before;
    bits
}

fn run_fma<R: Real, const ORDER: u16, const KIND: u8, const SCALAR: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    cpu.avx()?;
    let third = match op.extra {
        32 => cpu.read256(memory, op)?,
        16 => (cpu.read128(memory, op, false)?, 0),
        bytes @ 1..=8 => (cpu.read_small(memory, op, bytes.into())?.into(), 0),
        _ => cpu.ymm(op.index),
    };
    let (first, second) = (cpu.ymm(op.reg), cpu.ymm(op.rm));
    let mut sse = cpu.sse_env();
    let mask = u64::MAX >> (64 - R::BITS);
    let mut half = |a: u128, b: u128, c: u128| {
        let lanes = if SCALAR { 1 } else { 128 / R::BITS };
        (0..lanes).fold(0, |value, lane| {
            let at = lane * R::BITS;
            let x = [a, b, c].map(|part| (part >> at) as u64 & mask);
            value | u128::from(fma_lane::<R, ORDER, KIND>(x, lane % 2 != 0, &mut sse.env)) << at
        })
    };
    let low = half(first.0, second.0, third.0);
    let wide = op.imm != 0;
    let high = if wide { half(first.1, second.1, third.1) } else { 0 };
    cpu.sse_raise(&sse.env)?;
    let low = if SCALAR { first.0 & !u128::from(mask) | low } else { low };
    cpu.set_vex(op.reg, low, high);
    Ok(Flow::Next)
}

fn fma<R: Real, const ORDER: u16, const KIND: u8, const SCALAR: bool>(form: &mut Form) -> Option<Run> {
    let (encoding, in_memory) = three(form);
    form.op.extra = if in_memory { form.instruction.memory_size().size() as u32 } else { 0 };
    form.op.imm = u64::from(encoding == Encoding::Vex256);
    Some(Run::new(run_fma::<R, ORDER, KIND, SCALAR>))
}

macro_rules! fma_rows {
    ($m:expr; $($a:ident $b:ident $c:ident: $real:ty, $kind:literal, $scalar:literal;)*) => {
        match $m {
            $(
                Mnemonic::$a => return plain(fma::<$real, 132, $kind, $scalar>),
                Mnemonic::$b => return plain(fma::<$real, 213, $kind, $scalar>),
                Mnemonic::$c => return plain(fma::<$real, 231, $kind, $scalar>),
            )*
            _ => {}
        }
    };
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    fma_rows! { i.mnemonic();
        Vfmadd132ps Vfmadd213ps Vfmadd231ps: Single, 0, false;
        Vfmadd132pd Vfmadd213pd Vfmadd231pd: Double, 0, false;
        Vfmadd132ss Vfmadd213ss Vfmadd231ss: Single, 0, true;
        Vfmadd132sd Vfmadd213sd Vfmadd231sd: Double, 0, true;
        Vfmsub132ps Vfmsub213ps Vfmsub231ps: Single, 1, false;
        Vfmsub132pd Vfmsub213pd Vfmsub231pd: Double, 1, false;
        Vfmsub132ss Vfmsub213ss Vfmsub231ss: Single, 1, true;
        Vfmsub132sd Vfmsub213sd Vfmsub231sd: Double, 1, true;
        Vfnmadd132ps Vfnmadd213ps Vfnmadd231ps: Single, 2, false;
        Vfnmadd132pd Vfnmadd213pd Vfnmadd231pd: Double, 2, false;
        Vfnmadd132ss Vfnmadd213ss Vfnmadd231ss: Single, 2, true;
        Vfnmadd132sd Vfnmadd213sd Vfnmadd231sd: Double, 2, true;
        Vfnmsub132ps Vfnmsub213ps Vfnmsub231ps: Single, 3, false;
        Vfnmsub132pd Vfnmsub213pd Vfnmsub231pd: Double, 3, false;
        Vfnmsub132ss Vfnmsub213ss Vfnmsub231ss: Single, 3, true;
        Vfnmsub132sd Vfnmsub213sd Vfnmsub231sd: Double, 3, true;
        Vfmaddsub132ps Vfmaddsub213ps Vfmaddsub231ps: Single, 4, false;
        Vfmaddsub132pd Vfmaddsub213pd Vfmaddsub231pd: Double, 4, false;
        Vfmsubadd132ps Vfmsubadd213ps Vfmsubadd231ps: Single, 5, false;
        Vfmsubadd132pd Vfmsubadd213pd Vfmsubadd231pd: Double, 5, false;
    }
    let by_immediate = i.op_count() > 2 && i.op_kind(2) == OpKind::Immediate8;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Vblendps | M::Vpblendd => wide::<Vblendps>,
        M::Vblendpd => wide::<Vblendpd>,
        M::Vshufpd => wide::<Vshufpd>,
        M::Vmpsadbw => wide::<Vmpsadbw>,
        M::Vperm2f128 | M::Vperm2i128 => wide::<Vperm2>,
        M::Vinsertf128 | M::Vinserti128 => wide::<Vinsert>,
        M::Vextractf128 | M::Vextracti128 => extract,
        M::Vpermilps if by_immediate => wide::<Vpermilps>,
        M::Vpermilps => wide::<VpermilpsBy>,
        M::Vpermilpd if by_immediate => wide::<Vpermilpd>,
        M::Vpermilpd => wide::<VpermilpdBy>,
        M::Vpermd | M::Vpermps => wide::<Vpermd>,
        M::Vpermq | M::Vpermpd => wide::<Vpermq>,
        M::Vpbroadcastb => broadcast::<8>,
        M::Vpbroadcastw => broadcast::<16>,
        M::Vpbroadcastd | M::Vbroadcastss => broadcast::<32>,
        M::Vpbroadcastq | M::Vbroadcastsd => broadcast::<64>,
        M::Vbroadcastf128 | M::Vbroadcasti128 => broadcast::<128>,
        M::Vmaskmovps | M::Vpmaskmovd => mask_move::<4>,
        M::Vmaskmovpd | M::Vpmaskmovq => mask_move::<8>,
        M::Vzeroupper => zero::<false>,
        M::Vzeroall => zero::<true>,
        _ => return None,
    };
    plain(build)
}

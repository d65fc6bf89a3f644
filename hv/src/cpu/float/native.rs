//! The host's own x87 FPU and SSE unit as the judge of every operation: same operands, same control word, same result
//! and same flags.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)] // Inline assembly is how the host is asked.

use super::*;
use core::arch::asm;

/// A small generator of operands (xorshift), seeded, so that a failure comes back.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// A significand with long runs of equal bits more often than chance gives them.
    fn bits(&mut self) -> u64 {
        match self.below(5) {
            0 => self.roll(),
            1 => self.roll() & self.roll() & self.roll(),
            2 => self.roll() | self.roll() | self.roll(),
            3 => u64::MAX << self.below(64),
            _ => (1 << self.below(64)) ^ self.below(4),
        }
    }

    fn f80(&mut self) -> F80 {
        let sign = (self.below(2) as u16) << 15;
        let integer = 1 << 63;
        let near = 0x3fff - 70 + self.below(140) as u16;
        let (exponent, significand) = match self.below(20) {
            0 => (0, 0),
            1 => (0, self.bits() & !integer),
            2 => (0, self.bits() | integer),
            3 => (0x7fff, integer),
            4 => (0x7fff, self.bits() | integer),
            5 => (self.below(0x8000) as u16, self.bits()),
            6 => (self.below(40) as u16, self.bits() | integer),
            7 => (0x7ffe - self.below(40) as u16, self.bits() | integer),
            8 => (self.below(0x7fff) as u16, self.bits() | integer),
            _ => (near, self.bits() | integer),
        };
        F80 { sign_exponent: sign | exponent, significand }
    }

    fn small(&mut self, format: Format) -> u64 {
        let fraction_bits = format.precision - 1;
        let all_ones = (1 << format.exponent_bits) - 1;
        let exponent = match self.below(12) {
            0 => 0,
            1 => all_ones,
            2 => self.below(all_ones),
            3 => self.below(30),
            4 => all_ones - 1 - self.below(30),
            _ => format.bias() as u64 - 30 + self.below(60),
        };
        let fraction = self.bits() & (((1 << fraction_bits) - 1) * u64::from(self.below(8) != 0));
        (self.below(2) << format.exponent_bits | exponent) << fraction_bits | fraction
    }
}

/// Runs an x87 operation on the host: `$op` finds `a` in ST(0) and `b` in ST(1), and leaves its result in ST(0). Gives
/// the result and the status word.
macro_rules! x87 {
    ($op:literal) => {
        |control: u16, a: F80, b: F80| -> (F80, u16) {
            let (mut first, second) = (a.to_bytes(), b.to_bytes());
            let status: u16;
            // SAFETY: the operands and the control word outlive the block; FNINIT before and after leaves the FPU as
            // the ABI wants it.
            unsafe {
                asm!(
                    "fninit",
                    "fldcw word ptr [{control}]",
                    "fld tbyte ptr [{b}]",
                    "fld tbyte ptr [{a}]",
                    "fnclex",
                    $op,
                    "fnstsw ax",
                    "fstp tbyte ptr [{a}]",
                    "fninit",
                    control = in(reg) &control,
                    a = in(reg) first.as_mut_ptr(),
                    b = in(reg) second.as_ptr(),
                    out("ax") status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            (F80::from_bytes(first), status)
        }
    };
}

const FLAGS: u16 = 0x3f;

fn x87_env(control: u16) -> Env {
    Env { rounding: Rounding::from_bits((control >> 10) as u8), ..Env::new(NanRule::LargerSignificand) }
}

fn precision_of(control: u16) -> u32 {
    match control >> 8 & 3 {
        0 => 24,
        2 => 53,
        _ => 64,
    }
}

/// One operation, many operands, every rounding and precision.
fn check(
    name: &str,
    cases: u32,
    native: impl Fn(u16, F80, F80) -> (F80, u16),
    ours: impl Fn(u16, F80, F80, &mut Env) -> F80,
) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ name.len() as u64);
    for case in 0..cases {
        let control = 0x3f | ([0, 2, 3][dice.below(3) as usize]) << 8 | (dice.below(4) as u16) << 10;
        let (a, b) = (dice.f80(), dice.f80());
        let (expected, status) = native(control, a, b);
        let mut env = x87_env(control);
        let got = ours(control, a, b, &mut env);
        assert_eq!(got, expected, "{name} case {case}: {a:x?} {b:x?} control {control:#x} status {status:#x}");
        assert_eq!(
            u16::from(env.flags),
            status & FLAGS,
            "{name} flags, case {case}: {a:x?} {b:x?} control {control:#x} gives {got:x?}"
        );
        if status & 0x20 != 0 {
            assert_eq!(
                env.rounded_up,
                status & 0x200 != 0,
                "{name} C1, case {case}: {a:x?} {b:x?} control {control:#x}"
            );
        }
    }
}

fn rounded(raw: arith::Raw, control: u16, env: &mut Env) -> F80 {
    F80::pack(raw.round(precision_of(control), Format::F80, env))
}

type Binary = fn(Num, Num, &mut Env) -> arith::Raw;

fn binary(op: Binary) -> impl Fn(u16, F80, F80, &mut Env) -> F80 {
    move |control, a, b, env| {
        let (x, y) = (a.unpack(env), b.unpack(env));
        let raw = op(x, y, env);
        rounded(raw, control, env)
    }
}

const CASES: u32 = 200_000;

#[test]
fn x87_arithmetic_is_the_hosts() {
    check("fadd", CASES, x87!("fadd st(0), st(1)"), binary(add));
    check(
        "fsub",
        CASES,
        x87!("fsub st(0), st(1)"),
        binary(|a, b, env| {
            let b = if let Num::Nan(_) = b { b } else { b.with_sign(!b.sign()) };
            add(a, b, env)
        }),
    );
    check("fmul", CASES, x87!("fmul st(0), st(1)"), binary(mul));
    check("fdiv", CASES, x87!("fdiv st(0), st(1)"), binary(div));
    check("fsqrt", CASES, x87!("fsqrt"), |control, a, _, env| {
        let x = a.unpack(env);
        let raw = sqrt(x, env);
        rounded(raw, control, env)
    });
}

#[test]
fn x87_scaling_and_remainders_are_the_hosts() {
    let full = |raw: arith::Raw, env: &mut Env| F80::pack(raw.round(64, Format::F80, env));
    check("fscale", CASES, x87!("fscale"), |_, a, b, env| {
        let (x, y) = (a.unpack(env), b.unpack(env));
        full(scale(x, y, env), env)
    });
    check("frndint", CASES, x87!("frndint"), |_, a, _, env| {
        let x = a.unpack(env);
        let raw = to_integral(x, env.rounding, env);
        full(raw, env)
    });
    for nearest in [false, true] {
        let ours = |_: u16, a: F80, b: F80, env: &mut Env| {
            let (x, y) = (a.unpack(env), b.unpack(env));
            full(remainder(x, y, nearest, env).value, env)
        };
        if nearest {
            check("fprem1", CASES, x87!("fprem1"), ours);
        } else {
            check("fprem", CASES, x87!("fprem"), ours);
        }
    }
}

/// A transcendental result may differ from the host's in the last place.
fn check_close(
    name: &str,
    operands: impl Fn(&mut Dice) -> (F80, F80),
    native: impl Fn(u16, F80, F80) -> (F80, u16),
    ours: impl Fn(Num, Num, &mut Env) -> Option<arith::Raw>,
) {
    let mut dice = Dice(77);
    for case in 0..20_000 {
        let (a, b) = operands(&mut dice);
        let (expected, status) = native(0x37f, a, b);
        let mut env = x87_env(0x37f);
        let (x, y) = (a.unpack(&mut env), b.unpack(&mut env));
        let Some(raw) = ours(x, y, &mut env) else {
            assert_ne!(status & 0x400, 0, "{name}: the host takes {a:x?}");
            continue;
        };
        let got = F80::pack(raw.round(64, Format::F80, &mut env));
        let place = |value: F80| {
            let magnitude = i128::from(value.sign_exponent & 0x7fff) << 63 | i128::from(value.significand & !(1 << 63));
            if value.sign_exponent >> 15 != 0 { -magnitude } else { magnitude }
        };
        let apart = (place(got) - place(expected)).abs();
        assert!(apart <= 1, "{name} case {case}: {a:x?} {b:x?} gives {got:x?}, the host {expected:x?} {status:#x}");
    }
}

#[test]
fn x87_transcendentals_are_near_the_hosts() {
    let moderate = |dice: &mut Dice| {
        let exponent = 0x3fff - 20 + dice.below(26) as u16;
        let sign = (dice.below(2) as u16) << 15;
        F80 { sign_exponent: sign | exponent, significand: dice.bits() | 1 << 63 }
    };
    let below_one = |dice: &mut Dice| {
        let exponent = 0x3fff - 1 - dice.below(40) as u16;
        let sign = (dice.below(2) as u16) << 15;
        F80 { sign_exponent: sign | exponent, significand: dice.bits() | 1 << 63 }
    };
    let positive = |value: F80| F80 { sign_exponent: value.sign_exponent & 0x7fff, ..value };
    check_close("fsin", |d| (moderate(d), moderate(d)), x87!("fsin"), |a, _, env| sin(a, env));
    check_close("fcos", |d| (moderate(d), moderate(d)), x87!("fcos"), |a, _, env| cos(a, env));
    check_close("fptan", |d| (moderate(d), moderate(d)), x87!("fptan\nfstp st(0)"), |a, _, env| tan(a, env));
    check_close("f2xm1", |d| (below_one(d), moderate(d)), x87!("f2xm1"), |a, _, env| Some(exp2m1(a, env)));
    check_close("fpatan", |d| (moderate(d), moderate(d)), x87!("fpatan"), |a, b, env| Some(atan2(b, a, env)));
    check_close(
        "fyl2x",
        |d| (positive(moderate(d)), moderate(d)),
        x87!("fyl2x"),
        |a, b, env| Some(ln_times(b, a, env)),
    );
    check_close(
        "fyl2xp1",
        |d| {
            let x = below_one(d);
            (F80 { sign_exponent: x.sign_exponent - 2, ..x }, moderate(d))
        },
        x87!("fyl2xp1"),
        |a, b, env| Some(ln1p_times(b, a, env)),
    );
}

/// Runs a scalar SSE operation on the host under `mxcsr`.
macro_rules! sse {
    ($op:literal) => {
        |mxcsr: u32, a: u64, b: u64| -> (u64, u32) {
            let mut after = mxcsr;
            let default = 0x1f80u32;
            let result: u64;
            // SAFETY: the control words outlive the block, and MXCSR is put back to the ABI's value before it ends.
            unsafe {
                asm!(
                    "movq {x}, {a}",
                    "movq {y}, {b}",
                    "ldmxcsr dword ptr [{after}]",
                    concat!($op, " {x}, {y}"),
                    "stmxcsr dword ptr [{after}]",
                    "ldmxcsr dword ptr [{default}]",
                    "movq {result}, {x}",
                    a = in(reg) a,
                    b = in(reg) b,
                    x = out(xmm_reg) _,
                    y = out(xmm_reg) _,
                    after = in(reg) &mut after,
                    default = in(reg) &default,
                    result = lateout(reg) result,
                );
            }
            (result, after)
        }
    };
}

fn check_sse(name: &str, format: Format, native: impl Fn(u32, u64, u64) -> (u64, u32), ours: Binary) {
    let mut dice = Dice(4711);
    let mask = u64::MAX >> (64 - format.precision - format.exponent_bits);
    for case in 0..CASES {
        let (daz, ftz, mode) = (dice.below(4) == 0, dice.below(4) == 0, dice.below(4) as u32);
        let mxcsr = 0x1f80 | u32::from(daz) << 6 | u32::from(ftz) << 15 | mode << 13;
        let (a, b) = (dice.small(format), dice.small(format));
        let (expected, after) = native(mxcsr, a, b);
        let mut env = Env {
            rounding: Rounding::from_bits(mode as u8),
            denormals_are_zero: daz,
            flush_to_zero: ftz,
            ..Env::new(NanRule::First)
        };
        let (x, y) = (unpack(a, format, &mut env), unpack(b, format, &mut env));
        let raw = ours(x, y, &mut env);
        let got = pack(raw.round(format.precision, format, &mut env), format);
        assert_eq!(got, expected & mask, "{name} case {case}: {a:#x} {b:#x} mxcsr {mxcsr:#x}");
        assert_eq!(u32::from(env.flags), after & 0x3f, "{name} flags, case {case}: {a:#x} {b:#x} mxcsr {mxcsr:#x}");
    }
}

#[test]
fn sse_arithmetic_is_the_hosts() {
    let sub: Binary = |a, b, env| add(a, if b.is_nan() { b } else { b.with_sign(!b.sign()) }, env);
    check_sse("addsd", Format::F64, sse!("addsd"), add);
    check_sse("subsd", Format::F64, sse!("subsd"), sub);
    check_sse("mulsd", Format::F64, sse!("mulsd"), mul);
    check_sse("divsd", Format::F64, sse!("divsd"), div);
    check_sse("addss", Format::F32, sse!("addss"), add);
    check_sse("subss", Format::F32, sse!("subss"), sub);
    check_sse("mulss", Format::F32, sse!("mulss"), mul);
    check_sse("divss", Format::F32, sse!("divss"), div);
}

#[test]
fn fused_multiply_add_rounds_once() {
    let mut dice = Dice(99);
    for _ in 0..CASES {
        let [a, b, c] = [(); 3].map(|()| f64::from_bits(dice.small(Format::F64)));
        let mut env = Env::new(NanRule::First);
        let [x, y, z] = [a, b, c].map(|value| unpack(value.to_bits(), Format::F64, &mut env));
        let raw = fma(x, y, z, &mut env);
        let got = f64::from_bits(pack(raw.round(53, Format::F64, &mut env), Format::F64));
        let expected = a.mul_add(b, c);
        assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{a:e} {b:e} {c:e}");
    }
}

#[test]
fn integers_convert_as_the_host_converts_them() {
    let mut dice = Dice(5);
    for _ in 0..CASES {
        let value = f64::from_bits(dice.small(Format::F64));
        let mut env = Env::new(NanRule::First);
        let num = unpack(value.to_bits(), Format::F64, &mut env);
        env.flags = 0;
        let got = to_int(num, 64, Rounding::Zero, &mut env);
        if value.is_nan() || !(-9.223_372_036_854_776e18..9.223_372_036_854_776e18).contains(&value) {
            assert_eq!((got, env.flags), (None, flag::INVALID), "{value:e}");
        } else {
            assert_eq!(got, Some(value as i64), "{value:e}");
            assert_eq!(env.flags & flag::PRECISION != 0, value.fract() != 0.0, "{value:e}");
        }
        let integer = dice.roll() as i64 >> dice.below(64);
        let arith::Raw::Finite(wide) = from_int(integer).into() else {
            assert_eq!(integer, 0);
            continue;
        };
        let packed = super::round::round(wide, 53, Format::F64, &mut env);
        assert_eq!(pack(packed, Format::F64), (integer as f64).to_bits(), "{integer}");
    }
}

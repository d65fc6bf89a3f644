//! IEEE 754 arithmetic in integers: the single, double and double-extended formats under x86's rounding modes,
//! precision control, exception flags and NaN rules. No host floating point is used, so results are the same on every
//! host.
//!
//! A value is unpacked ([`Num`]), computed exactly or with a sticky bit, and rounded once into its format ([`round`]).
//! Not here: registers, masks and what an unmasked exception does. See [`crate::cpu`].

mod arith;
mod convert;
#[cfg(test)]
mod native;
mod round;
mod transcendental;

pub(super) use arith::{Raw, add, div, fma, mul, remainder, scale, sqrt};
pub(super) use convert::{from_int, to_int, to_integral};
pub(super) use round::Packed;
pub(super) use transcendental::{atan2, cos, exp2m1, ln_times, ln1p_times, sin, tan};

use core::cmp::Ordering;

/// Exception flags, with the bits of the x87 status word and of MXCSR.
pub(super) mod flag {
    /// Invalid operation.
    pub(crate) const INVALID: u8 = 1 << 0;
    /// Denormal operand.
    pub(crate) const DENORMAL: u8 = 1 << 1;
    /// Division by zero.
    pub(crate) const ZERO_DIVIDE: u8 = 1 << 2;
    /// Overflow.
    pub(crate) const OVERFLOW: u8 = 1 << 3;
    /// Underflow.
    pub(crate) const UNDERFLOW: u8 = 1 << 4;
    /// Inexact result.
    pub(crate) const PRECISION: u8 = 1 << 5;
}

/// How a result that does not fit is rounded, with the numbers of the control words' RC field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub(super) enum Rounding {
    NearestEven = 0,
    Down = 1,
    Up = 2,
    Zero = 3,
}

impl Rounding {
    /// The mode of that number; only the low two bits count.
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NearestEven,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// Which of two NaN operands a result is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NanRule {
    /// The one with the larger significand. See: SDM "Rules for Generating QNaNs" for the x87 FPU.
    LargerSignificand,
    /// The first operand, if it is one.
    First,
}

/// A binary format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Format {
    /// Bits of the significand, the integer bit included.
    pub precision: u32,
    /// Bits of the exponent.
    pub exponent_bits: u32,
}

impl Format {
    /// Single precision.
    pub(super) const F32: Self = Self { precision: 24, exponent_bits: 8 };
    /// Double precision.
    pub(super) const F64: Self = Self { precision: 53, exponent_bits: 11 };
    /// Double extended precision.
    pub(super) const F80: Self = Self { precision: 64, exponent_bits: 15 };

    /// What is added to an exponent to store it; also the largest exponent of a finite value.
    pub(super) const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// The smallest exponent of a normal value.
    pub(super) const fn min_exponent(self) -> i32 {
        1 - self.bias()
    }
}

/// The environment of an operation: modes in, flags out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Env {
    /// The rounding mode.
    pub rounding: Rounding,
    /// Which NaN a result is made of.
    pub nan_rule: NanRule,
    /// Denormal operands count as zero (MXCSR.DAZ).
    pub denormals_are_zero: bool,
    /// Tiny results become zero where underflow is masked (MXCSR.FTZ).
    pub flush_to_zero: bool,
    /// Exceptions that are masked, as [`flag`] bits: an unmasked overflow or underflow gives a result of its own on the
    /// x87 FPU, and an unmasked underflow is flagged even where the result is exact.
    pub masked: u8,
    /// An unmasked overflow or underflow gives the result with its exponent wrapped, as the x87 FPU's registers get.
    pub wrap_exponent: bool,
    /// Flags raised so far.
    pub flags: u8,
    /// Whether the last rounding went away from zero (the x87 FPU's C1).
    pub rounded_up: bool,
}

impl Env {
    /// Round to nearest, everything masked, no flags.
    pub(super) const fn new(nan_rule: NanRule) -> Self {
        Self {
            rounding: Rounding::NearestEven,
            nan_rule,
            denormals_are_zero: false,
            flush_to_zero: false,
            masked: 0x3f,
            wrap_exponent: false,
            flags: 0,
            rounded_up: false,
        }
    }

    /// Raises flags.
    pub(super) fn raise(&mut self, flags: u8) {
        self.flags |= flags;
    }
}

/// A NaN without its format: sign and the significand's bits below the integer bit, left-justified in 63 bits (bit 62
/// is the quiet bit).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Nan {
    /// The sign.
    pub sign: bool,
    /// The fraction, left-justified below bit 63.
    pub fraction: u64,
}

impl Nan {
    const QUIET: u64 = 1 << 62;

    /// The default NaN, "real indefinite".
    pub(super) const INDEFINITE: Self = Self { sign: true, fraction: Self::QUIET };

    /// Whether it signals.
    pub(super) const fn is_signaling(self) -> bool {
        self.fraction & Self::QUIET == 0
    }

    /// The quiet NaN of the same payload.
    pub(super) const fn quieted(self) -> Self {
        Self { sign: self.sign, fraction: self.fraction | Self::QUIET }
    }
}

/// An unpacked value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Num {
    /// Zero, signed.
    Zero(bool),
    /// `(-1)^sign * significand / 2^63 * 2^exponent`, with bit 63 of the significand set.
    Finite {
        /// The sign.
        sign: bool,
        /// The exponent, unbiased.
        exponent: i32,
        /// The significand, normalised.
        significand: u64,
    },
    /// Infinity, signed.
    Infinity(bool),
    /// Not a number.
    Nan(Nan),
    /// An encoding of the double-extended format that no operation takes: unnormal, pseudo-NaN, pseudo-infinity.
    Unsupported,
}

impl Num {
    /// The sign bit; an unsupported encoding has none that counts.
    pub(super) const fn sign(self) -> bool {
        match self {
            Self::Zero(sign) | Self::Infinity(sign) | Self::Finite { sign, .. } => sign,
            Self::Nan(nan) => nan.sign,
            Self::Unsupported => false,
        }
    }

    /// The value with another sign.
    pub(super) const fn with_sign(self, sign: bool) -> Self {
        match self {
            Self::Zero(_) => Self::Zero(sign),
            Self::Infinity(_) => Self::Infinity(sign),
            Self::Finite { exponent, significand, .. } => Self::Finite { sign, exponent, significand },
            Self::Nan(nan) => Self::Nan(Nan { sign, ..nan }),
            Self::Unsupported => self,
        }
    }

    const fn is_nan(self) -> bool {
        matches!(self, Self::Nan(_))
    }
}

/// Unpacks bits of `format` (single or double, in the low bits), noting a denormal operand.
pub(super) fn unpack(bits: u64, format: Format, env: &mut Env) -> Num {
    let fraction_bits = format.precision - 1;
    let fraction = bits & ((1 << fraction_bits) - 1);
    let exponent_mask = (1 << format.exponent_bits) - 1;
    let biased = (bits >> fraction_bits) as i32 & exponent_mask;
    let sign = bits >> (fraction_bits + format.exponent_bits) & 1 != 0;
    if biased == exponent_mask {
        return match fraction {
            0 => Num::Infinity(sign),
            _ => Num::Nan(Nan { sign, fraction: fraction << (63 - fraction_bits) }),
        };
    }
    if biased != 0 {
        let significand = (fraction | 1 << fraction_bits) << (63 - fraction_bits);
        return Num::Finite { sign, exponent: biased - format.bias(), significand };
    }
    if fraction == 0 || env.denormals_are_zero {
        return Num::Zero(sign);
    }
    env.raise(flag::DENORMAL);
    let shift = fraction.leading_zeros();
    let exponent = format.min_exponent() - (shift as i32 - (63 - fraction_bits as i32));
    Num::Finite { sign, exponent, significand: fraction << shift }
}

/// A register of the x87 FPU: the double-extended format as it lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct F80 {
    /// Bit 15 the sign, below it the biased exponent.
    pub sign_exponent: u16,
    /// The significand with its explicit integer bit.
    pub significand: u64,
}

impl F80 {
    /// Real indefinite.
    pub(super) const INDEFINITE: Self = Self { sign_exponent: 0xffff, significand: 0xc000_0000_0000_0000 };

    /// Unpacks, noting a denormal (or pseudo-denormal) operand.
    pub(super) fn unpack(self, env: &mut Env) -> Num {
        let sign = self.sign_exponent >> 15 != 0;
        let biased = i32::from(self.sign_exponent & 0x7fff);
        let integer = self.significand >> 63 != 0;
        match (biased, integer, self.significand) {
            (0, _, 0) => Num::Zero(sign),
            (0, _, significand) => {
                env.raise(flag::DENORMAL);
                let shift = significand.leading_zeros();
                let exponent = Format::F80.min_exponent() - shift as i32;
                Num::Finite { sign, exponent, significand: significand << shift }
            }
            (_, false, _) => Num::Unsupported,
            (0x7fff, true, 0x8000_0000_0000_0000) => Num::Infinity(sign),
            (0x7fff, true, significand) => Num::Nan(Nan { sign, fraction: significand & !(1 << 63) }),
            (_, true, significand) => Num::Finite { sign, exponent: biased - Format::F80.bias(), significand },
        }
    }

    /// Packs a rounded result.
    pub(super) fn pack(packed: Packed) -> Self {
        Self { sign_exponent: u16::from(packed.sign) << 15 | packed.biased as u16, significand: packed.significand }
    }

    /// The ten bytes of it in memory.
    pub(super) fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.significand.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exponent.to_le_bytes());
        bytes
    }

    /// From ten bytes in memory.
    pub(super) fn from_bytes(bytes: [u8; 10]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, e0, e1] = bytes;
        Self {
            sign_exponent: u16::from_le_bytes([e0, e1]),
            significand: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        }
    }
}

/// Packs a rounded result into single or double precision.
pub(super) fn pack(packed: Packed, format: Format) -> u64 {
    let fraction_bits = format.precision - 1;
    let fraction = packed.significand & ((1 << fraction_bits) - 1);
    u64::from(packed.sign) << (fraction_bits + format.exponent_bits)
        | u64::from(packed.biased) << fraction_bits
        | fraction
}

/// The NaN that an operation on `a` and `b` gives, where one of them is a NaN; raises [`flag::INVALID`] for a signaling
/// one.
fn propagate(a: Num, b: Num, env: &mut Env) -> Option<Num> {
    let signals = |num: Num| matches!(num, Num::Nan(nan) if nan.is_signaling());
    if !a.is_nan() && !b.is_nan() {
        return None;
    }
    if signals(a) || signals(b) {
        env.raise(flag::INVALID);
    }
    let chosen = match (a, b) {
        (Num::Nan(x), Num::Nan(y)) => match env.nan_rule {
            NanRule::First => x,
            NanRule::LargerSignificand => larger(x, y),
        },
        (Num::Nan(x), _) | (_, Num::Nan(x)) => x,
        _ => return None,
    };
    // A NaN takes precedence over a denormal operand, which is not noted then.
    env.flags &= !flag::DENORMAL;
    Some(Num::Nan(chosen.quieted()))
}

/// The x87 FPU's choice between two NaNs: a quiet one over a signaling one, the larger significand, the positive one.
fn larger(x: Nan, y: Nan) -> Nan {
    match (x.is_signaling(), y.is_signaling()) {
        (true, false) => return y,
        (false, true) => return x,
        _ => {}
    }
    match x.fraction.cmp(&y.fraction) {
        Ordering::Greater => x,
        Ordering::Less => y,
        Ordering::Equal => {
            if x.sign {
                y
            } else {
                x
            }
        }
    }
}

/// The default NaN, with [`flag::INVALID`].
fn invalid(env: &mut Env) -> Num {
    env.flags &= !flag::DENORMAL;
    env.raise(flag::INVALID);
    Num::Nan(Nan::INDEFINITE)
}

/// Compares as FUCOM does: `None` is unordered, for which `signal_quiet` raises [`flag::INVALID`] for quiet NaNs too.
pub(super) fn compare(a: Num, b: Num, signal_quiet: bool, env: &mut Env) -> Option<Ordering> {
    if matches!(a, Num::Unsupported) || matches!(b, Num::Unsupported) {
        invalid(env);
        return None;
    }
    if propagate(a, b, env).is_some() {
        if signal_quiet {
            env.raise(flag::INVALID);
        }
        return None;
    }
    let rank = |num: Num| match num {
        Num::Zero(_) => (0, 0, 0),
        Num::Finite { sign: false, exponent, significand } => (1, i64::from(exponent), i128::from(significand)),
        Num::Finite { sign: true, exponent, significand } => (-1, -i64::from(exponent), -i128::from(significand)),
        Num::Infinity(false) => (2, 0, 0),
        _ => (-2, 0, 0),
    };
    Some(rank(a).cmp(&rank(b)))
}

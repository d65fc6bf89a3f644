//! The one place where a result is rounded.

use super::{Env, Format, Nan, Num, Rounding, flag};

/// A rounded result, ready to be packed: for a NaN or an infinity the exponent is all ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Packed {
    /// The sign.
    pub sign: bool,
    /// The biased exponent.
    pub biased: u32,
    /// The significand, right-justified, with its integer bit.
    pub significand: u64,
}

/// An exact or sticky result before rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wide {
    /// The sign.
    pub sign: bool,
    /// The exponent, unbiased, of bit 127.
    pub exponent: i32,
    /// The significand with bit 127 set; bit 0 stands for anything below it that is not zero.
    pub significand: u128,
}

impl Wide {
    /// Normalises a significand that is not zero.
    pub(crate) const fn normalised(sign: bool, exponent: i32, significand: u128) -> Self {
        let shift = significand.leading_zeros();
        Self { sign, exponent: exponent - shift as i32, significand: significand << shift }
    }

    /// The sum, sticky where bits fall below; `None` for zero.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        let (x, y) = if (self.exponent, self.significand) >= (other.exponent, other.significand) {
            (self, other)
        } else {
            (other, self)
        };
        let big = x.significand >> 1 | x.significand & 1;
        let small = shift_sticky(y.significand, x.exponent.abs_diff(y.exponent).saturating_add(1));
        let significand = if x.sign == y.sign { big + small } else { big - small };
        (significand != 0).then(|| Self::normalised(x.sign, x.exponent + 1, significand))
    }
}

/// Shifts right, and keeps what is shifted out as a sticky bit 0.
pub(super) const fn shift_sticky(significand: u128, by: u32) -> u128 {
    match by {
        0 => significand,
        1..=127 => significand >> by | (significand << (128 - by) != 0) as u128,
        _ => (significand != 0) as u128,
    }
}

/// Rounds to a multiple of `1 << drop`; gives the kept bits, whether anything was lost, and whether it went up.
fn round_bits(sign: bool, significand: u128, drop: u32, rounding: Rounding) -> (u128, bool, bool) {
    if drop > 127 {
        let away = significand != 0
            && match rounding {
                Rounding::NearestEven => drop == 128 && significand > 1 << 127,
                Rounding::Down => sign,
                Rounding::Up => !sign,
                Rounding::Zero => false,
            };
        return (u128::from(away), significand != 0, away);
    }
    let kept = significand >> drop;
    let lost = significand & ((1 << drop) - 1);
    let half = 1u128 << drop >> 1;
    let up = lost != 0
        && match rounding {
            Rounding::NearestEven => lost > half || lost == half && kept & 1 != 0,
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
    (kept + u128::from(up), lost != 0, up)
}

/// Rounds `wide` to `precision` bits within the exponent range of `format`, raising what it must. Tininess is detected
/// after rounding. See: SDM "Numeric Overflow Exception" and "Numeric Underflow Exception".
pub(super) fn round(wide: Wide, precision: u32, format: Format, env: &mut Env) -> Packed {
    let Wide { sign, mut exponent, significand } = wide;
    let drop = 128 - precision;
    let (mut kept, mut inexact, mut up) = round_bits(sign, significand, drop, env.rounding);
    let carry = kept >> precision != 0;
    let rounded_exponent = exponent + i32::from(carry);
    let tiny = rounded_exponent < format.min_exponent();

    if tiny && env.masked & flag::UNDERFLOW != 0 {
        if env.flush_to_zero {
            env.raise(flag::UNDERFLOW | flag::PRECISION);
            return Packed { sign, biased: 0, significand: 0 };
        }
        let deeper = (format.min_exponent() - exponent) as u32;
        (kept, inexact, up) = round_bits(sign, significand, drop.saturating_add(deeper), env.rounding);
        if inexact {
            env.raise(flag::UNDERFLOW | flag::PRECISION);
        }
        env.rounded_up |= up;
        let significand = justify(kept, precision, format);
        let normal = significand >> (format.precision - 1) != 0;
        return Packed { sign, biased: u32::from(normal), significand };
    }

    if carry {
        kept >>= 1;
        exponent += 1;
    }
    if tiny {
        env.raise(flag::UNDERFLOW);
        if env.wrap_exponent {
            exponent += wrap(format);
        }
    } else if exponent > format.bias() {
        if env.masked & flag::OVERFLOW != 0 {
            env.raise(flag::OVERFLOW | flag::PRECISION);
            return overflow(sign, precision, format, env);
        }
        env.raise(flag::OVERFLOW);
        if env.wrap_exponent {
            exponent -= wrap(format);
        }
    }
    if inexact {
        env.raise(flag::PRECISION);
    }
    env.rounded_up |= up;
    // Beyond even the wrapped range only FSCALE can come; the field keeps its low bits, as nothing reads them.
    let biased = (exponent + format.bias()) as u32 & ((1 << format.exponent_bits) - 1);
    Packed { sign, biased, significand: justify(kept, precision, format) }
}

/// Moves a significand of `precision` bits to the top of the format's.
fn justify(kept: u128, precision: u32, format: Format) -> u64 {
    (kept << (format.precision - precision)) as u64
}

/// What the exponent is wrapped by when an overflow or underflow is unmasked: 3 * 2^(bits - 2).
const fn wrap(format: Format) -> i32 {
    3 << (format.exponent_bits - 2)
}

/// The masked response to overflow: infinity or the largest finite value, by the rounding mode.
fn overflow(sign: bool, precision: u32, format: Format, env: &mut Env) -> Packed {
    let infinite = match env.rounding {
        Rounding::NearestEven => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    env.rounded_up = infinite;
    let all_ones = (1 << format.exponent_bits) - 1;
    if infinite {
        Packed { sign, biased: all_ones, significand: 1 << (format.precision - 1) }
    } else {
        let significand = justify((1 << precision) - 1, precision, format);
        Packed { sign, biased: all_ones - 1, significand }
    }
}

impl Packed {
    /// A value that needs no rounding, other than a finite one.
    pub(super) fn special(num: Num, format: Format) -> Option<Self> {
        let all_ones = (1 << format.exponent_bits) - 1;
        let integer = 1u64 << (format.precision - 1);
        Some(match num {
            Num::Zero(sign) => Self { sign, biased: 0, significand: 0 },
            Num::Infinity(sign) => Self { sign, biased: all_ones, significand: integer },
            Num::Nan(Nan { sign, fraction }) => {
                Self { sign, biased: all_ones, significand: integer | fraction >> (64 - format.precision) }
            }
            Num::Finite { .. } | Num::Unsupported => return None,
        })
    }
}

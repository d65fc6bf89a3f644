//! Conversions to and from integers, and rounding to an integral value.

use super::arith::Raw;
use super::round::{Wide, shift_sticky};
use super::{Env, Num, Rounding, flag, invalid, propagate};

/// A signed integer as a value.
pub(crate) fn from_int(value: i64) -> Num {
    let magnitude = value.unsigned_abs();
    match magnitude {
        0 => Num::Zero(false),
        _ => {
            let shift = magnitude.leading_zeros();
            Num::Finite { sign: value < 0, exponent: 63 - shift as i32, significand: magnitude << shift }
        }
    }
}

/// The magnitude rounded to an integer, whether that lost anything and whether it went up; for exponents below 64.
fn integral(sign: bool, exponent: i32, significand: u64, rounding: Rounding) -> (u64, bool, bool) {
    // Two bits below the point: half, and sticky.
    let shift = (63 - exponent).unsigned_abs();
    let fixed = shift_sticky(u128::from(significand) << 2, shift);
    let (whole, lost) = ((fixed >> 2) as u64, fixed & 3);
    let up = match rounding {
        Rounding::NearestEven => lost == 3 || lost == 2 && whole & 1 != 0,
        Rounding::Down => sign && lost != 0,
        Rounding::Up => !sign && lost != 0,
        Rounding::Zero => false,
    };
    // An exponent of 63 loses nothing, so this cannot wrap.
    (whole + u64::from(up), lost != 0, up)
}

/// To a signed integer of `bits` bits by `rounding`. `None`, with [`flag::INVALID`] alone, for what does not fit: the
/// caller stores the integer indefinite.
pub(crate) fn to_int(num: Num, bits: u32, rounding: Rounding, env: &mut Env) -> Option<i64> {
    let refuse = |env: &mut Env| {
        env.flags &= !flag::DENORMAL;
        env.raise(flag::INVALID);
        None
    };
    match num {
        Num::Zero(_) => Some(0),
        Num::Finite { sign, exponent, significand } if exponent < 64 => {
            let (whole, lost, up) = integral(sign, exponent, significand, rounding);
            let limit = 1u64 << (bits - 1);
            if whole > limit || whole == limit && !sign {
                return refuse(env);
            }
            if lost {
                env.raise(flag::PRECISION);
            }
            env.rounded_up = up;
            Some(if sign { (whole as i64).wrapping_neg() } else { whole as i64 })
        }
        _ => refuse(env),
    }
}

/// FRNDINT and ROUNDSS: to an integral value in the same format.
pub(crate) fn to_integral(num: Num, rounding: Rounding, env: &mut Env) -> Raw {
    match num {
        Num::Unsupported => Raw::Special(invalid(env)),
        Num::Nan(_) => Raw::Special(propagate(num, num, env).unwrap_or(num)),
        Num::Finite { sign, exponent, significand } if exponent < 63 => {
            let (whole, lost, up) = integral(sign, exponent, significand, rounding);
            if lost {
                env.raise(flag::PRECISION);
            }
            env.rounded_up = up;
            match whole {
                0 => Raw::Special(Num::Zero(sign)),
                _ => Raw::Finite(Wide::normalised(sign, 127, u128::from(whole))),
            }
        }
        _ => num.into(),
    }
}

//! The operations that IEEE 754 defines exactly.

use super::round::{Packed, Wide, round};
use super::{Env, Format, Num, Rounding, flag, invalid, propagate};
use core::cmp::Ordering;

/// A result before rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Raw {
    /// Zero, infinity or NaN: nothing to round.
    Special(Num),
    /// A finite value, exact or sticky.
    Finite(Wide),
}

impl Raw {
    /// Rounds to `precision` bits within the range of `format`.
    pub(crate) fn round(self, precision: u32, format: Format, env: &mut Env) -> Packed {
        match self {
            Self::Finite(wide) => round(wide, precision, format, env),
            Self::Special(num) => {
                // An operation never gives an unsupported encoding, nor a finite special.
                Packed::special(num, format).unwrap_or(Packed { sign: false, biased: 0, significand: 0 })
            }
        }
    }
}

impl From<Num> for Raw {
    fn from(num: Num) -> Self {
        match num {
            Num::Finite { sign, exponent, significand } => {
                Self::Finite(Wide { sign, exponent, significand: u128::from(significand) << 64 })
            }
            _ => Self::Special(num),
        }
    }
}

/// The result where an operand is a NaN or an encoding that no operation takes.
fn quiet(a: Num, b: Num, env: &mut Env) -> Option<Raw> {
    if matches!(a, Num::Unsupported) || matches!(b, Num::Unsupported) {
        return Some(Raw::Special(invalid(env)));
    }
    propagate(a, b, env).map(Raw::Special)
}

/// The sign of an exact zero that is a sum of two values of unlike sign.
fn zero_sum(env: &Env) -> Raw {
    Raw::Special(Num::Zero(env.rounding == Rounding::Down))
}

/// `a + b`; for `a - b` give `b` with its sign turned, unless it is a NaN.
pub(crate) fn add(a: Num, b: Num, env: &mut Env) -> Raw {
    if let Some(result) = quiet(a, b, env) {
        return result;
    }
    match (a, b) {
        (Num::Infinity(x), Num::Infinity(y)) if x != y => Raw::Special(invalid(env)),
        (Num::Infinity(_), _) => Raw::Special(a),
        (_, Num::Infinity(_)) => Raw::Special(b),
        (Num::Zero(x), Num::Zero(y)) if x == y => Raw::Special(a),
        (Num::Zero(_), Num::Zero(_)) => zero_sum(env),
        (Num::Zero(_), _) => b.into(),
        (_, Num::Zero(_)) => a.into(),
        (
            Num::Finite { sign: sa, exponent: ea, significand: ma },
            Num::Finite { sign: sb, exponent: eb, significand: mb },
        ) => {
            let x = Wide { sign: sa, exponent: ea, significand: u128::from(ma) << 64 };
            let y = Wide { sign: sb, exponent: eb, significand: u128::from(mb) << 64 };
            x.plus(y).map_or_else(|| zero_sum(env), Raw::Finite)
        }
        _ => Raw::Special(invalid(env)),
    }
}

/// `a * b`.
pub(crate) fn mul(a: Num, b: Num, env: &mut Env) -> Raw {
    if let Some(result) = quiet(a, b, env) {
        return result;
    }
    let sign = a.sign() != b.sign();
    match (a, b) {
        (Num::Infinity(_), Num::Zero(_)) | (Num::Zero(_), Num::Infinity(_)) => Raw::Special(invalid(env)),
        (Num::Infinity(_), _) | (_, Num::Infinity(_)) => Raw::Special(Num::Infinity(sign)),
        (Num::Zero(_), _) | (_, Num::Zero(_)) => Raw::Special(Num::Zero(sign)),
        _ => product(a, b).map_or_else(|| Raw::Special(invalid(env)), Raw::Finite),
    }
}

/// The exact product of two finite values.
fn product(a: Num, b: Num) -> Option<Wide> {
    let (
        Num::Finite { sign: sa, exponent: ea, significand: ma },
        Num::Finite { sign: sb, exponent: eb, significand: mb },
    ) = (a, b)
    else {
        return None;
    };
    Some(Wide::normalised(sa != sb, ea + eb + 1, u128::from(ma) * u128::from(mb)))
}

/// `a * b + c`, rounded once. For single and double precision: a double-extended product leaves no room to align.
pub(crate) fn fma(a: Num, b: Num, c: Num, env: &mut Env) -> Raw {
    let invalid_product = matches!((a, b), (Num::Infinity(_), Num::Zero(_)) | (Num::Zero(_), Num::Infinity(_)));
    if a.is_nan() || b.is_nan() || c.is_nan() {
        // The product's NaN comes before the addend's.
        let first = if a.is_nan() || b.is_nan() { propagate(a, b, env) } else { None };
        let third = propagate(first.unwrap_or(Num::Zero(false)), c, env);
        return Raw::Special(first.or(third).unwrap_or(c));
    }
    if invalid_product {
        return Raw::Special(invalid(env));
    }
    let sign = a.sign() != b.sign();
    let Some(exact) = product(a, b) else {
        let special = match (a, b) {
            (Num::Infinity(_), _) | (_, Num::Infinity(_)) => Num::Infinity(sign),
            _ => Num::Zero(sign),
        };
        return add(special, c, env);
    };
    match c {
        Num::Finite { sign, exponent, significand } => {
            let addend = Wide { sign, exponent, significand: u128::from(significand) << 64 };
            exact.plus(addend).map_or_else(|| zero_sum(env), Raw::Finite)
        }
        Num::Zero(_) => Raw::Finite(exact),
        _ => Raw::Special(c),
    }
}

/// `a / b`.
pub(crate) fn div(a: Num, b: Num, env: &mut Env) -> Raw {
    if let Some(result) = quiet(a, b, env) {
        return result;
    }
    let sign = a.sign() != b.sign();
    match (a, b) {
        (Num::Infinity(_), Num::Infinity(_)) | (Num::Zero(_), Num::Zero(_)) => Raw::Special(invalid(env)),
        (Num::Infinity(_), _) => Raw::Special(Num::Infinity(sign)),
        (_, Num::Infinity(_)) | (Num::Zero(_), _) => Raw::Special(Num::Zero(sign)),
        (_, Num::Zero(_)) => {
            env.flags &= !flag::DENORMAL;
            env.raise(flag::ZERO_DIVIDE);
            Raw::Special(Num::Infinity(sign))
        }
        (Num::Finite { exponent: ea, significand: ma, .. }, Num::Finite { exponent: eb, significand: mb, .. }) => {
            let (ma, mb) = (u128::from(ma), u128::from(mb));
            let (numerator, exponent) = if ma >= mb { (ma << 63, ea - eb) } else { (ma << 64, ea - eb - 1) };
            let (quotient, rest) = (numerator / mb, numerator % mb);
            let (more, rest) = ((rest << 2) / mb, (rest << 2) % mb);
            let significand = quotient << 64 | more << 62 | u128::from(rest != 0);
            Raw::Finite(Wide { sign, exponent, significand })
        }
        _ => Raw::Special(invalid(env)),
    }
}

/// The square root.
pub(crate) fn sqrt(a: Num, env: &mut Env) -> Raw {
    if let Some(result) = quiet(a, a, env) {
        return result;
    }
    match a {
        Num::Finite { sign: false, exponent, significand } => {
            // An even exponent for bit 126, so that the root's bit 63 is its integer bit.
            let odd = exponent & 1 != 0;
            let radicand = u128::from(significand) << if odd { 64 } else { 63 };
            let root = radicand.isqrt();
            let rest = radicand - root * root;
            let half = rest > root;
            let sticky = rest != 0;
            let significand = root << 64 | u128::from(half) << 63 | u128::from(sticky);
            Raw::Finite(Wide { sign: false, exponent: exponent >> 1, significand })
        }
        Num::Zero(_) | Num::Infinity(false) => Raw::Special(a),
        _ => Raw::Special(invalid(env)),
    }
}

/// What FPREM and FPREM1 leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remainder {
    /// The remainder, or the partial one.
    pub value: Raw,
    /// The quotient's low three bits; `None` when the reduction is partial and must go on.
    pub quotient: Option<u8>,
}

/// FPREM (`nearest` false: the quotient is truncated) and FPREM1 (`nearest` true: it is rounded to nearest even).
/// Exponents that differ by 64 or more are reduced by part. See: SDM "FPREM—Partial Remainder".
pub(crate) fn remainder(a: Num, b: Num, nearest: bool, env: &mut Env) -> Remainder {
    let done = |value| Remainder { value, quotient: Some(0) };
    if let Some(result) = quiet(a, b, env) {
        return done(result);
    }
    let (sign, ea, ma, eb, mb) = match (a, b) {
        (Num::Infinity(_), _) | (_, Num::Zero(_)) => return done(Raw::Special(invalid(env))),
        (Num::Zero(_), _) => return done(Raw::Special(a)),
        (_, Num::Infinity(_)) => return done(a.into()),
        (Num::Finite { sign, exponent: ea, significand: ma }, Num::Finite { exponent: eb, significand: mb, .. }) => {
            (sign, ea, u128::from(ma), eb, u128::from(mb))
        }
        _ => return done(Raw::Special(invalid(env))),
    };
    let difference = ea - eb;
    if difference < -1 || difference == -1 && !nearest {
        return done(a.into());
    }
    let finite = |rest: u128, exponent| match rest {
        0 => Raw::Special(Num::Zero(sign)),
        _ => Raw::Finite(Wide::normalised(sign, exponent, rest)),
    };
    if difference >= 64 {
        // Reduce by as much as hardware does: an exponent difference between 32 and 63.
        let by = 32 + difference % 32;
        let rest = (ma << by) % mb;
        return Remainder { value: finite(rest, eb + 64 + difference - by), quotient: None };
    }
    let (mut quotient, mut rest, exponent) =
        if difference < 0 { (0, ma, ea + 64) } else { ((ma << difference) / mb, (ma << difference) % mb, eb + 64) };
    let mut value_sign = sign;
    if nearest {
        let divisor = if difference < 0 { mb << 1 } else { mb };
        let twice = (rest << 1).cmp(&divisor);
        if twice == Ordering::Greater || twice == Ordering::Equal && quotient & 1 != 0 {
            rest = divisor - rest;
            quotient += 1;
            value_sign = !sign;
        }
    }
    let value = match finite(rest, exponent) {
        Raw::Finite(wide) => Raw::Finite(Wide { sign: value_sign, ..wide }),
        special => special,
    };
    Remainder { value, quotient: Some((quotient & 7) as u8) }
}

/// FSCALE: `a * 2^trunc(b)`.
pub(crate) fn scale(a: Num, b: Num, env: &mut Env) -> Raw {
    if let Some(result) = quiet(a, b, env) {
        return result;
    }
    match (a, b) {
        (Num::Infinity(_), Num::Infinity(true)) | (Num::Zero(_), Num::Infinity(false)) => Raw::Special(invalid(env)),
        (_, Num::Infinity(true)) => Raw::Special(Num::Zero(a.sign())),
        (_, Num::Infinity(false)) => Raw::Special(Num::Infinity(a.sign())),
        (Num::Finite { sign, exponent, significand }, Num::Finite { sign: down, exponent: eb, significand: mb }) => {
            let whole = match eb {
                ..0 => 0,
                0..=16 => (mb >> (63 - eb)) as i32,
                // Beyond any range: the result overflows or underflows whatever the rest says.
                _ => 0x2_0000,
            };
            let exponent = exponent + if down { -whole } else { whole };
            Raw::Finite(Wide { sign, exponent, significand: u128::from(significand) << 64 })
        }
        _ => a.into(),
    }
}

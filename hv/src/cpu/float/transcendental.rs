//! The x87 FPU's transcendental functions, by series over 128-bit significands, rounded once.
//!
//! Results are within one unit in the last place of the true value, as the SDM promises of hardware; two CPU models
//! need not agree on the last bit. Trigonometric arguments are reduced by hardware's 66-bit value of pi.
//! See: SDM "Transcendental Instruction Accuracy" and "Approximation of Pi".

use super::arith::Raw;
use super::round::Wide;
use super::{Env, Num, invalid, propagate};

const PI: Wide = Wide { sign: false, exponent: 1, significand: 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1 };
const HALF_PI: Wide = Wide { exponent: 0, ..PI };
const QUARTER_PI: Wide = Wide { exponent: -1, ..PI };
const LN_2: Wide = Wide { sign: false, exponent: -1, significand: 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af };
const LOG2_E: Wide = Wide { sign: false, exponent: 0, significand: 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89 };
const ONE: Wide = Wide { sign: false, exponent: 0, significand: 1 << 127 };

/// Hardware's pi / 2, in units of 2^-65.
const HARDWARE_HALF_PI: u128 = 0x3_243f_6a88_85a3_08d3;

/// Terms of a series that matter: once one is 2^-130 of the sum, the rest cannot.
const NEGLIGIBLE: i32 = 130;

impl Wide {
    fn negated(self) -> Self {
        Self { sign: !self.sign, ..self }
    }

    fn times(self, other: Self) -> Self {
        let (high, low) = wide_product(self.significand, other.significand);
        let sign = self.sign != other.sign;
        Self::normalised(sign, self.exponent + other.exponent + 1, high | u128::from(low != 0))
    }

    /// The quotient, by long division.
    fn over(self, other: Self) -> Self {
        let mut rest = self.significand;
        let mut quotient = 0u128;
        let mut exponent = self.exponent - other.exponent;
        let mut carry = false;
        if rest < other.significand {
            exponent -= 1;
            carry = rest >> 127 != 0;
            rest <<= 1;
        }
        for _ in 0..128 {
            quotient <<= 1;
            if carry || rest >= other.significand {
                rest = rest.wrapping_sub(other.significand);
                quotient |= 1;
            }
            carry = rest >> 127 != 0;
            rest <<= 1;
        }
        Self { sign: self.sign != other.sign, exponent, significand: quotient }
    }

    fn over_small(self, divisor: u32) -> Self {
        let divisor = u128::from(divisor);
        let (quotient, rest) = (self.significand / divisor, self.significand % divisor);
        let shift = quotient.leading_zeros();
        let low = if shift == 0 { 0 } else { (rest << shift) / divisor };
        Self { sign: self.sign, exponent: self.exponent - shift as i32, significand: quotient << shift | low }
    }

    /// As a result that is not exact, which a series' is never.
    fn inexact(self) -> Raw {
        Raw::Finite(Self { significand: self.significand | 1, ..self })
    }
}

/// The full product of two 128-bit numbers.
fn wide_product(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = u64::MAX as u128;
    let (ah, al, bh, bl) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (hh, hl, lh, ll) = (ah * bh, ah * bl, al * bh, al * bl);
    let middle = (ll >> 64) + (hl & LOW) + (lh & LOW);
    (hh + (hl >> 64) + (lh >> 64) + (middle >> 64), middle << 64 | ll & LOW)
}

/// Sums a series from its first term; `next` makes a term of the one before and its index from 1.
fn series(first: Wide, mut next: impl FnMut(Wide, u32) -> (Wide, Wide)) -> Wide {
    let mut sum = first;
    let mut power = first;
    for index in 1.. {
        let (carried, term) = next(power, index);
        if sum.exponent - term.exponent > NEGLIGIBLE {
            break;
        }
        power = carried;
        // A series here never sums to zero: its first term is the largest by far.
        sum = sum.plus(term).unwrap_or(sum);
    }
    sum
}

fn wide(num: Num) -> Option<Wide> {
    match num {
        Num::Finite { sign, exponent, significand } => {
            Some(Wide { sign, exponent, significand: u128::from(significand) << 64 })
        }
        _ => None,
    }
}

fn sin_series(x: Wide) -> Wide {
    let square = x.times(x).negated();
    series(x, |power, n| {
        let term = power.times(square).over_small(2 * n * (2 * n + 1));
        (term, term)
    })
}

fn cos_series(x: Option<Wide>) -> Wide {
    let Some(x) = x else { return ONE };
    let square = x.times(x).negated();
    series(ONE, |power, n| {
        let term = power.times(square).over_small((2 * n - 1) * (2 * n));
        (term, term)
    })
}

/// `x` less the nearest multiple of pi/2, and the low two bits of that multiple. `None` for a rest of zero.
fn reduce(sign: bool, exponent: i32, significand: u64) -> (Option<Wide>, u32) {
    if exponent < -1 {
        return (Some(Wide { sign, exponent, significand: u128::from(significand) << 64 }), 0);
    }
    let fixed = u128::from(significand) << (exponent + 2);
    let mut quotient = fixed / HARDWARE_HALF_PI;
    let mut rest = fixed % HARDWARE_HALF_PI;
    let mut turned = sign;
    if rest > HARDWARE_HALF_PI / 2 {
        rest = HARDWARE_HALF_PI - rest;
        quotient += 1;
        turned = !sign;
    }
    let quadrant = (quotient & 3) as u32;
    let quadrant = if sign { quadrant.wrapping_neg() & 3 } else { quadrant };
    ((rest != 0).then(|| Wide::normalised(turned, 127 - 65, rest)), quadrant)
}

/// The argument of a trigonometric function: what to do with it.
enum Argument {
    Done(Raw),
    OutOfRange,
    Reduced(Option<Wide>, u32),
}

fn argument(x: Num, env: &mut Env) -> Argument {
    match x {
        Num::Finite { exponent: 63.., .. } => Argument::OutOfRange,
        Num::Finite { sign, exponent, significand } => {
            let (rest, quadrant) = reduce(sign, exponent, significand);
            Argument::Reduced(rest, quadrant)
        }
        Num::Zero(_) => Argument::Done(Raw::Special(x)),
        Num::Nan(_) => Argument::Done(Raw::Special(propagate(x, x, env).unwrap_or(x))),
        Num::Infinity(_) | Num::Unsupported => Argument::Done(Raw::Special(invalid(env))),
    }
}

/// The sine; `None` when the argument is 2^63 or more, which FSIN leaves alone with C2 set.
pub(crate) fn sin(x: Num, env: &mut Env) -> Option<Raw> {
    Some(match argument(x, env) {
        Argument::OutOfRange => return None,
        Argument::Done(raw) => raw,
        Argument::Reduced(rest, quadrant) => quadrant_sin(rest, quadrant),
    })
}

/// The cosine; `None` as for [`sin`].
pub(crate) fn cos(x: Num, env: &mut Env) -> Option<Raw> {
    Some(match argument(x, env) {
        Argument::OutOfRange => return None,
        Argument::Done(Raw::Special(Num::Zero(_))) => Raw::Finite(ONE),
        Argument::Done(raw) => raw,
        Argument::Reduced(rest, quadrant) => quadrant_sin(rest, quadrant + 1),
    })
}

/// The sine of `rest + quadrant * pi / 2`.
fn quadrant_sin(rest: Option<Wide>, quadrant: u32) -> Raw {
    let value = match (quadrant & 1, rest) {
        (0, None) => return Raw::Special(Num::Zero(quadrant & 2 != 0)),
        (0, Some(rest)) => sin_series(rest),
        (_, rest) => cos_series(rest),
    };
    (if quadrant & 2 != 0 { value.negated() } else { value }).inexact()
}

/// The tangent; `None` as for [`sin`].
pub(crate) fn tan(x: Num, env: &mut Env) -> Option<Raw> {
    Some(match argument(x, env) {
        Argument::OutOfRange => return None,
        Argument::Done(raw) => raw,
        Argument::Reduced(rest, quadrant) => match (rest, quadrant & 1) {
            (None, 0) => Raw::Special(Num::Zero(false)),
            (None, _) => Raw::Special(Num::Infinity(false)),
            (Some(rest), 0) => sin_series(rest).over(cos_series(Some(rest))).inexact(),
            (Some(rest), _) => cos_series(Some(rest)).over(sin_series(rest)).negated().inexact(),
        },
    })
}

/// The arc tangent of a value from 0 to 1.
fn atan_unit(x: Wide) -> Wide {
    let series_of = |x: Wide| {
        let square = x.times(x).negated();
        series(x, |power, n| {
            let power = power.times(square);
            (power, power.over_small(2 * n + 1))
        })
    };
    // Past 7/16 the series is slow: turn by pi/4.
    if (x.exponent, x.significand) < (-2, 0xe << 124) {
        return series_of(x);
    }
    let numerator = x.plus(ONE.negated());
    let denominator = x.plus(ONE).unwrap_or(ONE);
    match numerator {
        None => QUARTER_PI,
        Some(numerator) => QUARTER_PI.plus(series_of(numerator.over(denominator))).unwrap_or(QUARTER_PI),
    }
}

/// FPATAN: the angle of the point (`x`, `y`), from -pi to pi.
pub(crate) fn atan2(y: Num, x: Num, env: &mut Env) -> Raw {
    if matches!(x, Num::Unsupported) || matches!(y, Num::Unsupported) {
        return Raw::Special(invalid(env));
    }
    if let Some(nan) = propagate(x, y, env) {
        return Raw::Special(nan);
    }
    let signed = |value: Wide| Wide { sign: y.sign(), ..value }.inexact();
    let three_quarters = || QUARTER_PI.plus(HALF_PI).unwrap_or(HALF_PI);
    match (y, x) {
        (Num::Infinity(_), Num::Infinity(false)) => signed(QUARTER_PI),
        (Num::Infinity(_), Num::Infinity(true)) => signed(three_quarters()),
        (Num::Infinity(_), _) => signed(HALF_PI),
        (Num::Zero(_), Num::Zero(false) | Num::Finite { sign: false, .. } | Num::Infinity(false)) => Raw::Special(y),
        (Num::Zero(_), _) | (_, Num::Infinity(true)) => signed(PI),
        (_, Num::Infinity(false)) => Raw::Special(Num::Zero(y.sign())),
        (_, Num::Zero(_)) => signed(HALF_PI),
        _ => match (wide(y.with_sign(false)), wide(x.with_sign(false))) {
            (Some(ay), Some(ax)) => {
                let steep = (ay.exponent, ay.significand) > (ax.exponent, ax.significand);
                let angle = match (steep, x.sign()) {
                    (false, false) => {
                        // As small as it may be, so that its own exponent reaches the rounding.
                        atan_unit(ay.over(ax))
                    }
                    (false, true) => PI.plus(atan_unit(ay.over(ax)).negated()).unwrap_or(PI),
                    (true, false) => HALF_PI.plus(atan_unit(ax.over(ay)).negated()).unwrap_or(HALF_PI),
                    (true, true) => HALF_PI.plus(atan_unit(ax.over(ay))).unwrap_or(HALF_PI),
                };
                signed(angle)
            }
            _ => Raw::Special(invalid(env)),
        },
    }
}

/// F2XM1: `2^x - 1` for `x` from -1 to 1; outside, the result is undefined on hardware and `x` itself here.
pub(crate) fn exp2m1(x: Num, env: &mut Env) -> Raw {
    match x {
        Num::Unsupported => Raw::Special(invalid(env)),
        Num::Nan(_) => Raw::Special(propagate(x, x, env).unwrap_or(x)),
        Num::Infinity(true) => Num::Finite { sign: true, exponent: 0, significand: 1 << 63 }.into(),
        Num::Finite { sign: false, exponent: 0, significand: 0x8000_0000_0000_0000 } => Raw::Finite(ONE),
        Num::Finite { sign: true, exponent: 0, significand: 0x8000_0000_0000_0000 } => {
            Raw::Finite(Wide { sign: true, exponent: -1, significand: 1 << 127 })
        }
        Num::Finite { exponent: ..0, .. } => match wide(x) {
            None => x.into(),
            Some(x) => {
                let y = x.times(LN_2);
                let sum = series(y, |power, n| {
                    let term = power.times(y).over_small(n + 1);
                    (term, term)
                });
                sum.inexact()
            }
        },
        Num::Finite { .. } => {
            env.raise(super::flag::PRECISION);
            x.into()
        }
        _ => x.into(),
    }
}

/// `2 * atanh(z)` for a small `z`: the natural logarithm of `(1 + z) / (1 - z)`.
fn twice_atanh(z: Wide) -> Wide {
    let square = z.times(z);
    let sum = series(z, |power, n| {
        let power = power.times(square);
        (power, power.over_small(2 * n + 1))
    });
    Wide { exponent: sum.exponent + 1, ..sum }
}

/// The binary logarithm of a positive value; `None` for zero, the logarithm of one; whether it is exact.
fn log2(x: Wide) -> (Option<Wide>, bool) {
    // Bring the significand between sqrt(1/2) and sqrt(2), about.
    let (mantissa, whole) = if x.significand >> 124 >= 0xb {
        (Wide { exponent: -1, ..x }, x.exponent + 1)
    } else {
        (Wide { exponent: 0, ..x }, x.exponent)
    };
    let whole_part = (whole != 0).then(|| Wide::normalised(whole < 0, 127, u128::from(whole.unsigned_abs())));
    let Some(numerator) = mantissa.plus(ONE.negated()) else { return (whole_part, true) };
    let denominator = mantissa.plus(ONE).unwrap_or(ONE);
    let fraction = twice_atanh(numerator.over(denominator)).times(LOG2_E);
    (Some(whole_part.map_or(fraction, |whole| whole.plus(fraction).unwrap_or(fraction))), false)
}

/// FYL2X: `y * log2(x)`.
pub(crate) fn ln_times(y: Num, x: Num, env: &mut Env) -> Raw {
    if matches!(x, Num::Unsupported) || matches!(y, Num::Unsupported) {
        return Raw::Special(invalid(env));
    }
    if let Some(nan) = propagate(x, y, env) {
        return Raw::Special(nan);
    }
    let is_one = matches!(x, Num::Finite { sign: false, exponent: 0, significand: 0x8000_0000_0000_0000 });
    match (y, x) {
        (_, Num::Finite { sign: true, .. } | Num::Infinity(true)) => Raw::Special(invalid(env)),
        (Num::Zero(_), Num::Zero(_) | Num::Infinity(_)) => Raw::Special(invalid(env)),
        (Num::Infinity(_), _) if is_one => Raw::Special(invalid(env)),
        (Num::Infinity(sign), Num::Zero(_)) => Raw::Special(Num::Infinity(!sign)),
        (Num::Finite { sign, .. }, Num::Zero(_)) => {
            env.flags &= !super::flag::DENORMAL;
            env.raise(super::flag::ZERO_DIVIDE);
            Raw::Special(Num::Infinity(!sign))
        }
        (_, Num::Infinity(false)) => Raw::Special(Num::Infinity(y.sign())),
        (_, Num::Finite { exponent, .. }) => {
            let below_one = exponent < 0;
            match y {
                Num::Infinity(sign) => Raw::Special(Num::Infinity(sign != below_one)),
                Num::Zero(sign) => Raw::Special(Num::Zero(sign != below_one)),
                _ => match (wide(y), wide(x).map(log2)) {
                    (Some(y), Some((Some(log), exact))) => {
                        let product = y.times(log);
                        if exact { Raw::Finite(product) } else { product.inexact() }
                    }
                    _ => Raw::Special(Num::Zero(y.sign())),
                },
            }
        }
        _ => Raw::Special(invalid(env)),
    }
}

/// FYL2XP1: `y * log2(1 + x)` for `x` from -(1 - sqrt(1/2)) to sqrt(2) - 1; outside, undefined on hardware.
pub(crate) fn ln1p_times(y: Num, x: Num, env: &mut Env) -> Raw {
    if matches!(x, Num::Unsupported) || matches!(y, Num::Unsupported) {
        return Raw::Special(invalid(env));
    }
    if let Some(nan) = propagate(x, y, env) {
        return Raw::Special(nan);
    }
    let sign = x.sign() != y.sign();
    match (y, x) {
        (Num::Infinity(_), Num::Zero(_)) => Raw::Special(invalid(env)),
        (_, Num::Infinity(true)) => Raw::Special(invalid(env)),
        (_, Num::Finite { sign: true, exponent: 0.., .. }) => {
            env.raise(super::flag::PRECISION);
            x.into()
        }
        (Num::Zero(_), Num::Infinity(_)) => Raw::Special(invalid(env)),
        (Num::Infinity(_), _) | (_, Num::Infinity(_)) => Raw::Special(Num::Infinity(sign)),
        (Num::Zero(_), _) | (_, Num::Zero(_)) => Raw::Special(Num::Zero(sign)),
        _ => match (wide(y), wide(x)) {
            (Some(y), Some(x)) => {
                // Beyond what the instruction is for, the series below would be slow: the logarithm of the sum will do.
                if x.exponent >= -1 {
                    return match x.plus(ONE).map(log2) {
                        Some((Some(log), _)) => y.times(log).inexact(),
                        _ => Raw::Special(Num::Zero(sign)),
                    };
                }
                let two = Wide { exponent: 1, ..ONE };
                let z = x.over(x.plus(two).unwrap_or(two));
                y.times(twice_atanh(z).times(LOG2_E)).inexact()
            }
            _ => Raw::Special(invalid(env)),
        },
    }
}

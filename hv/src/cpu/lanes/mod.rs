//! What MMX, SSE and AVX2 integer instructions compute, as pure functions on 128-bit values.
//!
//! A 256-bit instruction applies a function to each half; an MMX one to values whose upper half is zero (see
//! [`mmx_unpack_high`] and [`mmx_pack`] for the two families that need more). Not here: operands, faults, and floating
//! point, which is [`super::float`]'s.

mod crypto;
mod horizontal;
mod pack;
mod shuffle;
mod string;

pub(super) use crypto::*;
pub(super) use horizontal::*;
pub(super) use pack::*;
pub(super) use shuffle::*;
pub(super) use string::*;

/// A 128-bit value as `N` lanes of one type, lane 0 lowest.
pub(super) trait Lanes<const N: usize>: Copy {
    /// The lanes of `value`.
    fn split(value: u128) -> [Self; N];
    /// The value of these lanes.
    fn join(lanes: [Self; N]) -> u128;
}

macro_rules! lanes {
    ($($type:ty, $unsigned:ty, $count:literal;)*) => {
        $(impl Lanes<$count> for $type {
            #[inline(always)]
            fn split(value: u128) -> [Self; $count] {
                core::array::from_fn(|lane| (value >> (lane as u32 * <$type>::BITS)) as $type)
            }

            #[inline(always)]
            fn join(lanes: [Self; $count]) -> u128 {
                let mut value = 0;
                for (lane, part) in lanes.into_iter().enumerate() {
                    value |= (part as $unsigned as u128) << (lane as u32 * <$type>::BITS);
                }
                value
            }
        })*
    };
}

lanes! {
    u8, u8, 16;
    i8, u8, 16;
    u16, u16, 8;
    i16, u16, 8;
    u32, u32, 4;
    i32, u32, 4;
    u64, u64, 2;
    i64, u64, 2;
}

#[inline(always)]
fn map<T: Lanes<N>, const N: usize>(a: u128, f: impl Fn(T) -> T) -> u128 {
    T::join(T::split(a).map(f))
}

#[inline(always)]
fn zip<T: Lanes<N>, const N: usize>(a: u128, b: u128, f: impl Fn(T, T) -> T) -> u128 {
    let (a, b) = (T::split(a), T::split(b));
    T::join(core::array::from_fn(|lane| f(a[lane], b[lane])))
}

macro_rules! lanewise {
    ($($name:ident: $type:ty, $op:expr;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`: lane by lane.")]
            pub(crate) fn $name(a: u128, b: u128) -> u128 {
                zip::<$type, _>(a, b, $op)
            }
        )*
    };
}

lanewise! {
    paddb: u8, |a, b| a.wrapping_add(b);
    paddw: u16, |a, b| a.wrapping_add(b);
    paddd: u32, |a, b| a.wrapping_add(b);
    paddq: u64, |a, b| a.wrapping_add(b);
    paddsb: i8, |a, b| a.saturating_add(b);
    paddsw: i16, |a, b| a.saturating_add(b);
    paddusb: u8, |a, b| a.saturating_add(b);
    paddusw: u16, |a, b| a.saturating_add(b);
    psubb: u8, |a, b| a.wrapping_sub(b);
    psubw: u16, |a, b| a.wrapping_sub(b);
    psubd: u32, |a, b| a.wrapping_sub(b);
    psubq: u64, |a, b| a.wrapping_sub(b);
    psubsb: i8, |a, b| a.saturating_sub(b);
    psubsw: i16, |a, b| a.saturating_sub(b);
    psubusb: u8, |a, b| a.saturating_sub(b);
    psubusw: u16, |a, b| a.saturating_sub(b);
    pavgb: u8, |a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    pavgw: u16, |a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16;
    pminub: u8, Ord::min;
    pminuw: u16, Ord::min;
    pminud: u32, Ord::min;
    pminsb: i8, Ord::min;
    pminsw: i16, Ord::min;
    pminsd: i32, Ord::min;
    pmaxub: u8, Ord::max;
    pmaxuw: u16, Ord::max;
    pmaxud: u32, Ord::max;
    pmaxsb: i8, Ord::max;
    pmaxsw: i16, Ord::max;
    pmaxsd: i32, Ord::max;
    pcmpeqb: i8, |a, b| -i8::from(a == b);
    pcmpeqw: i16, |a, b| -i16::from(a == b);
    pcmpeqd: i32, |a, b| -i32::from(a == b);
    pcmpeqq: i64, |a, b| -i64::from(a == b);
    pcmpgtb: i8, |a, b| -i8::from(a > b);
    pcmpgtw: i16, |a, b| -i16::from(a > b);
    pcmpgtd: i32, |a, b| -i32::from(a > b);
    pcmpgtq: i64, |a, b| -i64::from(a > b);
    pmullw: u16, |a, b| a.wrapping_mul(b);
    pmulld: u32, |a, b| a.wrapping_mul(b);
    pmulhw: i16, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16;
    pmulhuw: u16, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16;
    pmulhrsw: i16, |a, b| ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16;
    pmuludq: u64, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff);
    pmuldq: i64, |a, b| i64::from(a as i32) * i64::from(b as i32);
    psignb: i8, |a, b| sign(a, b.signum());
    psignw: i16, |a, b| a.wrapping_mul(b.signum());
    psignd: i32, |a, b| a.wrapping_mul(b.signum());
}

fn sign(a: i8, by: i8) -> i8 {
    a.wrapping_mul(by)
}

/// `pand`.
pub(super) fn pand(a: u128, b: u128) -> u128 {
    a & b
}

/// `pandn`: the complement of the destination, and the source.
pub(super) fn pandn(a: u128, b: u128) -> u128 {
    !a & b
}

/// `por`.
pub(super) fn por(a: u128, b: u128) -> u128 {
    a | b
}

/// `pxor`.
pub(super) fn pxor(a: u128, b: u128) -> u128 {
    a ^ b
}

/// `pabsb` of the source.
pub(super) fn pabsb(a: u128) -> u128 {
    map::<i8, _>(a, i8::wrapping_abs)
}

/// `pabsw` of the source.
pub(super) fn pabsw(a: u128) -> u128 {
    map::<i16, _>(a, i16::wrapping_abs)
}

/// `pabsd` of the source.
pub(super) fn pabsd(a: u128) -> u128 {
    map::<i32, _>(a, i32::wrapping_abs)
}

macro_rules! shifts {
    ($($name:ident: $type:ty, $clamp:expr, $op:expr;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` by a count that is the low 64 bits of the source.")]
            pub(crate) fn $name(a: u128, count: u64) -> u128 {
                let limit = u64::from(<$type>::BITS);
                if count >= limit && !$clamp {
                    return 0;
                }
                let count = count.min(limit - 1) as u32;
                map::<$type, _>(a, |lane| $op(lane, count))
            }
        )*
    };
}

shifts! {
    psllw: u16, false, |a: u16, n| a << n;
    pslld: u32, false, |a: u32, n| a << n;
    psllq: u64, false, |a: u64, n| a << n;
    psrlw: u16, false, |a: u16, n| a >> n;
    psrld: u32, false, |a: u32, n| a >> n;
    psrlq: u64, false, |a: u64, n| a >> n;
    psraw: i16, true, |a: i16, n| a >> n;
    psrad: i32, true, |a: i32, n| a >> n;
}

macro_rules! variable_shifts {
    ($($name:ident: $type:ty, $op:expr;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`: each lane by its own count.")]
            pub(crate) fn $name(a: u128, counts: u128) -> u128 {
                zip::<$type, _>(a, counts, $op)
            }
        )*
    };
}

variable_shifts! {
    psllvd: u32, |a, n| a.checked_shl(n).unwrap_or(0);
    psllvq: u64, |a, n| if n < 64 { a << n } else { 0 };
    psrlvd: u32, |a, n| a.checked_shr(n).unwrap_or(0);
    psrlvq: u64, |a, n| if n < 64 { a >> n } else { 0 };
    psravd: i32, |a, n| a >> (n as u32).min(31);
}

/// `pslldq`: left by bytes.
pub(super) fn pslldq(a: u128, bytes: u8) -> u128 {
    if bytes > 15 { 0 } else { a << (u32::from(bytes) * 8) }
}

/// `psrldq`: right by bytes.
pub(super) fn psrldq(a: u128, bytes: u8) -> u128 {
    if bytes > 15 { 0 } else { a >> (u32::from(bytes) * 8) }
}

#[cfg(test)]
mod tests;

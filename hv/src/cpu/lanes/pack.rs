//! Packing with saturation, unpacking and widening.

use super::Lanes;

macro_rules! packs {
    ($($name:ident: $wide:ty, $narrow:ty, $half:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`: the destination's lanes below the source's, saturated.")]
            pub(crate) fn $name(a: u128, b: u128) -> u128 {
                let (a, b) = (<$wide>::split(a), <$wide>::split(b));
                <$narrow>::join(core::array::from_fn(|lane| {
                    let value = if lane < $half { a[lane] } else { b[lane - $half] };
                    value.clamp(<$narrow>::MIN as $wide, <$narrow>::MAX as $wide) as $narrow
                }))
            }
        )*
    };
}

packs! {
    packsswb: i16, i8, 8;
    packssdw: i32, i16, 4;
    packuswb: i16, u8, 8;
    packusdw: i32, u16, 4;
}

/// The MMX form of one of the packs: two 64-bit operands to one 64-bit result.
pub(crate) fn mmx_pack(pack: fn(u128, u128) -> u128, a: u64, b: u64) -> u64 {
    pack(u128::from(a) | u128::from(b) << 64, 0) as u64
}

macro_rules! unpacks {
    ($($low:ident, $high:ident: $type:ty, $half:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($low), "`: lanes of the lower halves, by turns.")]
            pub(crate) fn $low(a: u128, b: u128) -> u128 {
                let (a, b) = (<$type>::split(a), <$type>::split(b));
                <$type>::join(core::array::from_fn(|lane| if lane % 2 == 0 { a[lane / 2] } else { b[lane / 2] }))
            }

            #[doc = concat!("`", stringify!($high), "`: lanes of the upper halves, by turns.")]
            pub(crate) fn $high(a: u128, b: u128) -> u128 {
                let (a, b) = (<$type>::split(a), <$type>::split(b));
                <$type>::join(core::array::from_fn(|lane| {
                    let at = $half + lane / 2;
                    if lane % 2 == 0 { a[at] } else { b[at] }
                }))
            }
        )*
    };
}

unpacks! {
    punpcklbw, punpckhbw: u8, 8;
    punpcklwd, punpckhwd: u16, 4;
    punpckldq, punpckhdq: u32, 2;
    punpcklqdq, punpckhqdq: u64, 1;
}

/// The MMX form of an unpack of upper halves, by the SSE form for lower ones.
pub(crate) fn mmx_unpack_high(unpack_low: fn(u128, u128) -> u128, a: u64, b: u64) -> u64 {
    (unpack_low(a.into(), b.into()) >> 64) as u64
}

macro_rules! widens {
    ($($name:ident: $from:ty => $to:ty;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`: the lowest lanes, widened.")]
            pub(crate) fn $name(a: u128) -> u128 {
                let a = <$from>::split(a);
                <$to>::join(core::array::from_fn(|lane| <$to>::from(a[lane])))
            }
        )*
    };
}

widens! {
    pmovsxbw: i8 => i16;
    pmovsxbd: i8 => i32;
    pmovsxbq: i8 => i64;
    pmovsxwd: i16 => i32;
    pmovsxwq: i16 => i64;
    pmovsxdq: i32 => i64;
    pmovzxbw: u8 => u16;
    pmovzxbd: u8 => u32;
    pmovzxbq: u8 => u64;
    pmovzxwd: u16 => u32;
    pmovzxwq: u16 => u64;
    pmovzxdq: u32 => u64;
}

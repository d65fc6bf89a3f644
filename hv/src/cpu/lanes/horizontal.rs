//! Operations across lanes.

use super::{Lanes, zip};

macro_rules! pairwise {
    ($($name:ident: $type:ty, $count:literal, $op:expr;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`: neighbours of the destination below those of the source.")]
            pub(crate) fn $name(a: u128, b: u128) -> u128 {
                let (a, b) = (<$type>::split(a), <$type>::split(b));
                let half = $count / 2;
                Lanes::<$count>::join(core::array::from_fn(|lane| {
                    let (from, at) = if lane < half { (&a, lane) } else { (&b, lane - half) };
                    $op(from[2 * at], from[2 * at + 1])
                }))
            }
        )*
    };
}

pairwise! {
    phaddw: i16, 8, i16::wrapping_add;
    phaddd: i32, 4, i32::wrapping_add;
    phaddsw: i16, 8, i16::saturating_add;
    phsubw: i16, 8, i16::wrapping_sub;
    phsubd: i32, 4, i32::wrapping_sub;
    phsubsw: i16, 8, i16::saturating_sub;
}

/// `pmaddwd`: products of signed words, neighbours added.
pub(crate) fn pmaddwd(a: u128, b: u128) -> u128 {
    let (a, b) = (i16::split(a), i16::split(b));
    let product = |lane: usize| i32::from(a[lane]) * i32::from(b[lane]);
    i32::join(core::array::from_fn(|lane| product(2 * lane).wrapping_add(product(2 * lane + 1))))
}

/// `pmaddubsw`: products of unsigned bytes with signed ones, neighbours added with saturation.
pub(crate) fn pmaddubsw(a: u128, b: u128) -> u128 {
    let (a, b) = (u8::split(a), i8::split(b));
    let product = |lane: usize| i32::from(a[lane]) * i32::from(b[lane]);
    i16::join(core::array::from_fn(|lane| {
        (product(2 * lane) + product(2 * lane + 1)).clamp(i16::MIN.into(), i16::MAX.into()) as i16
    }))
}

/// `psadbw`: sums of absolute differences of bytes, eight to a quadword.
pub(crate) fn psadbw(a: u128, b: u128) -> u128 {
    let differences = u8::split(zip::<u8, _>(a, b, u8::abs_diff));
    let sum = |half: usize| differences[half * 8..][..8].iter().map(|&byte| u64::from(byte)).sum();
    u64::join([sum(0), sum(1)])
}

/// `mpsadbw`: eight sums of absolute differences of four bytes, at places that the immediate's low three bits choose.
pub(crate) fn mpsadbw(a: u128, b: u128, choice: u8) -> u128 {
    let (a, b) = (u8::split(a), u8::split(b));
    let (first, block) = (usize::from(choice >> 2 & 1) * 4, usize::from(choice & 3) * 4);
    u16::join(core::array::from_fn(|lane| {
        (0..4).map(|byte| u16::from(a[first + lane + byte].abs_diff(b[block + byte]))).sum()
    }))
}

/// `phminposuw`: the smallest unsigned word and, above it, its place.
pub(crate) fn phminposuw(a: u128) -> u128 {
    let words = u16::split(a);
    let (place, least) = words.iter().enumerate().min_by_key(|&(place, word)| (*word, place)).unwrap_or((0, &0));
    u128::from(*least) | (place as u128) << 16
}

/// `pmovmskb`: the top bits of the bytes.
pub(crate) fn pmovmskb(a: u128) -> u32 {
    u8::split(a).iter().enumerate().fold(0, |mask, (lane, byte)| mask | u32::from(byte >> 7) << lane)
}

/// `movmskps`: the top bits of the doublewords.
pub(crate) fn movmskps(a: u128) -> u32 {
    u32::split(a).iter().enumerate().fold(0, |mask, (lane, word)| mask | (word >> 31) << lane)
}

/// `movmskpd`: the top bits of the quadwords.
pub(crate) fn movmskpd(a: u128) -> u32 {
    (a >> 63 & 1 | a >> 126 & 2) as u32
}

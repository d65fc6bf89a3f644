//! Shuffles and blends.

use super::{Lanes, zip};

/// `pshufb`: bytes of the destination, chosen by the source's.
pub(crate) fn pshufb(a: u128, b: u128) -> u128 {
    let from = u8::split(a);
    u8::join(u8::split(b).map(|choice| if choice & 0x80 != 0 { 0 } else { from[usize::from(choice & 15)] }))
}

/// `pshufb` on MMX registers.
pub(crate) fn mmx_pshufb(a: u64, b: u64) -> u64 {
    let keep = u128::from(b & 0x8787_8787_8787_8787);
    pshufb(a.into(), keep) as u64
}

/// `pshufd`.
pub(crate) fn pshufd(a: u128, choice: u8) -> u128 {
    let from = u32::split(a);
    u32::join(core::array::from_fn(|lane| from[usize::from(choice >> (2 * lane) & 3)]))
}

/// `pshuflw`, and `pshufw` on MMX registers.
pub(crate) fn pshuflw(a: u128, choice: u8) -> u128 {
    let from = u16::split(a);
    u16::join(core::array::from_fn(
        |lane| if lane < 4 { from[usize::from(choice >> (2 * lane) & 3)] } else { from[lane] },
    ))
}

/// `pshufhw`.
pub(crate) fn pshufhw(a: u128, choice: u8) -> u128 {
    let from = u16::split(a);
    u16::join(core::array::from_fn(|lane| {
        if lane < 4 { from[lane] } else { from[4 + usize::from(choice >> (2 * (lane - 4)) & 3)] }
    }))
}

/// `shufps`: two lanes of the destination below two of the source.
pub(crate) fn shufps(a: u128, b: u128, choice: u8) -> u128 {
    let (a, b) = (u32::split(a), u32::split(b));
    u32::join(core::array::from_fn(|lane| {
        let at = usize::from(choice >> (2 * lane) & 3);
        if lane < 2 { a[at] } else { b[at] }
    }))
}

/// `shufpd`: one lane of the destination below one of the source.
pub(crate) fn shufpd(a: u128, b: u128, choice: u8) -> u128 {
    let (a, b) = (u64::split(a), u64::split(b));
    u64::join([a[usize::from(choice & 1)], b[usize::from(choice >> 1 & 1)]])
}

/// `palignr`: the destination above the source, right by bytes.
pub(crate) fn palignr(a: u128, b: u128, bytes: u8) -> u128 {
    match u32::from(bytes) * 8 {
        0 => b,
        bits @ 1..=127 => b >> bits | a << (128 - bits),
        bits @ 128..=255 => a >> (bits - 128),
        _ => 0,
    }
}

/// `palignr` on MMX registers.
pub(crate) fn mmx_palignr(a: u64, b: u64, bytes: u8) -> u64 {
    let both = u128::from(a) << 64 | u128::from(b);
    if bytes > 15 { 0 } else { (both >> (u32::from(bytes) * 8)) as u64 }
}

/// `pblendvb`: bytes of the source where the mask's top bits are set.
pub(crate) fn pblendvb(a: u128, b: u128, mask: u128) -> u128 {
    let mask = zip::<i8, _>(mask, 0, |lane, _| lane >> 7);
    a & !mask | b & mask
}

/// `blendvps`: doublewords likewise.
pub(crate) fn blendvps(a: u128, b: u128, mask: u128) -> u128 {
    let mask = zip::<i32, _>(mask, 0, |lane, _| lane >> 31);
    a & !mask | b & mask
}

/// `blendvpd`: quadwords likewise.
pub(crate) fn blendvpd(a: u128, b: u128, mask: u128) -> u128 {
    let mask = zip::<i64, _>(mask, 0, |lane, _| lane >> 63);
    a & !mask | b & mask
}

/// `pblendw`: words of the source where the immediate's bits are set.
pub(crate) fn pblendw(a: u128, b: u128, choice: u8) -> u128 {
    let (a, b) = (u16::split(a), u16::split(b));
    u16::join(core::array::from_fn(|lane| if choice >> lane & 1 != 0 { b[lane] } else { a[lane] }))
}

/// `blendps`, and `vpblendd`: doublewords likewise.
pub(crate) fn blendps(a: u128, b: u128, choice: u8) -> u128 {
    let (a, b) = (u32::split(a), u32::split(b));
    u32::join(core::array::from_fn(|lane| if choice >> lane & 1 != 0 { b[lane] } else { a[lane] }))
}

/// `blendpd`: quadwords likewise.
pub(crate) fn blendpd(a: u128, b: u128, choice: u8) -> u128 {
    let (a, b) = (u64::split(a), u64::split(b));
    u64::join(core::array::from_fn(|lane| if choice >> lane & 1 != 0 { b[lane] } else { a[lane] }))
}

/// `insertps` with a register source: one lane of `b` into one of `a`, then lanes zeroed.
pub(crate) fn insertps(a: u128, b: u128, choice: u8) -> u128 {
    insertps_value(a, u32::split(b)[usize::from(choice >> 6)], choice)
}

/// `insertps` with a memory source.
pub(crate) fn insertps_value(a: u128, value: u32, choice: u8) -> u128 {
    let mut lanes = u32::split(a);
    lanes[usize::from(choice >> 4 & 3)] = value;
    u32::join(core::array::from_fn(|lane| if choice >> lane & 1 != 0 { 0 } else { lanes[lane] }))
}

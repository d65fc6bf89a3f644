//! The packed string comparisons of SSE4.2. See: SDM "Imm8 Control Byte Operation for PCMPESTRI / PCMPESTRM /
//! PCMPISTRI / PCMPISTRM".

use super::Lanes;

/// What a packed string comparison finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Compared {
    /// The final result mask, a bit an element.
    pub mask: u16,
    /// The index that goes to ECX.
    pub index: u32,
    /// Whether the source (the second operand) ends within its register: ZF.
    pub source_ends: bool,
    /// Whether the destination (the first operand) does: SF.
    pub destination_ends: bool,
}

impl Compared {
    /// The mask as XMM0 gets it: a bit an element, or, with bit 6 of the immediate, a whole element each.
    pub(crate) fn expanded(self, control: u8) -> u128 {
        let words = control & 1 != 0;
        match (control & 0x40 != 0, words) {
            (false, _) => self.mask.into(),
            (true, true) => u16::join(core::array::from_fn(|at| if self.mask >> at & 1 != 0 { u16::MAX } else { 0 })),
            (true, false) => u8::join(core::array::from_fn(|at| if self.mask >> at & 1 != 0 { u8::MAX } else { 0 })),
        }
    }
}

/// The elements of an operand, sign- or zero-extended.
fn elements(value: u128, control: u8) -> ([i32; 16], usize) {
    let mut out = [0; 16];
    let count = match control & 3 {
        0 => fill(&mut out, u8::split(value)),
        1 => fill(&mut out, u16::split(value)),
        2 => fill(&mut out, i8::split(value)),
        _ => fill(&mut out, i16::split(value)),
    };
    (out, count)
}

fn fill<T: Into<i32>, const N: usize>(out: &mut [i32; 16], lanes: [T; N]) -> usize {
    for (slot, lane) in out.iter_mut().zip(lanes) {
        *slot = lane.into();
    }
    N
}

/// Compares with explicit lengths (EAX and EDX, or RAX and RDX, sign-extended).
pub(crate) fn compare_explicit(a: u128, a_length: i64, b: u128, b_length: i64, control: u8) -> Compared {
    let limit = if control & 1 != 0 { 8 } else { 16 };
    let clamp = |length: i64| length.unsigned_abs().min(limit) as usize;
    compare(a, clamp(a_length), b, clamp(b_length), control)
}

/// Compares strings that end at their first zero.
pub(crate) fn compare_implicit(a: u128, b: u128, control: u8) -> Compared {
    let length = |value| {
        let (lanes, count) = elements(value, control);
        lanes[..count].iter().position(|&lane| lane == 0).unwrap_or(count)
    };
    compare(a, length(a), b, length(b), control)
}

fn compare(a: u128, a_length: usize, b: u128, b_length: usize, control: u8) -> Compared {
    let (x, count) = elements(a, control);
    let (y, _) = elements(b, control);
    let valid = |at: usize| at < b_length;
    let raw = (0..count).filter(|&at| match control >> 2 & 3 {
        // Equal any: this character is one of the set.
        0 => valid(at) && x[..a_length].contains(&y[at]),
        // Ranges: it lies between a pair.
        1 => valid(at) && x[..a_length & !1].chunks_exact(2).any(|pair| pair[0] <= y[at] && y[at] <= pair[1]),
        // Equal each: both end, or both are here and equal.
        2 => match (at < a_length, valid(at)) {
            (true, true) => x[at] == y[at],
            (false, false) => true,
            _ => false,
        },
        // Equal ordered: the needle begins here, as far as the register reaches.
        _ => (0..count - at).take(a_length).all(|step| valid(at + step) && x[step] == y[at + step]),
    });
    let raw = raw.fold(0u16, |mask, at| mask | 1 << at);
    let all = ((1u32 << count) - 1) as u16;
    let within = ((1u32 << b_length) - 1) as u16;
    let mask = match control >> 4 & 3 {
        1 => !raw & all,
        3 => raw ^ within,
        _ => raw,
    };
    let index = match (mask, control & 0x40 != 0) {
        (0, _) => count as u32,
        (mask, false) => mask.trailing_zeros(),
        (mask, true) => 15 - mask.leading_zeros(),
    };
    Compared { mask, index, source_ends: b_length < count, destination_ends: a_length < count }
}

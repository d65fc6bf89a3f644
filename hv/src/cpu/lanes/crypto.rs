//! Carry-less multiplication, AES and SHA.

use super::Lanes;

/// `pclmulqdq`: the carry-less product of one quadword of each, chosen by bits 0 and 4.
pub(crate) fn pclmulqdq(a: u128, b: u128, choice: u8) -> u128 {
    let a = if choice & 1 != 0 { a >> 64 } else { a } as u64;
    let b = if choice & 16 != 0 { b >> 64 } else { b } as u64;
    (0..64).filter(|bit| b >> bit & 1 != 0).fold(0, |product, bit| product ^ u128::from(a) << bit)
}

/// Doubling in AES's field.
const fn double(x: u8) -> u8 {
    x << 1 ^ if x & 0x80 != 0 { 0x1b } else { 0 }
}

const fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    product
}

/// AES's substitution box, from its definition: the inverse in the field, then an affine map. See: FIPS 197.
const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        // The inverse is the 254th power.
        let x = value as u8;
        let mut inverse = 1;
        let mut square = times(x, x);
        let mut power = 0;
        while power < 7 {
            inverse = times(inverse, square);
            square = times(square, square);
            power += 1;
        }
        table[value] = inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4)
            ^ 0x63;
        value += 1;
    }
    table
};

const INVERSE_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        table[SBOX[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// Row `r` of the state goes left by `r` columns (or right, with `by` 3).
fn shift_rows(state: [u8; 16], by: usize) -> [u8; 16] {
    core::array::from_fn(|at| state[(at + 4 * by * (at % 4)) % 16])
}

fn mix_columns(state: [u8; 16], factors: [u8; 4]) -> [u8; 16] {
    core::array::from_fn(|at| {
        let column = at / 4 * 4;
        (0..4).fold(0, |sum, row| sum ^ times(state[column + row], factors[(row + 4 - at % 4) % 4]))
    })
}

const MIX: [u8; 4] = [2, 3, 1, 1];
const UNMIX: [u8; 4] = [14, 11, 13, 9];

/// `aesenclast`: one round without mixing.
pub(crate) fn aesenclast(state: u128, key: u128) -> u128 {
    u8::join(shift_rows(u8::split(state), 1).map(|byte| SBOX[usize::from(byte)])) ^ key
}

/// `aesenc`: one round.
pub(crate) fn aesenc(state: u128, key: u128) -> u128 {
    u8::join(mix_columns(u8::split(aesenclast(state, 0)), MIX)) ^ key
}

/// `aesdeclast`: one inverse round without mixing.
pub(crate) fn aesdeclast(state: u128, key: u128) -> u128 {
    u8::join(shift_rows(u8::split(state), 3).map(|byte| INVERSE_SBOX[usize::from(byte)])) ^ key
}

/// `aesdec`: one inverse round.
pub(crate) fn aesdec(state: u128, key: u128) -> u128 {
    aesimc(aesdeclast(state, 0)) ^ key
}

/// `aesimc`: the inverse mixing of columns.
pub(crate) fn aesimc(a: u128) -> u128 {
    u8::join(mix_columns(u8::split(a), UNMIX))
}

/// `aeskeygenassist`.
pub(crate) fn aeskeygenassist(a: u128, constant: u8) -> u128 {
    let [_, x1, _, x3] = u32::split(a);
    let substitute = |word: u32| u32::from_le_bytes(word.to_le_bytes().map(|byte| SBOX[usize::from(byte)]));
    let (s1, s3) = (substitute(x1), substitute(x3));
    let turn = |word: u32| word.rotate_right(8) ^ u32::from(constant);
    u32::join([s1, turn(s1), s3, turn(s3)])
}

/// `sha1msg1`.
pub(crate) fn sha1msg1(a: u128, b: u128) -> u128 {
    let ([w3, w2, w1, w0], [_, _, w5, w4]) = (u32::split(a), u32::split(b));
    u32::join([w5 ^ w3, w4 ^ w2, w3 ^ w1, w2 ^ w0])
}

/// `sha1msg2`.
pub(crate) fn sha1msg2(a: u128, b: u128) -> u128 {
    let ([a0, a1, a2, a3], [w15, w14, w13, _]) = (u32::split(a), u32::split(b));
    let w16 = (a3 ^ w13).rotate_left(1);
    let w17 = (a2 ^ w14).rotate_left(1);
    let w18 = (a1 ^ w15).rotate_left(1);
    let w19 = (a0 ^ w16).rotate_left(1);
    u32::join([w19, w18, w17, w16])
}

/// `sha1nexte`.
pub(crate) fn sha1nexte(a: u128, b: u128) -> u128 {
    let e = u32::split(a)[3].rotate_left(30);
    let [w0, w1, w2, w3] = u32::split(b);
    u32::join([w0, w1, w2, w3.wrapping_add(e)])
}

/// `sha1rnds4`: four rounds with the function and constant that the immediate chooses.
pub(crate) fn sha1rnds4(a: u128, b: u128, choice: u8) -> u128 {
    const CONSTANTS: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];
    let constant = CONSTANTS[usize::from(choice & 3)];
    let f = |b: u32, c: u32, d: u32| match choice & 3 {
        0 => b & c ^ !b & d,
        2 => b & c ^ b & d ^ c & d,
        _ => b ^ c ^ d,
    };
    let [mut d, mut c, mut b_, mut a_] = u32::split(a);
    let mut e = 0u32;
    for word in u32::split(b).into_iter().rev() {
        let next =
            f(b_, c, d).wrapping_add(a_.rotate_left(5)).wrapping_add(word).wrapping_add(e).wrapping_add(constant);
        (e, d, c, b_, a_) = (d, c, b_.rotate_left(30), a_, next);
    }
    u32::join([d, c, b_, a_])
}

/// `sha256msg1`.
pub(crate) fn sha256msg1(a: u128, b: u128) -> u128 {
    let [w0, w1, w2, w3] = u32::split(a);
    let w4 = u32::split(b)[0];
    let small = |word: u32| word.rotate_right(7) ^ word.rotate_right(18) ^ word >> 3;
    u32::join([(w0, w1), (w1, w2), (w2, w3), (w3, w4)].map(|(word, next)| word.wrapping_add(small(next))))
}

/// `sha256msg2`.
pub(crate) fn sha256msg2(a: u128, b: u128) -> u128 {
    let [a0, a1, a2, a3] = u32::split(a);
    let [_, _, w14, w15] = u32::split(b);
    let small = |word: u32| word.rotate_right(17) ^ word.rotate_right(19) ^ word >> 10;
    let w16 = a0.wrapping_add(small(w14));
    let w17 = a1.wrapping_add(small(w15));
    u32::join([w16, w17, a2.wrapping_add(small(w16)), a3.wrapping_add(small(w17))])
}

/// `sha256rnds2`: two rounds; `xmm0` holds the words with their constants added.
pub(crate) fn sha256rnds2(a: u128, b: u128, xmm0: u128) -> u128 {
    let [h, g, d, c] = u32::split(a);
    let [f, e, b_, a_] = u32::split(b);
    let mut state = [a_, b_, c, d, e, f, g, h];
    for &word in &u32::split(xmm0)[..2] {
        let [a, b, c, d, e, f, g, h] = state;
        let choose = e & f ^ !e & g;
        let majority = a & b ^ a & c ^ b & c;
        let big_e = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let big_a = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let first = choose.wrapping_add(big_e).wrapping_add(word).wrapping_add(h);
        state = [first.wrapping_add(majority).wrapping_add(big_a), a, b, c, first.wrapping_add(d), e, f, g];
    }
    let [a, b, _, _, e, f, _, _] = state;
    u32::join([f, e, b, a])
}

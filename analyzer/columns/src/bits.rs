//! Numbers packed into as few bits as they need, and the codings of Parquet that are made of them.
//! See: Apache Parquet, "Parquet encoding definitions".

/// The bits that `value` needs.
pub(crate) fn width(value: u64) -> u32 {
    u64::BITS - value.leading_zeros()
}

/// A number in groups of 7 bits, the lowest first, the eighth bit set in all but the last: LEB128.
pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A signed number as an unsigned one, small if it is near 0.
pub(crate) fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The low `width` bits of each value, one behind another from the lowest bit up; at most 64. Full bytes, if the values
/// are a multiple of 8.
fn pack(out: &mut Vec<u8>, values: impl Iterator<Item = u64>, width: u32) {
    let (mut held, mut bits) = (0_u128, 0);
    for value in values {
        held |= u128::from(value) << bits;
        bits += width;
        while bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(held as u8);
    }
}

/// The hybrid of runs and packed bits, for numbers of `width` bits: dictionary keys and definition levels.
pub(crate) fn hybrid<T: Copy + Eq + Into<u64>>(out: &mut Vec<u8>, values: &[T], width: u32) {
    /// From so many equal numbers on a run is shorter.
    const RUN: usize = 16;
    let run = |at: usize| values[at..].iter().take_while(|value| **value == values[at]).count();
    let long = |at: usize| values[at..].iter().take(RUN).take_while(|value| **value == values[at]).count() >= RUN;
    let mut at = 0;
    while at < values.len() {
        let equal = run(at);
        if equal >= RUN || at + equal == values.len() {
            varint(out, (equal as u64) << 1);
            let bytes = values[at].into().to_le_bytes();
            out.extend_from_slice(&bytes[..width.div_ceil(8) as usize]);
            at += equal;
            continue;
        }
        // Packed are groups of 8, up to where a run begins.
        let mut end = at + 8;
        while end < values.len() && !long(end) {
            end += 8;
        }
        let packed = &values[at..end.min(values.len())];
        let groups = packed.len().div_ceil(8);
        varint(out, (groups as u64) << 1 | 1);
        let filled = packed.iter().map(|&value| value.into()).chain(std::iter::repeat(0));
        pack(out, filled.take(groups * 8), width);
        at += packed.len();
    }
}

/// DELTA_BINARY_PACKED: the differences of 64-bit numbers, in blocks of 128 of which each quarter has its own width.
pub(crate) fn deltas(out: &mut Vec<u8>, values: &[u64]) {
    const BLOCK: usize = 128;
    const QUARTER: usize = 32;
    varint(out, BLOCK as u64);
    varint(out, (BLOCK / QUARTER) as u64);
    varint(out, values.len() as u64);
    varint(out, zigzag(values.first().copied().unwrap_or_default() as i64));
    let mut block = Vec::with_capacity(BLOCK);
    for start in (1..values.len()).step_by(BLOCK) {
        let end = (start + BLOCK).min(values.len());
        block.clear();
        block.extend((start..end).map(|at| values[at].wrapping_sub(values[at - 1]) as i64));
        let least = block.iter().copied().min().unwrap_or_default();
        varint(out, zigzag(least));
        // What a block at the end lacks has the width 0 and no bytes, but its last quarter is filled.
        let above = |delta: &i64| delta.wrapping_sub(least) as u64;
        let widths: Vec<u32> = block
            .chunks(QUARTER)
            .map(|quarter| quarter.iter().map(|delta| width(above(delta))).max().unwrap_or(0))
            .collect();
        out.extend((0..BLOCK / QUARTER).map(|quarter| widths.get(quarter).copied().unwrap_or(0) as u8));
        for (quarter, &width) in block.chunks(QUARTER).zip(&widths) {
            pack(out, quarter.iter().map(above).chain(std::iter::repeat(0)).take(QUARTER), width);
        }
    }
}

#[cfg(test)]
pub(crate) mod read {
    //! The codings read back, for tests.

    pub(crate) fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    pub(crate) fn unzigzag(value: u64) -> i64 {
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }

    fn bits(bytes: &[u8], at: usize, width: u32) -> u64 {
        (0..width as usize).map(|bit| u64::from(bytes[(at + bit) / 8] >> ((at + bit) % 8) & 1) << bit).sum()
    }

    pub(crate) fn hybrid(mut bytes: &[u8], width: u32, count: usize) -> Vec<u64> {
        let mut values = Vec::new();
        while values.len() < count {
            let head = varint(&mut bytes);
            if head & 1 == 0 {
                let size = width.div_ceil(8) as usize;
                let mut value = [0; 8];
                value[..size].copy_from_slice(&bytes[..size]);
                bytes = &bytes[size..];
                values.extend(std::iter::repeat_n(u64::from_le_bytes(value), (head >> 1) as usize));
            } else {
                let packed = (head >> 1) as usize * 8;
                values.extend((0..packed).map(|at| bits(bytes, at * width as usize, width)));
                bytes = &bytes[packed * width as usize / 8..];
            }
        }
        values.truncate(count);
        values
    }

    pub(crate) fn deltas(mut bytes: &[u8]) -> Vec<u64> {
        assert_eq!((varint(&mut bytes), varint(&mut bytes)), (128, 4));
        let count = varint(&mut bytes) as usize;
        let mut values = vec![unzigzag(varint(&mut bytes)) as u64];
        while values.len() < count {
            let least = unzigzag(varint(&mut bytes));
            let (widths, rest) = bytes.split_at(4);
            bytes = rest;
            for &width in widths {
                if values.len() >= count {
                    assert_eq!(width, 0);
                    continue;
                }
                for at in 0..32 {
                    let above = bits(bytes, at * usize::from(width), width.into());
                    let last = *values.last().expect("the first is there");
                    values.push(last.wrapping_add(least as u64).wrapping_add(above));
                }
                bytes = &bytes[usize::from(width) * 4..];
            }
        }
        assert!(bytes.is_empty() || count == 0);
        values.truncate(count);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrids_come_back() {
        let check = |values: &[u64]| {
            let width = width(values.iter().copied().max().unwrap_or(0));
            let mut out = Vec::new();
            hybrid(&mut out, values, width);
            assert_eq!(read::hybrid(&out, width, values.len()), values);
        };
        check(&[]);
        check(&[0; 5]);
        check(&[1, 0, 1]);
        check(&[7; 1000]);
        check(&(0..1000).collect::<Vec<_>>());
        check(&(0..1000).map(|n| n / 40).collect::<Vec<_>>());
        check(&(0..1000).map(|n| if n % 50 < 13 { n } else { 3 }).collect::<Vec<_>>());
        let mut mixed = vec![5; 3];
        mixed.extend([1, 2, 3, 4, 5]);
        mixed.extend([u64::from(u32::MAX); 20]);
        mixed.push(1);
        check(&mixed);
    }

    #[test]
    fn deltas_come_back() {
        let check = |values: &[u64]| {
            let mut out = Vec::new();
            deltas(&mut out, values);
            assert_eq!(read::deltas(&out)[..values.len()], *values);
        };
        check(&[]);
        check(&[9]);
        check(&[0, u64::MAX, 0, 1 << 63, 1]);
        check(&(0..1000).collect::<Vec<_>>());
        check(&(0..257).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect::<Vec<_>>());
        check(&(0..129).map(|n| n * n).collect::<Vec<_>>());
    }
}

//! A checkpoint's table: which pages hold something else than at the checkpoint before, and what.

use super::Content;

/// The most bytes of a row.
const ROW: usize = 10;

/// Rows by ascending page: how many pages lie between this and the one before, and how much greater its content is than that
/// of the one before, both as numbers of 7 bits a byte.
pub(super) fn encode(rows: &[(u32, Content)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len() * 4);
    let (mut next, mut last) = (0, 0);
    for &(page, Content(content)) in rows {
        put(&mut bytes, page - next);
        let step = content.wrapping_sub(last) as i32;
        put(&mut bytes, (step << 1 ^ step >> 31) as u32);
        (next, last) = (page + 1, content);
    }
    bytes
}

/// How long a table of so many rows can be.
pub(super) fn most(rows: u32) -> u64 {
    u64::from(rows) * ROW as u64
}

/// The rows; `None` where the bytes are not `count` rows.
pub(super) fn decode(mut bytes: &[u8], count: u32) -> Option<Vec<(u32, Content)>> {
    // A row has two bytes at least.
    let mut rows = Vec::with_capacity((count as usize).min(bytes.len() / 2));
    let (mut next, mut last) = (Some(0_u32), 0_u32);
    for _ in 0..count {
        let page = next?.checked_add(take(&mut bytes)?)?;
        let step = take(&mut bytes)?;
        last = last.wrapping_add((step >> 1) ^ (step & 1).wrapping_neg());
        rows.push((page, Content(last)));
        next = page.checked_add(1);
    }
    bytes.is_empty().then_some(rows)
}

fn put(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u32::from(byte & 0x7f);
        if part.checked_shl(shift)? >> shift != part {
            return None;
        }
        number |= part << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rows: &[(u32, u32)]) {
        let rows: Vec<_> = rows.iter().map(|&(page, content)| (page, Content(content))).collect();
        let bytes = encode(&rows);
        assert!(bytes.len() as u64 <= most(rows.len() as u32));
        assert_eq!(decode(&bytes, rows.len() as u32), Some(rows.clone()));
        assert_eq!(decode(&bytes, rows.len() as u32 + 1), None);
        if let Some((_, less)) = bytes.split_last() {
            assert_eq!(decode(less, rows.len() as u32), None);
            assert_eq!(decode(&bytes, rows.len() as u32 - 1), None);
        }
    }

    #[test]
    fn rows_come_back() {
        check(&[]);
        check(&[(0, 0)]);
        check(&[(0, 1), (1, 2), (2, 3)]);
        check(&[(7, u32::MAX), (8, 0), (9, 1 << 31), (u32::MAX - 1, 5), (u32::MAX, u32::MAX)]);
    }

    #[test]
    fn pages_that_are_too_far_are_refused() {
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0], 2), None);
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0x1f, 0], 1), None);
        assert_eq!(decode(&[0x80, 0x80, 0x80, 0x80, 0x80, 0, 0], 1), None);
    }
}

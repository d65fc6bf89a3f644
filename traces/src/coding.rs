//! How a column's numbers are made small before they are compressed, and back.
//!
//! Every coding but the plain one stores the zigzag of a wrapping difference from a prediction, so that a good prediction
//! leaves zeros and a narrow column.

use hv_defs::event::Kind;
use std::collections::HashMap;

/// How a column's numbers are coded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    /// As they are.
    Plain,
    /// Against the row before.
    Delta,
    /// Against an earlier column in the same row.
    Relative,
    /// Against the last row that has the same numbers in the key columns.
    Keyed,
}

/// The coding that the writer uses for a column, and the earlier columns that it refers to. A reader goes by what the
/// block says.
pub(crate) fn chosen(kind: Kind, column: &str) -> (Coding, &'static [u8]) {
    match (kind, column) {
        (Kind::Exit, "rip") => (Coding::Keyed, &[0, 1]),
        (Kind::Exit, "qualification" | "gpa" | "gla") => (Coding::Keyed, &[0, 1]),
        (Kind::Vmcs, "address") => (Coding::Keyed, &[1]),
        (Kind::Vmcs, "old") => (Coding::Keyed, &[1, 4]),
        (Kind::Vmcs, "value") => (Coding::Relative, &[5]),
        (Kind::Ept, "gpa" | "new") | (Kind::Flush, "address") | (Kind::Input, "poll") => (Coding::Delta, &[]),
        _ => (Coding::Plain, &[]),
    }
}

const fn zigzag(difference: u64) -> u64 {
    difference << 1 ^ ((difference as i64) >> 63) as u64
}

const fn unzigzag(stored: u64) -> u64 {
    stored >> 1 ^ (stored & 1).wrapping_neg()
}

/// Codes `values`. `keys` are the columns that the coding refers to, uncoded and as long.
pub(crate) fn encode(coding: Coding, keys: &[&[u64]], values: &[u64], out: &mut Vec<u64>) {
    out.clear();
    match coding {
        Coding::Plain => out.extend_from_slice(values),
        Coding::Delta => {
            let mut last = 0;
            out.extend(values.iter().map(|&value| zigzag(value.wrapping_sub(std::mem::replace(&mut last, value)))));
        }
        Coding::Relative => {
            out.extend(values.iter().zip(keys[0]).map(|(value, base)| zigzag(value.wrapping_sub(*base))));
        }
        Coding::Keyed => {
            let mut last = Lasts::default();
            out.extend(values.iter().enumerate().map(|(row, &value)| {
                let last = last.at(keys, row);
                zigzag(value.wrapping_sub(std::mem::replace(last, value)))
            }));
        }
    }
}

/// Undoes [`encode`] in place. `keys` are as long as `values`.
pub(crate) fn decode(coding: Coding, keys: &[&[u64]], values: &mut [u64]) {
    match coding {
        Coding::Plain => {}
        Coding::Delta => {
            let mut last = 0_u64;
            for value in values {
                last = last.wrapping_add(unzigzag(*value));
                *value = last;
            }
        }
        Coding::Relative => {
            for (value, base) in values.iter_mut().zip(keys[0]) {
                *value = base.wrapping_add(unzigzag(*value));
            }
        }
        Coding::Keyed => {
            let mut lasts = Lasts::default();
            for (row, value) in values.iter_mut().enumerate() {
                let last = lasts.at(keys, row);
                *last = last.wrapping_add(unzigzag(*value));
                *value = *last;
            }
        }
    }
}

/// The last value by key. Keys that collide in the small table go on in the map.
struct Lasts {
    near: Vec<Option<([u64; KEYS], u64)>>,
    far: HashMap<[u64; KEYS], u64>,
}

/// The most key columns that a coding may have.
pub(crate) const KEYS: usize = 2;
const NEAR: usize = 1024;

impl Default for Lasts {
    fn default() -> Self {
        Self { near: vec![None; NEAR], far: HashMap::new() }
    }
}

impl Lasts {
    #[inline]
    fn at(&mut self, keys: &[&[u64]], row: usize) -> &mut u64 {
        let mut key = [0; KEYS];
        for (part, column) in key.iter_mut().zip(keys) {
            *part = column[row];
        }
        let hash = (key[0].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ key[1]).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let slot = &mut self.near[(hash >> 54) as usize];
        if slot.is_none_or(|(known, _)| known != key) {
            // The value that is pushed out is kept: whether a key collides must not change what it predicts.
            let value = self.far.remove(&key).unwrap_or(0);
            if let Some((known, last)) = slot.replace((key, value)) {
                self.far.insert(known, last);
            }
        }
        &mut slot.get_or_insert((key, 0)).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zigzag_keeps_small_differences_small() {
        for (difference, stored) in [(0, 0), (u64::MAX, 1), (1, 2), (u64::MAX - 1, 3), (1 << 63, u64::MAX)] {
            assert_eq!(zigzag(difference), stored);
            assert_eq!(unzigzag(stored), difference);
        }
    }

    #[track_caller]
    fn check(coding: Coding, keys: &[&[u64]], values: &[u64], stored: &[u64]) {
        let mut out = Vec::new();
        encode(coding, keys, values, &mut out);
        assert_eq!(out, stored);
        decode(coding, keys, &mut out);
        assert_eq!(out, values);
    }

    #[test]
    fn codings_store_what_the_format_says() {
        let values = [5, 7, 7, 3, u64::MAX];
        check(Coding::Plain, &[], &values, &values);
        check(Coding::Delta, &[], &values, &[10, 4, 0, 7, 7]);
        check(Coding::Relative, &[&[5, 7, 8, 0, 0]], &values, &[0, 0, 1, 6, 1]);
        check(Coding::Keyed, &[&[1, 2, 1, 2, 1]], &values, &[10, 14, 4, 7, 15]);
        check(Coding::Keyed, &[&[u64::MAX; 5], &[u64::MAX; 5]], &values, &[10, 4, 0, 7, 7]);
    }

    #[test]
    fn keys_that_collide_predict_as_any_others() {
        let keys: Vec<u64> = (0..10_000).map(|row| row % 4001).collect();
        let stored: Vec<u64> = keys.iter().enumerate().map(|(row, key)| if row < 4001 { key * 2 } else { 0 }).collect();
        check(Coding::Keyed, &[&keys], &keys, &stored);
    }
}

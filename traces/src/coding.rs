//! How a column's numbers are made small before they are compressed, and back.
//!
//! Every coding but the plain one stores the zigzag of a wrapping difference from a prediction, so that a good prediction
//! leaves zeros and a narrow column.

use hv_defs::event::Kind;

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
pub(crate) fn encode(coding: Coding, keys: &[&[u64]], values: &[u64], lasts: &mut Lasts, out: &mut Vec<u64>) {
    out.clear();
    match (coding, keys) {
        (Coding::Relative, [base, ..]) => {
            out.extend(values.iter().zip(*base).map(|(value, base)| zigzag(value.wrapping_sub(*base))));
        }
        (Coding::Keyed, [keys @ .., key]) => {
            lasts.forget();
            let zeros = [0; 0];
            let other = keys.first().copied().unwrap_or(&zeros);
            out.extend(values.iter().zip(*key).enumerate().map(|(row, (&value, &key))| {
                let last = lasts.at([key, other.get(row).copied().unwrap_or(0)]);
                zigzag(value.wrapping_sub(std::mem::replace(last, value)))
            }));
        }
        (Coding::Delta, _) => {
            let mut last = 0;
            out.extend(values.iter().map(|&value| zigzag(value.wrapping_sub(std::mem::replace(&mut last, value)))));
        }
        _ => out.extend_from_slice(values),
    }
}

/// Undoes [`encode`] in place. `keys` are as long as `values`.
pub(crate) fn decode(coding: Coding, keys: &[&[u64]], values: &mut [u64]) {
    match (coding, keys) {
        (Coding::Relative, [base, ..]) => {
            for (value, base) in values.iter_mut().zip(*base) {
                *value = base.wrapping_add(unzigzag(*value));
            }
        }
        (Coding::Keyed, [keys @ .., key]) => {
            let mut lasts = Lasts::default();
            let zeros = [0; 0];
            let other = keys.first().copied().unwrap_or(&zeros);
            for (row, (value, &key)) in values.iter_mut().zip(*key).enumerate() {
                let last = lasts.at([key, other.get(row).copied().unwrap_or(0)]);
                *last = last.wrapping_add(unzigzag(*value));
                *value = *last;
            }
        }
        (Coding::Delta, _) => {
            let mut last = 0_u64;
            for value in values {
                last = last.wrapping_add(unzigzag(*value));
                *value = last;
            }
        }
        _ => {}
    }
}

/// The most key columns that a coding may have.
pub(crate) const KEYS: usize = 2;

/// The last value by key: a table of open addressing that is emptied by a new age, and grows when it is half full.
pub(crate) struct Lasts {
    slots: Vec<Slot>,
    age: u32,
    used: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    key: [u64; KEYS],
    value: u64,
    age: u32,
}

const EMPTY: Slot = Slot { key: [0; KEYS], value: 0, age: 0 };

impl Default for Lasts {
    fn default() -> Self {
        Self { slots: vec![EMPTY; 512], age: 1, used: 0 }
    }
}

impl Lasts {
    /// Forgets all keys.
    fn forget(&mut self) {
        self.used = 0;
        self.age = self.age.wrapping_add(1);
        if self.age == 0 {
            self.age = 1;
            self.slots.fill(EMPTY);
        }
    }

    /// Where the key's last value is kept: 0 at first.
    #[inline(always)]
    fn at(&mut self, key: [u64; KEYS]) -> &mut u64 {
        let at = self.find(key);
        if self.slots[at].age != self.age {
            return self.take(at, key);
        }
        &mut self.slots[at].value
    }

    /// The key's slot, or the free one that it would take.
    #[inline(always)]
    fn find(&self, key: [u64; KEYS]) -> usize {
        let slots = &self.slots[..];
        let hash = (key[0].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ key[1]).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mut at = (hash >> 32) as usize & (slots.len() - 1);
        while slots[at].age == self.age && slots[at].key != key {
            at = (at + 1) & (slots.len() - 1);
        }
        at
    }

    /// Gives a key that was not known the free slot that [`Lasts::find`] found.
    #[cold]
    fn take(&mut self, mut at: usize, key: [u64; KEYS]) -> &mut u64 {
        if self.used * 2 >= self.slots.len() {
            self.grow();
            at = self.find(key);
        }
        self.used += 1;
        self.slots[at] = Slot { key, value: 0, age: self.age };
        &mut self.slots[at].value
    }

    fn grow(&mut self) {
        let larger = vec![EMPTY; self.slots.len() * 4];
        for slot in std::mem::replace(&mut self.slots, larger).into_iter().filter(|slot| slot.age == self.age) {
            let at = self.find(slot.key);
            self.slots[at] = slot;
        }
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
        encode(coding, keys, values, &mut Lasts::default(), &mut out);
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

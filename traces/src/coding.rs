//! How a column's numbers are made small before they are compressed, and back.
//!
//! Every coding but the plain one stores the zigzag of a wrapping difference from a prediction, so that a good prediction
//! leaves zeros and a narrow column.

use crate::narrow::Spare;
use crate::values::Values;
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
        (Kind::Answer, "place") => (Coding::Keyed, &[0]),
        (Kind::Answer, "value") => (Coding::Keyed, &[0, 1]),
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

/// Rows that are worked on together: so few that the first-level cache holds them.
pub(crate) const TILE: usize = 256;

/// Codes a column, some rows after others.
#[derive(Default)]
pub(crate) struct Coder {
    last: u64,
    lasts: Lasts,
}

impl Coder {
    /// Begins a column.
    pub(crate) fn begin(&mut self) {
        self.last = 0;
        self.lasts.forget();
    }

    /// Codes the column's next values in place. `keys` are the columns that the coding refers to, uncoded and as long.
    #[inline]
    pub(crate) fn code(&mut self, coding: Coding, keys: &[&[u64]], values: &mut [u64]) {
        match (coding, keys) {
            (Coding::Relative, [base, ..]) => {
                values.iter_mut().zip(*base).for_each(|(value, base)| *value = zigzag(value.wrapping_sub(*base)));
            }
            (Coding::Keyed, [key]) => values.iter_mut().zip(*key).for_each(|(value, &key)| {
                let last = std::mem::replace(self.lasts.of(key), *value);
                *value = zigzag(value.wrapping_sub(last));
            }),
            (Coding::Keyed, [key, other, ..]) => {
                values.iter_mut().zip(key.iter().zip(*other)).for_each(|(value, (&key, &other))| {
                    let last = std::mem::replace(self.lasts.at(key, other), *value);
                    *value = zigzag(value.wrapping_sub(last));
                });
            }
            (Coding::Delta, _) => {
                for value in values {
                    let last = std::mem::replace(&mut self.last, *value);
                    *value = zigzag(value.wrapping_sub(last));
                }
            }
            _ => {}
        }
    }
}

/// What was coded, from what is stored. `keys` are the columns that the coding refers to, decoded and as long.
pub(crate) fn decode(coding: Coding, keys: &[&Values], stored: Values, spare: &mut Spare) -> Values {
    match (coding, keys, &stored) {
        (Coding::Plain, ..) => return stored,
        // Predictions that all hold: the columns that compress best.
        (Coding::Relative, [base, ..], Values::Same { value: 0, .. }) => return copy(base, spare),
        (Coding::Keyed | Coding::Delta, _, Values::Same { value: 0, .. }) => return stored,
        _ => {}
    }
    // What is as wide as can be is decoded where it lies.
    let (mut values, stored) = match stored {
        Values::U64(list) => (list, None),
        narrow => (spare.u64.take_of(narrow.len()), Some(narrow)),
    };
    let narrow = stored.as_ref();
    match (coding, keys) {
        (Coding::Relative, [base, ..]) => by_tiles(narrow, [*base], &mut values, |tile, [base]| {
            tile.iter_mut().zip(base).for_each(|(value, base)| *value = base.wrapping_add(unzigzag(*value)));
        }),
        (Coding::Keyed, [key]) => {
            let mut lasts = Lasts::default();
            by_tiles(narrow, [*key], &mut values, |tile, [key]| {
                tile.iter_mut().zip(key).for_each(|(value, key)| advance(lasts.of(*key), value));
            });
        }
        (Coding::Keyed, [key, other, ..]) => {
            let mut lasts = Lasts::default();
            by_tiles(narrow, [*key, *other], &mut values, |tile, [key, other]| {
                let keys = key.iter().zip(other);
                tile.iter_mut().zip(keys).for_each(|(value, (key, other))| advance(lasts.at(*key, *other), value));
            });
        }
        _ => {
            let mut last = 0;
            by_tiles(narrow, [], &mut values, |tile, []| {
                tile.iter_mut().for_each(|value| advance(&mut last, value));
            });
        }
    }
    stored.into_iter().for_each(|narrow| spare.keep(narrow));
    Values::U64(values)
}

/// Makes a stored difference the number that it stands for, which is the last one from now on.
#[inline(always)]
fn advance(last: &mut u64, value: &mut u64) {
    *last = last.wrapping_add(unzigzag(*value));
    *value = *last;
}

fn copy(values: &Values, spare: &mut Spare) -> Values {
    match values {
        Values::U64(numbers) => {
            let mut list = spare.u64.take();
            list.extend_from_slice(numbers);
            Values::U64(list)
        }
        other => other.clone(),
    }
}

/// Puts what is stored into `out`, which is as long, unless it is there, and shows it to `work` with the key columns, some
/// rows after others.
#[inline]
fn by_tiles<const N: usize>(
    stored: Option<&Values>,
    keys: [&Values; N],
    out: &mut [u64],
    mut work: impl FnMut(&mut [u64], [&[u64]; N]),
) {
    let mut wide = [[0; TILE]; N];
    for (tile, from) in out.chunks_mut(TILE).zip((0..).step_by(TILE)) {
        stored.into_iter().for_each(|stored| stored.widen(from, tile));
        wide.iter_mut().zip(keys).for_each(|(wide, key)| key.widen(from, &mut wide[..tile.len()]));
        let keys = wide.each_ref().map(|wide| &wide[..tile.len()]);
        work(tile, keys);
    }
}

/// The most key columns that a coding may have.
pub(crate) const KEYS: usize = 2;

/// Slots for pairs of keys, and how many of them a pair may be in. The keys that hypervisors make fill a small part.
const SLOTS: usize = 2048;
const PROBES: usize = 8;

/// The last value by key. Small keys and pairs of keys have places of their own; a trace that was made to have pairs
/// collide is slower, but each row costs no more than a look into a map.
pub(crate) struct Lasts {
    small: [u64; 256],
    slots: Option<Box<[Slot; SLOTS + PROBES]>>,
    others: HashMap<[u64; KEYS], u64>,
}

/// A pair of keys, as one number that is never 0, and its last value.
#[derive(Clone, Copy)]
struct Slot {
    pair: u64,
    value: u64,
}

const FREE: Slot = Slot { pair: 0, value: 0 };

impl Default for Lasts {
    fn default() -> Self {
        Self { small: [0; 256], slots: None, others: HashMap::new() }
    }
}

impl Lasts {
    /// Forgets all keys.
    fn forget(&mut self) {
        self.small.fill(0);
        self.slots.iter_mut().for_each(|slots| slots.fill(FREE));
        self.others.clear();
    }

    /// Where the last value of a lone key is kept: 0 at first.
    #[inline(always)]
    fn of(&mut self, key: u64) -> &mut u64 {
        if key < 256 { &mut self.small[key as usize] } else { self.at(0, key) }
    }

    /// Where the last value of a pair of keys is kept: 0 at first.
    #[inline(always)]
    fn at(&mut self, key: u64, other: u64) -> &mut u64 {
        let pair = (key << 32 | other).wrapping_add(1);
        let at = (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SLOTS.ilog2())) as usize;
        let narrow = key >> 31 | other >> 32 == 0;
        match &self.slots {
            Some(slots) if narrow & (slots[at].pair == pair) => {}
            _ => return self.probe(at, narrow.then_some(pair), key, other),
        }
        match &mut self.slots {
            Some(slots) => &mut slots[at].value,
            None => self.others.entry([key, other]).or_default(),
        }
    }

    /// As [`Lasts::at`], where the pair's first slot is not its own, or it is too wide to have one.
    #[inline(never)]
    fn probe(&mut self, at: usize, pair: Option<u64>, key: u64, other: u64) -> &mut u64 {
        let Some(pair) = pair else { return self.others.entry([key, other]).or_default() };
        let slots = self.slots.get_or_insert_with(|| Box::new([FREE; SLOTS + PROBES]));
        match slots[at..at + PROBES].iter_mut().find(|slot| [0, pair].contains(&slot.pair)) {
            Some(slot) => {
                slot.pair = pair;
                &mut slot.value
            }
            None => self.others.entry([key, other]).or_default(),
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
        let mut coder = Coder::default();
        for _ in 0..2 {
            coder.begin();
            let mut out = values.to_vec();
            let half = values.len() / 2;
            let (before, after): (Vec<_>, Vec<_>) = keys.iter().map(|key| key.split_at(half)).unzip();
            coder.code(coding, &before, &mut out[..half]);
            coder.code(coding, &after, &mut out[half..]);
            assert_eq!(out, stored);
        }
        let keys: Vec<Values> = keys.iter().map(|key| Values::U64(key.to_vec())).collect();
        let keys: Vec<&Values> = keys.iter().collect();
        assert_eq!(decode(coding, &keys, Values::U64(stored.to_vec()), &mut Spare::default()).into_vec(), values);
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
        check(Coding::Keyed, &[&keys, &keys], &keys, &stored);
        let zeros = vec![0; keys.len()];
        check(Coding::Keyed, &[&zeros, &keys], &keys, &stored);
        // Keys on both sides of what fits a slot.
        for shift in [18, 20, 31, 40, 52] {
            let wide: Vec<u64> = keys.iter().map(|key| key << shift).collect();
            check(Coding::Keyed, &[&wide], &keys, &stored);
            check(Coding::Keyed, &[&wide, &zeros], &keys, &stored);
            check(Coding::Keyed, &[&zeros, &wide], &keys, &stored);
        }
    }

    #[test]
    fn predictions_that_all_hold_cost_nothing() {
        let (zeros, key) = (Values::Same { value: 0, rows: 3 }, Values::U16(vec![1, 300, 1]));
        for (coding, keys, expected) in [
            (Coding::Plain, &[][..], &zeros),
            (Coding::Delta, &[], &zeros),
            (Coding::Keyed, &[&key], &zeros),
            (Coding::Relative, &[&key], &key),
        ] {
            assert_eq!(decode(coding, keys, zeros.clone(), &mut Spare::default()), *expected);
        }
    }
}

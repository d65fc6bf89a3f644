//! Numbers that come a few at a time, into the narrowest list that holds them all.

use crate::values::{Runs, Values};
use std::ops::{BitOr, BitXor};

/// Lists that were used before, to be used again: to be given fresh memory costs more than to fill it.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    pub(crate) u8: Pool<u8>,
    pub(crate) u16: Pool<u16>,
    pub(crate) u32: Pool<u32>,
    pub(crate) u64: Pool<u64>,
}

impl Spare {
    /// Keeps a list's memory.
    pub(crate) fn keep(&mut self, values: Values) {
        match values {
            Values::Same { .. } => {}
            Values::U8(list) => self.u8.keep(list),
            Values::U16(list) => self.u16.keep(list),
            Values::U32(list) | Values::Above { list, .. } => self.u32.keep(list),
            Values::U64(list) => self.u64.keep(list),
            Values::Runs(Runs { ends, numbers }) => {
                self.u32.keep(ends);
                self.u64.keep(numbers);
            }
        }
    }
}

/// Spare lists of one width.
#[derive(Debug, Default)]
pub(crate) struct Pool<T>(Vec<Vec<T>>);

impl<T> Pool<T> {
    /// Lists that are kept: more than the columns that a usual block has of one width, so that what a strange trace leaves
    /// behind is bounded. So is the length of each, by twice what a writer puts into a block.
    const MOST: usize = 64;
    const LONGEST: usize = 1 << 16;

    pub(crate) fn keep(&mut self, list: Vec<T>) {
        if self.0.len() < Self::MOST && (1..=Self::LONGEST).contains(&list.capacity()) {
            self.0.push(list);
        }
    }

    /// An empty list.
    pub(crate) fn take(&mut self) -> Vec<T> {
        let mut list = self.0.pop().unwrap_or_default();
        list.clear();
        list
    }
}

impl<T: Copy + Default> Pool<T> {
    /// A list of that length, of whatever numbers it was left with.
    pub(crate) fn take_of(&mut self, length: usize) -> Vec<T> {
        let mut list = self.0.pop().unwrap_or_default();
        list.resize(length, T::default());
        list
    }
}

/// A list of numbers that widens when it must.
#[derive(Debug)]
pub(crate) struct Narrow {
    /// All bits that any number has.
    any: u64,
    list: Values,
    /// How many numbers there will be.
    rows: usize,
}

/// A number of any width.
pub(crate) trait Number:
    Copy + Default + PartialEq + Into<u64> + BitOr<Output = Self> + BitXor<Output = Self>
{
}
impl<T: Copy + Default + PartialEq + Into<u64> + BitOr<Output = T> + BitXor<Output = T>> Number for T {}

impl Narrow {
    /// An empty list that will have so many numbers.
    pub(crate) fn new(rows: usize) -> Self {
        Self { any: 0, list: Values::default(), rows }
    }

    /// Adds numbers.
    #[inline]
    pub(crate) fn push<T: Number>(&mut self, numbers: &[T], spare: &mut Spare) {
        let Some(&head) = numbers.first() else { return };
        let first = match self.list {
            Values::Same { value, rows } if rows > 0 => value,
            _ => head.into(),
        };
        let none = T::default();
        let (any, differ) =
            numbers.iter().fold((none, none), |(any, differ), &number| (any | number, differ | (number ^ head)));
        self.any |= any.into();
        match &mut self.list {
            Values::Same { value, rows } if differ == none && first == head.into() => {
                (*value, *rows) = (first, *rows + numbers.len());
                return;
            }
            Values::Same { .. } => self.widen(spare),
            Values::U8(_) if self.any > u8::MAX.into() => self.widen(spare),
            Values::U16(_) if self.any > u16::MAX.into() => self.widen(spare),
            Values::U32(_) if self.any > u32::MAX.into() => self.widen(spare),
            _ => {}
        }
        match &mut self.list {
            Values::Same { .. } => {}
            Values::U8(list) => list.extend(numbers.iter().map(|&number| number.into() as u8)),
            Values::U16(list) => list.extend(numbers.iter().map(|&number| number.into() as u16)),
            Values::U32(list) => list.extend(numbers.iter().map(|&number| number.into() as u32)),
            Values::U64(list) => list.extend(numbers.iter().map(|&number| number.into())),
            // Forms that no list is widened to.
            Values::Above { .. } | Values::Runs(_) => {}
        }
    }

    /// Gives the list the width that its numbers need.
    #[cold]
    fn widen(&mut self, spare: &mut Spare) {
        macro_rules! widened {
            ($form:ident, $lists:ident) => {{
                let mut list = spare.$lists.take();
                list.reserve(self.rows);
                list.extend(self.list.iter().map(|number| number as $lists));
                Values::$form(list)
            }};
        }
        let wide = match u64::BITS - self.any.leading_zeros() {
            0..=8 => widened!(U8, u8),
            9..=16 => widened!(U16, u16),
            17..=32 => widened!(U32, u32),
            _ => widened!(U64, u64),
        };
        spare.keep(std::mem::replace(&mut self.list, wide));
    }

    /// The numbers: [`Values::Same`] where all are equal, else the narrowest list.
    pub(crate) fn end(self) -> Values {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&[u64]], expected: Values) {
        let mut spare = Spare::default();
        for _ in 0..2 {
            let mut narrow = Narrow::new(0);
            pieces.iter().for_each(|piece| narrow.push(piece, &mut spare));
            let values = narrow.end();
            assert_eq!(values, expected);
            spare.keep(values);
        }
    }

    #[test]
    fn lists_are_as_wide_as_their_widest_number() {
        check(&[], Values::Same { value: 0, rows: 0 });
        check(&[&[]], Values::Same { value: 0, rows: 0 });
        check(&[&[7, 7], &[], &[7]], Values::Same { value: 7, rows: 3 });
        check(&[&[0, 255]], Values::U8(vec![0, 255]));
        check(&[&[1, 2], &[256]], Values::U16(vec![1, 2, 256]));
        check(&[&[1 << 20], &[1 << 20], &[3]], Values::U32(vec![1 << 20, 1 << 20, 3]));
        check(&[&[5], &[6], &[300], &[1 << 40], &[1]], Values::U64(vec![5, 6, 300, 1 << 40, 1]));
        check(&[&[9, 9], &[u64::MAX]], Values::U64(vec![9, 9, u64::MAX]));
    }
}

//! Numbers that come a few at a time, into the narrowest list that holds them all.

use crate::values::Values;

/// Lists that were used before, to be used again.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    u8: Vec<Vec<u8>>,
    u16: Vec<Vec<u16>>,
    u32: Vec<Vec<u32>>,
    u64: Vec<Vec<u64>>,
}

impl Spare {
    /// Keeps a list's memory.
    pub(crate) fn keep(&mut self, values: Values) {
        match values {
            Values::Same { .. } => {}
            Values::U8(list) => self.u8.push(list),
            Values::U16(list) => self.u16.push(list),
            Values::U32(list) => self.u32.push(list),
            Values::U64(list) => self.u64.push(list),
        }
    }
}

/// A list of numbers that widens when it must.
#[derive(Debug)]
pub(crate) struct Narrow {
    /// All bits that any number has.
    any: u64,
    list: Values,
}

impl Narrow {
    /// An empty list.
    pub(crate) fn new() -> Self {
        Self { any: 0, list: Values::default() }
    }

    /// Adds numbers.
    pub(crate) fn push(&mut self, numbers: &[u64], spare: &mut Spare) {
        let Some(&first) = numbers.first() else { return };
        let first = match self.list {
            Values::Same { value, rows } if rows > 0 => value,
            _ => first,
        };
        let (any, differ) =
            numbers.iter().fold((0, 0), |(any, differ), &number| (any | number, differ | (number ^ first)));
        self.any |= any;
        match &mut self.list {
            Values::Same { value, rows } if differ == 0 => {
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
            Values::U8(list) => list.extend(numbers.iter().map(|&number| number as u8)),
            Values::U16(list) => list.extend(numbers.iter().map(|&number| number as u16)),
            Values::U32(list) => list.extend(numbers.iter().map(|&number| number as u32)),
            Values::U64(list) => list.extend_from_slice(numbers),
        }
    }

    /// Gives the list the width that its numbers need.
    #[cold]
    fn widen(&mut self, spare: &mut Spare) {
        macro_rules! widened {
            ($form:ident, $lists:ident) => {{
                let mut list = spare.$lists.pop().unwrap_or_default();
                list.clear();
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
            let mut narrow = Narrow::new();
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

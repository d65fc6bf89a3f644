//! A column's numbers, as narrow as they are stored.

use std::slice;

/// The numbers of a column, one a row, in the narrowest form that they were found in: a reader of a plain column pays
/// for the bytes that it has. Two of the same numbers may differ in their form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Values {
    /// Every row has the same number.
    Same {
        /// The number.
        value: u64,
        /// How many rows there are.
        rows: usize,
    },
    /// Numbers below 2^8.
    U8(Vec<u8>),
    /// Numbers below 2^16.
    U16(Vec<u16>),
    /// Numbers below 2^32.
    U32(Vec<u32>),
    /// Any numbers.
    U64(Vec<u64>),
    /// Numbers less than 2^32 above one.
    Above {
        /// What each is above. No number is beyond 2^64.
        base: u64,
        /// By how much.
        list: Vec<u32>,
    },
    /// Numbers that are equal for some rows after others.
    Runs(Runs),
}

/// Numbers that are equal for some rows after others: see [`Values::Runs`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Runs {
    /// Of each run, the row behind its last. No run is empty.
    pub(crate) ends: Vec<u32>,
    /// Of each run, the number of its rows.
    pub(crate) numbers: Vec<u64>,
}

impl Runs {
    /// The runs in order: their numbers and how many rows each has.
    pub fn iter(&self) -> impl Iterator<Item = (u64, usize)> + Clone {
        let begins = std::iter::once(&0).chain(&self.ends);
        self.numbers.iter().zip(begins.zip(&self.ends)).map(|(&number, (begin, end))| (number, (end - begin) as usize))
    }

    fn len(&self) -> usize {
        self.ends.last().map_or(0, |&end| end as usize)
    }

    /// The run that holds a row.
    fn of(&self, row: usize) -> usize {
        self.ends.partition_point(|&end| end as usize <= row)
    }
}

impl Values {
    /// How many rows there are.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Same { rows, .. } => *rows,
            Self::U8(list) => list.len(),
            Self::U16(list) => list.len(),
            Self::U32(list) | Self::Above { list, .. } => list.len(),
            Self::U64(list) => list.len(),
            Self::Runs(runs) => runs.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of a row.
    ///
    /// # Panics
    /// There is no such row, as an index into a slice.
    #[inline]
    pub fn at(&self, row: usize) -> u64 {
        match self {
            Self::Same { value, rows } => {
                assert!(row < *rows, "row {row} of {rows}");
                *value
            }
            Self::U8(list) => list[row].into(),
            Self::U16(list) => list[row].into(),
            Self::U32(list) => list[row].into(),
            Self::U64(list) => list[row],
            Self::Above { base, list } => base + u64::from(list[row]),
            Self::Runs(runs) => runs.numbers[runs.of(row)],
        }
    }

    /// The numbers in order. Where all are wanted at once, [`Values::append_to`] is faster.
    pub fn iter(&self) -> Iter<'_> {
        match self {
            Self::Same { value, rows } => Iter::Same(*value, *rows),
            Self::U8(list) => Iter::U8(list.iter()),
            Self::U16(list) => Iter::U16(list.iter()),
            Self::U32(list) => Iter::U32(list.iter()),
            Self::U64(list) => Iter::U64(list.iter()),
            Self::Above { base, list } => Iter::Above(*base, list.iter()),
            Self::Runs(runs) => Iter::Runs { runs, run: 0, row: 0 },
        }
    }

    /// Puts the numbers onto the end of a list.
    pub fn append_to(&self, list: &mut Vec<u64>) {
        match self {
            Self::Same { value, rows } => list.resize(list.len() + rows, *value),
            Self::U8(numbers) => list.extend(numbers.iter().map(|&number| u64::from(number))),
            Self::U16(numbers) => list.extend(numbers.iter().map(|&number| u64::from(number))),
            Self::U32(numbers) => list.extend(numbers.iter().map(|&number| u64::from(number))),
            Self::U64(numbers) => list.extend_from_slice(numbers),
            Self::Above { base, list: above } => list.extend(above.iter().map(|&above| base + u64::from(above))),
            Self::Runs(runs) => {
                list.reserve(runs.len());
                runs.iter().for_each(|(number, rows)| list.resize(list.len() + rows, number));
            }
        }
    }

    /// The numbers as a list.
    pub fn to_vec(&self) -> Vec<u64> {
        let mut list = Vec::with_capacity(self.len());
        self.append_to(&mut list);
        list
    }

    /// The numbers as a list, without a copy where they are one.
    pub fn into_vec(self) -> Vec<u64> {
        match self {
            Self::U64(list) => list,
            narrow => narrow.to_vec(),
        }
    }

    /// The numbers of as many rows from `from` on as `out` has room for, into it.
    ///
    /// # Panics
    /// There are not so many rows.
    #[inline]
    pub fn widen(&self, from: usize, out: &mut [u64]) {
        let range = from..from + out.len();
        match self {
            Self::Same { value, .. } => out.fill(*value),
            Self::U8(list) => out.iter_mut().zip(&list[range]).for_each(|(out, &number)| *out = number.into()),
            Self::U16(list) => out.iter_mut().zip(&list[range]).for_each(|(out, &number)| *out = number.into()),
            Self::U32(list) => out.iter_mut().zip(&list[range]).for_each(|(out, &number)| *out = number.into()),
            Self::U64(list) => out.copy_from_slice(&list[range]),
            Self::Above { base, list } => {
                out.iter_mut().zip(&list[range]).for_each(|(out, &above)| *out = base + u64::from(above));
            }
            Self::Runs(runs) => {
                let (mut run, mut row) = (runs.of(from), from);
                while row < range.end {
                    let end = range.end.min(runs.ends[run] as usize);
                    out[row - from..end - from].fill(runs.numbers[run]);
                    (run, row) = (run + 1, end);
                }
            }
        }
    }

    /// Bytes of memory that the numbers take.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Same { .. } => 0,
            Self::U8(list) => list.len(),
            Self::U16(list) => list.len() * 2,
            Self::U32(list) | Self::Above { list, .. } => list.len() * 4,
            Self::U64(list) => list.len() * 8,
            Self::Runs(runs) => runs.numbers.len() * 12,
        }
    }
}

impl Default for Values {
    fn default() -> Self {
        Self::Same { value: 0, rows: 0 }
    }
}

impl<'a> IntoIterator for &'a Values {
    type Item = u64;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The numbers of a column in order: see [`Values::iter`].
#[derive(Clone, Debug)]
pub enum Iter<'a> {
    /// One number, so many times.
    Same(u64, usize),
    /// Of a list of bytes.
    U8(slice::Iter<'a, u8>),
    /// Of a list of numbers of 16 bits.
    U16(slice::Iter<'a, u16>),
    /// Of a list of numbers of 32 bits.
    U32(slice::Iter<'a, u32>),
    /// Of a list of numbers of 64 bits.
    U64(slice::Iter<'a, u64>),
    /// Of a list of numbers of 32 bits, above one.
    Above(u64, slice::Iter<'a, u32>),
    /// Of runs, from a row on, which is in that run or begins it.
    Runs {
        /// All runs.
        runs: &'a Runs,
        /// The next row's run.
        run: usize,
        /// The next row.
        row: usize,
    },
}

impl Iterator for Iter<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        match self {
            Self::Same(value, left) => {
                *left = left.checked_sub(1)?;
                Some(*value)
            }
            Self::U8(list) => list.next().map(|&number| number.into()),
            Self::U16(list) => list.next().map(|&number| number.into()),
            Self::U32(list) => list.next().map(|&number| number.into()),
            Self::U64(list) => list.next().copied(),
            Self::Above(base, list) => list.next().map(|&above| *base + u64::from(above)),
            Self::Runs { runs, run, row } => {
                let number = *runs.numbers.get(*run)?;
                *row += 1;
                *run += usize::from(*row == runs.ends[*run] as usize);
                Some(number)
            }
        }
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match self {
            Self::Same(_, left) => *left,
            Self::U8(list) => list.len(),
            Self::U16(list) => list.len(),
            Self::U32(list) | Self::Above(_, list) => list.len(),
            Self::U64(list) => list.len(),
            Self::Runs { runs, row, .. } => runs.len() - row,
        };
        (left, Some(left))
    }

    #[inline]
    fn fold<B, F: FnMut(B, u64) -> B>(self, init: B, mut f: F) -> B {
        // One loop for each form, for what is made of iterators that fold.
        match self {
            Self::Same(value, left) => (0..left).fold(init, |made, _| f(made, value)),
            Self::U8(list) => list.fold(init, |made, &number| f(made, number.into())),
            Self::U16(list) => list.fold(init, |made, &number| f(made, number.into())),
            Self::U32(list) => list.fold(init, |made, &number| f(made, number.into())),
            Self::U64(list) => list.fold(init, |made, &number| f(made, number)),
            Self::Above(base, list) => list.fold(init, |made, &above| f(made, base + u64::from(above))),
            Self::Runs { runs, run, mut row } => {
                let left = runs.numbers[run..].iter().zip(&runs.ends[run..]);
                left.fold(init, |made, (&number, &end)| {
                    let rows = std::mem::replace(&mut row, end as usize)..end as usize;
                    rows.fold(made, |made, _| f(made, number))
                })
            }
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &Values, numbers: &[u64]) {
        assert_eq!((values.len(), values.is_empty()), (numbers.len(), numbers.is_empty()));
        assert_eq!(values.to_vec(), numbers);
        assert_eq!(values.iter().collect::<Vec<_>>(), numbers);
        assert_eq!(values.iter().fold(Vec::new(), |list, number| [list, vec![number]].concat()), numbers);
        assert_eq!((0..numbers.len()).map(|row| values.at(row)).collect::<Vec<_>>(), numbers);
        for skipped in 0..numbers.len() {
            let mut rest = values.iter();
            rest.by_ref().take(skipped).for_each(drop);
            assert_eq!(rest.len(), numbers.len() - skipped);
            assert_eq!(rest.fold(Vec::new(), |list, number| [list, vec![number]].concat()), numbers[skipped..]);
        }
        let mut list = vec![3];
        values.append_to(&mut list);
        assert_eq!(list[1..], *numbers);
        for from in 0..numbers.len() {
            let mut out = vec![9; numbers.len() - from];
            values.widen(from, &mut out);
            assert_eq!(out, numbers[from..]);
        }
        assert_eq!(values.clone().into_vec(), numbers);
    }

    #[test]
    fn every_form_gives_its_numbers() {
        check(&Values::default(), &[]);
        check(&Values::Same { value: u64::MAX, rows: 3 }, &[u64::MAX; 3]);
        check(&Values::U8(vec![1, 255, 0]), &[1, 255, 0]);
        check(&Values::U16(vec![1, 65535, 0]), &[1, 65535, 0]);
        check(&Values::U32(vec![1, u32::MAX, 0]), &[1, u32::MAX.into(), 0]);
        check(&Values::U64(vec![1, u64::MAX, 0]), &[1, u64::MAX, 0]);
        check(&Values::Above { base: 1 << 40, list: vec![0, 7, 3] }, &[1 << 40, (1 << 40) + 7, (1 << 40) + 3]);
        check(&Values::Runs(Runs::default()), &[]);
        check(&Values::Runs(Runs { ends: vec![1, 4, 6], numbers: vec![9, 8, 9] }), &[9, 8, 8, 8, 9, 9]);
    }
}

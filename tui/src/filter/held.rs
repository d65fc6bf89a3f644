//! Which rows of a column a test holds for: a bit a row, made from numbers as narrow as they were read.

use traces::Values;

/// The rows that a test holds for, of a known number of rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    None,
    All,
    /// A bit a row, from the lowest of the first word on. Bits behind the last row are clear.
    Some(Vec<u64>),
}

impl Held {
    /// All rows or none.
    pub(crate) const fn constant(all: bool) -> Self {
        if all { Self::All } else { Self::None }
    }

    /// The numbers that `test` holds for. Each distinct number of a run, of a column of equal numbers and of a column of
    /// bytes is tested once.
    pub(crate) fn of(values: &Values, test: impl Fn(u64) -> bool) -> Self {
        match values {
            Values::Same { value, .. } => Self::constant(test(*value)),
            Values::U8(list) if list.len() > 256 => {
                let known: [bool; 256] = std::array::from_fn(|number| test(number as u64));
                pack(list, |number| known[usize::from(number)])
            }
            Values::U8(list) => pack(list, |number| test(number.into())),
            Values::U16(list) => pack(list, |number| test(number.into())),
            Values::U32(list) => pack(list, |number| test(number.into())),
            Values::U64(list) => pack(list, test),
            Values::Above { base, list } => pack(list, |above| test(base.wrapping_add(above.into()))),
            Values::Runs(runs) => {
                let (mut words, mut row) = (vec![0_u64; values.len().div_ceil(64)], 0);
                for (number, rows) in runs.iter() {
                    if test(number) {
                        fill(&mut words, row, row + rows);
                    }
                    row += rows;
                }
                Self::Some(words)
            }
        }
    }

    pub(crate) fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::None => Self::None,
            Self::All => other(),
            Self::Some(words) => match other() {
                Self::None => Self::None,
                Self::All => Self::Some(words),
                Self::Some(others) => both(words, &others, |a, b| a & b),
            },
        }
    }

    pub(crate) fn or(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::All => Self::All,
            Self::None => other(),
            Self::Some(words) => match other() {
                Self::All => Self::All,
                Self::None => Self::Some(words),
                Self::Some(others) => both(words, &others, |a, b| a | b),
            },
        }
    }

    /// The others of `rows` rows.
    pub(crate) fn not(self, rows: usize) -> Self {
        match self {
            Self::None => Self::All,
            Self::All => Self::None,
            Self::Some(mut words) => {
                words.iter_mut().for_each(|word| *word = !*word);
                if let (Some(last), 1..) = (words.last_mut(), rows % 64) {
                    *last &= !(u64::MAX << (rows % 64));
                }
                Self::Some(words)
            }
        }
    }

    /// Shows each row that is held, of `rows` rows, in order.
    pub(crate) fn each(&self, rows: usize, mut see: impl FnMut(usize)) {
        match self {
            Self::None => {}
            Self::All => (0..rows).for_each(see),
            Self::Some(words) => {
                for (&word, from) in words.iter().zip((0..).step_by(64)) {
                    let mut left = word;
                    while left != 0 {
                        see(from + left.trailing_zeros() as usize);
                        left &= left - 1;
                    }
                }
            }
        }
    }

    /// Whether no row is held.
    pub(crate) fn is_none(&self) -> bool {
        match self {
            Self::None => true,
            Self::All => false,
            Self::Some(words) => words.iter().all(|&word| word == 0),
        }
    }
}

#[inline]
fn pack<T: Copy>(list: &[T], test: impl Fn(T) -> bool) -> Held {
    let word = |numbers: &[T]| {
        // Eight at a time into bytes, which the compiler does in vectors.
        let mut held = [0_u8; 64];
        held.iter_mut().zip(numbers).for_each(|(held, &number)| *held = u8::from(test(number)));
        let byte = |eight: &[u8]| eight.iter().rev().fold(0_u64, |byte, &held| byte << 1 | u64::from(held));
        held.chunks_exact(8).rev().fold(0, |word, eight| word << 8 | byte(eight))
    };
    Held::Some(list.chunks(64).map(word).collect())
}

/// Sets the bits `from..to`.
fn fill(words: &mut [u64], from: usize, to: usize) {
    let touched = words.iter_mut().enumerate().take(to.div_ceil(64)).skip(from / 64);
    for (at, word) in touched {
        let low = if at == from / 64 { u64::MAX << (from % 64) } else { u64::MAX };
        let high = if at == to / 64 { !(u64::MAX << (to % 64)) } else { u64::MAX };
        *word |= low & high;
    }
}

fn both(mut words: Vec<u64>, others: &[u64], of: impl Fn(u64, u64) -> u64) -> Held {
    words.iter_mut().zip(others).for_each(|(word, other)| *word = of(*word, *other));
    Held::Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(held: &Held, rows: usize) -> Vec<usize> {
        let mut found = Vec::new();
        held.each(rows, |row| found.push(row));
        found
    }

    /// Numbers in every form that has room for them are tested alike.
    #[track_caller]
    fn check(numbers: &[u64], test: impl Fn(u64) -> bool + Copy) {
        let wanted: Vec<usize> = (0..numbers.len()).filter(|&row| test(numbers[row])).collect();
        let others: Vec<usize> = (0..numbers.len()).filter(|&row| !test(numbers[row])).collect();
        let forms = [
            Values::U8(numbers.iter().map(|&number| number as u8).collect()),
            Values::U16(numbers.iter().map(|&number| number as u16).collect()),
            Values::U32(numbers.iter().map(|&number| number as u32).collect()),
            Values::U64(numbers.to_vec()),
            Values::Above { base: 0, list: numbers.iter().map(|&number| number as u32).collect() },
        ];
        for form in forms {
            let held = Held::of(&form, test);
            assert_eq!(rows(&held, numbers.len()), wanted, "{form:?}");
            assert_eq!(held.is_none(), wanted.is_empty());
            assert_eq!(rows(&held.clone().not(numbers.len()), numbers.len()), others);
            assert!(held.clone().and(|| held.clone().not(numbers.len())).is_none());
            assert_eq!(rows(&held.clone().or(|| held.clone().not(numbers.len())), numbers.len()).len(), numbers.len());
        }
    }

    #[test]
    fn rows_are_found_in_every_form() {
        let numbers: Vec<u64> = (0..1000).map(|n| n * 7 % 256).collect();
        for length in [0, 1, 63, 64, 65, 128, 300, 1000] {
            check(&numbers[..length], |number| number < 100);
            check(&numbers[..length], |number| number == 7);
            check(&numbers[..length], |number| number > 255);
            check(&numbers[..length], |_| true);
        }
    }

    #[test]
    fn bits_are_filled_from_one_to_another() {
        for (from, to) in [(0, 0), (0, 1), (3, 64), (3, 65), (63, 64), (64, 128), (1, 200), (192, 200)] {
            let mut words = vec![0; 4];
            fill(&mut words, from, to);
            assert_eq!(rows(&Held::Some(words), 256), (from..to).collect::<Vec<_>>(), "{from}..{to}");
        }
    }

    #[test]
    fn constants_stay_so() {
        assert_eq!(Held::of(&Values::Same { value: 3, rows: 9 }, |number| number == 3), Held::All);
        assert_eq!(rows(&Held::All, 3), [0, 1, 2]);
        assert_eq!(Held::None.not(5), Held::All);
        assert_eq!(Held::None.and(|| unreachable!("nothing is looked at in vain")), Held::None);
        assert_eq!(Held::All.or(|| unreachable!("nothing is looked at in vain")), Held::All);
    }
}
